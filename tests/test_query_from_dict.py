"""Request bodies that people have, read as queries: each finds what the engine finds for the body."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from elasticsearch.dsl import Q, Search
from query_corpus import Corpus, indexed
from test_query_comes_back import MOVIES, Q1

from knnex.engines import Engine, Request
from knnex.errors import QueryError
from knnex.query import F, Query
from knnex.query.nodes import RawDsl
from knnex.query.parts import Lexical, Semantic

WORDS = Lexical(("plot",))
NEAR = Semantic("v", vector=tuple(Q1))
MATCH = {"match": {"plot": "moon"}}
KNN = {"field": "v", "query_vector": Q1}
OS_KNN = {"knn": {"v": {"vector": Q1, "k": 5}}}
RECENT = {"range": {"year": {"gte": 1990}}}
KNN_SCRIPT: dict[str, Any] = {
    "query": {"exists": {"field": "v"}},
    "script": {"lang": "knn", "source": "knn_score", "params": {"field": "v", "query_value": Q1}},
}


def again(query: Any, by: Any, window: int = 5) -> dict[str, Any]:
    """A body whose hits are scored again."""
    scored = {
        "rescore_query": by if len(by) == 1 else {"script_score": by},
        "query_weight": 0,
        "rescore_query_weight": 1,
    }
    return {"query": query, "rescore": {"window_size": window, "query": scored}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, Query()),
        ({"query": {"match_all": {}}}, Query()),
        ({"query": MATCH, "from": 20, "size": 5}, Query("moon").lexical("plot").limit(5).offset(20)),
        (
            {"query": {"match": {"plot": {"query": "moon", "operator": "AND", "fuzziness": "AUTO", "boost": 3}}}},
            Query("moon").lexical("plot^3", operator="and", fuzziness="AUTO"),
        ),
        (
            {"query": {"multi_match": {"query": "moon", "fields": ["title^2", "plot"], "type": "most_fields", "boost": 2}}},
            Query("moon").lexical("title^4", "plot^2", type="most_fields"),
        ),
        ({"query": {"match_phrase": {"plot": {"query": "the moon", "slop": 2}}}},
         Query("the moon").lexical("plot", type="phrase", slop=2)),
        ({"query": {"match_phrase_prefix": {"plot": "the mo"}}}, Query("the mo").lexical("plot", type="phrase_prefix")),
        ({"query": {"match_bool_prefix": {"plot": "the mo"}}}, Query("the mo").lexical("plot", type="bool_prefix")),
        (
            {"query": {"simple_query_string": {"query": "moon -sun", "fields": ["plot"], "default_operator": "and"}}},
            Query("moon -sun").lexical("plot", type="query_string", operator="and"),
        ),
        ({"knn": KNN | {"k": 5, "num_candidates": 50, "filter": RECENT}},
         Query().semantic("v", vector=Q1, k=5, candidates=50).where(F.year >= 1990)),
        ({"query": {"knn": KNN | {"similarity": 0.5}}}, Query().semantic("v", vector=Q1, min_similarity=0.5)),
        ({"query": OS_KNN}, Query().semantic("v", vector=Q1, k=5, candidates=100)),
        ({"query": {"knn": {"v": {"vector": Q1, "k": 5, "method_parameters": {"ef_search": 20}}}}},
         Query().semantic("v", vector=Q1, k=5, candidates=20)),
        ({"knn": {"field": "c.vector", "query_vector": Q1, "inner_hits": {"size": 2}}},
         Query().semantic("c", vector=Q1).passages(2)),
        (
            {"query": {"nested": {"path": "c", "query": {"knn": {"c.vector": {"vector": Q1, "k": 5}}}}}},
            Query().semantic("c", vector=Q1, k=5, candidates=100).passages(0),
        ),
        (again(OS_KNN, KNN_SCRIPT), Query().semantic("v", vector=Q1, k=5, candidates=5, oversample=1.0)),
        (  # a filter beside a kNN clause, which an engine applies afterwards, becomes strict
            {"query": {"bool": {"must": [OS_KNN], "filter": [RECENT], "must_not": {"term": {"genre": "noir"}}}}},
            Query().semantic("v", vector=Q1, k=5, candidates=100).where(F.year >= 1990, F.genre != "noir"),
        ),
        (  # scores that are added up
            {"query": {"bool": {"should": [{"knn": KNN | {"boost": 0.7}}, {"match": {"plot": "moon"}}]}}},
            Query("moon").semantic("v", vector=Q1, weight=0.7).lexical("plot").fuse("weighted", normalise="none"),
        ),
        (
            {"knn": [KNN | {"filter": RECENT}], "query": {"bool": {"must": MATCH, "filter": RECENT}}},
            Query("moon").semantic("v", vector=Q1).lexical("plot").where(F.year >= 1990)
            .fuse("weighted", normalise="none"),
        ),
        (  # what must match and is not the only one that ranks is asked of every hit
            {"query": {"bool": {"must": [MATCH], "should": [{"knn": KNN}]}}},
            Query("moon").lexical("plot").semantic("v", vector=Q1).raw(MATCH).fuse("weighted", normalise="none"),
        ),
        (
            {"retriever": {"rrf": {"retrievers": [
                {"standard": {"query": MATCH, "filter": [RECENT]}},
                {"retriever": {"knn": KNN | {"k": 9, "num_candidates": 90, "filter": [RECENT]}}, "weight": 2},
            ], "rank_window_size": 40}}},
            Query("moon").lexical("plot").semantic("v", vector=Q1, weight=2.0, k=9, candidates=90)
            .where(F.year >= 1990).fuse("rrf", window=40),
        ),
        (
            {"retriever": {"linear": {"normalizer": "minmax", "filter": RECENT, "retrievers": [
                {"retriever": {"standard": {"query": MATCH}}, "weight": 0.3},
                {"retriever": {"knn": KNN}, "weight": 0.7},
            ]}}},
            Query("moon").lexical("plot", weight=0.3).semantic("v", vector=Q1, weight=0.7).where(F.year >= 1990)
            .fuse("weighted"),
        ),
        (
            {"query": {"hybrid": {"queries": [MATCH, OS_KNN], "filter": RECENT, "pagination_depth": 60}},
             "search_pipeline": {"phase_results_processors": [{"normalization-processor": {
                 "normalization": {"technique": "l2"},
                 "combination": {"technique": "arithmetic_mean", "parameters": {"weights": [0.3, 0.7]}}}}]}},
            Query("moon").lexical("plot", weight=0.3).semantic("v", vector=Q1, k=5, candidates=100, weight=0.7)
            .where(F.year >= 1990).fuse("weighted", normalise="l2", window=60, native=True),
        ),
        ({"query": {"hybrid": {"queries": [MATCH, OS_KNN]}}},
         Query("moon").lexical("plot").semantic("v", vector=Q1, k=5, candidates=100).fuse("weighted")),
        (
            {"query": {"script_score": {"query": RECENT, "script": {
                "source": "cosineSimilarity(params.q, 'v') + 1.0", "params": {"q": Q1}}}}},
            Query().semantic("v", vector=Q1, exact=True).where(F.year >= 1990),
        ),
        ({"query": {"neural": {"v": {"query_text": "moon", "model_id": "x", "k": 5}}}},
         Query().semantic("v", "moon", k=5, candidates=100)),
        ({"knn": {"field": "v", "query_vector_builder": {"text_embedding": {"model_id": "x", "model_text": "moon"}}}},
         Query().semantic("v", "moon")),
        (
            {"query": {"has_child": {"type": "review", "score_mode": "sum", "query": {"bool": {
                "must": {"match": {"said": "good"}}, "filter": {"range": {"stars": {"gt": 3}}}}}, "inner_hits": {}}}},
            Query().by_child("review", Query("good").lexical("said").where(F.stars > 3), score="sum", inner=3),
        ),
        ({"query": {"has_parent": {"parent_type": "shop", "score": True, "query": {"knn": KNN}}}},
         Query().by_parent("shop", Query().semantic("v", vector=Q1))),
        (  # filters that an engine scores all alike
            {"query": {"bool": {"must": [{"term": {"genre": {"value": "noir"}}}, {"has_child": {
                "type": "review", "query": {"match_all": {}}}}], "should": [{"ids": {"values": ["a"]}}, RECENT],
                "minimum_should_match": 1}}},
            Query().where(F.genre == "noir").where_child("review").where((F.id == "a") | (F.year >= 1990)),
        ),
        ({"query": {"nested": {"path": "cast", "query": {"bool": {"must": [
            {"term": {"cast.name": "x"}}, {"range": {"cast.age": {"gt": 30}}}]}}}}},
         Query().where_nested("cast", F["cast.name"] == "x", F["cast.age"] > 30)),
        ({"query": {"bool": {"filter": {"fuzzy": {"title": "mooon"}}}}}, Query().raw({"fuzzy": {"title": "mooon"}})),
        (
            {"query": MATCH, "_source": ["title"], "highlight": {"fields": {"plot": {}}}, "timeout": "500ms",
             "post_filter": {"term": {"genre": "noir"}}, "aggs": {"g": {"terms": {"field": "genre"}}},
             "sort": [{"year": "desc"}, "title.raw"], "collapse": {"field": "genre"}, "track_total_hits": True},
            Query("moon").lexical("plot").select("title").highlight("plot").within(0.5, partial=True)
            .post_filter(F.genre == "noir").aggregate(g={"terms": {"field": "genre"}}).sort("-year", "title.raw")
            .collapse("genre"),
        ),
        ({"query": MATCH, "_source": False, "sort": "_score"}, Query("moon").lexical("plot").select()),
    ],
)  # fmt: skip
def test_what_people_send_is_understood(body: dict[str, Any], expected: Query) -> None:
    before = copy.deepcopy(body)
    assert comparable(Query.from_dict(body)) == comparable(expected)
    assert body == before


def comparable(query: Query) -> Any:
    """Ids are a filter by the document's id before an index has been asked what its name is."""
    said = repr(query)
    return said.replace("Term(field='id', value='a')", "Ids(values=('a',))")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": {"dis_max": {"queries": []}}}, "dis_max .* the best of them decides"),
        ({"query": {"more_like_this": {"like": "x"}}}, "more_like_this .* like"),
        ({"query": {"bool": {"must": {"boosting": {}}}}}, "boosting .* unlike"),
        ({"query": {"span_term": {"title": "x"}}}, "span_term .* under `filter`"),
        ({"query": {"function_score": {"query": MATCH, "field_value_factor": {"field": "votes"}}}}, "popularity"),
        ({"query": {"script_score": {"query": MATCH, "script": {"source": "1"}}}}, "a script_score"),
        ({"query": {"match": {"plot": {"query": "x", "analyzer": "english"}}}}, "match.analyzer"),
        ({"query": {"multi_match": {"query": "x", "fields": ["a"], "tie_breaker": 0.3}}}, "multi_match.tie_breaker"),
        ({"query": {"multi_match": {"query": "x"}}}, "without fields"),
        ({"query": {"knn": KNN | {"visit_percentage": 3}}}, "knn.visit_percentage"),
        ({"knn": {"field": "v", "query_vector": "aGVsbG8="}}, "a vector written as text"),
        ({"knn": {"field": "v", "query_vector_builder": {"lookup": {}}}}, "lookup.*like"),
        ({"query": {"knn": {"v": {"vector": Q1, "min_score": 0.9}}}}, "a least score .*spec=index.spec"),
        ({"knn": KNN | {"filter": RECENT}, "query": MATCH}, "parts with different filters"),
        ({"knn": KNN, "query": RECENT}, "a query that only filters"),
        ({"query": {"bool": {"must": MATCH, "should": [{"term": {"genre": "noir"}}]}}}, "of which none is needed"),
        ({"query": {"bool": {"should": [MATCH, {"term": {"genre": "noir"}}]}}}, "term under bool.should"),
        ({"query": {"nested": {"path": "cast", "query": {"match": {"cast.name": "x"}}}}}, "ranks inside nested"),
        ({"query": {"has_child": {"type": "r", "score_mode": "max", "query": {"bool": {"should": [MATCH, {"knn": KNN}]}}}}},
         "does not rank by one part"),
        ({"retriever": {"text_similarity_reranker": {"retriever": {}}}}, "rerank"),
        ({"retriever": {"rrf": {"retrievers": [{"knn": KNN}], "rank_constant": 10}}}, "rank_constant of 10"),
        ({"query": {"hybrid": {"queries": [MATCH]}}, "search_pipeline": {"response_processors": []}}, "more than fuse"),
        ({"query": MATCH, "search_pipeline": "p"}, "'search_pipeline' of a body"),
        ({"query": MATCH, "search_after": [1]}, "scan"),
        ({"query": MATCH, "min_score": 1}, "min_similarity"),
        ({"query": MATCH, "rescore": {}}, "a rescore that adds up scores .*rerank"),
        (again(OS_KNN, MATCH), "by something else"),
        (again(OS_KNN, KNN_SCRIPT | {"script": KNN_SCRIPT["script"] | {"params": {"field": "w", "query_value": Q1}}}),
         "by something else"),
        (again(OS_KNN, KNN_SCRIPT, 4), "fewer than the k that were found"),
        ({"query": MATCH, "colour": 1}, "'colour' of a body"),
        ({"query": MATCH, "highlight": {"fields": {"plot": {"fragment_size": 1}}}}, "highlight.fields.plot"),
        ({"query": MATCH, "highlight": {"fields": {"plot": {}}, "highlight_query": {"match": {"plot": "sun"}}}}, "its own"),
        ({"query": MATCH, "sort": ["year", "_score"]}, "_score beside fields"),
        ({"query": MATCH, "sort": {"_geo_distance": {}}}, "the sort"),
        ({"query": MATCH, "sort": [{"year": {"order": "asc", "missing": "_first"}}]}, "sort.missing"),
        ({"query": MATCH, "timeout": "soon"}, "the timeout"),
        ({"query": {"match": {}, "term": {}}}, "no clause of a query"),
        ({"query": {"match": "x"}}, "match says 'x'"),
        ({"query": {"match": {"a": "x", "b": "y"}}}, "names no field, or several"),
        ([{}, {"query": MATCH}], "several searches"),
        ("GET /_search", "no body of a search"),
    ],
)  # fmt: skip
def test_what_ranks_in_another_way_is_named_with_the_way_out(body: Any, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        Query.from_dict(body)
    said = f"{caught.value} {caught.value.hint}"
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("v", {"min_score": 0.75}, 0.5),
        ("v", {"max_distance": 0.5}, 0.5),
        ("w", {"min_score": 0.2}, 2.0),
        ("w", {"max_distance": 4}, 2.0),
    ],
)
def test_with_a_spec_a_least_score_is_a_similarity(name: str, said: dict[str, float], expected: float) -> None:
    query = Query.from_dict({"query": {"knn": {name: {"vector": Q1, **said}}}}, MOVIES.spec)
    (part,) = query.parts
    assert isinstance(part, Semantic)
    assert part.min_similarity is not None
    assert math.isclose(part.min_similarity, expected)


def test_a_body_without_end_is_refused() -> None:
    body: dict[str, Any] = {"match_all": {}}
    for _ in range(3000):
        body = {"bool": {"must": [body]}}
    with pytest.raises(QueryError, match="RecursionError"):
        Query.from_dict({"query": body})


def test_with_a_spec_the_embedding_is_the_one_whose_vector_lies_there() -> None:
    assert Query.from_dict({"knn": {"field": "c.vector", "query_vector": Q1}}, MOVIES.spec).parts[0] == Semantic(
        "c", vector=tuple(Q1)
    )
    with pytest.raises(QueryError, match="no embedding at 'x.vector'") as caught:
        Query.from_dict({"knn": {"field": "x.vector", "query_vector": Q1}}, MOVIES.spec)
    assert caught.value.hint == "its vectors lie at v, w, c.vector"


def test_what_elasticsearch_dsl_builds_is_read_too() -> None:
    search = (
        Search()
        .query(Q("match", plot="moon"))
        .filter("range", year={"gte": 1990})
        .exclude("term", genre="noir")
        .source(["title"])[10:15]
    )
    search.aggs.bucket("genres", "terms", field="genre")
    expected = (
        Query("moon")
        .lexical("plot")
        .where(F.year >= 1990, F.genre != "noir")
        .select("title")
        .offset(10)
        .limit(5)
        .aggregate(genres={"terms": {"field": "genre"}})
    )
    for built in (search, search.to_dict()):
        assert repr(Query.from_dict(built)) == repr(expected)
    nearest = Search().knn(field="v", k=5, num_candidates=50, query_vector=Q1, filter=Q("term", genre="noir"))
    assert repr(Query.from_dict(nearest)) == repr(
        Query().semantic("v", vector=Q1, k=5, candidates=50).where(F.genre == "noir")
    )


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


def near(engine: Engine, name: str = "v", *, boost: float = 1.0, filter: Any = None) -> dict[str, Any]:  # noqa: A002
    """A kNN query as each engine has it, that finds the whole corpus."""
    held = {"boost": boost} | ({} if filter is None else {"filter": filter})
    if engine.dialect.product == "opensearch":
        return {"knn": {name: {"vector": Q1, "k": 60} | held}}
    return {"knn": {"field": name, "query_vector": Q1, "k": 60, "num_candidates": 60} | held}


NOIR = {"term": {"genre": "noir"}}
BODIES: dict[str, Any] = {
    "words": lambda _: {"query": {"match": {"plot": "robot moon"}}},
    "words_and_filters": lambda _: {
        "query": {
            "bool": {
                "must": [{"match": {"plot": "robot"}}],
                "filter": NOIR,
                "must_not": {"range": {"year": {"lt": 1950}}},
            }
        }
    },
    "fields": lambda _: {"query": {"multi_match": {"query": "robot moon", "fields": ["title^2", "plot"]}}, "from": 2},
    "phrase": lambda _: {"query": {"match_phrase": {"title": "the robot"}}},
    "signs": lambda _: {
        "query": {
            "simple_query_string": {"query": "(robot moon) | train", "fields": ["plot"], "default_operator": "and"}
        }
    },
    "near": lambda engine: {"query": near(engine, filter=NOIR)},
    "near_in_a_bool": lambda engine: {"query": {"bool": {"should": [near(engine, "w")]}}, "size": 3},
    "chunks": lambda engine: {
        "query": {"nested": {"path": "c", "score_mode": "max", "query": near(engine, "c.vector")}}
    },
    "sum": lambda engine: {
        "query": {"bool": {"should": [near(engine, boost=0.7), {"match": {"plot": {"query": "robot", "boost": 0.3}}}]}}
    },
    "sum_among": lambda engine: {
        "query": {"bool": {"must": [near(engine)], "should": [{"match": {"plot": "moon"}}], "filter": [NOIR]}}
    },
    "sorted": lambda _: {
        "query": {"bool": {"filter": NOIR}},
        "sort": [{"year": "desc"}, "title.raw"],
        "_source": ["year"],
    },
    "nested": lambda _: {
        "query": {"nested": {"path": "cast", "query": {"range": {"cast.age": {"gt": 55}}}}},
        "sort": "released",
    },
    "any_of": lambda _: {
        "query": {"bool": {"should": [NOIR, {"wildcard": {"genre": "sci*"}}]}},
        "sort": "released",
        "size": 40,
    },
}


@pytest.mark.parametrize("case", BODIES)
def test_what_is_read_finds_what_the_engine_finds(engine: Engine, corpus: Corpus, case: str) -> None:
    """In the same order and with the same scores, where the body has any."""
    body = BODIES[case](engine)
    raw = engine.send(Request("POST", f"/{corpus.stored.spec.index}/_search", body=body)).body["hits"]["hits"]
    hits = corpus.search(engine, Query.from_dict(body, corpus.stored.spec))
    assert raw
    assert len(hits) == len(raw)
    if "sort" in body:
        assert list(hits.ids) == [hit["_id"] for hit in raw]
    else:
        assert [hit.score for hit in hits] == pytest.approx([hit["_score"] for hit in raw], rel=1e-3)
        assert dict(zip(hits.ids, (hit.score for hit in hits), strict=True)) == pytest.approx(
            {hit["_id"]: hit["_score"] for hit in raw}, rel=1e-3
        )


@pytest.mark.parametrize("fields", [["plot"], ["title^2", "plot"]])
@pytest.mark.parametrize(("text", "scale"), [("robot moon", 1.0), ("robot tra*", 2.2), ("tra* -moon", 2.2)])
def test_a_beginning_that_is_read_weighs_as_on_elasticsearch(
    engine: Engine, corpus: Corpus, fields: list[str], text: str, scale: float
) -> None:
    """OpenSearch from 3.0 on scores words 2.2 times lower and a beginning 1 all the same: 2.2 times as much beside them."""
    body = {"query": {"simple_query_string": {"query": text, "fields": fields}}, "size": 100}
    raw = engine.send(Request("POST", f"/{corpus.stored.spec.index}/_search", body=body)).body["hits"]["hits"]
    hits = corpus.search(engine, Query.from_dict(body, corpus.stored.spec))
    assert {hit["_id"] for hit in raw} == set(hits.ids)
    assert hits
    theirs = {hit["_id"]: hit["_score"] for hit in raw}
    if scale == 1 or engine.dialect.product == "elasticsearch":
        assert theirs == pytest.approx({hit.id: hit.score for hit in hits}, rel=1e-4)
        return
    # What scores 1, times its fields' weights, was too much by so much.
    gaps = [(theirs[hit.id] - hit.score) / (1 - 1 / scale) for hit in hits]
    assert gaps == pytest.approx(list(map(round, gaps)), abs=1e-3)
    assert min(gaps) > -0.5
    assert max(gaps) > 0.5


def test_a_clause_that_is_kept_is_not_the_callers() -> None:
    body = {"query": {"bool": {"filter": [{"geo_shape": {"place": {"shape": {}}}}]}}}
    (kept,) = Query.from_dict(body).filters
    body["query"]["bool"]["filter"][0]["geo_shape"]["place"] = {}
    assert kept == RawDsl({"geo_shape": {"place": {"shape": {}}}})
