"""A queue of tag jobs: units of builds that tag a release with heads."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # The values cannot be used in this transaction.
    op.execute("ALTER TYPE tracker.queue ADD VALUE 'tag'")
    op.execute("ALTER TYPE tracker.output_kind ADD VALUE 'tag'")
