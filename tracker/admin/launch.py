"""`tracker launch`: what a virtual machine boots with to work for the swarm, whoever the provider is.

Invariant: a machine holds the login of its class and its own token, in files that root and the worker's user may read,
and nothing else that opens a door: the store it enters by its role. Secrets stand in no command line, unit or
environment that `docker inspect` shows. What is secret or free text goes as base64, so nothing has to be quoted.

Three forms of the same: user-data for cloud-init, a shell script that installs the units (any machine with systemd),
and a folder with a compose file (a machine that stays; no notice of a spot provider is waited for there).
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
ARGUMENT = re.compile(r"[\w./:@+=,-]+\Z")  # a unit's line, docker-compose and the shell take none of these for theirs
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
WORKER_USER = "10001:10001"  # of the images
SLOTS = "/var/lib/shoal/slots"  # see workers.files.connections
STOP_SECONDS = 60  # a download worker closes its shard within 8, a filter worker ends its shard's current samples

START = """\
#!/bin/sh
# Starts the workers of this machine, one for each of its processors unless told otherwise; may run again.
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
    """What is printed."""

    CLOUD_INIT = "cloud-init"
    COMPOSE = "compose"
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Machine:
    """What all machines of a launch have in common. `workers` None: one for each processor."""

    kind: str
    image: str
    database_url: str
    store: str
    password: str
    workers: int | None = None
    user_agent: str | None = None
    authority: str | None = None
    """PEM of the authority that the database's certificate is held against, where it is not a public one."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More of the containers' environment."""
    arguments: Sequence[str] = ()
    """More of the worker's command line."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            TrackerError: which value, and what to give instead.
        """
        if not IMAGE.match(self.image):
            raise TrackerError(f"{self.image!r} is no image: give registry/name:tag")
        if urlsplit(self.database_url).password is not None or "password=" in self.database_url:
            raise TrackerError("the database's URL holds a password: leave it out, and give --password-file")
        if urlsplit(self.database_url).hostname in (None, "localhost", "127.0.0.1", "::1"):
            raise TrackerError("other machines cannot reach this database: give --database-url with its host")
        if "://" not in self.store:
            raise TrackerError(f"the store {self.store} is a folder here: set SHOAL_STORE to s3://, gs:// or abfs://")
        for argument in self.arguments:
            if not ARGUMENT.match(argument):
                raise TrackerError(
                    f"{argument!r} cannot stand in a unit's command line: give it with --env, if it can be"
                )
        for name in self.settings:
            if not VARIABLE.match(name) or name in self._own():
                raise TrackerError(f"{name!r} cannot be set: give --env NAME=VALUE, of what launch does not set itself")
        if any(character in value for value in self.environment().values() for character in "\n\r\0"):
            raise TrackerError("a setting holds a line break: take it out")

    def environment(self) -> dict[str, str]:
        """What the containers are told; no secret, but where the secrets lie."""
        return self._own() | dict(self.settings)

    def login(self, token: str) -> dict[str, str]:
        """What lies in the folder that only the worker's user reads, by name."""
        authority = {"ca.crt": self.authority} if self.authority else {}
        return {"password": self.password, "token": token} | authority

    def command(self) -> list[str]:
        """What a container runs."""
        return ["worker", self.kind, *self.arguments]

    def _own(self) -> dict[str, str]:
        known = {
            "SHOAL_DATABASE_URL": self.database_url,
            "SHOAL_STORE": self.store,
            "PGPASSWORD_FILE": "/run/login/password",
            "SHOAL_TOKEN_FILE": "/run/login/token",
            "SHOAL_WAT_SLOTS": "/run/slots",  # one for all containers of the machine: they share its address
        }
        if self.user_agent:
            known["SHOAL_USER_AGENT"] = self.user_agent
        if self.authority:
            known["PGSSLROOTCERT"] = "/run/login/ca.crt"
        return known


def machine_names(name: str, count: int) -> list[str]:
    """The names of `count` machines: NAME, or NAME-001 and so on.

    Raises:
        TrackerError: the name does not fit.
    """
    if not NAME.match(name):
        raise TrackerError(f"{name!r} cannot be a machine's name: use letters, digits, '.', '_' and '-'")
    width = max(3, len(str(count)))
    return [name] if count == 1 else [f"{name}-{number:0{width}d}" for number in range(1, count + 1)]


def boot_files(machine: Machine, token: str) -> dict[str, tuple[int, str]]:
    """What lies on a machine of cloud-init's or systemd's form: path -> (mode, content)."""
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
    """User-data for cloud-init. JSON is YAML, so a strange name needs no quoting of its own."""
    written = [
        {"path": path, "permissions": f"{mode:04o}", "encoding": "b64", "content": _base64(content)}
        for path, (mode, content) in boot_files(machine, token).items()
    ]
    asked = {"write_files": written, "runcmd": [["/usr/local/sbin/shoal-start"]]}
    return f"#cloud-config\n{strict_json.dumps(asked, indent=1)}\n"


def shell_script(machine: Machine, token: str) -> str:
    """A script for root that puts the files in their places and starts the workers: ssh VM sudo sh <script."""
    lines = ["#!/bin/sh", "set -eu", "umask 077", "mkdir -p /etc/shoal/login"]
    for path, (mode, content) in boot_files(machine, token).items():
        lines += [f"base64 -d >{path} <<'END'", _base64(content), "END", f"chmod {mode:04o} {path}"]
    return "\n".join([*lines, "exec /usr/local/sbin/shoal-start", ""])


def compose_files(machine: Machine, token: str) -> dict[str, tuple[int, str]]:
    """A folder for docker-compose: the file beside its secrets, which user 10001 has to be able to read."""
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
    """Everything to be written for machines by name: path below --out -> (mode, content)."""
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
    """docker-compose takes $ for a variable."""
    return value.replace("$", "$$")
