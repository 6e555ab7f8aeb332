"""Compare the tracker, with a large pool, with LAION's statement, an ideal draw, COPY + DELETE and other queues, in one
run.

    python -m tests.benchmarks.bench_tracker [--rows 1000000 10000000 50000000] [--minutes 10] [--only draw mix …]

Everything runs on one machine, the clients too. Each figure is printed on stderr when it is measured, and the last line
is JSON. The full run takes about an hour and 30 GB; `--rows 100000000 --only draw` takes 45 GB. A pool of less than a
million runs dry before all draws are done: it only shows that the benchmark works.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.of_tracker.draw import Row, at_500_million, measure_draw, measure_leaves
from tests.benchmarks.of_tracker.figures import tell
from tests.benchmarks.of_tracker.mix import measure_mix
from tests.benchmarks.of_tracker.peers import measure_peers
from tests.benchmarks.of_tracker.server import Server, tuned_server
from tests.benchmarks.of_tracker.throughput import measure_throughput
from tests.benchmarks.of_tracker.workers import measure_workers

console = Console(width=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000, 50_000_000])
    parser.add_argument("--draws", type=int, default=100, help="of each kind; fewer from a small pool")
    parser.add_argument("--minutes", type=float, default=10, help="of throughput at equilibrium")
    parser.add_argument("--workers", type=int, nargs="+", default=[300, 1_000, 3_000])
    parser.add_argument("--pace", type=int, default=10, help="so many workers' work is done by one simulated worker")
    parser.add_argument("--worker-seconds", type=float, default=180, help="for each number of workers")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, default=None, help="where the database lies; default: the system's")
    asked = parser.parse_args()
    if any(number % asked.pace for number in asked.workers):
        parser.error(f"--workers must be multiples of --pace, {asked.pace}")
    figures: dict[str, float] = {}
    for part in asked.only:
        print(f"{part} …", file=sys.stderr)
        with tuned_server(asked.folder) as server:
            measured = PARTS[part](server, asked)
        tell(part, measured)
        figures |= measured
    print(json.dumps(figures))


def _draw(server: Server, asked: argparse.Namespace) -> dict[str, float]:
    found: list[Row] = []
    for rows in sorted(asked.rows):
        found += measure_draw(server, rows, asked.draws)
    found += measure_leaves(server, asked.rows, asked.draws)
    _show("Draw of about 10,000, each committed", found)
    p50 = {(row["who"], row["how"], row["rows"]): float(row["p50_ms"]) for row in found}
    ours, laion = ({rows: p50[who, "full, warm", rows] for rows in asked.rows} for who in ("ours", "LAION"))
    return {
        "draw_p50_ms": max(ours.values()),
        "draw_vs_laion": round(min(laion[rows] / ours[rows] for rows in asked.rows), 2),
        **at_500_million(found),
    }


def _mix(server: Server, _asked: argparse.Namespace) -> dict[str, float]:
    found = measure_mix(server, packs=80, draws=60)
    ideal, ours = found["ideal"], found["shuffled"]
    _show(
        "A batch of about 10,000 from 2 million of 80 packs",
        [
            {
                "drawn": name,
                "hosts": round(mix.hosts),
                "most of one host": round(mix.most_of_one),
                "effective n": round(mix.effective_n),
            }
            for name, mix in found.items()
        ],
    )
    return {
        "mix_vs_ideal": round(ours.hosts / ideal.hosts, 3),
        "most_of_one_host_vs_ideal": round(ours.most_of_one / ideal.most_of_one, 3),
        "effective_n_vs_ideal": round(ours.effective_n / ideal.effective_n, 3),
    }


def _throughput(server: Server, asked: argparse.Namespace) -> dict[str, float]:
    flows = measure_throughput(server, 60 * asked.minutes, min(120.0, 60 * asked.minutes))
    rows: list[Row] = [
        {
            "what": name,
            "links/s": round(flow.links_per_s),
            "size after / before": round(flow.growth, 2),
            "most dead rows": flow.most_dead,
        }
        for name, flow in flows.items()
    ]
    peers = measure_peers(server, min(60.0, 60 * asked.minutes))
    rows += [{"what": name, "links/s": round(rate)} for name, rate in peers.items()]
    _show("Links/s in and out, every commit durable", rows)
    ours = flows["ours"]
    return {
        "throughput_links_per_s": round(ours.links_per_s),
        "throughput_vs_limit": round(ours.links_per_s / flows["limit"].links_per_s, 2),
        "throughput_vs_best_peer": round(ours.links_per_s / max(peers.values()), 2),
        "size_growth": round(ours.growth, 2),
    }


def _workers(server: Server, asked: argparse.Namespace) -> dict[str, float]:
    loads = measure_workers(server, asked.workers, asked.worker_seconds, asked.pace)
    _show(
        f"Workers through pgbouncer, one simulated for {asked.pace}",
        [
            {
                "workers": load.workers,
                "links/s": round(load.links_per_s),
                **{f"{verb} p50 / p99 ms": f"{load.p50[verb]:.0f} / {load.p99[verb]:.0f}" for verb in sorted(load.p99)},
                "Postgres, cores": round(load.cores, 2),
                "connections": load.connections,
            }
            for load in loads
        ],
    )
    return {f"workers_{load.workers}_p99_ms": max(load.p99.values()) for load in loads} | {
        f"workers_{load.workers}_links_per_s": round(load.links_per_s) for load in loads
    }


def _show(title: str, rows: list[Row]) -> None:
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    table = Table(*headings, title=title, title_justify="left")
    for row in rows:
        table.add_row(
            *[f"{value:,}" if isinstance(value := row.get(heading, ""), int | float) else value for heading in headings]
        )
    console.print(table)


PARTS = {"draw": _draw, "mix": _mix, "throughput": _throughput, "workers": _workers}


if __name__ == "__main__":
    main()
