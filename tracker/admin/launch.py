"""`tracker launch`: the boot files of virtual machines that run workers, for any provider.

Invariant: a machine holds two secrets, its class's password and its own token, in files that only root and the worker's
user may read. It gets access to the store through its role at the provider. No command line, unit or environment that
`docker inspect` shows contains a secret. Secrets and free text are written as base64, so they need no quoting.

There are three forms: user-data for cloud-init, a shell script that installs the units (any machine with systemd), and
a folder with a compose file (a permanent machine: it does not wait for a spot provider's notice).
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from urllib.parse import urlsplit

from tracker import strict_json
from tracker.errors import TrackerError

IMAGE = re.compile(r"[a-z0-9][\w.\-/:@]*\Z")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}\Z")
# Characters that have no special meaning in units, compose files and the shell.
ARGUMENT = re.compile(r"[\w./:@+=,-]+\Z")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
WORKER_USER = "10001:10001"  # the user that the images run as
SLOTS = "/var/lib/shoal/slots"  # see workers.files.connections
STOP_SECONDS = 60  # a download worker closes its shard within 8 s; a filter worker finishes its current samples

START = """\
#!/bin/sh
# Starts this machine's workers, one per processor by default. It is safe to run it again.
set -eu
mkdir -p {slots}
chown -R {user} /etc/shoal/login {slots}
if ! command -v docker >/dev/null; then
  if command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io
  else
    dnf install -y -q docker || yum install -y -q docker
  fi
fi
systemctl daemon-reload
systemctl enable --now docker.service
for pause in 5 15 45 90 0; do
  docker pull --quiet {image} && break
  sleep "$pause"
done
workers={workers}
for number in $(seq "${{workers:-$(nproc)}}"); do
  systemctl enable --now "shoal-worker@$number.service"
done
systemctl enable --now shoal-drain.service
"""

WORKER = """\
[Unit]
Description=Shoal {kind} worker %i
Wants=network-online.target
After=network-online.target docker.service
Requires=docker.service
StartLimitIntervalSec=0

[Service]
ExecStartPre=-/usr/bin/env docker rm --force shoal-%i
ExecStart=/usr/bin/env docker run --rm --name shoal-%i --init --network host --read-only --mount type=volume,destination=/tmp --cap-drop ALL --security-opt no-new-privileges --log-driver journald --volume /etc/shoal/login:/run/login:ro --volume {slots}:/run/slots --env-file /etc/shoal/worker.env {image} {command}
ExecStop=/usr/bin/env docker stop --time {stop_seconds} shoal-%i
TimeoutStartSec=900
TimeoutStopSec={stop_limit}
Restart=on-failure
RestartSec=15

[Install]
WantedBy=multi-user.target
"""  # noqa: E501 — a unit's line; it ends well, and is not started again, when the tracker has drained it

DRAIN = """\
[Unit]
Description=Drains the Shoal workers when the provider takes the machine away
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=/usr/bin/env python3 /usr/local/sbin/shoal-drain-on-notice /usr/bin/env systemctl stop shoal-worker@*.service
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


class Form(StrEnum):
    """Formats of the output."""

    CLOUD_INIT = "cloud-init"
    COMPOSE = "compose"
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Machine:
    """Settings shared by all machines of a launch. `workers` None means one per processor."""

    kind: str
    image: str
    database_url: str
    store: str
    password: str
    workers: int | None = None
    user_agent: str | None = None
    authority: str | None = None
    """PEM of the private authority that signed the database's certificate; None for a public one."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables of the containers."""
    arguments: Sequence[str] = ()
    """Additional arguments of the worker command."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TrackerError: a value is invalid; the message says what to write instead.
        """
        if not IMAGE.match(self.image):
            raise TrackerError(f"{self.image!r} is not an image: give registry/name:tag")
        if urlsplit(self.database_url).password is not None or "password=" in self.database_url:
            raise TrackerError("the database's URL contains a password: leave it out, and give --password-file")
        if urlsplit(self.database_url).hostname in (None, "localhost", "127.0.0.1", "::1"):
            raise TrackerError(
                "other machines cannot reach this database: give --database-url with the database's host"
            )
        if "://" not in self.store:
            raise TrackerError(
                f"the store {self.store} is a folder of this machine: set SHOAL_STORE to s3://, gs:// or abfs://"
            )
        for argument in self.arguments:
            if not ARGUMENT.match(argument):
                raise TrackerError(
                    f"{argument!r} cannot stand in a unit's command line: pass it as a variable with --env, if the "
                    "worker reads one"
                )
        for name in self.settings:
            if not VARIABLE.match(name) or name in self._own():
                raise TrackerError(
                    f"{name!r} cannot be set: give --env NAME=VALUE with a name that launch does not set itself"
                )
        if any(character in value for value in self.environment().values() for character in "\n\r\0"):
            raise TrackerError("a setting contains a line break: remove it")

    def environment(self) -> dict[str, str]:
        """Return the containers' environment, with the paths of the secrets but not the secrets."""
        return self._own() | dict(self.settings)

    def login(self, token: str) -> dict[str, str]:
        """Return the files of the folder that only the worker's user can read: name -> content."""
        authority = {"ca.crt": self.authority} if self.authority else {}
        return {"password": self.password, "token": token} | authority

    def command(self) -> list[str]:
        """Return the command that a container runs."""
        return ["worker", self.kind, *self.arguments]

    def _own(self) -> dict[str, str]:
        known = {
            "SHOAL_DATABASE_URL": self.database_url,
            "SHOAL_STORE": self.store,
            "PGPASSWORD_FILE": "/run/login/password",
            "SHOAL_TOKEN_FILE": "/run/login/token",
            # one folder for all containers of the machine, because they share its IP address
            "SHOAL_WAT_SLOTS": "/run/slots",
        }
        if self.user_agent:
            known["SHOAL_USER_AGENT"] = self.user_agent
        if self.authority:
            known["PGSSLROOTCERT"] = "/run/login/ca.crt"
        return known


def machine_names(name: str, count: int) -> list[str]:
    """Return the names of `count` machines: NAME if there is one, otherwise NAME-001 and so on.

    Raises:
        TrackerError: the name is invalid.
    """
    if not NAME.match(name):
        raise TrackerError(f"{name!r} cannot be a machine's name: use letters, digits, '.', '_' and '-'")
    width = max(3, len(str(count)))
    return [name] if count == 1 else [f"{name}-{number:0{width}d}" for number in range(1, count + 1)]


def boot_files(machine: Machine, token: str) -> dict[str, tuple[int, str]]:
    """Return the files that cloud-init or the shell script installs: path -> (mode, content)."""
    lines = "".join(f"{name}={value}\n" for name, value in machine.environment().items())
    start = START.format(user=WORKER_USER, image=machine.image, workers=machine.workers or "", slots=SLOTS)
    worker = WORKER.format(
        kind=machine.kind,
        image=machine.image,
        command=" ".join(machine.command()),
        slots=SLOTS,
        stop_seconds=STOP_SECONDS,
        stop_limit=STOP_SECONDS + 30,
    )
    watch = files("tracker.admin").joinpath("drain_on_notice.py").read_text(encoding="utf-8")
    return {
        **{f"/etc/shoal/login/{name}": (0o600, content) for name, content in machine.login(token).items()},
        "/etc/shoal/worker.env": (0o600, lines),
        "/etc/systemd/system/shoal-worker@.service": (0o644, worker),
        "/etc/systemd/system/shoal-drain.service": (0o644, DRAIN),
        "/usr/local/sbin/shoal-drain-on-notice": (0o755, watch),
        "/usr/local/sbin/shoal-start": (0o755, start),
    }


def cloud_init(machine: Machine, token: str) -> str:
    """Return user-data for cloud-init. It is JSON, which is valid YAML, so that names need no further quoting."""
    written = [
        {"path": path, "permissions": f"{mode:04o}", "encoding": "b64", "content": _base64(content)}
        for path, (mode, content) in boot_files(machine, token).items()
    ]
    asked = {"write_files": written, "runcmd": [["/usr/local/sbin/shoal-start"]]}
    return f"#cloud-config\n{strict_json.dumps(asked, indent=1)}\n"


def shell_script(machine: Machine, token: str) -> str:
    """Return a script that installs the files and starts the workers, to be run as root: ssh VM sudo sh <script."""
    lines = ["#!/bin/sh", "set -eu", "umask 077", "mkdir -p /etc/shoal/login"]
    for path, (mode, content) in boot_files(machine, token).items():
        lines += [f"base64 -d >{path} <<'END'", _base64(content), "END", f"chmod {mode:04o} {path}"]
    return "\n".join([*lines, "exec /usr/local/sbin/shoal-start", ""])


def compose_files(machine: Machine, token: str) -> dict[str, tuple[int, str]]:
    """Return a folder for docker-compose: the compose file and the secrets, which user 10001 must be able to read."""
    service = {
        "image": machine.image,
        "command": machine.command(),
        "environment": {name: _undollared(value) for name, value in machine.environment().items()},
        "volumes": ["./login:/run/login:ro", "./slots:/run/slots", "/tmp"],  # noqa: S108 — the container's: an upload is spooled there
        "network_mode": "host",
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "on-failure",
        "stop_grace_period": f"{STOP_SECONDS}s",
    }
    numbered = {f"worker-{number}": service for number in range(1, (machine.workers or 1) + 1)}
    return {
        "docker-compose.yml": (0o644, strict_json.dumps({"version": "3.8", "services": numbered}, indent=1) + "\n"),
        "slots/.keep": (0o644, ""),
        **{f"login/{name}": (0o600, content) for name, content in machine.login(token).items()},
    }


def rendered(form: Form, machine: Machine, tokens: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Return all output files for the machines and their tokens: path below --out -> (mode, content)."""
    if form is Form.COMPOSE:
        return {
            f"{name}/{path}": file
            for name, token in tokens.items()
            for path, file in compose_files(machine, token).items()
        }
    render, suffix = (cloud_init, "yaml") if form is Form.CLOUD_INIT else (shell_script, "sh")
    return {f"{name}.{suffix}": (0o600, render(machine, token)) for name, token in tokens.items()}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _undollared(value: str) -> str:
    """Escape $, which docker-compose would expand."""
    return value.replace("$", "$$")
