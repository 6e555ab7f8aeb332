"""Whatever arguments a command of `dataset` gets, it ends with 0, or with 1 or 2 and one sentence; never with a
traceback.
"""

import io
import json
import pickle
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from dataset.main import main
from tests.manifests import manifest_table

DEMO = Path(__file__).parents[1] / "demo" / "clip"
WEIGHTS, CONFIG = DEMO / "open_clip_model.safetensors", DEMO / "open_clip_config.json"


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def parquet(columns: Mapping[str, list[object]], metadata: Mapping[bytes, bytes] = {}) -> bytes:
    return table_bytes(pa.table(dict(columns)).replace_schema_metadata(metadata))


def table_bytes(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def head(said: object) -> bytes:
    return save({"layers.0.weight": np.zeros((1, 3), np.float32)}, {"shoal.head": json.dumps(said)})


HEAD = {"format": 1, "kind": "embedding", "tag": "punsafe", "relu": [False], "output": "sigmoid", "embedder": {}}
HUGE_NPY = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 2), }\n"
JUNK: Mapping[str, bytes] = {
    "hashes.parquet": parquet({"hash": [[1]], "url": [3], "md5": [b"\xff"]}),
    "empty": b"",
    "bytes": bytes(range(256)) * 4,
    "text": "schön".encode("latin-1"),
    "deep.json": b"[" * 100_000,
    "deep_object.json": b'{"models":' * 100_000,
    "list.json": b"[1]",
    "nan.json": b'{"models": {"en": {"threshold": NaN}}}',
    "half.json": b'{"models": {"en": {"pretrained": "\\ud800"}}}',
    "huge.json": b'{"models": {"en": {"threshold": 1' + b"0" * 400 + b"}}}",
    "digits.json": b'{"image": {"size": ' + b"1" * 5_000 + b"}}",
    "types.json": b'{"models": [], "image": {"size": null}, "tags": 3, "safety": {"x": []}}',
    "tags.json": b'{"tags": {"punsafe": {"head": {}, "threshold": "x"}}}',
    "mean.json": json.dumps(
        json.loads(CONFIG.read_text(encoding="utf-8")) | {"preprocess_cfg": {"mean": ["a"]}}
    ).encode(),
    "zero.json": json.dumps(
        json.loads(CONFIG.read_text(encoding="utf-8")) | {"preprocess_cfg": {"mean": [0, 0, 0], "std": [0, 1, 1]}}
    ).encode(),
    "model.json": b'{"model_cfg": {"embed_dim": "x"}, "preprocess_cfg": {}}',
    "cut.npy": npy(np.zeros((50, 4), np.float32))[:90],
    "huge.npy": HUGE_NPY,
    "archive.npy": npz(a=np.zeros(3)),
    "object.npy": npy(np.array([{}], object), allow_pickle=True),
    "scalar.npy": npy(np.float32(1)),
    "texts.npy": npy(np.array(["a", "b"])),
    "cut.npz": npz(a=np.zeros(3))[:-20],
    "junk.safetensors": b"\x08\0\0\0\0\0\0\0notjson!",
    "long.safetensors": struct.pack("<Q", 1 << 60) + b"{}",
    "other.safetensors": save({"a": np.zeros(3, np.float32)}),
    "list_head.safetensors": head([]),
    "deep_head.safetensors": save({"a": np.zeros(1)}, {"shoal.head": "[" * 100_000}),
    "no_embedder.safetensors": head(HEAD | {"embedder": "x"}),
    "no_relu.safetensors": head(HEAD | {"relu": 3}),
    "no_kind.safetensors": head(HEAD | {"kind": []}),
    "picture_head.safetensors": head(HEAD | {"kind": "picture"}),
    "norm.safetensors": save({"norm.mean": np.zeros(2, np.float32), "norm.variance": np.zeros((3, 3), np.float32)}),
    "scalars.safetensors": save({"weight": np.zeros((), np.float32), "bias": np.zeros((), np.float32)}),
    "classifier.safetensors": save({"conv_stem.weight": np.zeros(1), "classifier.0.weight": np.zeros(1)}),
    "pickle.pt": pickle.dumps([1, 2, 3]),
    "code.pt": b"cos\nsystem\n(S'exit'\ntR.",
    "texts.parquet": parquet({"similarity": ["a", "b"], "label": ["x", "y"], "embedding": ["q", "r"]}),
    "lists.parquet": parquet({"similarity": [[1.0], [2.0]], "label": [[1], [0]], "embedding": [[1.0], [1.0, 2.0]]}),
    "nulls.parquet": parquet({"similarity": [None, None], "label": [None, 1], "embedding": [None, [1.0]]}),
    "none.parquet": parquet({"similarity": [], "label": [], "embedding": []}),
    "columns.parquet": parquet({"a": [1]}),
    "manifest.parquet": parquet({"kind": ["shard"], "path": ["a"], "job": [1], "subset": ["en"]}),
    "cut.parquet": parquet({"similarity": [1.0]})[:-9],
    "safety.toml": b"[labels]\nx = 3\n",
    "deep.toml": b"a = " + b"[" * 10_000,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("junk")
    for name, data in JUNK.items():
        (made / name).write_bytes(data)
    (made / "folder").mkdir()
    return made


LONG = "long" * 100
FILES = st.sampled_from([*JUNK, "folder", "missing", "missing.npy", LONG])
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
WORDS = TEXTS | st.sampled_from(["", "..", "a/b", "x" * 300, "en", "-1", "nan", "1e999", "10" * 200, "[" * 5_000])
NUMBERS = st.sampled_from(["-1", "0", "0.5", "1", "nan", "inf", "x", "", str(2**32), str(2**70), "1e999"])


def ends(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command as a terminal would; whatever it raises but SystemExit fails the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dataset", *arguments])
        patch.delenv("SHOAL_STORE", raising=False)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    said = capsys.readouterr().err
    assert code in (0, 1, 2), (code, said)
    assert "Traceback" not in said
    if code == 1:
        sentence = [line for line in said.splitlines() if line and not line.startswith("epoch ")]
        assert len(sentence) == 1, said
    return code


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
slow = settings(quick, max_examples=25)


@quick
@given(FILES, WORDS, WORDS, NUMBERS)
@example("deep.json", "", "", "")
@example("half.json", "", "", "")
@example("mean.json", "models.en.threshold", "[" * 100_000, "1")
def test_recipe(folder: Path, capsys: pytest.CaptureFixture[str], file: str, key: str, value: str, number: str) -> None:
    assert ends(["recipe", str(folder / file)], capsys) or not file.endswith(("deep.json", "half.json", "nan.json"))
    ends(["recipe", "--set", f"{key}={value}", "--image-size", number], capsys)
    ends(["recipe", "--set", f"models.en.threshold={value}", "--max-aspect-ratio", number], capsys)
    ends(["recipe", str(folder / file), "--set", key, "--out", str(folder / "folder" / "out.json")], capsys)


@quick
@given(FILES, FILES, NUMBERS, WORDS)
@example("texts.parquet", "texts.parquet", "0.5", "en")
@example("archive.npy", "huge.npy", "0.5", "en")
def test_calibrate(
    folder: Path, capsys: pytest.CaptureFixture[str], one: str, other: str, number: str, word: str
) -> None:
    pairs = [str(folder / one), str(folder / other)]
    assert ends(["calibrate", pairs[0], "--keep-rate", number], capsys)
    assert ends(["calibrate", *pairs, "--labelled", "--min-precision", number], capsys)
    assert ends(["calibrate", *pairs, "--keep-rate", "0.5", "--role", word], capsys)


@slow
@given(FILES, FILES, WORDS, NUMBERS)
@example("cut.npy", "texts.npy", "xyz", "-1")
def test_train_head(
    folder: Path, capsys: pytest.CaptureFixture[str], one: str, other: str, word: str, number: str
) -> None:
    files = ["train-head", "--embeddings", str(folder / one), "--labels", str(folder / other), "--model", "m"]
    out = ["--tag", "punsafe", "--out", str(folder / "folder" / "head.safetensors")]
    assert ends([*files, *out], capsys)
    assert ends([*files, *out, "--seed", number, "--hidden", word], capsys)
    assert ends([*files, *out, "--model-sha256", word], capsys)
    assert ends([*files, "--tag", word, "--out", word], capsys)


@pytest.mark.parametrize("option", [["--seed", "-1"], ["--seed", str(2**70)], ["--model-sha256", "xyz"]])
def test_train_head_refuses_options_that_nothing_can_be_made_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    np.save(tmp_path / "labels.npy", np.arange(60) % 2)
    files = ["--embeddings", str(tmp_path / "rows.npy"), "--labels", str(tmp_path / "labels.npy")]
    out = ["--tag", "punsafe", "--model", "m", "--out", str(tmp_path / "head.safetensors")]
    assert ends(["train-head", *files, *out, *option], capsys) in (1, 2)
    assert ends(["train-head", *files, *out, "--seed", str(2**32 - 1)], capsys) == 0


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("file", [*JUNK, "folder", "missing", LONG])
def test_heads_and_safety_add(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    for more in ([], ["--model", "m"]):
        assert ends(["heads", "add", "a", "--weights", str(folder / file), "--store", str(tmp_path), *more], capsys)
    assert ends(["safety", "add", str(folder / file), "--store", str(tmp_path)], capsys)
    assert not list(tmp_path.rglob("*.safetensors"))


@slow
@given(WORDS)
@example("~nobody-here")
def test_names_in_the_store(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    store = str(folder / "folder")
    ends(["heads", "add", name, "--weights", str(folder / "empty"), "--store", store], capsys)
    ends(["heads", "list", "--store", name], capsys)
    ends(["report", "--store", name or store, "--out", str(folder / "report.html")], capsys)
    ends(["embed", "--target", store, "--model", "m", "--store", store, "--run", name], capsys)
    ends(["embed", "--target", store, "--model", "ViT-B-32", "--pretrained", f"./{name}", "--folder", store], capsys)
    ends(["stats", name], capsys)
    ends(["publish", name or "r", "--input", name, "--store", store, "--variant", f"{name}=punsafe <"], capsys)


@settings(slow, max_examples=8)
@given(FILES, WORDS)
@example("lists.parquet", "[" * 5_000)
@example("text", "http://[::1]/")
@example("hashes.parquet", "\u2028")
def test_takedown(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, word: str) -> None:
    store = ["--store", str(tmp_path)]
    ends(["takedown", "add", "--file", str(folder / file), "--reason", word, *store], capsys)
    ends(["takedown", "add", "--file", str(folder / file), "--kind", "pdq", "--reason", "x", *store], capsys)
    for option in ("--url", "--hash", "--host", "--md5"):
        ends(["takedown", "add", f"{option}={word}", "--reason", "x", "--pending", *store], capsys)
    ends(["takedown", "decide", word, "--accept", *store], capsys)
    ends(["takedown", "list", "--pending", *store], capsys)
    for verb in ("status", "apply", "verify"):
        ends(["takedown", verb, word or "r", *store], capsys)


def test_heads_list_of_a_missing_store_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(["heads", "list", "--store", str(tmp_path / "none")], capsys) == 1
    assert ends(["heads", "list", "--store", str(tmp_path)], capsys) == 0


MODEL_FILES = [name for name in JUNK if name.endswith((".json", ".safetensors", ".pt", ".npz"))] + [
    "empty",
    "folder",
    LONG,
]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("file", MODEL_FILES)
def test_models_add(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    add, store = ["models", "add"], ["--store", str(tmp_path)]
    assert ends([*add, "a", "--weights", str(WEIGHTS), "--config", str(folder / file), *store], capsys)
    assert ends([*add, "a", "--weights", str(folder / file), "--config", str(CONFIG), *store], capsys)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 300, "a b"])
def test_models_are_not_added_by_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    given = ["--weights", str(WEIGHTS), "--config", str(CONFIG), "--store", str(tmp_path)]
    assert ends(["models", "add", name, *given], capsys)


LISTED = manifest_table(
    [{"kind": "shard", "run": "r", "path": "s", "job": 1}, {"kind": "part", "run": "r", "path": "p", "job": 2}]
)
SHARD: dict[str, list[object]] = {"outcome": ["success"], "final": [True], "language": ["en"]}
SCORES: dict[str, list[object]] = {"similarity": [0.3], "reason": ["kept"], "hash": [1], "key": ["odd"]}


def _stores() -> Iterator[tuple[str, dict[str, bytes]]]:
    manifest, shard, part = table_bytes(LISTED), parquet(SHARD), parquet({"LANGUAGE": ["en"], "shard": ["s"]})
    whole = {"manifest.parquet": manifest, "s.parquet": shard, "p.parquet": part, "p.scores.parquet": parquet(SCORES)}
    yield "odd keys", whole
    yield "other columns", whole | {"s.parquet": parquet({"a": [1]})}
    yield "other types", whole | {"s.parquet": parquet({"outcome": [1], "final": ["x"], "language": [[1]]})}
    yield "no scores", whole | {"p.scores.parquet": parquet({"a": [1]})}
    yield "text similarities", whole | {"p.scores.parquet": parquet(SCORES | {"similarity": ["x"]})}
    for models in (
        b"[]",
        b"{",
        b'{"en": 3}',
        b'{"en": {"model": "m", "threshold": "x"}}',
        b'{"en": {}}',
        b"[" * 100_000,
    ):
        yield f"models {models[:30]!r}", whole | {"p.scores.parquet": parquet(SCORES, {b"shoal.models": models})}
    for verdicts in (b"[]", b"3", b'{"kept": "x"}', b"{"):
        yield f"verdicts {verdicts!r}", whole | {"p.scores.parquet": parquet(SCORES, {b"shoal.verdicts": verdicts})}
    for name in ("kind", "path", "job", "subset"):
        at = LISTED.column_names.index(name)
        odd, null = pa.array([[1], [2]]), pa.nulls(2, LISTED.schema.field(name).type)
        yield f"no {name}", whole | {"manifest.parquet": table_bytes(LISTED.drop_columns([name]))}
        yield f"null {name}", whole | {"manifest.parquet": table_bytes(LISTED.set_column(at, name, null))}
        yield f"odd {name}", whole | {"manifest.parquet": table_bytes(LISTED.set_column(at, name, odd))}
    kinds = pa.array(["shard", "rumour"])
    yield "other kinds", whole | {"manifest.parquet": table_bytes(LISTED.set_column(1, "kind", kinds))}
    yield "no head", whole | {"manifest.parquet": table_bytes(LISTED.replace_schema_metadata(None))}
    for name in ("s.parquet", "p.parquet", "p.scores.parquet", "manifest.parquet"):
        yield f"{name} is junk", whole | {name: b"junk" * 9}


@pytest.mark.parametrize(("what", "files"), list(_stores()), ids=lambda value: value if isinstance(value, str) else "")
def test_report_on_a_foreign_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, files: dict[str, bytes]
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert ends(["report", "--store", str(tmp_path), "--out", str(tmp_path / "report.html")], capsys) == 1, what
