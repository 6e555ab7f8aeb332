"""The same batches as messages in other queues on the same Postgres: procrastinate and pgqueuer.

A message is 10,000 links as JSON, of those that our own pool is filled with, put in by one process and taken out and
finished by another, as each library's own documentation does it. They get their batches ready made, and the same one
every time: what a tracker does besides, drawing at random from a pool that a person can query, is not asked of them.
pgmq is an extension of the server that no package index has, so it is not here. Each runs in an environment of its own
under .shoal/bench/.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.benchmarks.of_tracker.figures import tell
from tests.benchmarks.of_tracker.filling import candidates
from tests.benchmarks.of_tracker.server import Server
from tracker.database.database import connect

FOLDER = Path(".shoal/bench/queues")
PACKAGES = ("procrastinate==3.10.0", "pgqueuer[asyncpg]==1.6.0", "psycopg[binary]>=3.2")

# A process each: argument 1 is the URL, 2 what to do, 3 for how many seconds, 4 the file of links; prints how many
# messages.
PROCRASTINATE = """
import asyncio, json, sys, time
import procrastinate
LINKS = json.load(open(sys.argv[4]))
url, role, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
done = 0
if role == "put":
    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=url))
    @app.task(name="download")
    def download(links): pass
    with app.open():
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            download.defer(links=LINKS)
            done += 1
else:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))
    @app.task(name="download")
    async def download(links):
        global done
        done += len(links) == 10_000
    async def main():
        async with app.open_async():
            try:
                await asyncio.wait_for(app.run_worker_async(wait=True, concurrency=2, delete_jobs="always",
                                                            fetch_job_polling_interval=0.05,
                                                            install_signal_handlers=False), seconds)
            except (TimeoutError, asyncio.CancelledError):
                pass
    asyncio.run(main())
print(done)
"""

PGQUEUER = """
import asyncio, json, sys, time
import asyncpg
from datetime import timedelta
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
LINKS = json.load(open(sys.argv[4]))
url, role, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
done = 0
async def main():
    global done
    connection = await asyncpg.connect(url)
    driver = AsyncpgDriver(connection)
    if role == "put":
        queries = Queries(driver)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await queries.enqueue("download", json.dumps(LINKS).encode())
            done += 1
        return
    queuer = PgQueuer(driver)
    @queuer.entrypoint("download")
    async def download(job):
        global done
        done += len(json.loads(job.payload)) == 10_000
    task = asyncio.create_task(queuer.run(batch_size=2, dequeue_timeout=timedelta(seconds=1)))
    await asyncio.sleep(seconds)
    queuer.shutdown.set()
    await asyncio.wait([task], timeout=10)
asyncio.run(main())
print(done)
"""

PROCRASTINATE_SCHEMA = """
import sys
import procrastinate
app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=sys.argv[1]))
with app.open():
    app.schema_manager.apply_schema()
"""

PGQUEUER_SCHEMA = """
import asyncio, sys
import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
async def main():
    await Queries(AsyncpgDriver(await asyncpg.connect(sys.argv[1]))).install()
asyncio.run(main())
"""


def measure_peers(server: Server, seconds: float) -> dict[str, float]:
    """Links a second that went in and out of each queue: the slower of its two ends."""
    python = _environment()
    links = FOLDER / "links.json"
    links.write_text(json.dumps(_links(10_000)))
    found = {}
    for name, program, prepare in (
        ("procrastinate", PROCRASTINATE, PROCRASTINATE_SCHEMA),
        ("pgqueuer", PGQUEUER, PGQUEUER_SCHEMA),
    ):
        url = _database(server, name)
        subprocess.run([python, "-c", prepare, url], check=True, stdout=sys.stderr)
        ends = [
            subprocess.Popen(
                [python, "-c", program, url, role, str(seconds), str(links)], stdout=subprocess.PIPE, text=True
            )
            for role in ("put", "take")
        ]
        said = [end.communicate(timeout=seconds + 120)[0] for end in ends]
        if any(end.returncode for end in ends):
            raise RuntimeError(f"{name} ended with an error: see above")
        found[name] = min(int(one.split()[-1]) for one in said) * 10_000 / seconds
        tell(name, found[name])
    return found


def _links(n: int) -> list[list[object]]:
    """Candidates as a batch's payload has them: pack, row, attempt, language, url, text."""
    rows = candidates(n).to_pylist()
    return [[row["pack"], row["pack_row"], 1, row["language"], row["url"], row["text"]] for row in rows]


def _environment() -> str:
    python = FOLDER / "bin" / "python"
    if not (FOLDER / "installed").exists():
        venv.create(FOLDER, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (FOLDER / "installed").write_text(json.dumps(PACKAGES))
    return str(python.absolute())


def _database(server: Server, name: str) -> str:
    with connect(server.url) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    parts = conninfo_to_dict(make_conninfo(server.url, dbname=name))
    return f"postgresql://{parts['user']}@/{name}?host={parts['host']}"
