"""Run by Alembic, always over the connection that `tracker migrate` opened, inside its transaction."""

from alembic import context

from tracker.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema="tracker",
    include_schemas=True,
)
context.run_migrations()
