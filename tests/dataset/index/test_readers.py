"""An index that is changed while several processes search it: none fails, and none gets a wrong row."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from dataset.index.delete import delete_ids
from dataset.index.refresh import refresh
from dataset.store.store import Store
from tests.dataset.index.made import build_folder, put_vectors

ROOT = Path(__file__).resolve().parents[3]
READERS = 4
ROWS = 600

READER = """
import json, sys
import numpy as np
from dataset.index.filters import parse_filter
from dataset.index.lookup import open_index

folder, stop, vectors = sys.argv[1:]
rows = np.load(vectors)
index = open_index(folder)
print("open", flush=True)
searches, states = 0, set()
draw = np.random.default_rng(searches)
while True:
    with open(stop) as file:
        removed = json.load(file)          # removed before this search began
    wanted = int(draw.integers(len(rows)))
    (hits,) = index.search(rows[wanted], 5, where=parse_filter("safe") if searches % 2 else None, collapse=True)
    assert not {*hits.ids.tolist()} & {*removed["ids"]}, "a removed row was found"
    exact = rows[hits.ids] @ rows[wanted]
    assert np.allclose(hits.similarities, exact, atol=2e-3), "a similarity is not that of the row"
    for one, row, vector in zip(hits.ids.tolist(), index.rows(hits.ids), index.embeddings(hits.ids)):
        if row is None:                      # removed since
            continue
        assert (row["id"], row["caption"]) == (one, f"caption of {one}"), "a row has the columns of another"
        assert not vector.any() or np.allclose(vector, rows[one], atol=2e-3), "a row has the vector of another"
    states.add((index.record.generation, len(index.record.segments[0].ranges), index.record.rows))
    searches += 1
    if removed["end"]:
        break
print(json.dumps({"searches": searches, "states": len(states)}))
"""


def test_four_processes_search_an_index_while_it_is_changed_in_every_way(tmp_path: Path) -> None:
    rows = put_vectors(tmp_path / "vectors", [ROWS], tables=False)
    captions = [f"caption of {one}" for one in range(ROWS)]
    scores = np.linspace(0, 1, ROWS, dtype=np.float32)
    store = Store.open(str(tmp_path / "vectors"))
    store.write_table("vectors_0.parquet", pa.table({"caption": captions, "punsafe": scores}))
    np.save(tmp_path / "rows.npy", rows)
    folder, _ = build_folder(tmp_path / "vectors", kind="sq16", lists=8)
    index = Store.open(str(folder))
    state = Store.open(str(tmp_path))

    def tell(ids: list[int], *, end: bool = False) -> None:
        state.put("state.json", json.dumps({"ids": ids, "end": end}).encode())

    tell([])
    command = [sys.executable, "-c", READER, str(folder), str(tmp_path / "state.json"), str(tmp_path / "rows.npy")]
    with ExitStack() as stack:
        readers = [stack.enter_context(_reader(command)) for _ in range(READERS)]
        for reader in readers:
            assert reader.stdout is not None
            reader.stdout.readline()
        gone: list[int] = []
        for turn in range(4):
            some = list(range(turn, ROWS, 40))
            delete_ids(index, "", some)
            gone += some
            tell(gone)
            refresh(index, "", None, tmp_path)
            build_folder(tmp_path / "vectors", compact=True)
        tell(gone, end=True)
        for reader in readers:
            out, error = reader.communicate(timeout=60)
            assert reader.returncode == 0, error
            said = json.loads(out.splitlines()[-1])
            assert said["searches"] > 5
            assert said["states"] > 1


@contextmanager
def _reader(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """Run a reader, which is killed if it has not ended by then."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        try:
            yield reader
        finally:
            reader.kill()
