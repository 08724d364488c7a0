"""What a search returns beside its hits: exact and rescored neighbours, facets, pages, batches, deadlines, times."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from query_corpus import RESOLVED, Corpus, encode, indexed, spec, unit

from knnex import connect
from knnex.client import Cluster
from knnex.engines import Engine, Request, Response, drive, path_of
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.gate import refused
from knnex.errors import AccessDenied, EngineError, QueryError, UnsupportedByEngine
from knnex.mappings import Resolved, Stored, create, drop, load, load_spec
from knnex.query import F, Hits, Plan, Query, plan, search


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine, shards=2) as made:
        yield made


def sent(engine: Engine, corpus: Corpus, query: Query) -> tuple[Hits, list[Request]]:
    """The hits, and what was sent for them."""
    requests: list[Request] = []

    def send(request: Request) -> Response:
        requests.append(request)
        return engine.send(request)

    return drive(search(corpus.plan(engine, query)), send), requests


# --- exact search, oversampling


@pytest.mark.feature("Exact search of any set")
@pytest.mark.parametrize("embedding", ["v", "w", "c"])
@pytest.mark.parametrize("widest", [10_000, 20])
def test_an_exact_search_is_exact(
    engine: Engine, corpus: Corpus, embedding: str, widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few vectors are compared at once: with 20 the corpus is cut into pieces."""
    monkeypatch.setattr("knnex.query.exact.MAX_K", widest)
    monkeypatch.setattr("knnex.query.compile.elasticsearch.MAX_K", widest)
    for seed in range(5):
        query = Query().semantic(embedding, vector=unit(seed), exact=True).where(F.year > 1930).limit(7)
        found, requests = sent(engine, corpus, query)
        exact = corpus.nearest(unit(seed), corpus.matching(lambda one: (one.get("year") or 0) > 1930), embedding)
        assert list(found.ids) == [key for key, _ in exact[:7]]
        assert [hit.score for hit in found] == pytest.approx([score for _, score in exact[:7]], abs=1e-5)
        assert found.total == 7
        assert corpus.search(engine, query.offset(2).limit(5)).ids == found.ids[2:]
        pieces = engine.dialect.product == "elasticsearch" and widest == 20
        assert requests[-1].path.endswith("_msearch" if pieces else "_search")


def test_an_exact_search_keeps_its_least_similarity_and_its_place_in_a_fusion(engine: Engine, corpus: Corpus) -> None:
    exact = [pair for pair in corpus.nearest(unit(3), corpus.documents) if pair[1] >= 0.6]
    least = Query().semantic("v", vector=unit(3), exact=True, min_similarity=0.2).limit(100)
    assert set(corpus.search(engine, least).ids) == {key for key, _ in exact}
    one = Query("robot").semantic("v", exact=True).semantic("c", exact=True).lexical("plot")
    other = Query("robot").semantic("v", k=100).semantic("c", k=100).lexical("plot")
    assert corpus.search(engine, one.fuse(window=100)).ids == corpus.search(engine, other.fuse(window=100)).ids


def test_too_many_vectors_for_an_exact_search_are_declined(
    engine: Engine, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnex.query.exact.MAX_K", 5)
    monkeypatch.setattr("knnex.query.exact.MAX_PIECES", 3)
    query = Query().semantic("v", vector=unit(1), exact=True)
    if engine.dialect.product == "opensearch":
        assert corpus.search(engine, query)
        return
    with pytest.raises(UnsupportedByEngine, match="exact search of so many vectors") as caught:
        corpus.search(engine, query)
    assert "index: flat" in str(caught.value.hint)


DIMS = 64


@pytest.fixture(scope="module")
def quantized(engine: Engine) -> Iterator[tuple[Stored, np.ndarray[Any, Any]]]:
    """600 vectors, searched by 8 bits or 7 of each number."""
    name = f"knnex-test-{np.random.default_rng().integers(2**40):x}"
    spec = load_spec(
        {
            "index": name,
            "fields": {"title": {"type": "text"}},
            "embeddings": {
                "q": {"source": "{title}", "encoder": "tests/none", "quantization": "int8"},
                "qc": {"source": "{title}", "encoder": "tests/none", "quantization": "int8", "chunk": {}},
            },
        }
    )
    engine.run(create(spec, engine.dialect, dict.fromkeys(("q", "qc"), Resolved(DIMS, "f" * 32))))
    stored = engine.run(load(name))
    rows = np.random.default_rng(7).normal(size=(600, DIMS)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lines: list[Any] = []
    for number, row in enumerate(rows):
        lines += [{"index": {"_index": stored.index, "_id": str(number)}}, {"title": "x", "q": row, "qc": _chunk(row)}]
    engine.send(Request("POST", "/_bulk", {"refresh": "true"}, tuple(lines)))
    try:
        yield stored, rows
    finally:
        engine.run(drop(name))


def _chunk(row: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    return [{"text": "x", "start": 0, "end": 1, "vector": row}]


def _alone(plan: Plan) -> Plan:
    """The same without any comparing by the full vectors."""
    leg = plan.legs[0]
    tree = replace(leg.tree, oversample=None)  # type: ignore[type-var, call-arg]
    made = replace(plan)
    made.__dict__["legs"] = (replace(leg, tree=tree),)
    return made


@pytest.mark.parametrize("embedding", ["q", "qc"])
@pytest.mark.parametrize("how", [{"oversample": 4.0}, {"exact": True}])
def test_what_quantized_vectors_found_is_compared_again_by_the_full_ones(
    engine: Engine, quantized: tuple[Stored, np.ndarray[Any, Any]], how: dict[str, Any], embedding: str
) -> None:
    stored, rows = quantized
    plain_wrong = 0
    for number in range(20):
        row = np.random.default_rng(number).normal(size=DIMS)
        row /= np.linalg.norm(row)
        truth = np.sort((1 + rows @ row) / 2)[::-1][:10]
        found = engine.run(search(plan(Query().semantic(embedding, vector=row, **how), stored, engine.dialect, encode)))
        assert [hit.score for hit in found] == pytest.approx(truth.tolist(), abs=1e-5)
        usual = plan(Query().semantic(embedding, vector=row), stored, engine.dialect, encode)
        assert usual.legs[0].tree.oversample == 2  # type: ignore[attr-defined]
        plain = engine.run(search(_alone(usual)))
        plain_wrong += [hit.score for hit in plain] != pytest.approx(truth.tolist(), abs=1e-5)
    assert plain_wrong  # else this index is not quantized, and the test shows nothing


@pytest.mark.parametrize("wrong", [{"oversample": 0.5}, {"oversample": 11}, {"exact": True, "candidates": 50}])
def test_a_breadth_that_cannot_be_is_an_error(engine: Engine, corpus: Corpus, wrong: dict[str, Any]) -> None:
    with pytest.raises(QueryError):
        corpus.plan(engine, Query().semantic("v", vector=unit(1), **wrong))


# --- filters that match nothing


def test_nothing_is_sent_for_a_filter_that_cannot_match(engine: Engine, corpus: Corpus) -> None:
    query = Query("robot").semantic("v").lexical("plot").where(F.year > 2**40)
    found, requests = sent(engine, corpus, query)
    assert (found.ids, found.total, requests) == ((), 0, [])
    assert corpus.plan(engine, query).explain() == ["1. nothing is sent: no document can fulfil the filter"]


# --- facets


GENRES = {"terms": {"field": "genre", "size": 50}}
RANKED = {
    "filter": Query().where(F.year > 1930),
    "words": Query("robot").lexical("plot").where(F.year > 1930),
    "knn": Query().semantic("v", vector=unit(1), k=20).where(F.year > 1930).limit(20),
    "chunks": Query().semantic("c", vector=unit(1), k=20).where(F.year > 1930).limit(20),
    "fused": Query("robot").semantic("v").lexical("plot").where(F.year > 1930).fuse(window=20).limit(40),
}


@pytest.mark.feature("Facets, and a post filter beside them")
@pytest.mark.parametrize("case", RANKED)
def test_facets_count_what_is_ranked_and_a_post_filter_does_not_touch_them(
    engine: Engine, corpus: Corpus, case: str
) -> None:
    query = RANKED[case].limit(100)
    every = corpus.search(engine, query)
    found = corpus.search(engine, query.aggregate(genres=GENRES).post_filter(F.genre == "noir"))
    counts = Counter(genre for hit in every for genre in set(np.atleast_1d(hit.get("genre", [])).tolist()))
    assert {one["key"]: one["doc_count"] for one in found.aggregations["genres"]["buckets"]} == counts
    assert found.ids == tuple(hit.id for hit in every if "noir" in np.atleast_1d(hit.get("genre", [])))
    assert 0 < len(found) < len(every)


def test_facets_are_counted_where_no_document_matches(engine: Engine, corpus: Corpus) -> None:
    query = Query().semantic("v", vector=unit(1)).where(F.year > 2**40).aggregate(genres=GENRES)
    assert corpus.search(engine, query).aggregations["genres"]["buckets"] == []


# --- order, pages


def test_hits_are_ordered_by_fields_where_asked(engine: Engine, corpus: Corpus) -> None:
    found = corpus.search(engine, Query().where(F.year > 1930).sort("-year", "title.raw").limit(100))
    keys = [(-hit["year"], hit["title"]) for hit in found]
    assert keys == sorted(keys)
    assert len(keys) > 10
    with pytest.raises(QueryError, match="vectors rank every document"):
        corpus.plan(engine, Query("a").semantic("v").sort("year"))


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("_score", "_score is none", "leave sort() out"),
        ("-_score", "_score is none", "popularity()"),
        ("_doc", "_doc is none", "index.scan()"),
        ("_id", "has no order", "keyword field"),
        ("v", "v is an embedding", ".semantic('v')"),
        ("year desc", "'year desc' is no field", 'sort("-year") descending'),
        ("year:desc", "'year:desc' is no field", 'sort("year") is ascending'),
    ],
)
def test_what_is_no_field_to_sort_by_says_the_way_out(name: str, message: str, hint: str) -> None:
    stored = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
    with pytest.raises(QueryError, match=message) as caught:
        plan(Query().sort(name), stored, Elasticsearch((9, 5, 0)), encode)
    assert hint in str(caught.value.hint)


def test_post_filter_alone_is_taken_after_any_ranking(engine: Engine, corpus: Corpus) -> None:
    """Without aggregations beside it; it is explained too."""
    for query in (Query("robot").semantic("v"), Query("robot").semantic("v").lexical("plot"), Query()):
        found = corpus.search(engine, query.post_filter(F.year > 1950).limit(60))
        assert found.ids
        assert all(hit["year"] > 1950 for hit in found)
    assert "for post_filter" in "\n".join(
        corpus.plan(engine, Query("a").semantic("v").post_filter(F.year > 1)).explain()
    )


@pytest.fixture
def cluster(engine: Engine) -> Cluster:
    return connect(engine.client)


@pytest.mark.feature("Every hit, page after page")
def test_a_scan_goes_through_everything_as_of_one_moment(engine: Engine, cluster: Cluster) -> None:
    with indexed(engine, shards=2) as corpus:
        index = cluster.index(corpus.stored.spec.index)
        alive = set(corpus.documents)
        for query in (Query(), Query().sort("-year"), Query().where(F.year > 1930).select("title")):
            expected = set(corpus.search(engine, query.limit(100)).ids)
            found = [hit.id for hit in index.scan(query, page=7)]
            assert sorted(found) == sorted(expected)
        words = Query("robot moon").lexical("plot")
        scores = [hit.score for hit in index.scan(words, page=3)]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == corpus.search(engine, words.limit(100)).total
        scan = index.scan(page=5)
        seen = [next(scan).id]
        gone = tuple({"delete": {"_index": corpus.stored.index, "_id": id_}} for id_ in alive)
        engine.send(Request("POST", "/_bulk", {"refresh": "true"}, gone))
        assert set(seen) | {hit.id for hit in scan} == alive


@pytest.mark.parametrize(
    ("query", "page", "message"),
    [
        (Query("a").semantic("v"), 10, "vectors rank every document"),
        (Query().offset(3), 10, "no offset"),
        (Query().popularity("year"), 10, "nothing after retrieval"),
        (Query(), 0, "page is 0"),
        (Query(), 10_001, "page is 10,001"),
    ],
)
def test_what_cannot_be_scanned_is_an_error_before_anything_is_opened(
    cluster: Cluster, corpus: Corpus, query: Query, page: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnex.asking.query_vectors", lambda _, name, texts: encode(name, texts))
    with pytest.raises(QueryError, match=message):
        cluster.index(corpus.stored.spec.index).scan(query, page=page)


# --- many at once


@pytest.mark.feature("Many queries in one round trip")
def test_many_queries_are_one_request_and_each_answer_is_its_own(
    engine: Engine, corpus: Corpus, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnex.asking.query_vectors", lambda _, name, texts: encode(name, texts))
    index = cluster.index(corpus.stored.spec.index)
    queries = [
        Query("robot").semantic("v").lexical("plot"),
        Query().where(F.year > 2**40),
        Query("moon").semantic("c"),
        Query().where(F.genre == "noir").aggregate(genres=GENRES),
    ]
    found = index.search_many(queries)
    assert [hits.ids for hits in found] == [corpus.search(engine, query).ids for query in queries]
    assert [bool(hits.aggregations) for hits in found] == [False, False, False, True]
    assert index.search_many([]) == []
    with pytest.raises(QueryError, match="wants a list of queries"):
        index.search_many("robot")
    with pytest.raises(QueryError):
        index.search_many([Query("robot").semantic("v"), Query("robot").semantic("vv")])


# --- deadlines, shards that fail


def test_a_search_is_given_its_time_and_may_not_be_cut(engine: Engine, corpus: Corpus) -> None:
    query = Query("robot").lexical("plot").within(5)
    assert corpus.plan(engine, query).bodies[0]["timeout"] == "5000ms"
    assert corpus.search(engine, query).missing == ()
    with pytest.raises(QueryError, match="the time of within"):
        corpus.plan(engine, query.within(0))


def test_reranking_has_what_is_left_of_the_time(engine: Engine, corpus: Corpus) -> None:
    def slowly(_: str, texts: Sequence[str]) -> list[float]:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        return [0.0] * len(texts)

    query = Query("robot").lexical("plot").semantic("v").rerank(slowly, "plot", top=60).limit(60)
    assert corpus.search(engine, query).missing == ()
    with pytest.raises(EngineError, match="were over before all was done: rerank"):
        corpus.search(engine, query.within(0.2))
    found = corpus.search(engine, query.within(0.2, partial=True))
    assert "hits were not scored" in found.missing[0]
    assert len(found) > 40


def test_shards_that_fail_are_an_error_unless_part_is_enough(engine: Engine, corpus: Corpus) -> None:
    """Another index behind the alias has the field as a text, by which its shard cannot sort."""
    other = f"{corpus.stored.spec.index}-other"
    engine.send(Request("PUT", f"/{other}", {}, {"mappings": {"properties": {"year": {"type": "text"}}}}))
    engine.send(Request("POST", f"/{other}/_doc/x", {"refresh": "true"}, {"year": "nineteen"}))
    alias = {"actions": [{"add": {"index": other, "alias": corpus.stored.spec.index}}]}
    try:
        engine.send(Request("POST", "/_aliases", body=alias))
        query = Query().sort("-year").limit(5)
        with pytest.raises(EngineError, match="shards failed") as caught:
            corpus.search(engine, query)
        assert "allow_partial" in str(caught.value.hint)
        found = corpus.search(engine, query.allow_partial())
        assert len(found) == 5
        assert "of 3 shards failed" in found.missing[0]
    finally:
        engine.send(Request("DELETE", f"/{other}"))


# --- where the time goes


def test_a_profile_tells_where_the_time_went(corpus: Corpus, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knnex.asking.query_vectors", lambda _, name, texts: encode(name, texts))
    index = cluster.index(corpus.stored.spec.index)
    query = Query("robot").semantic("v").lexical("plot").aggregate(genres=GENRES)
    profile = index.profile(query)
    assert profile.hits.ids == index.search(query).ids
    assert [name.rsplit("/", 1)[1] for name, _ in profile.requests] == ["_msearch", "_search"]
    assert [bool(one["shards"]) for one in profile.engine] == [True, True]
    assert 0 < profile.client_ms < profile.total_ms
    assert "in the engine's search" in str(profile)


# --- async


def test_the_async_index_does_the_same(engine: Engine, corpus: Corpus) -> None:
    query = Query().where(F.year > 1930)

    async def main() -> None:
        async with connect(engine.address, asynchronous=True) as cluster:
            index = cluster.index(corpus.stored.spec.index)
            found = {hit.id async for hit in index.scan(query, page=7)}
            assert found == set(corpus.search(engine, query.limit(100)).ids)
            async with aclosing(index.scan(query)) as scan:
                assert (await anext(scan)).id
            one, other = await index.search_many([query, Query().where(F.genre == "noir")])
            assert one.total > other.total > 0
            assert (await index.profile(query)).hits.ids == one.ids
            assert (await index.explain(query))[0].startswith("1. POST")
            assert (await index.to_console(query)).startswith("POST /")

    asyncio.run(main())


# --- fusion by the engine

SHARED = Query("robot").where(F.year > 1930).limit(15)
NATIVE = {
    "rrf": SHARED.semantic("v").semantic("c").lexical("plot").fuse("rrf", window=100),
    "min_max": SHARED.semantic("v", weight=0.5).semantic("c", weight=0.3).lexical("plot", weight=0.2).fuse(window=100),
    "l2": SHARED.semantic("v", weight=2).lexical("plot", weight=3).fuse(window=100, normalise="l2"),
}

WEIGHTS = {"rrf": [1, 1, 1], "min_max": [0.5, 0.3, 0.2], "l2": [2, 3]}


@pytest.mark.never("elasticsearch", raises=UnsupportedByEngine, reason="its retrievers need an Enterprise licence")
@pytest.mark.feature("Fusion by the engine itself")
@pytest.mark.parametrize("case", NATIVE)
def test_the_engine_fuses_in_the_same_order(engine: Engine, corpus: Corpus, case: str) -> None:
    query = NATIVE[case]
    ours = corpus.search(engine, query)
    found = corpus.search(engine, replace(query, native=True))
    assert found.ids == ours.ids
    # Its weights are shares of 1.
    scale = found[0].score / ours[0].score
    assert [hit.score for hit in found] == pytest.approx([scale * hit.score for hit in ours], abs=2e-3 * scale)
    assert found.hits[0].source == ours.hits[0].source
    rest = corpus.search(engine, replace(query, native=True).offset(5).limit(10).aggregate(genres=GENRES))
    assert rest.ids == ours.ids[5:]
    assert rest.aggregations["genres"]["buckets"]


@pytest.mark.parametrize("case", NATIVE)
def test_each_part_of_what_an_engine_fuses_ranks_as_it_does_alone(engine: Engine, corpus: Corpus, case: str) -> None:
    """Of Elasticsearch's retrievers more is not to be had without a licence: the parts, their weights, the window."""
    made = corpus.plan(engine, replace(NATIVE[case], native=True)).requests[0].body
    assert isinstance(made, dict)
    if engine.dialect.product == "elasticsearch":
        ((name, said),) = made["retriever"].items()
        assert (name, said["rank_window_size"]) == ("rrf" if case == "rrf" else "linear", 100)
        assert [one["weight"] for one in said["retrievers"]] == pytest.approx(WEIGHTS[case])
        parts = [{"retriever": one["retriever"]} for one in said["retrievers"]]
    else:
        parts = [{"query": one} for one in made["query"]["hybrid"]["queries"]]
    alone = corpus.plan(engine, NATIVE[case])
    for part, body in zip(parts, alone.bodies, strict=True):
        found, ours = (
            engine.send(Request("POST", path_of(alone.alias, "_search"), body=one)).body["hits"]["hits"]
            for one in (part | {"size": 100}, body)
        )
        assert [(hit["_id"], hit["_score"]) for hit in found] == [(hit["_id"], hit["_score"]) for hit in ours]
        assert ["inner_hits" in hit for hit in found] == ["inner_hits" in hit for hit in ours]


@pytest.mark.parametrize(
    ("version", "query", "reason"),
    [
        ((8, 17, 0), NATIVE["rrf"], "the linear retriever came with 8.18"),
        ((8, 19, 21), NATIVE["l2"], "the normalizer l2_norm came with 9.1"),
        ((9, 1, 0), NATIVE["min_max"].fuse("rrf"), "weights of the rrf retriever came with 9.2"),
        ((9, 5, 0), SHARED.semantic("c").semantic("c", "moon").fuse("rrf"), "inner hits would have one name"),
    ],
)
def test_what_a_version_lacks_is_declined(version: tuple[int, ...], query: Query, reason: str) -> None:
    stored = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
    with pytest.raises(UnsupportedByEngine, match=reason):
        plan(replace(query, native=True), stored, Elasticsearch(version), encode)
    plan(query, stored, Elasticsearch(version), encode)


def test_a_licence_that_does_not_do_is_told_as_such() -> None:
    """As Elasticsearch words it; other refusals stay what they are."""
    stored = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
    made = plan(replace(NATIVE["rrf"], native=True), stored, Elasticsearch((9, 5, 0)), encode)
    reason = "current license is non-compliant for [Reciprocal Rank Fusion (RRF)]"
    refusal = {"error": {"root_cause": [{"type": "security_exception", "reason": reason}]}, "status": 403}
    flow = search(made)
    next(flow)
    with pytest.raises(UnsupportedByEngine, match="cannot run native fusion: it lacks an Enterprise licence"):
        flow.throw(refused(403, refusal, "POST /movies/_search"))
    flow = search(made)
    next(flow)
    refusal["error"] = {"root_cause": [{"type": "security_exception", "reason": "action is unauthorized"}]}
    with pytest.raises(AccessDenied, match="unauthorized"):
        flow.throw(refused(403, refusal, "POST /movies/_search"))


def test_before_weights_a_retriever_stands_by_itself() -> None:
    stored = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
    made = plan(replace(NATIVE["rrf"], native=True), stored, Elasticsearch((8, 19, 21)), encode).to_dict()["body"]
    assert [list(one) for one in made["retriever"]["rrf"]["retrievers"]] == [["standard"]] * 3


@pytest.mark.parametrize("normalise", ["z_score", "none"])
def test_what_the_engine_would_fuse_otherwise_is_declined(engine: Engine, corpus: Corpus, normalise: Any) -> None:
    """Elasticsearch has plain sums, which the server here has no licence for."""
    query = NATIVE["min_max"].fuse("weighted", normalise=normalise)
    assert corpus.search(engine, query)
    with pytest.raises(UnsupportedByEngine, match="native fusion") as caught:
        corpus.search(engine, query.fuse("weighted", normalise=normalise, native=True))
    assert "knnex fuses" in str(caught.value.hint)
