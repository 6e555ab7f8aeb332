"""How soon the search page paints results, on the demo's release in a headless Chromium.

    python -m tests.benchmarks.bench_page [--folder .shoal/demo] [--passes 5]

Queries are typed. A query's time goes from the form's submit event to the moment at which the browser has painted the
caption of the first result, as Element Timing reports it. The first pass computes the vectors of the texts and their
listings, and fills the cache of both; in later passes they are cached. Layout shifts and scripts are those of all that
was loaded. The last line is JSON.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.dataset.search.browser import Browser, browsing

QUERIES = ("a red triangle", "three stars", "a blue square", "a heart in the corner", "black crosses", "green stripes")
ASKED = """(() => {
  window.submitted = 0;
  window.painted = [];
  window.shifted = 0;
  addEventListener('submit', ({ timeStamp }) => { submitted = timeStamp; painted = []; }, true);
  new MutationObserver(() => {
    for (const one of document.querySelectorAll('#results .caption:not([elementtiming])'))
      one.setAttribute('elementtiming', 'result');
  }).observe(document.querySelector('#results'), { childList: true });
  new PerformanceObserver((found) => {
    for (const { renderTime } of found.getEntries()) if (renderTime > submitted) painted.push(renderTime - submitted);
  }).observe({ type: 'element' });
  new PerformanceObserver((found) => {
    for (const { value, hadRecentInput } of found.getEntries()) if (!hadRecentInput) shifted += value;
  }).observe({ type: 'layout-shift', buffered: true });
})()"""
ANSWERED = """performance.getEntriesByType('resource').findLast(({ name }) => name.endsWith('api/search')).responseEnd
  - submitted"""
SCRIPTS = """performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('.js'))
  .reduce((all, { decodedBodySize }) => all + decodedBodySize, 0)"""


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(prog="bench_page", description="How soon the search page paints results.")
    parser.add_argument("--folder", type=Path, default=Path(".shoal/demo"), help="of a demo (%(default)s)")
    parser.add_argument("--passes", type=int, default=5, help="over the queries, the first uncached (%(default)s)")
    asked = parser.parse_args()
    with (
        serving(asked.folder) as url,
        tempfile.TemporaryDirectory() as folder,
        browsing(Path(folder)) as browser,
    ):
        browser.open(url)
        browser.wait("document.querySelector('#index option') && !document.querySelector('.starting')")
        browser.evaluate(ASKED)
        scripts = browser.evaluate(SCRIPTS)
        passes = [[ask_ms(browser, query) for query in QUERIES] for _ in range(asked.passes)]
        shifted = browser.evaluate("shifted")
    cached = [one for each in passes[1:] for one in each]
    found = {
        "queries": len(QUERIES),
        "first_pass_ms": described([painted for _, painted in passes[0]]),
        "cached_ms": described([painted for _, painted in cached]),
        "cached_answered_ms": described([answered for answered, _ in cached]),
        "layout_shift": round(shifted, 4),
        "script_bytes": scripts,
    }
    for name in ("first_pass_ms", "cached_ms", "cached_answered_ms"):
        sys.stdout.write(f"{name:18} {found[name]}\n")
    sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")


def ask_ms(browser: Browser, query: str) -> tuple[float, float]:
    """Type a query, and return how long it took until the answer was there, and until the first result was painted."""
    browser.evaluate("scrollTo(0, 0); document.querySelector('#text').focus()")
    browser.type(query)
    browser.evaluate("painted = []")
    browser.press("Enter")
    painted: float = browser.wait("painted[0]")
    answered: float = browser.evaluate(ANSWERED)
    browser.evaluate("performance.clearResourceTimings()")  # the browser keeps 250
    return answered, painted


def described(times: Sequence[float]) -> dict[str, float]:
    """Return the median, the 95th percentile and the largest of times."""
    ordered = sorted(times)
    late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"p50": round(statistics.median(ordered), 1), "p95": round(late, 1), "max": round(ordered[-1], 1)}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a demo as `make search` does, and yield the page's URL."""
    command = [sys.executable, "-m", "tests.demo.search", "--folder", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while not (line := process.stderr.readline()).startswith("http://"):
                if not line:
                    sys.exit(f"{folder} cannot be served: run `make demo` first, or name another with --folder.")
            yield line.strip()
        finally:
            process.send_signal(signal.SIGINT)  # it ends the server then, too


if __name__ == "__main__":
    main()
