"""The commands as a person runs them: an error is one sentence, and nothing is lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from typer.main import get_command

from tests.tracker.filling import fill_pool, new_run, scalar
from tracker.admin.console import GROUPS, GroupedCommands
from tracker.database.database import Connection
from tracker.main import app


def command(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    package = {"tracker": "tracker.main", "worker": "workers.main", "dataset": "dataset.main"}[name]
    code = f"from {package} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


def assert_one_sentence(finished: subprocess.CompletedProcess[str], *words: str) -> None:
    assert finished.returncode == 1, finished.stderr
    assert finished.stdout == ""
    assert len(finished.stderr.strip().splitlines()) == 1
    assert "Traceback" not in finished.stderr
    for word in words:
        assert word in finished.stderr


def test_a_missing_wat_file_is_one_sentence(database: str, admin: Connection, tmp_path: Path) -> None:
    finished = command("tracker", "seed", str(tmp_path / "none.warc.wat.gz"), SHOAL_DATABASE_URL=database)
    assert_one_sentence(finished, "none.warc.wat.gz")
    assert scalar(admin, "SELECT count(*) FROM tracker.job") == 0


def test_a_store_that_cannot_be_written_is_one_sentence(database: str, admin: Connection, tmp_path: Path) -> None:
    new_run(admin, wats=1)
    (tmp_path / "file").write_text("not a folder")
    finished = command("worker", "extract", SHOAL_DATABASE_URL=database, SHOAL_STORE=str(tmp_path / "file"))
    assert_one_sentence(finished, str(tmp_path / "file"))
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "ready"


@pytest.mark.parametrize(("name", "verb"), [("tracker", "status"), ("tracker", "migrate"), ("worker", "extract")])
def test_a_store_in_an_unknown_home_is_one_sentence(database: str, name: str, verb: str) -> None:
    finished = command(name, verb, SHOAL_DATABASE_URL=database, SHOAL_STORE="~nobody-here/store")
    assert_one_sentence(finished, "~nobody-here/store", "absolute path")


@pytest.mark.parametrize(("name", "verb"), [("tracker", "status"), ("tracker", "migrate"), ("worker", "extract")])
def test_a_database_that_is_down_is_one_sentence(tmp_path: Path, name: str, verb: str) -> None:
    url = f"postgresql:///none?host={tmp_path}"
    finished = command(name, verb, SHOAL_DATABASE_URL=url, SHOAL_STORE=str(tmp_path / "store"))
    assert_one_sentence(finished, "SHOAL_DATABASE_URL")


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/shoal"])
@pytest.mark.parametrize(("name", "verb"), [("tracker", "status"), ("tracker", "migrate"), ("worker", "extract")])
def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path: Path, place: str, name: str, verb: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    home = str(tmp_path / place)
    finished = command(name, verb, SHOAL_HOME=home, SHOAL_DATABASE_URL="")
    assert_one_sentence(finished, home, "set SHOAL_HOME")


def test_an_argument_that_is_not_utf8_is_one_sentence(database: str) -> None:
    reason = os.fsdecode(b"caf\xe9")
    finished = command("tracker", "block", "example.com", "--reason", reason, SHOAL_DATABASE_URL=database)
    assert_one_sentence(finished, "is not UTF-8")


@pytest.mark.parametrize("verb", ["manifest", "sweep"])
def test_a_store_that_was_not_made_yet_is_one_sentence_and_is_not_made(
    database: str, tmp_path: Path, verb: str
) -> None:
    store = tmp_path / "store"
    finished = command("tracker", verb, SHOAL_DATABASE_URL=database, SHOAL_STORE=str(store))
    assert_one_sentence(finished, f"the store {store} does not exist", "SHOAL_STORE")
    assert not store.exists()


def test_a_workers_login_cannot_serve_and_opens_no_port(database: str) -> None:
    url = make_conninfo(database, user="shoal_extract")
    finished = command("tracker", "serve", "--http", "0", SHOAL_DATABASE_URL=url)
    assert_one_sentence(finished, "the login shoal_extract may not do the tracker's duties", "tracker migrate")


@pytest.mark.parametrize(("name", "verb"), [("tracker", "status"), ("worker", "download")])
def test_a_schema_that_is_behind_is_one_sentence(
    database: str, admin: Connection, tmp_path: Path, name: str, verb: str
) -> None:
    admin.execute("UPDATE tracker.alembic_version SET version_num = '0000'")
    finished = command(name, verb, SHOAL_DATABASE_URL=database, SHOAL_STORE=str(tmp_path))
    assert_one_sentence(finished, "0000", "tracker migrate")


def test_a_model_that_does_not_exist_is_one_sentence_and_the_job_is_returned(
    database: str, admin: Connection, tmp_path: Path
) -> None:
    new_run(admin)
    models = {"en": {"model": "ViT-B-33", "pretrained": "openai", "threshold": 0.28}}
    admin.execute("UPDATE tracker.run SET recipe = %s::jsonb", (json.dumps({"models": models}),))
    payload = {"shard": "test/shards/1", "subset": "en", "samples": 1}
    admin.execute(
        "INSERT INTO tracker.job (queue, run_id, payload) SELECT 'filter', run_id, %s::jsonb FROM tracker.run",
        (json.dumps(payload),),
    )
    finished = command("worker", "filter", SHOAL_DATABASE_URL=database, SHOAL_STORE=str(tmp_path))
    assert finished.returncode == 1
    assert "open_clip has no model ViT-B-33" in finished.stderr.splitlines()[-1]
    row = admin.execute("SELECT state::text AS state, attempt FROM tracker.job").fetchone()
    assert row == {"state": "ready", "attempt": 0}


def test_wrong_usage_exits_with_2(database: str) -> None:
    assert command("tracker", "status", "--nonsense", SHOAL_DATABASE_URL=database).returncode == 2
    wrong_network = command("worker", "download", "--allow-network", "all", SHOAL_DATABASE_URL=database)
    assert wrong_network.returncode == 2
    assert "'all' is not a network" in wrong_network.stderr


def test_an_audit_that_does_not_hold_exits_with_1_and_says_by_how_much(database: str, admin: Connection) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 10)
    held = command("tracker", "audit", "--json", SHOAL_DATABASE_URL=database)
    assert held.returncode == 0
    assert json.loads(held.stdout)["holds"] is True
    admin.execute("DELETE FROM tracker.ledger WHERE account = 'pool'")
    broken = command("tracker", "audit", "--json", SHOAL_DATABASE_URL=database)
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["differences"] == ["run test, en: 10 links are lost by the ledger"]


def test_status_is_json_on_stdout(database: str, admin: Connection) -> None:
    fill_pool(admin, new_run(admin, wats=2), 10)
    seen = json.loads(command("tracker", "status", "--json", SHOAL_DATABASE_URL=database).stdout)
    assert (seen["pool"], seen["queues"]["extract"]["ready"]) == (10, 2)


def test_a_recipe_is_fixed_with_its_run(database: str, tmp_path: Path) -> None:
    (tmp_path / "a.warc.wat.gz").write_bytes(b"")
    for text, code in (('{"text": {"min_characters": 5}}', 0), ('{"text": {"min_characters": 6}}', 1)):
        (tmp_path / "recipe.json").write_text(text)
        seeded = command(
            "tracker",
            "seed",
            str(tmp_path / "a.warc.wat.gz"),
            "--recipe",
            str(tmp_path / "recipe.json"),
            SHOAL_DATABASE_URL=database,
        )
        assert seeded.returncode == code, seeded.stderr
    assert "which cannot change" in seeded.stderr


def test_a_name_that_fits_no_path_cannot_be_a_runs(database: str, tmp_path: Path) -> None:
    (tmp_path / "a.warc.wat.gz").write_bytes(b"")
    seeded = command("tracker", "seed", str(tmp_path / "a.warc.wat.gz"), "--run", "../up", SHOAL_DATABASE_URL=database)
    assert_one_sentence(seeded, "'../up'", "letters, digits")


def test_a_command_starts_the_embedded_server_in_a_long_path_with_a_space(home: Path) -> None:
    spaced = home / "a folder with spaces" / ("x" * 150)
    migrated = command("tracker", "migrate", SHOAL_HOME=str(spaced), SHOAL_DATABASE_URL="")
    try:
        assert migrated.returncode == 0, migrated.stderr
        assert command("tracker", "audit", SHOAL_HOME=str(spaced), SHOAL_DATABASE_URL="").returncode == 0
    finally:
        stopped = command("tracker", "stop", SHOAL_HOME=str(spaced), SHOAL_DATABASE_URL="")
    assert stopped.stderr.strip() == "stopped"
    assert not (spaced / "postgres" / "postmaster.pid").exists()


def test_every_command_is_in_one_group_of_the_help() -> None:
    group = get_command(app)
    grouped = [name for names in GROUPS.values() for name in names]
    assert isinstance(group, GroupedCommands)
    assert list(group.commands) == grouped
    assert len(app.registered_commands) + len(app.registered_groups) == len(grouped)


def test_without_arguments_each_command_is_one_line_of_80_columns_and_the_most_used_come_first() -> None:
    said = command("tracker", COLUMNS="80").stdout
    summaries = re.findall(r"^│ ([a-z][a-z-]*) +[A-Z]", said, re.MULTILINE)
    assert summaries == [name for names in GROUPS.values() for name in names]
    assert not re.search(r"^│ {5}", said.split("Most used")[1], re.MULTILINE)


def test_the_shell_completes_commands() -> None:
    asked = {"_TRACKER_COMPLETE": "complete_bash", "COMP_WORDS": "tracker keep", "COMP_CWORD": "1"}
    said = subprocess.run(
        [str(Path(sys.executable).with_name("tracker"))],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.split() == ["keep-shards"]
