"""A machine's identity: a token that `register` asks for, of which the tracker keeps only the SHA-256."""

import hashlib
import secrets

from psycopg.errors import UniqueViolation

from tracker.database import Connection, translated
from tracker.errors import TrackerError

SILENCE = """
UPDATE tracker.worker SET seen_at = '-infinity', state = 'draining' WHERE machine = %(machine)s AND state <> 'gone'
"""


def enroll(connection: Connection, name: str, kind: str) -> str:
    """Make a machine known for one class of work and return its token, which is shown this once."""
    token = secrets.token_urlsafe(24)
    digest = hashlib.sha256(token.encode()).digest()
    try:
        with translated():
            connection.execute(
                "INSERT INTO tracker.machine (name, kind, token_sha256) VALUES (%s, %s, %s)", (name, kind, digest)
            )
    except TrackerError as error:
        if isinstance(error.__cause__, UniqueViolation):
            raise TrackerError(f"a machine {name} is enrolled already: revoke it, and take another name") from error
        raise
    return token


def revoke(connection: Connection, name: str) -> int:
    """Lock a machine out and end its leases at once; the number of workers that it had."""
    with translated(), connection.transaction():
        known = connection.execute(
            "UPDATE tracker.machine SET revoked_at = coalesce(revoked_at, now()) WHERE name = %s", (name,)
        ).rowcount
        if not known:
            raise TrackerError(f"no machine {name} is enrolled")
        # A beat of long ago: whatever the machine's workers hold may be taken over by the next claim.
        return connection.execute(SILENCE, {"machine": name}).rowcount
