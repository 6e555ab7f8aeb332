"""Search the demo's release, with its pictures, until Ctrl-C: python -m tests.demo.search [--folder .shoal/demo]

It gathers the release's embeddings, builds its index, serves the mini crawl's web again, so that pictures load, and
starts `dataset serve` with the demo's model. What exists already is kept.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from tests.demo.swarm import BIN, DemoError

NAME = "demo"


def main() -> None:
    """Run the search from the command line."""
    parser = argparse.ArgumentParser(prog="tests.demo.search", description="Search the demo's release.")
    parser.add_argument("--folder", type=Path, default=Path(".shoal/demo"), help="of a demo (%(default)s)")
    parser.add_argument("--port", type=int, default=1234, help="of the search page (%(default)s)")
    asked = parser.parse_args()
    try:
        sys.exit(search(asked.folder.absolute(), asked.port))
    except DemoError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(0)


def search(home: Path, port: int) -> int:
    """Serve the search; the exit code of `dataset serve`.

    Raises:
        DemoError: there is no demo, or a step failed.
    """
    store = home / "store"
    if not (store / "releases" / NAME / "release.json").is_file():
        raise DemoError(f"{home} has no release: run `make demo` first, or name another with --folder")
    dataset, at = str(BIN / "dataset"), ["--store", str(store)]
    steps = ["embeddings", NAME, "--model", NAME], ["index", "build", NAME], ["index", "refresh", NAME]
    for step in steps:
        done = subprocess.run([dataset, *step, *at], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise DemoError(f"dataset {' '.join(step)} failed: see above")
    crawl = [sys.executable, "-m", "tests.demo.web", str(home / "crawl" / "web"), "--port", str(web_port(store))]
    with subprocess.Popen(crawl, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as web:  # it ends with this process
        assert web.stdout is not None
        if not web.stdout.readline().startswith(b"ready"):
            raise DemoError("the demo's web cannot be served: see above")
        model = ["--model", NAME, "--pretrained", f"store:models/{NAME}"]
        served = subprocess.run([dataset, "serve", NAME, *at, *model, "--port", str(port)], check=False)
        web.terminate()
    return served.returncode


def web_port(store: Path) -> int:
    """Return the port that the links of the release carry."""
    record = json.loads((store / "releases" / NAME / "release.json").read_text(encoding="utf-8"))
    files = (file["path"] for file in record["files"] if file["path"].startswith("data/"))
    table = pq.read_table(store / "releases" / NAME / next(files), columns=["URL"])
    return urlsplit(table["URL"][0].as_py()).port or 80


if __name__ == "__main__":
    main()
