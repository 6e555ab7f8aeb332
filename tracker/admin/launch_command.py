"""The command `tracker launch`."""

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import typer

from tracker.accounts.changes import record
from tracker.admin import enroll as enrolling
from tracker.admin import launch as launching
from tracker.admin.console import Json, Queue, app, open_tracker, show, tell
from tracker.admin.launch import Form, Machine
from tracker.admin.passwords import read_password
from tracker.database.database import translated
from tracker.database.enums import login_of
from tracker.errors import TrackerError
from tracker.settings import Settings


@app.command()
def launch(
    name: Annotated[str, typer.Argument(help="Name of the machine; several are called NAME-001 and so on.")],
    kind: Annotated[Queue, typer.Option(help="The stage that its workers do.")],
    image: Annotated[str, typer.Option(help="Image of the workers, as registry/name:tag.")],
    password_file: Annotated[
        Path, typer.Option(help="File whose first line is the class's password; see tracker rotate.")
    ],
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.CLOUD_INIT,
    count: Annotated[int, typer.Option(min=1, help="How many machines; each gets its own token.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers per machine; default: one per processor.")] = None,
    database: Annotated[
        str | None,
        typer.Option("--database-url", help="URL by which the machines reach the database, without a password."),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="Certificate of the database's authority, if it is not a public one."),
    ] = None,
    user_agent: Annotated[
        str | None, typer.Option(envvar="SHOAL_USER_AGENT", help="User agent of the download workers.")
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="Variable for the workers; not for secrets. Repeatable."),
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="-- OPTIONS", help="Options for the worker command.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Write files into this folder, not to stdout.")] = None,
    as_json: Json = False,
) -> None:
    """Enroll machines, and print what they boot with.

    The output is user-data for cloud-init, a script for a running machine, or a folder for docker-compose.
    """
    alone = count == 1 and form is not Form.COMPOSE
    if folder is None and not alone and not as_json:
        raise TrackerError("the output is several files: give --out FOLDER, or --json")
    names = launching.machine_names(name, count)
    with open_tracker() as connection:
        own = Settings.from_environment().database_url or ""
        url = database or enrolling.login_url(connection, kind.value, own).replace(":PASSWORD@", "@")
        if folder is not None and (there := [path for path in _places(folder, form, names) if path.exists()]):
            raise TrackerError(f"{there[0]} exists already: give another --out, or another name")
        machine = Machine(
            kind=kind.value,
            image=image,
            database_url=_with_login(url if ca_file is None else _without_authority(url), kind.value),
            store=Settings.from_environment().store,
            password=read_password(password_file),
            workers=workers,
            user_agent=user_agent,
            authority=_certificate(ca_file) if ca_file is not None else None,
            settings=_endpoint() | _assignments(environment or []),
            arguments=arguments or [],
        )
        with translated(), connection.transaction():
            tokens = {each: enrolling.enroll(connection, each, kind.value) for each in names}
            record(
                connection, "launch", name, before=None, after={"kind": kind.value, "machines": count, "image": image}
            )
            files = launching.rendered(form, machine, tokens)
            if folder is not None:
                _write(folder, files)
    if folder is not None:
        return tell({"machines": names, "out": str(folder)}, as_json, f"machines enrolled: {count}; written: {folder}")
    contents = {path: content for path, (_, content) in files.items()}
    data = {"machines": names, "files": contents}
    return show(data, True, str) if as_json else typer.echo(next(iter(contents.values())), nl=False)


def _places(folder: Path, form: Form, names: list[str]) -> list[Path]:
    suffix = {Form.CLOUD_INIT: ".yaml", Form.SYSTEMD: ".sh", Form.COMPOSE: ""}[form]
    return [folder / f"{name}{suffix}" for name in names]


def _with_login(url: str, kind: str) -> str:
    """Return the URL with the class's login, unless the URL already names a login."""
    scheme, separator, rest = url.partition("://")
    host = rest.partition("/")[0]
    return url if not separator or "@" in host else f"{scheme}://{login_of(kind)}@{rest}"


def _without_authority(url: str) -> str:
    """Return the URL without the path of a certificate, because the path on the machines is different."""
    parts = urlsplit(url)
    asked = [(name, value) for name, value in parse_qsl(parts.query) if name != "sslrootcert"]
    return urlunsplit(parts._replace(query=urlencode(asked)))


def _endpoint() -> dict[str, str]:
    """Return the variables that name an S3 endpoint other than AWS's."""
    return {name: os.environ[name] for name in ("SHOAL_S3_ENDPOINT", "AWS_ENDPOINT_URL") if os.environ.get(name)}


def _assignments(texts: list[str]) -> dict[str, str]:
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise TrackerError(f"--env {text!r} has no value: give NAME=VALUE")
        settings[name] = value
    return settings


def _certificate(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise TrackerError(
            f"the certificate {path} cannot be read ({error}): give a PEM file with --ca-file"
        ) from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise TrackerError(f"{path} is not a certificate: give a PEM file with --ca-file")
    return text


def _write(folder: Path, files: dict[str, tuple[int, str]]) -> None:
    """Write files that other users can never read, not even while they are being written.

    Raises:
        TrackerError: the folder cannot be written.
    """
    try:
        for path, (mode, content) in files.items():
            place = folder / path
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise TrackerError(f"{folder} cannot be written ({error.strerror}): name another folder with --out") from error
