"""The connection, the schema, its migrations and roles, and the embedded server."""
