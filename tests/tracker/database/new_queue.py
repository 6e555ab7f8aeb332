"""The life of jobs of a queue `caption` over a release; `test_new_queue` runs it in a copy of the tracker."""

import json
import sys
from pathlib import Path

from psycopg.conninfo import make_conninfo

from tracker.accounts.audit import audit
from tracker.admin import doctor
from tracker.admin.enroll import enroll
from tracker.database.database import connect
from tracker.database.migrate import migrate
from tracker.protocol.session import Session
from tracker.seeding.releases import open_release_run, seed_units
from tracker.storage.manifest import outputs
from tracker.watch.snapshot import take_snapshot


def main(url: str, store: str) -> None:
    """Seed, claim and complete a job as the new class's login, and print what became of it."""
    migrate(url)
    release = Path(store, "releases", "r1", "release.json")
    release.parent.mkdir(parents=True)
    release.write_text(json.dumps({"rows": 3}), encoding="utf-8")
    with connect(url) as admin:
        run = open_release_run(admin, store, "r1")
        units = [{"unit": f"caption by {model}", "model": model} for model in ("small", "large")]
        new = [seed_units(admin, run.run_id, "caption", units) for _ in range(2)]
        token = enroll(admin, "vm-1", "caption")
        worker = Session.register(make_conninfo(url, user="shoal_caption"), "caption", token=token)
        before = worker.is_idle()
        jobs = worker.claim(2)
        for job in jobs:
            worker.complete(job, {"rows": run.release["rows"], "bytes": 7})
        seen = take_snapshot(admin)
        print(
            json.dumps(
                {
                    "new": new,
                    "idle": [before, worker.is_idle()],
                    "folders": [job.output.rpartition("/")[0] for job in jobs],
                    "listed": outputs(admin).select(["kind", "run", "rows"]).to_pylist(),
                    "queue": {name: seen["queues"]["caption"][name] for name in ("done", "rows_in", "rows_out")},
                    "minute": seen["minutes"]["caption"]["rows_in"][-1],
                    "alive": seen["alive"]["caption"],
                    "holds": audit(admin).holds,
                    "grants": [found.said for found in doctor.examine(admin) if found.what == "grants"],
                }
            )
        )
        worker.leave()
        worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
