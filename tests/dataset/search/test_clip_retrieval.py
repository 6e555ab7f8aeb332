"""clip-retrieval's API: the answers are those of the real clip_back on the same rows, save what is documented."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.search.encoder import Encoder, EncoderOptions
from dataset.search.metrics import Metrics
from dataset.search.options import SiteOptions
from tests.dataset.search import golden_rows
from tests.dataset.search.tiny import Client, TinyEngine, served, tiny_engine, unit_rows
from tests.readers import reader

RECORDED = json.loads(Path(__file__).with_name("clip_back_answers.json").read_text(encoding="utf-8"))


def golden_engine() -> TinyEngine:
    text = golden_rows.vectors("text")
    return TinyEngine(golden_rows.vectors("image"), golden_rows.table(), "golden", text_vectors=text, first_id=0)


@pytest.fixture(scope="module")
def golden() -> Iterator[Client]:
    with served(golden_engine()) as client:
        yield client


@pytest.fixture(scope="module")
def tiny() -> Iterator[Client]:
    with served(tiny_engine()) as client:
        yield client


def knn(client: Client, **fields: Any) -> Any:
    answer = client.ask("/knn-service", {"modality": "image", "num_images": 5, "indice_name": None, **fields})
    assert answer.status == 200, answer.body
    return answer.json()


@pytest.mark.parametrize("at", range(len(golden_rows.requests())))
def test_the_results_are_those_of_clip_back(golden: Client, at: int) -> None:
    asked, recorded = golden_rows.requests()[at], RECORDED["knn"][at]
    answer = golden.ask("//knn-service" if at % 2 else "/knn-service", asked, **{"Content-Type": "text/plain"})
    assert (answer.status, answer.headers["content-type"]) == (recorded["status"], recorded["type"])
    found = answer.json()
    assert [row["id"] for row in found[: len(recorded["ids"])]] == recorded["ids"]
    for row, expected in zip(found, recorded["first"], strict=False):
        assert row == expected | {"similarity": row["similarity"]}
        assert [*row] == [*expected] or {*row} == {*expected}
        assert row["similarity"] == pytest.approx(expected["similarity"], abs=2e-3)
    if not asked.get("deduplicate"):
        assert len(found) == recorded["results"]
        assert found[-1].keys() == recorded["last"][0].keys()
    else:  # where clip_back returned fewer, ours goes on
        assert len(found) == asked.get("num_result_ids", asked["num_images"])
    assert all(("url" in row) == (place < asked["num_images"]) for place, row in enumerate(found))  # type: ignore[operator]


def test_metadata_indices_and_configuration_are_those_of_clip_back(golden: Client) -> None:
    asked = {"ids": golden_rows.METADATA_IDS, "indice_name": "golden"}
    answers = {
        "metadata": golden.ask("//metadata", asked),
        "no metadata": golden.ask("/metadata", {"ids": []}),
        "indices": golden.ask("/indices-list"),
        "config": golden.ask("/config.json"),
    }
    for name, answer in answers.items():
        recorded = RECORDED[name]
        assert (answer.status, answer.headers["content-type"]) == (recorded["status"], recorded["type"])
        body = answer.body.decode().replace(golden.url, "http://BASE")
        assert json.loads(body) == json.loads(recorded["body"].replace("NaN", "null"))
        assert body.endswith("\n") == recorded["body"].endswith("\n")


def test_the_summary_of_costs_has_clip_backs_form() -> None:
    with served(tiny_engine()) as client:
        before = client.ask("/metrics-summary")
        assert before.body.decode() == RECORDED["summary before"]["body"]
        assert before.headers["content-type"] == RECORDED["summary before"]["type"]
        knn(client, embedding_input=[1.0] * 16)
        after = client.ask("/metrics-summary").body.decode()
        assert after.startswith("Among 1.0 calls to the knn end point with an average latency of ")
        assert after.split("\n")[2].split() == RECORDED["summary after"]["head"]
        metrics = client.ask("/metrics").body.decode()
        assert "full_knn_request_time_sum" in metrics
        assert "knn_index_time_count 1.0" in metrics


WRONG = {
    "no modality": ({"num_images": 1, "indice_name": None, "embedding_input": [1] * 16}, 400, "modality"),
    "no number": ({"modality": "image", "indice_name": None, "embedding_input": [1] * 16}, 400, "num_images"),
    "no name of an index": ({"modality": "image", "num_images": 1, "embedding_input": [1] * 16}, 400, "indice_name"),
    "an unknown index": ({"indice_name": "x", "embedding_input": [1] * 16}, 404, "index"),
    "no text index": ({"modality": "text", "embedding_input": [1] * 16}, 409, "modality"),
    "no query": ({"text": "", "image": None}, 400, "text"),
    "a number as text": ({"text": 1}, 400, "text"),
    "a short vector": ({"embedding_input": [1, 2]}, 400, "vector"),
    "a vector of words": ({"embedding_input": ["a"] * 16}, 400, "embedding_input"),
    "a zero vector": ({"embedding_input": [0] * 16}, 400, "vector"),
    "an endless vector": ({"embedding_input": [1e39] * 16}, 400, "vector"),
    "too many results": ({"embedding_input": [1] * 16, "num_result_ids": 10**9}, 400, "num_result_ids"),
    "a negative number": ({"embedding_input": [1] * 16, "num_images": -1}, 400, "num_images"),
    "a word as a score": ({"embedding_input": [1] * 16, "aesthetic_score": "high"}, 400, "aesthetic_score"),
    "a score that is no rating": ({"embedding_input": [1] * 16, "aesthetic_score": 10}, 400, "aesthetic_score"),
    "an endless weight": ({"embedding_input": [1] * 16, "aesthetic_weight": "inf"}, 400, "aesthetic_weight"),
    "no model": ({"text": "a cat"}, 409, None),
    "no fetcher": ({"image_url": "http://127.0.0.1/a.jpg"}, 409, None),
}


@pytest.mark.parametrize(("fields", "status", "field"), WRONG.values(), ids=WRONG.keys())
def test_an_error_has_its_status_a_sentence_and_the_field(
    tiny: Client, fields: dict[str, Any], status: int, field: str | None
) -> None:
    required = {"modality": "image", "num_images": 1, "indice_name": None}
    given = fields if status == 400 and field in required and field not in fields else {**required, **fields}
    answer = tiny.ask("/knn-service", given)
    said = answer.json()
    assert (answer.status, said.get("field")) == (status, field)
    assert said["message"].endswith(".")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000, b'{"a": NaN}'])
def test_a_body_that_is_not_a_json_object_is_a_bad_request(tiny: Client, body: bytes) -> None:
    for path in ("/knn-service", "/metadata", "/", "/api/search"):
        answer = tiny.ask(path, body)
        assert answer.status == 400, path
        assert "message" in answer.json()


def test_the_base_address_answers_the_clients_of_those_who_give_no_path(golden: Client) -> None:
    asked = golden_rows.requests()[0]
    assert golden.ask("/", asked).body == golden.ask("/knn-service", asked).body


def test_a_rating_moves_the_query_as_in_clip_back_if_the_operator_gave_its_vector(tiny: Client) -> None:
    ratings = unit_rows(10, seed=5)
    query = [3.0, *[1.0] * 15]
    asked = {"embedding_input": query, "use_safety_model": False, "num_images": 300}
    with served(tiny_engine(), options=SiteOptions(per_second=0, ratings=ratings)) as client:
        moved = np.asarray(query, np.float32) + 2.5 * ratings[9]
        moved /= np.linalg.norm(moved)
        near = tiny_engine().vectors @ moved
        found = knn(client, **asked, aesthetic_score="9", aesthetic_weight="2.5")
        assert [row["id"] for row in found] == (np.argsort(-near, kind="stable") + 10).tolist()
        assert [row["similarity"] for row in found[:9]] == pytest.approx(np.sort(near)[::-1][:9].tolist(), abs=1e-3)
        assert knn(client, **asked, aesthetic_score="", aesthetic_weight="2.5") == knn(tiny, **asked)
    assert knn(tiny, **asked, aesthetic_score=9, aesthetic_weight=2.5, use_mclip=True) == knn(tiny, **asked)


def test_nulls_are_taken_for_absent(tiny: Client) -> None:
    nulls = dict.fromkeys(("text", "image", "image_url", "aesthetic_score", "aesthetic_weight", "deduplicate"))
    rows = knn(tiny, embedding_input=[1.0] * 16, num_result_ids=None, use_safety_model=None, **nulls)
    assert len(rows) == 5


def test_a_page_is_full_in_safe_mode_which_is_on_unless_a_request_says_otherwise(tiny: Client) -> None:
    unsafe = np.eye(16)[0].tolist()
    shown = {row["id"] for row in knn(tiny, embedding_input=unsafe, num_images=200)}
    assert len(shown) == 200
    assert not {id_ for id_ in shown if (id_ - 10) % 10 == 3}
    everything = knn(tiny, embedding_input=unsafe, num_images=300, use_safety_model=False)
    assert len(everything) == 300
    with served(tiny_engine(), may_leave_safe=False) as client:
        assert len(knn(client, embedding_input=unsafe, num_images=300, use_safety_model=False)) == 270


def test_rows_that_are_gone_have_empty_metadata(tiny: Client) -> None:
    answer = tiny.ask("/metadata", {"ids": [11, "12", 99_999], "indice_name": None})
    assert [one["id"] for one in answer.json()] == [11, "12", 99_999]
    assert [bool(one["metadata"]) for one in answer.json()] == [True, True, False]
    for ids in ([-1], [1.5], ["x"], [True], [2**70], 7):
        assert tiny.ask("/metadata", {"ids": ids, "indice_name": None}).status == 400


CLIENT = """
import importlib.util, json, sys
spec = importlib.util.find_spec("clip_retrieval")
path = spec.submodule_search_locations[0] + "/clip_client.py"  # the package's __init__ imports everything
spec = importlib.util.spec_from_file_location("clip_client", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
url, vectors = json.load(sys.stdin)
found = []
for path, modality in (("/knn-service", "IMAGE"), ("", "IMAGE"), ("/knn-service", "TEXT")):
    client = module.ClipClient(url + path, "golden", num_images=7, modality=module.Modality[modality])
    found.append(client.query(embedding_input=vectors[modality]))
print(json.dumps(found))
"""


def test_the_built_front_end_of_clip_retrieval_runs_unchanged(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not there")
    (front,) = (reader("clip-retrieval").parents[1] / "lib").glob("python3*/site-packages/front/build")

    async def start(metrics: Metrics) -> Encoder:
        encoder = Encoder(EncoderOptions("hashing", None, None), metrics, "tests.dataset.search.hashing_encoder")
        await encoder.start()
        return encoder

    with served(tiny_engine(), start=start, options=SiteOptions(per_second=0, page=front)) as client:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
        here_only = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        command = [browser, *options, here_only, f"--user-data-dir={tmp_path}", f"{client.url}/?query=a+cat"]
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        counted = client.ask("/metrics").body.decode()
    answered = {route for route, status in re.findall(r'requests_total{route="([^"]+)",status="(200)"}', counted)}
    assert {"/", "/indices-list", "/knn-service", "/metadata"} <= answered


def test_the_client_of_clip_retrieval_runs_unchanged(golden: Client) -> None:
    vectors = {name.upper(): golden_rows.queries(name)[0].tolist() for name in ("image", "text")}
    said = json.dumps([golden.url, vectors])
    command = [str(reader("clip-retrieval")), "-c", CLIENT]
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found[0] == found[1]
    assert all(len(rows) == 7 for rows in found)
    assert all({"url", "caption", "id", "similarity"} <= row.keys() for rows in found for row in rows)
    assert found[0][0]["id"] == 20
