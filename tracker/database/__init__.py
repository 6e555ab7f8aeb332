"""The connection, the schema with its migrations and roles, and the embedded server."""
