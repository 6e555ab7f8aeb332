"""The dashboard, the alerts and Prometheus's configuration use only metrics that exist."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.tracker.filling import fill_pool, new_run
from tracker.database.database import Connection
from tracker.duties.serve import Duties
from tracker.protocol.session import Session
from tracker.watch.watcher import Watcher
from workers.runtime import metrics

MONITORING = Path(__file__).parents[1] / "docker" / "monitoring"
PROMTOOL = shutil.which("promtool")
NAME = re.compile(r"(?<![\w:])(shoal_\w+)(\{[^}]*\})?")
RECORDED = re.compile(r"shoal:\w+")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")
# What Prometheus adds by itself, and what makes a histogram.
ADDED = {"instance", "job", "le", "alertname", "alertstate"}


@pytest.fixture
def told(database: str, admin: Connection) -> dict[str, set[str]]:
    """Each sample's name, by the tracker and by a worker, with its labels."""
    fill_pool(admin, new_run(admin, wats=1), 10)
    admin.execute("UPDATE tracker.control SET max_leased = 5")
    session = Session.register(database, "extract")
    watcher = Watcher(database, Duties(every_seconds=5.0, done_at=1.0))
    watcher.look()
    watcher._close()
    session.close()
    # read from the text, as Prometheus does; a label that no sample has yet is known by its metric
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(watcher.answers.metrics.decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for metric in _metrics(metrics.REGISTRY):
        for name in metrics.REGISTRY._get_names(metric):  # type: ignore[no-untyped-call]
            labels.setdefault(name, set()).update(metric._labelnames)
    labels["shoal_worker_info"] = {"queue", "version"}
    # a database on another machine has no disk to tell of, and an empty tracker no verdict
    labels |= {"shoal_database_disk_free_bytes": set(), "shoal_database_disk_size_bytes": set()}
    return labels | {"shoal_samples_judged_total": {"verdict"}}


def _metrics(registry: CollectorRegistry) -> Iterator[Any]:
    yield from registry._collector_to_names


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return loaded


def expressions() -> list[str]:
    """What the dashboard's panels and the alerts ask."""
    alerts = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    asked = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    return asked + [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def recorded() -> set[str]:
    alerts = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    return {rule["record"] for group in alerts["groups"] for rule in group["rules"] if "record" in rule}


def test_every_metric_that_a_panel_or_an_alert_asks_for_is_told_with_its_labels(told: dict[str, set[str]]) -> None:
    asked = [found for expression in expressions() for found in NAME.findall(expression)]
    assert len(asked) > 60
    assert {name for name, _ in asked} - told.keys() == set()
    wrong = {(name, label) for name, of in asked for label in LABEL.findall(of) if label not in told[name] | ADDED}
    assert wrong == set()
    known = set().union(*told.values()) | ADDED
    grouped = {label.strip() for text in expressions() for of in GROUPED.findall(text) for label in of.split(",")}
    assert grouped - known == set()
    assert {name for expression in expressions() for name in RECORDED.findall(expression)} <= recorded()


def test_every_metric_of_a_worker_is_on_the_dashboard_or_in_an_alert() -> None:
    asked = {name for expression in expressions() for name, _ in NAME.findall(expression)}
    shown = {metric._name for metric in _metrics(metrics.REGISTRY)}
    assert {name for name in shown if not any(one.startswith(name) for one in asked)} == {"shoal_worker_progress"}


def test_the_dashboard_is_what_its_maker_makes_and_its_panels_do_not_overlap() -> None:
    spec = importlib.util.spec_from_file_location("make_dashboard", MONITORING / "make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert (MONITORING / "dashboard.json").read_text() == maker.text()
    cells: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= maker.COLUMNS
        assert not cells & covered, panel["title"]
        cells |= covered
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    alerts = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    tested = (MONITORING / "alerts_test.yml").read_text()
    for rule in (rule for group in alerts["groups"] for rule in group["rules"] if "alert" in rule):
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")
        assert rule["alert"] in tested


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: .ci/run fetches it")
@pytest.mark.parametrize("command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_accepts_the_configuration_and_the_alerts_pass_their_tests(command: list[str]) -> None:
    assert PROMTOOL is not None
    checked = subprocess.run([PROMTOOL, *command], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: .ci/run fetches it")
def test_prometheus_can_read_every_question_of_the_dashboard(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(
        [PROMTOOL, "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(asked)} rules found" in checked.stdout
