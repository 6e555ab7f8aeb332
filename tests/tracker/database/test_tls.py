"""The database over TLS: which servers a worker's URL accepts, and which it refuses. The embedded server was built
without TLS.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import pytest
import trustme
from psycopg.conninfo import conninfo_to_dict

from tests.server_home import server_home
from tracker.admin.enroll import login_url
from tracker.database.database import connect
from tracker.errors import DatabaseDown

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
BINARIES = FOUND[-1].parent if FOUND else None
HBA = "hostssl all all 127.0.0.0/8 scram-sha-256\nlocal all all trust\n"

pytestmark = pytest.mark.skipif(BINARIES is None, reason="no Postgres with TLS is installed (Debian: postgresql)")


@pytest.fixture(scope="module")
def tls_server() -> Iterator[tuple[int, Path]]:
    """A server that takes connections over TLS only; its port, and the certificate of its authority."""
    with server_home() as home:
        yield from _serve(home)


def _serve(home: Path) -> Iterator[tuple[int, Path]]:
    assert BINARIES is not None
    data, authority = home / "data", trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(home / "ca.crt")
    (home / "password").write_text("s3cret")
    data.mkdir()
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:  # Postgres does not run as root
        shutil.chown(data, "nobody")
        shutil.chown(home / "password", "nobody")
        as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        command = [str(BINARIES / program), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60, **as_user)  # type: ignore[call-overload]

    run("initdb", "-D", str(data), "-U", "owner", "--auth=scram-sha-256", f"--pwfile={home / 'password'}", "--no-sync")
    issued.private_key_pem.write_to_path(data / "server.key")
    issued.cert_chain_pems[0].write_to_path(data / "server.crt")
    (data / "server.key").chmod(0o600)
    if as_user:
        for name in ("server.key", "server.crt"):
            shutil.chown(data / name, "nobody")
    (data / "pg_hba.conf").write_text(HBA)
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c ssl=on -c fsync=off"
    run("pg_ctl", "-w", "-D", str(data), "-l", str(data / "log"), "-o", options, "start")
    yield port, home / "ca.crt"
    run("pg_ctl", "-w", "-D", str(data), "-m", "immediate", "stop")


def url(host: str, port: int, **settings: object) -> str:
    asked = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"postgresql://owner:s3cret@{host}:{port}/postgres?{asked}"


def test_a_server_that_its_authority_vouches_for_is_spoken_to_over_tls(tls_server: tuple[int, Path]) -> None:
    port, authority = tls_server
    with connect(url("localhost", port, sslmode="verify-full", sslrootcert=authority)) as connection:
        row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert row is not None
    assert row["ssl"]
    assert row["version"] in ("TLSv1.2", "TLSv1.3")


def test_the_url_for_machines_asks_as_much_of_the_server_as_the_admins(tls_server: tuple[int, Path]) -> None:
    port, authority = tls_server
    with connect(url("localhost", port, sslmode="verify-full", sslrootcert=authority)) as connection:
        told = conninfo_to_dict(login_url(connection, "download"))
    assert (told["user"], told["host"], told["port"]) == ("shoal_download", "localhost", str(port))
    assert (told["sslmode"], told["sslrootcert"]) == ("verify-full", str(authority))


def test_a_server_under_another_name_a_stranger_and_an_open_line_are_refused(
    tls_server: tuple[int, Path], tmp_path: Path
) -> None:
    port, authority = tls_server
    trustme.CA().cert_pem.write_to_path(tmp_path / "stranger.crt")
    for asked, why in (
        (url("127.0.0.1", port, sslmode="verify-full", sslrootcert=authority), "does not match host name"),
        (
            url("localhost", port, sslmode="verify-full", sslrootcert=tmp_path / "stranger.crt"),
            "certificate verify failed",
        ),
        (url("localhost", port, sslmode="disable"), "no encryption"),
    ):
        with pytest.raises(DatabaseDown, match=why) as refusal:
            connect(asked)
        assert "s3cret" not in str(refusal.value)
