"""Write dashboard.json, Grafana's dashboard of the swarm, beside this file.

A dashboard is 2,000 lines of JSON, of which a person means 60: what is asked, and how it is called. Those stand here.
Trackers may be several and tell the same numbers, so theirs are taken by max; workers' are summed up.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${source}"}
COLUMNS = 24  # of Grafana's grid

JOB_SECONDS = "max by (queue) (rate(shoal_job_seconds_total[15m]))"
JOBS_DONE = "max by (queue) (rate(shoal_jobs_done_total[15m]))"
ROWS_IN = "max by (queue) (rate(shoal_rows_in_total[15m]))"
ROWS_OUT = "max by (queue) (rate(shoal_rows_out_total[15m]))"
CONNECTIONS = "shoal_worker_connections_open"
MEMORY = "max by (queue) (process_resident_memory_bytes * on (instance) group_left (queue) shoal_worker_info)"
SLOWEST_CALLS = "histogram_quantile(0.95, sum by (le, verb) (rate(shoal_worker_tracker_call_seconds_bucket[5m])))"


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    asked: tuple[tuple[str, str], ...]  # an expression and how its lines are called
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    said: str = ""


def one(title: str, expression: str, unit: str = "short", said: str = "") -> Panel:
    return Panel(title, ((expression, ""),), unit, "stat", width=4, height=4, said=said)


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            one("In the pool", "shoal:pool_links"),
            one("Links ended, a second", "sum(max by (outcome) (rate(shoal_links_finished_total[10m])))", "cps"),
            one("Pairs kept", 'max(shoal_samples_judged_total{verdict="kept"})'),
            one("Work in the pool", "max(shoal_pool_hours_left)", "h", "At this pace; +Inf: none is done."),
            one("Workers alive", "sum(shoal:workers_alive)"),
            one("Alerts", 'count(ALERTS{alertname=~"Shoal.*", alertstate="firing"}) or vector(0)'),
        ),
    ),
    (
        "Pool and links",
        (
            Panel(
                "Pool against its watermarks",
                (
                    ("max by (subset) (shoal_pool_links)", "{{subset}}"),
                    ("max by (mark) (shoal_pool_watermark_links)", "mark: {{mark}}"),
                ),
            ),
            Panel(
                "Share of its target",
                (("max by (subset) (shoal_pool_links) / max by (subset) (shoal_pool_target_links)", "{{subset}}"),),
                "percentunit",
            ),
            Panel(
                "Links a second",
                (
                    ("max(rate(shoal_links_in_total[10m]))", "into the pool"),
                    ("sum(max by (outcome) (rate(shoal_links_finished_total[10m])))", "ended"),
                    ("sum(rate(shoal_worker_links_total[5m]))", "fetched, as workers tell"),
                ),
                "cps",
            ),
            Panel(
                "Outcomes a second",
                (("sum by (outcome) (rate(shoal_worker_links_total[5m])) > 0", "{{outcome}}"),),
                "cps",
                stacked=True,
            ),
            Panel(
                "Waiting",
                (
                    ("max(shoal_again_links)", "for another try"),
                    ("max(shoal_leased_links)", "in batches"),
                ),
            ),
            Panel(
                "Verdicts a second",
                (("max by (verdict) (rate(shoal_samples_judged_total[10m]))", "{{verdict}}"),),
                "cps",
                stacked=True,
            ),
        ),
    ),
    (
        "Queues and workers",
        (
            Panel("Ready", (('max by (queue) (shoal_jobs{state="ready"})', "{{queue}}"),)),
            Panel(
                "Leased, expired and dead",
                (('max by (queue, state) (shoal_jobs{state!="ready"}) > 0', "{{queue}} {{state}}"),),
            ),
            Panel("Oldest ready", (("max by (queue) (shoal_queue_oldest_ready_seconds)", "{{queue}}"),), "s"),
            Panel(
                "Workers",
                (("max by (queue, state) (shoal_workers) > 0", "{{queue}} {{state}}"),),
                stacked=True,
            ),
            Panel("Jobs done, an hour", (("3600 * max by (queue) (rate(shoal_jobs_done_total[15m]))", "{{queue}}"),)),
            Panel(
                "Seconds a job",
                ((f"{JOB_SECONDS} / {JOBS_DONE}", "{{queue}}"),),
                "s",
            ),
            Panel(
                "Failed or taken over, 30 minutes",
                (("max by (queue) (shoal_recent_failures)", "{{queue}}"),),
            ),
            Panel(
                "How jobs end at workers",
                (("sum by (queue, result) (rate(shoal_worker_jobs_total[15m])) > 0", "{{queue}} {{result}}"),),
                "cps",
            ),
            Panel(
                "Held, or paused",
                (
                    ("max by (queue) (shoal_queue_held)", "{{queue}} held"),
                    ("max by (queue) (shoal_queue_paused)", "{{queue}} paused"),
                ),
            ),
        ),
    ),
    (
        "Rows",
        (
            Panel("Rows into jobs, a second", ((ROWS_IN, "{{queue}}"),), "cps"),
            Panel("Rows out of jobs, a second", ((ROWS_OUT, "{{queue}}"),), "cps"),
            Panel(
                "At workers, a second",
                (
                    ("sum(rate(shoal_worker_candidates_extracted_total[5m]))", "candidates extracted"),
                    ("sum(rate(shoal_worker_rows_read_total[5m]))", "rows of packs read"),
                    ("sum(rate(shoal_worker_candidates_ingested_total[5m]))", "candidates ingested"),
                    ("sum(rate(shoal_worker_samples_scored_total[5m]))", "samples scored"),
                    ("sum(rate(shoal_worker_samples_kept_total[5m]))", "samples kept"),
                    ("sum(rate(shoal_worker_samples_embedded_total[5m]))", "samples embedded"),
                    ("sum(rate(shoal_worker_unit_rows_total[5m]))", "rows of builds read"),
                ),
                "cps",
            ),
        ),
    ),
    (
        "Download and models",
        (
            Panel("Received", (("sum(rate(shoal_worker_received_bytes_total[5m]))", "bodies"),), "Bps"),
            Panel(
                "Connections open",
                ((f"sum({CONNECTIONS})", "all"), (f"max({CONNECTIONS})", "most of a worker")),
            ),
            Panel(
                "Names looked up, a second",
                (("sum by (result) (rate(shoal_worker_dns_lookup_seconds_count[5m]))", "{{result}}"),),
                "cps",
                stacked=True,
            ),
            Panel(
                "Time to look a name up",
                tuple(
                    (
                        f"histogram_quantile({q}, sum by (le) (rate(shoal_worker_dns_lookup_seconds_bucket[5m])))",
                        f"p{100 * q:.0f}",
                    )
                    for q in (0.5, 0.95, 0.99)
                ),
                "s",
            ),
            Panel(
                "Models busy",
                (("rate(shoal_worker_model_busy_seconds_total[5m]) > 0", "{{instance}}"),),
                "percentunit",
                said="Share of the time that a filter worker spends in its models.",
            ),
            Panel(
                "Memory of workers",
                ((MEMORY, "{{queue}}, most"),),
                "bytes",
            ),
        ),
    ),
    (
        "Tracker and database",
        (
            Panel(
                "Calls of the tracker, p95",
                (
                    (
                        SLOWEST_CALLS,
                        "{{verb}}",
                    ),
                ),
                "s",
            ),
            Panel(
                "Connections",
                (
                    ("max(shoal_database_connections)", "in use"),
                    ("max(shoal_database_connections_limit)", "max_connections"),
                ),
            ),
            Panel(
                "Ages",
                (
                    ("max(shoal_database_horizon_seconds)", "oldest transaction"),
                    ("max(shoal_ledger_lag_seconds)", "ledger unfolded"),
                    ("time() - max(shoal_duties_timestamp_seconds)", "tracker's last round"),
                    ("time() - max(shoal_snapshot_timestamp_seconds)", "these numbers"),
                    ("max(shoal_snapshot_duration_seconds)", "taking them"),
                ),
                "s",
            ),
            Panel(
                "Size",
                (
                    ("max(shoal_database_size_bytes)", "database"),
                    ("max(shoal_database_disk_free_bytes)", "free on its disk"),
                ),
                "bytes",
            ),
            Panel(
                "Dead rows and transaction ids",
                (
                    ("max(shoal_pool_dead_rows)", "dead rows of the pool"),
                    ("max(shoal_database_oldest_xid_age)", "age of the oldest transaction id"),
                ),
            ),
            Panel(
                "Bloom filter",
                (
                    ("max(shoal_bloom_slots_held)", "slots held"),
                    ("max(shoal_bloom_slots)", "slots"),
                    ("max(shoal_bloom_packs_since_snapshot)", "packs to replay"),
                ),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Grafana's model of it, schema 39 (Grafana 10 and later)."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, of_row in ROWS:
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}}
        )
        top += 1
        left = 0
        for panel in of_row:
            if left + panel.width > COLUMNS:
                left, top = 0, top + panel.height
            panels.append(_panel(panel, left, top))
            left += panel.width
        top += of_row[-1].height
    for number, drawn in enumerate(panels, start=1):
        drawn["id"] = number
    return {
        "title": "Shoal",
        "uid": "shoal",
        "tags": ["shoal"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [{"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }


def _panel(panel: Panel, left: int, top: int) -> dict[str, Any]:
    custom = {"fillOpacity": 20, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 0}
    drawn: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0} | ({"custom": custom} if panel.kind == "timeseries" else {}),
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": called, "datasource": SOURCE}
            for at, (expression, called) in enumerate(panel.asked)
        ],
    }
    if panel.said:
        drawn["description"] = panel.said
    return drawn


def text() -> str:
    return json.dumps(dashboard(), indent=1, allow_nan=False) + "\n"


if __name__ == "__main__":
    path = HERE / "dashboard.json"
    path.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{path}\n")
