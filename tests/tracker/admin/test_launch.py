"""The boot files of a virtual machine: real tools can read them, and a machine drains when its provider gives
notice.
"""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.tracker.filling import scalar
from tests.tracker.talking import Console
from tracker.admin import drain_on_notice
from tracker.admin.launch import Form, Machine, boot_files, cloud_init, rendered, shell_script
from tracker.database.database import Connection
from tracker.errors import TrackerError
from tracker.protocol.session import Session

PASSWORD = """it's "50 %" $HOME `id` \\ # é: {x}"""
MACHINE = Machine(
    kind="download",
    image="registry.example/shoal-download:0.1.0",
    database_url="postgresql://shoal_download@db.example/shoal?sslmode=verify-full",
    store="s3://bucket/crawl",
    password=PASSWORD,
    user_agent="mybot/1.0 (+https://example.org/mybot?a=$b)",
)


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    monkeypatch.setenv("SHOAL_STORE", "s3://bucket/crawl")
    return Console(database, monkeypatch, capsys)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """What every launch says."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    return [
        *("--kind", "download", "--image", "shoal-download", "--password-file", str(tmp_path / "password")),
        *("--database-url", "postgresql://db.example/shoal"),
    ]


def written(user_data: str) -> dict[str, str]:
    """The files that cloud-init would write."""
    assert user_data.startswith("#cloud-config\n")
    return {
        file["path"]: base64.b64decode(file["content"]).decode() for file in yaml.safe_load(user_data)["write_files"]
    }


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_cloud_init_writes_is_what_was_meant_letter_for_letter() -> None:
    assert written(cloud_init(MACHINE, "t0ken")) == {
        path: content for path, (_, content) in boot_files(MACHINE, "t0ken").items()
    }
    files = boot_files(MACHINE, "t0ken")
    assert files["/etc/shoal/login/password"] == (0o600, PASSWORD)
    assert files["/etc/shoal/login/token"] == (0o600, "t0ken")


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="cloud-init is not installed (Debian: cloud-init)")
def test_cloud_inits_own_schema_takes_the_user_data(tmp_path: Path) -> None:
    (tmp_path / "user-data.yaml").write_text(cloud_init(MACHINE, "t0ken"), encoding="utf-8")
    assert "Valid" in run("cloud-init", "schema", "--config-file", str(tmp_path / "user-data.yaml"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed (Debian: systemd)")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for path, (_, content) in boot_files(MACHINE, "t0ken").items():
        if path.startswith("/etc/systemd/system/"):
            (tmp_path / Path(path).name.replace("@", "@1")).write_text(content, encoding="utf-8")
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n", encoding="utf-8")
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    said = run("systemd-analyze", "verify", *units)
    assert not [line for line in said.splitlines() if "shoal-" in line]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_docker_compose_takes_the_folder_and_leaves_dollars_alone(tmp_path: Path) -> None:
    for path, (_, content) in rendered(Form.COMPOSE, MACHINE, {"vm": "t0ken"}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    read = yaml.safe_load(run("docker-compose", "--file", str(tmp_path / "vm" / "docker-compose.yml"), "config"))
    environment = read["services"]["worker-1"]["environment"]
    assert environment["SHOAL_USER_AGENT"].replace("$$", "$") == MACHINE.user_agent
    assert PASSWORD not in json.dumps(read)


def test_the_scripts_are_sound_for_the_shell_and_hold_no_secret_in_the_open(tmp_path: Path) -> None:
    script = shell_script(MACHINE, "t0ken")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    (tmp_path / "start.sh").write_text(boot_files(MACHINE, "t0ken")["/usr/local/sbin/shoal-start"][1], encoding="utf-8")
    run("sh", "-n", str(tmp_path / "launch.sh"))
    run("sh", "-n", str(tmp_path / "start.sh"))
    opened = [content for path, (_, content) in boot_files(MACHINE, "t0ken").items() if "/login/" not in path]
    assert not any(PASSWORD in content or "t0ken" in content for content in opened)


def test_a_machine_is_told_what_else_it_needs(
    console: Console, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_S3_ENDPOINT", "https://minio.example:9000")
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    url = "postgresql://db.example/shoal?sslmode=verify-full&sslrootcert=/home/admin/ca.crt"
    more = [
        "--database-url",
        url,
        "--ca-file",
        tmp_path / "ca.crt",
        "--env",
        "AWS_REGION=eu-1",
        "--",
        "--nameserver",
        "127.0.0.1",
    ]
    files = written(console("launch", "vm", *asked, *more).out)
    told = "SHOAL_DATABASE_URL=postgresql://shoal_download@db.example/shoal?sslmode=verify-full"
    assert told in files["/etc/shoal/worker.env"].splitlines()
    assert files["/etc/shoal/login/ca.crt"].startswith("-----BEGIN CERTIFICATE-----")
    lines = files["/etc/shoal/worker.env"].splitlines()
    assert {"PGSSLROOTCERT=/run/login/ca.crt", "AWS_REGION=eu-1", "SHOAL_S3_ENDPOINT=https://minio.example:9000"} <= {
        *lines
    }
    assert (
        "shoal-download worker download --nameserver 127.0.0.1\n" in files["/etc/systemd/system/shoal-worker@.service"]
    )


def test_the_workers_of_a_machine_share_their_slots_for_wat_files() -> None:
    files = boot_files(MACHINE, "t0ken")
    assert "SHOAL_WAT_SLOTS=/run/slots\n" in files["/etc/shoal/worker.env"][1]
    assert "--volume /var/lib/shoal/slots:/run/slots " in files["/etc/systemd/system/shoal-worker@.service"][1]
    assert "mkdir -p /var/lib/shoal/slots\n" in files["/usr/local/sbin/shoal-start"][1]
    folder = rendered(Form.COMPOSE, MACHINE, {"vm": "t0ken"})
    service = json.loads(folder["vm/docker-compose.yml"][1])["services"]["worker-1"]
    assert "./slots:/run/slots" in service["volumes"]
    assert "vm/slots/.keep" in folder


def test_each_machine_has_a_token_of_its_own_that_a_worker_registers_with(
    console: Console, asked: list[str], database: str, admin: Connection
) -> None:
    answer = console.json("launch", "vm", *asked, "--count", 3)
    assert answer["machines"] == ["vm-001", "vm-002", "vm-003"]
    tokens = {written(content)["/etc/shoal/login/token"] for content in answer["files"].values()}
    assert len(tokens) == 3
    worker = Session.register(database, "download", token=tokens.pop())
    worker.close()
    assert str(scalar(admin, "SELECT machine FROM tracker.worker")).startswith("vm-00")
    assert "vm-002" in str(console.json("revoke", "vm-002", "--yes"))


def test_one_machine_is_printed_and_several_are_written_readable_by_the_owner_only(
    console: Console, asked: list[str], tmp_path: Path
) -> None:
    said = console("launch", "one", *asked)
    assert written(said.out)["/etc/shoal/login/password"] == PASSWORD
    assert "postgresql://shoal_download@db.example/shoal\n" in written(said.out)["/etc/shoal/worker.env"]
    console("launch", "many", *asked, "--count", 2, "--format", "compose", "--out", tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 8
    assert all(path.stat().st_mode & 0o077 == 0 for path in files if path.parent.name == "login")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--count", "2"], "give --out FOLDER, or --json"),
        (["--database-url", "postgresql://me:secret@db.example/shoal"], "contains a password"),
        (["--database-url", "postgresql://localhost/shoal"], "cannot reach this database"),
        (["--image", "shoal; reboot"], "is not an image"),
        (["--password-file", "/nowhere"], "the password cannot be read"),
        (["--user-agent", "a\nPGPASSWORD=x"], "contains a line break"),
        (["--env", "AWS_REGION"], "give NAME=VALUE"),
        (["--env", "SHOAL_STORE=s3://other"], "'SHOAL_STORE' cannot be set"),
        (["--ca-file", "/nowhere"], "give a PEM file with --ca-file"),
        (["--", "--profile", "$(reboot)"], "cannot stand in a unit's command line"),
    ],
)
def test_invalid_options_are_refused_and_no_machine_is_enrolled(
    console: Console, asked: list[str], admin: Connection, more: list[str], why: str
) -> None:
    said = console.refusal("launch", "vm", *asked, *more)
    assert why in said
    assert "secret" not in said
    assert scalar(admin, "SELECT count(*) FROM tracker.machine") == 0


def test_a_folder_that_holds_another_machines_files_is_left_alone(
    console: Console, asked: list[str], admin: Connection, tmp_path: Path
) -> None:
    (tmp_path / "vm.yaml").write_text("precious")
    assert "exists already" in console.refusal("launch", "vm", *asked, "--out", tmp_path)
    (tmp_path / "file").touch()
    assert "cannot be written" in console.refusal("launch", "vm", *asked, "--out", tmp_path / "file" / "x")
    assert scalar(admin, "SELECT count(*) FROM tracker.machine") == 0
    with pytest.raises(TrackerError, match="is a folder of this machine"):
        Machine(kind="filter", image="shoal", database_url="postgresql://db/shoal", store="/store", password="x")


@pytest.fixture
def metadata() -> Iterator[tuple[str, dict[str, list[tuple[int, str]]]]]:
    """A provider's metadata: each path's answers in turn, the last of them for good; 404 for the others."""
    answers: dict[str, list[tuple[int, str]]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left = answers.get(self.path.partition("?")[0], [(404, "")])
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_PUT = do_GET  # noqa: N815 — http.server's name

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — http.server's name
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", answers
        server.shutdown()
        thread.join()


AWS = "/latest/meta-data/spot/instance-action"
GOOGLE = "/computeMetadata/v1/instance/preempted"
AZURE = "/metadata/scheduledevents"


@pytest.mark.parametrize(
    ("path", "before", "notice", "by"),
    [
        (AWS, [(404, "")], '{"action": "terminate", "time": "2026-11-21T08:22:00Z"}', "aws"),
        (GOOGLE, [(200, "FALSE"), (503, "")], "TRUE", "google"),
        (AZURE, [(200, '{"Events": [{"EventType": "Freeze"}]}')], '{"Events": [{"EventType": "Preempt"}]}', "azure"),
        (AWS, [(200, "<html>"), (200, "[]")], '{"action": "stop"}', "aws"),
    ],
)
def test_the_notice_of_any_provider_runs_the_drain_and_nothing_else_does(
    metadata: tuple[str, dict[str, list[tuple[int, str]]]],
    tmp_path: Path,
    path: str,
    before: list[tuple[int, str]],
    notice: str,
    by: str,
) -> None:
    url, answers = metadata
    answers["/latest/api/token"] = [(200, "t0ken")]
    answers[path] = list(before)
    for _ in before:
        assert drain_on_notice.noticed(url) == ""
    answers[path] = [*before, (200, notice)]
    watch = [sys.executable, drain_on_notice.__file__, "--metadata", url, "--every", "0.01"]
    done = subprocess.run([*watch, "touch", str(tmp_path / "drained")], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, f"drain.noticed by={by}\n")
    assert (tmp_path / "drained").exists()


def test_where_no_provider_answers_nothing_is_noticed() -> None:
    assert drain_on_notice.noticed("http://127.0.0.1:1") == ""
