"""Compare the results of the swarm in containers with what was planted in the mini crawl; runs in the demo's image.

python -m tests.compose.judge    # reads /store and /crawl; exit 1 when a check does not hold
"""

import sys
from pathlib import Path

from rich.console import Console

from dataset.store.store import Store
from tests.demo.checks import check_results, read_results
from tests.demo.crawl import read_expected
from tests.demo.progress import check_table

STORE = "/store"
CRAWL = Path("/crawl/built")


def main() -> None:
    """Print the checks with their answers."""
    store = Store.open(STORE, writable=False)
    checks = check_results(read_expected(CRAWL), read_results(store, store.read_table("manifest.parquet")))
    Console(highlight=False, width=140).print(check_table(checks))
    sys.exit(0 if all(check.holds for check in checks) else 1)


if __name__ == "__main__":
    main()
