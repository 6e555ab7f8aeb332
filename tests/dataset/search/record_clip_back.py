"""Record the answers of the real clip_back on the golden rows, in `clip_back_answers.json`.

python -m tests.dataset.search.record_clip_back PYTHON    # of an environment with clip-retrieval 2.45.0
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import faiss
import pyarrow as pa
import pyarrow.parquet as pq

from tests.dataset.search import golden_rows

ANSWERS = Path(__file__).with_name("clip_back_answers.json")
PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "clip_back_program.py"


def write_index(folder: Path) -> Path:
    """Write the golden rows as clip-retrieval reads them, and return the file that names them."""
    (folder / "metadata").mkdir()
    for modality in ("image", "text"):
        index = faiss.IndexFlatIP(golden_rows.DIMENSIONS)
        index.add(golden_rows.vectors(modality))
        faiss.write_index(index, str(folder / f"{modality}.index"))
    pq.write_table(pa.Table.from_pylist(_without_nan(golden_rows.table())), folder / "metadata" / "metadata_0.parquet")
    names = folder / "indices.json"
    names.write_text(json.dumps({"golden": str(folder)}), encoding="utf-8")
    return names


def _without_nan(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows with null for NaN, which pandas reads as NaN or None."""
    return [{name: value if value == value else None for name, value in row.items()} for row in rows]


def ask(url: str, body: bytes | None = None, method: str | None = None) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method)) as answer:
            return {"status": answer.status, "type": answer.headers["Content-Type"], "body": answer.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "type": error.headers["Content-Type"], "body": error.read().decode()}


def record(base: str) -> dict[str, Any]:
    """Return what clip_back answers; of a long list of results only ids and similarities."""
    found: dict[str, Any] = {"summary before": ask(f"{base}/metrics-summary")}
    found["knn"] = [ask(f"{base}/knn-service", json.dumps(one).encode()) for one in golden_rows.requests()]
    for one in found["knn"]:
        rows = json.loads(one.pop("body"))
        one["results"] = len(rows)
        one["first"] = [_rounded(row) for row in rows[:4]]
        one["ids"] = [row["id"] for row in rows[:60]]
        one["last"] = [_rounded(row) for row in rows[-1:]]
    metadata = {"ids": golden_rows.METADATA_IDS, "indice_name": "golden"}
    found["metadata"] = ask(f"{base}/metadata", json.dumps(metadata).encode())
    found["no metadata"] = ask(f"{base}/metadata", b'{"ids": []}')
    found["indices"] = ask(f"{base}/indices-list")
    found["config"] = ask(f"{base}/config.json")
    found["bad JSON"] = ask(f"{base}/knn-service", b"{")
    found["wrong method"] = ask(f"{base}/knn-service")
    found["missing key"] = ask(f"{base}/knn-service", b'{"num_images": 1}')
    found["unknown index"] = ask(
        f"{base}/knn-service", b'{"embedding_input": [1], "num_images": 1, "modality": "image", "indice_name": "x"}'
    )
    summary = ask(f"{base}/metrics-summary")
    found["summary after"] = {"type": summary["type"], "head": summary["body"].split("\n")[2].split()}
    return found


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"similarity": round(row["similarity"], 6)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        names = write_index(Path(folder))
        with subprocess.Popen([sys.argv[1], PROGRAM, names, str(port)], cwd=folder) as process:
            base = f"http://127.0.0.1:{port}"
            for _ in range(120):
                try:
                    ask(f"{base}/indices-list")
                    break
                except OSError:
                    time.sleep(0.5)
            try:
                found = record(base)
            finally:
                process.terminate()
    text = json.dumps(found, ensure_ascii=False, indent=1).replace(base, "http://BASE")
    ANSWERS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
