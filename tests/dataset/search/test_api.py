"""Our own API: terms with weights, filters, pages that never repeat a result, columns, counts, and what is hidden."""

import hashlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.formats.deny_lists import DENY_SCHEMA, write_deny_list
from dataset.search.openapi import description
from dataset.search.options import SiteOptions
from dataset.search.reports import Reports
from dataset.search.screen import Screen
from dataset.store.store import Store
from tests.dataset.search.tiny import Client, served, tiny_engine


@pytest.fixture(scope="module")
def tiny() -> Iterator[Client]:
    with served(tiny_engine(), tiny_engine(50, name="small", generation="two")) as client:
        yield client


def search(client: Client, **fields: Any) -> Any:
    answer = client.ask("/api/search", {"terms": [{"id": 15}], **fields})
    assert answer.status == 200, answer.body
    return answer.json()


def ids_of(page: Any) -> list[int]:
    return [result["id"] for result in page["results"]]


def test_several_terms_with_weights_make_one_vector(tiny: Client) -> None:
    vectors = tiny.service.indexes["tiny"].engine.vectors  # type: ignore[attr-defined]
    given_vector = [3.0 * x for x in vectors[7].tolist()]  # its length does not count
    terms = [{"id": 15}, {"vector": given_vector, "weight": 0.5}, {"id": 40, "weight": -0.25}]
    wanted = vectors[5] + 0.5 * vectors[7] - 0.25 * vectors[30]
    wanted /= np.linalg.norm(wanted)
    page = search(tiny, terms=terms, safe=False, limit=7)
    near = vectors @ wanted
    assert ids_of(page) == (np.argsort(-near)[:7] + 10).tolist()
    assert [r["similarity"] for r in page["results"]] == pytest.approx(np.sort(near)[::-1][:7].tolist(), abs=1e-3)
    vector = tiny.ask("/api/embed", {"terms": terms}).json()["vector"]
    assert vector == pytest.approx(wanted.tolist(), abs=1e-3)


def test_pages_continue_and_repeat_nothing_to_the_last_row(tiny: Client) -> None:
    seen: list[int] = []
    cursor = None
    for _ in range(20):
        page = search(tiny, limit=37, safe=False, **({"cursor": cursor} if cursor else {}))
        seen += ids_of(page)
        cursor = page["cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 300
    forgotten = search(tiny, limit=37, safe=False)["cursor"]
    tiny.service.listings.clear()
    assert ids_of(search(tiny, limit=37, safe=False, cursor=forgotten)) == seen[37:74]


def test_a_cursor_of_another_query_or_index_is_gone(tiny: Client) -> None:
    cursor = search(tiny, limit=5)["cursor"]
    for changed in ({"terms": [{"id": 16}]}, {"filters": "min-width=3"}, {"index": "small"}, {"safe": False}):
        answer = tiny.ask("/api/search", {"terms": [{"id": 15}], "cursor": cursor, **changed})
        assert (answer.status, answer.json()["field"]) == (410, "cursor")
    for nonsense in ("", "x", "W10", "bnVsbA", cursor[:-3] + "!!!", "é"):
        assert tiny.ask("/api/search", {"terms": [{"id": 15}], "cursor": nonsense}).status in (400, 410)


def test_filters_run_before_the_search_so_pages_are_full(tiny: Client) -> None:
    page = search(tiny, filters="min-width=200", limit=50)
    assert len(page["results"]) == 50
    assert all(result["row"]["WIDTH"] >= 200 for result in page["results"])
    refused = tiny.ask("/api/search", {"terms": [{"id": 15}], "filters": "colour=red"})
    assert (refused.status, refused.json()["field"]) == (400, "filters")


def test_a_threshold_ends_the_results_and_a_count_gives_their_number(tiny: Client) -> None:
    page = search(tiny, at_least=0.3, limit=200, count=True, safe=False)
    assert page["count"]["rows"] == len(page["results"]) > 3
    assert page["cursor"] is None
    assert min(result["similarity"] for result in page["results"]) >= 0.3
    assert tiny.ask("/api/count", {"filters": "min-width=200"}).json()["rows"] == 90
    assert tiny.ask("/api/count", {"terms": [{"id": 15}], "at_least": 0.3, "safe": False}).json() == page["count"]


def test_columns_and_embeddings_are_returned_as_asked(tiny: Client) -> None:
    page = search(tiny, columns=["similarity", "caption"], embeddings=True, limit=300, safe=False)
    rows = {result["id"]: result for result in page["results"]}
    assert rows[10]["row"] == {"similarity": None, "caption": "caption 0"}  # NaN is not JSON
    assert rows[15]["row"] == {"similarity": 0.005, "caption": "caption 5"}
    vectors = tiny.service.indexes["tiny"].engine.vectors  # type: ignore[attr-defined]
    assert rows[15]["embedding"] == pytest.approx(vectors[5].tolist(), abs=1e-3)
    refused = tiny.ask("/api/search", {"terms": [{"id": 15}], "columns": ["page_url"]})
    assert (refused.status, refused.json()["field"]) == (400, "columns")


def test_a_row_and_its_vector_are_found_by_id(tiny: Client) -> None:
    row = tiny.ask("/api/rows/12").json()
    assert row["row"]["url"] == "https://example.org/2.jpg"
    assert {*row["row"]} == {*tiny.service.indexes["tiny"].engine.columns}
    vector = np.load(io.BytesIO(tiny.ask("/api/rows/12/embedding").body))
    assert vector.dtype == np.float16
    assert vector.shape == (16,)
    for path in ("/api/rows/1", "/api/rows/99999/embedding", "/api/rows/12?index=nix", "/api/rows/x"):
        assert tiny.ask(path).status == 404
    assert tiny.ask("/api/rows/12/embedding?modality=text").status == 409


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no terms": ({"terms": []}, "terms"),
    "terms that are a text": ({"terms": "cat"}, "terms"),
    "too many terms": ({"terms": [{"id": 15}] * 17}, "terms"),
    "a term without a value": ({"terms": [{"weight": 2}]}, "terms[0]"),
    "a term with two values": ({"terms": [{"id": 15, "text": "cat"}]}, "terms[0]"),
    "a term that is a text": ({"terms": ["cat"]}, "terms[0]"),
    "an unknown field of a term": ({"terms": [{"id": 15, "colour": 1}]}, "terms[0].colour"),
    "an unknown field": ({"page": 2}, "page"),
    "an endless weight": ({"terms": [{"id": 15, "weight": 1e999}]}, "terms[0].weight"),
    "terms that cancel": ({"terms": [{"id": 15}, {"id": 15, "weight": -1}]}, "terms"),
    "a fraction of a result": ({"limit": 1.5}, "limit"),
    "too many results": ({"limit": 10_001}, "limit"),
    "true as a number": ({"limit": True}, "limit"),
    "a number as true": ({"collapse": 1}, "collapse"),
    "an unknown modality": ({"modality": "audio"}, "modality"),
    "a threshold above 1": ({"at_least": 2}, "at_least"),
    "a huge id": ({"terms": [{"id": 2**60}]}, "terms[0].id"),
}


@pytest.mark.parametrize(("fields", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_field_is_named_in_a_sentence(tiny: Client, fields: dict[str, Any], field: str) -> None:
    asked = json.dumps({"terms": [{"id": 15}], **fields}).replace("Infinity", "1e999").encode()
    answer = tiny.ask("/api/search", asked)
    assert (answer.status, answer.json().get("field")) == (400, field), answer.body
    assert answer.json()["message"].endswith(".")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["terms", "id", "text", "url", "picture", "vector", "weight", "limit", "cursor", "ids",
                         "indice_name", "modality", "num_images", "filters", "columns", "embedding_input"]), inner),
    max_leaves=12,
))  # fmt: skip
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_gets_json_and_never_a_failure(tiny: Client, value: Any) -> None:
    for path in ("/api/search", "/api/count", "/api/embed", "/api/exports", "/knn-service", "/metadata"):
        answer = tiny.ask(path, json.dumps(value).encode())
        assert answer.status < 500 or answer.status == 501, (path, value, answer.body)
        answer.json()


def denied(store: Store, kind: str, value: str) -> None:
    rows = [{"kind": kind, "value": value, "reason": "owner", "time": datetime(2026, 11, 1, tzinfo=UTC)}]
    write_deny_list(store, pa.Table.from_pylist(rows, schema=DENY_SCHEMA))


def test_best_of_near_duplicates_is_hidden_and_the_next_one_stands_for_them() -> None:
    engine = tiny_engine()
    engine.vectors[40:43] = engine.vectors[5]
    query, noise = engine.vectors[5].copy(), np.random.default_rng(3).normal(0, 0.01, (3, engine.dimensions))
    engine.vectors[40:43] += noise * [[3], [1], [2]]
    engine.vectors[40:43] /= np.linalg.norm(engine.vectors[40:43], axis=1, keepdims=True)
    hidden = np.array([5, 41], np.int64) + engine.first_id
    asked = {"terms": [{"vector": (2 * query).tolist()}], "limit": 10, "collapse": True, "safe": False}
    with served(engine) as client:
        before = search(client, **asked)
    with served(engine, screen=Screen(hidden)) as client:
        after = search(client, **asked)
        assert ids_of(after) == [42 + engine.first_id, *ids_of(before)[1:]]
        assert after["results"][0]["similarity"] == pytest.approx(float(engine.vectors[42] @ query), abs=1e-3)
        assert len({*ids_of(search(client, **asked | {"limit": 250}))}) == 250
    with served(engine, screen=Screen(np.array([5, 40, 41, 42]) + engine.first_id)) as client:
        assert ids_of(search(client, **asked))[:9] == ids_of(before)[1:]


def test_masked_and_denied_rows_never_appear_and_pages_stay_full(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    engine = tiny_engine()
    denied(store, "pair", str(6 * 1_000_003))
    denied(store, "url", hashlib.sha256(b"https://example.org/7.jpg").hexdigest())
    screen = Screen(np.array([15, 18, 300], np.int64), store)
    assert screen.refresh()
    assert not screen.refresh()
    hidden = {15, 18, 300, 16, 17}
    with served(engine, screen=screen) as client:
        seen = set()
        for term in ({"id": 20}, {"id": 16}, {"id": 15}):
            page = search(client, terms=[term], limit=100, safe=False)
            assert len(page["results"]) == 100
            seen |= {*ids_of(page)}
        everything = search(client, limit=1_000, safe=False)
        assert len(everything["results"]) == 295
        knn = {"modality": "image", "num_images": 40, "indice_name": None, "use_safety_model": False}
        for deduplicate in (False, True):
            rows = client.ask(
                "/knn-service", {**knn, "embedding_input": engine.vectors[5].tolist(), "deduplicate": deduplicate}
            ).json()
            assert len(rows) == 40
            seen |= {row["id"] for row in rows}
        assert not seen & hidden
        metadata = client.ask("/metadata", {"ids": [*hidden], "indice_name": None}).json()
        assert all(one["metadata"] == {} for one in metadata)
        assert {client.ask(f"/api/rows/{id_}").status for id_ in hidden} == {404}
        denied(store, "host", "example.org")
        assert screen.refresh()
        client.service.listings.clear()
        assert search(client, limit=5)["results"] == []


def test_the_description_has_every_route_and_no_other(tmp_path: Path) -> None:
    reports = Reports(Store.open(str(tmp_path)))
    options = SiteOptions(per_second=0, operator_token="t" * 32, reports=reports, trace=lambda *_: {})
    with served(tiny_engine(), options=options) as client:
        said = client.ask("/openapi.json").json()
        assert said == json.loads(json.dumps(description(operator=True, reports=True, trace=True)))
        for path, operations in said["paths"].items():
            asked = path.replace("{id}", "12").replace("{name}", "x")
            for method in ("GET", "POST", "DELETE"):
                answer = client.ask(asked, b"{}" if method == "POST" else None, method=method)
                assert (answer.status == 405) == (method.lower() not in operations), (method, path)
                if "operator" in path and method.lower() in operations:
                    assert answer.status == 401


def test_operators_functions_do_not_exist_without_a_token(tiny: Client) -> None:
    for path in ("/api/operator/trace/12", "/api/operator/reports"):
        assert tiny.ask(path, Authorization="Bearer x").status == 404
    options = SiteOptions(per_second=0, operator_token="secret", trace=lambda name, id_: {"index": name, "id": id_})
    with served(tiny_engine(), options=options) as client:
        path = "/api/operator/trace/12"
        assert [client.ask(path, Authorization=f"Bearer {one}").status for one in ("", "x", "secret")] == [
            401,
            401,
            200,
        ]
        assert "operator" in client.ask("/openapi.json").body.decode()


def test_other_sites_may_not_read_answers_unless_they_are_allowed(tiny: Client) -> None:
    assert "access-control-allow-origin" not in tiny.ask("/api/indexes", Origin="https://a.example").headers
    with served(tiny_engine(), options=SiteOptions(per_second=0, cors=("https://a.example",))) as client:
        allowed = client.ask("/api/indexes", Origin="https://a.example").headers
        assert allowed["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in client.ask("/api/indexes", Origin="https://b.example").headers


def test_queries_are_logged_only_where_that_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with served(tiny_engine()) as client:
        client.ask("/api/search", {"terms": [{"text": "my secret"}]})
    assert "secret" not in caplog.text
    with served(tiny_engine(), options=SiteOptions(per_second=0, log_queries=True)) as client:
        client.ask("/api/search", {"terms": [{"text": "my secret"}, {"vector": [1.5] * 16}]})
    assert "my secret" in caplog.text
    assert "1.5" not in caplog.text
