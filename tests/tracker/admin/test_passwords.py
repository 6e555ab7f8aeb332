"""A class login's password: the server gets only a verifier, and the login can connect with it."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from tests.tracker.filling import scalar
from tracker.admin.passwords import rotate
from tracker.database.database import Connection
from tracker.errors import Refused, TrackerError
from tracker.main import app

Login = Callable[[str], psycopg.Connection[dict[str, object]]]

PASSWORD = "gräte ' \\ $1 %s"  # what breaks careless quoting
STORED = "SELECT rolpassword FROM pg_authid WHERE rolname = 'shoal_filter'"


@pytest.fixture(autouse=True)
def _forgotten(admin: Connection) -> Iterator[None]:
    """Roles belong to the whole server, which other tests use, too."""
    yield
    admin.execute("ALTER ROLE shoal_filter PASSWORD NULL")


def test_the_server_gets_a_verifier_of_the_password_and_not_the_password(admin: Connection) -> None:
    assert rotate(admin, "filter", PASSWORD) == "shoal_filter"
    stored = str(scalar(admin, STORED))
    assert _verifies(stored, PASSWORD)
    assert not _verifies(stored, "another")
    assert PASSWORD not in stored


def test_a_rotated_password_is_the_only_one_that_holds(admin: Connection) -> None:
    rotate(admin, "filter", "first")
    rotate(admin, "filter", "second")
    stored = str(scalar(admin, STORED))
    assert _verifies(stored, "second")
    assert not _verifies(stored, "first")


@pytest.mark.parametrize("password", ["", "a\0b"])
def test_an_invalid_password_is_refused_and_changes_nothing(admin: Connection, password: str) -> None:
    with pytest.raises(TrackerError, match="password"):
        rotate(admin, "filter", password)
    assert scalar(admin, STORED) is None


def test_a_worker_cannot_change_another_classs_password(login: Login) -> None:
    with login("download") as connection, pytest.raises(Refused):
        rotate(connection, "filter", "mine")


def test_the_command_takes_the_password_from_the_files_first_line(
    database: str, admin: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("from a file\n")
    monkeypatch.setenv("SHOAL_DATABASE_URL", database)
    done = CliRunner().invoke(app, ["rotate", "filter", "--password-file", str(file)])
    assert done.exit_code == 0
    assert "from a file" not in done.output
    assert _verifies(str(scalar(admin, STORED)), "from a file")


def _verifies(stored: str, password: str) -> bool:
    """Check a password against 'SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey' as RFC 5802 says."""
    method, parameters, keys = stored.split("$")
    iterations, salt = parameters.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return (
        method == "SCRAM-SHA-256"
        and keys.split(":")[0] == base64.b64encode(hashlib.sha256(client_key).digest()).decode()
    )
