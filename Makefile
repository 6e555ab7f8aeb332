# Everything runs in .venv, which any target makes when it is missing or older than what it is made from.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo search test check format bench-bloom bench-tracker bench-extract bench-download bench-filter bench-release bench-serve bench-page bench-takedown bench-deny-lists gpu-bundle gpu-check bench-dedup bench-index kill-dedup chaos hostile compose-test stack-test kill-publish kill-builds kill-select kill-takedown crawled-again train-check train-duplicates readers kill-index clean

demo: .venv/installed  ## the whole swarm on a mini crawl, then a release: open .shoal/demo/statistics.html
	"$(BIN)/python" -m tests.demo.run

search: .venv/installed  ## the demo's release in the search page at http://127.0.0.1:1234, after make demo
	"$(BIN)/python" -m tests.demo.search

chaos: .venv/installed  ## the swarm under 1,000 faults, 8 minutes or so; prints the verdict as JSON
	"$(BIN)/python" -m tests.chaos.run $(CHAOS)

test: .venv/installed  ## all tests, on all cores, against embedded servers or SHOAL_TEST_DATABASE_URL
	PYTHONDONTWRITEBYTECODE= "$(BIN)/python" -m pytest --numprocesses auto --dist worksteal

check: .venv/installed  ## style, types and the direction of imports
	"$(BIN)/ruff" check
	"$(BIN)/ruff" format --check
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"

format: .venv/installed
	"$(BIN)/ruff" check --fix
	"$(BIN)/ruff" format

bench-bloom: .venv/installed  ## compare the Bloom filter with rbloom
	"$(BIN)/python" -m tests.benchmarks.bench_bloom

bench-tracker: .venv/installed  ## the tracker at 1, 10 and 50 million candidates, 3,000 workers; about an hour
	"$(BIN)/python" -m tests.benchmarks.bench_tracker

bench-extract: .venv/installed  ## compare extract with cc2dataset and CLD3, ingest with COPY
	"$(BIN)/python" -m tests.benchmarks.bench_extract

bench-download: .venv/installed  ## compare the download worker with img2dataset
	"$(BIN)/python" -m tests.benchmarks.bench_download

bench-release: .venv/installed  ## compare publish and stats with DuckDB, 10 million rows; RELEASE='--rows 2000000' for fewer
	"$(BIN)/python" -m tests.benchmarks.bench_release $(RELEASE)

bench-serve: .venv/installed .readers/installed  ## compare the search server with clip_back, 1 million rows; SERVE='--overload 120' for 50 clients at 3 x capacity
	"$(BIN)/python" -m tests.benchmarks.bench_serve $(SERVE)

bench-page: .venv/installed  ## how soon the search page paints results, on the demo's data; after make demo
	"$(BIN)/python" -m tests.benchmarks.bench_page $(PAGE)

bench-takedown: .venv/installed  ## remove 1,000 rows by each kind of entry from a release of 200,000; TAKEDOWN='--rows 2000000' for more
	"$(BIN)/python" -m tests.benchmarks.bench_takedown $(TAKEDOWN)

bench-deny-lists: .venv/installed  ## a deny list of 16 million sha256: filed, in force, compared, applied
	"$(BIN)/python" -m tests.benchmarks.bench_deny_lists

hostile: .venv/installed  ## hostile pictures at download, filter and embed for 5 minutes, or those of SHOAL_HOSTILE_CORPUS once
	"$(BIN)/python" -m tests.hostile.run
bench-select: .venv/installed  ## compare embeddings, side tables and tars of a release with a copy and DuckDB; SELECT='--rows 2000000' for fewer
	"$(BIN)/python" -m tests.benchmarks.bench_select $(SELECT)

bench-index: .venv/installed  ## the index at 1 million rows; INDEX='--autofaiss PYTHON' beside it, '--rows 10000000' for more
	"$(BIN)/python" -m tests.benchmarks.bench_index $(INDEX)

bench-filter: .venv/installed  ## compare the filter end to end with the bare forward pass
	"$(BIN)/python" -m tests.benchmarks.bench_filter

gpu-bundle: .venv/installed  ## wheels for a GPU machine without a network; PRESENT names a file with its `pip list`
	"$(BIN)/python" -m tests.gpu.bundle --present "$(PRESENT)"

gpu-check: .venv/installed  ## correctness and speed on a GPU, at most 8 minutes; GPU='--quick' for 3
	"$(BIN)/python" -m tests.gpu.check $(GPU)

compose-test:  ## docker-compose up, workers killed on the way, nothing lost; needs a Docker engine
	tests/compose/run

stack-test:  ## docker stack deploy, download scaled up and down at work, nothing lost; needs a Docker engine
	tests/compose/stack

bench-dedup: .venv/installed  ## recall and cost of near-duplicates beside two peers, 1 million rows; DEDUP='--rows 300000' for fewer
	"$(BIN)/python" -m tests.benchmarks.bench_dedup $(DEDUP)

kill-dedup: .venv/installed  ## searches for near-duplicates killed in every kind of job; the bytes have to be equal
	"$(BIN)/python" -m tests.dataset.dedup.killing

kill-builds: .venv/installed  ## indexes, near-duplicates and tags by 1, 2 and 4 workers that are killed; the bytes have to be equal
	"$(BIN)/python" -m tests.swarm.killing_builds
kill-index: .venv/installed  ## builds, additions, removals and compactions of an index killed at 30 random moments
	"$(BIN)/python" -m tests.dataset.index.killing

kill-select: .venv/installed  ## embeddings, side tables, selections and tars killed at 30 random moments; the bytes have to be equal
	"$(BIN)/python" -m tests.dataset.select.killing

kill-takedown: .venv/installed  ## takedowns killed at 30 random moments; the bytes have to be an undisturbed one's
	"$(BIN)/python" -m tests.dataset.takedown.killing

crawled-again: .venv/installed  ## crawl the same WAT files again after takedowns of every kind: no removed row may come back
	"$(BIN)/python" -m pytest -q -n0 -s tests/swarm/crawled_again.py

kill-publish: .venv/installed  ## publishes killed at 50 random moments; the bytes have to be an undisturbed one's
	"$(BIN)/python" -m tests.dataset.publish.killing

train-check: .venv/installed .readers/installed  ## open_clip's trainer on tars of a release, on a CPU; the loss has to fall
	"$(BIN)/python" -m tests.training.run

train-duplicates: .venv/installed  ## the demo's model trained with near-duplicates, without, and with weights: 15 CPU-minutes
	"$(BIN)/python" -m tests.training.duplicates

readers: .readers/installed  ## programs that tests run, in environments of their own; the tests are skipped without

.readers/installed: tests/readers.py
	$(PYTHON) -m tests.readers
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .readers .shoal
