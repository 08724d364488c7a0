"""Ranking by relatives: a document by its children or its parent, agreeing exactly with an oracle in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_corpus import DIMS, encode, unit

from knnex.engines import Engine, Flow, Request
from knnex.engines.elasticsearch import Elasticsearch
from knnex.errors import QueryError, UnknownField
from knnex.mappings import Resolved, Spec, Stored, create, drop, find, load_spec
from knnex.query import F, Hit, Hits, Query, plan, search
from knnex.query.nodes import Filter

Document = Mapping[str, Any]
SEEDED = settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NEEDS_JOINS = pytest.mark.never(
    "elasticsearch", reason="the embedded distribution lacks the join module; the full one has it", embedded=True
)
SCORES: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "sum": sum, "avg": fmean}
SHOPS, REVIEWS = 24, 90


@dataclass(frozen=True)
class Town:
    """Shops and their reviews, on two shards; some of either are deleted, some reviews have lost their shop."""

    stored: Stored
    shops: Mapping[str, Document]
    reviews: Mapping[str, Document]

    def search(self, engine: Engine, query: Query) -> Hits:
        return engine.run(search(plan(query, self.stored, engine.dialect, encode)))

    def pairs(self, shop: Callable[[Document], bool], review: Callable[[Document], bool]) -> Iterator[tuple[str, str]]:
        """(shop, review) of those alive of which both conditions hold."""
        for key, one in self.reviews.items():
            owner = self.shops.get(one["of"])
            if owner and not owner["gone"] and not one["gone"] and shop(owner) and review(one):
                yield one["of"], key


def shop(number: int) -> Document:
    return {"city": ("Rome", "Kyoto", "Berlin")[number % 3], "size": number % 7, "gone": number % 8 == 5}


def review(number: int) -> Document:
    made = {"stars": 1 + number % 5, "size": number % 11, "of": f"s{(number * 5) % SHOPS}", "gone": number % 9 == 4}
    return made | ({"of": "nobody"} if number % 13 == 12 else {})


def score(query: np.ndarray[Any, Any], key: str) -> float:
    return (1 + float(query @ unit(key))) / 2


def town_spec(index: str) -> Spec:
    spec = {
        "index": index,
        "settings": {"index.number_of_shards": 2},
        "fields": {
            "city": {"type": "keyword"},
            "stars": {"type": "integer"},
            "size": {"type": "integer"},
            "said": {"type": "text"},
        },
        "embeddings": {
            "v": {"source": "{said}", "encoder": "tests/none"},
            "c": {"source": "{said}", "encoder": "tests/none", "chunk": {"unit": "paragraph"}},
        },
        "joins": {
            "shop": {"kind": "parent", "children": ["review"]},
            "same": {"kind": "lookup", "field": "size", "key": "size"},
        },
    }
    return load_spec(spec)


def build(engine: Engine, index: str) -> Flow[Town]:
    resolved = {name: Resolved(DIMS, "f" * 32) for name in ("v", "c")}
    stored, _ = yield from create(town_spec(index), engine.dialect, resolved)
    shops = {f"s{number}": shop(number) for number in range(SHOPS)}
    reviews = {f"r{number}": review(number) for number in range(REVIEWS)}
    lines: list[Any] = []
    for key, one in {**shops, **reviews}.items():
        owner = one.get("of")
        relation = "shop" if owner is None else {"name": "review", "parent": owner}
        vector = unit(key).tolist()
        chunks = [{"text": f"{key} {step}", "start": step, "end": step + 1, "vector": vector} for step in range(2)]
        held = {name: value for name, value in one.items() if name not in ("of", "gone")}
        body = held | {"relation": relation, "said": f"word{len(key)} {key}", "v": vector, "c": chunks}
        body["_knnex"] = {"version": 1, "deleted": one["gone"]}
        lines += [{"index": {"_index": index, "_id": key, "routing": owner or key}}, body]
    response = yield Request("POST", "/_bulk", {"refresh": "true"}, tuple(lines))
    assert not response.body["errors"], response.body
    return Town(stored, shops, reviews)


@pytest.fixture(scope="module")
def town(engine: Engine) -> Iterator[Town]:
    name = f"knnex-test-{uuid4().hex[:12]}"
    try:
        yield engine.run(build(engine, name))
    finally:
        if engine.run(find(name)):
            engine.run(drop(name))


Case = tuple[Filter | None, Callable[[Document], bool]]


def conditions(*fields: str) -> st.SearchStrategy[Case]:
    """Random filters on numbers that either kind of document may have, and what they mean."""
    some: Callable[[Document], bool] = lambda one: True  # noqa: E731
    number, field = st.integers(-1, 9), st.sampled_from(fields)
    leaf = st.one_of(
        st.tuples(field, number).map(lambda v: (F[v[0]] >= v[1], lambda one: one.get(v[0], -9) >= v[1])),
        st.tuples(field, number).map(lambda v: (F[v[0]] != v[1], lambda one: one.get(v[0]) != v[1])),
        st.tuples(field, st.lists(number, max_size=4)).map(
            lambda v: (F[v[0]].isin(v[1]), lambda one: one.get(v[0]) in v[1])
        ),
    )
    pair = st.tuples(leaf, leaf).map(lambda v: (v[0][0] | ~v[1][0], lambda one: v[0][1](one) or not v[1][1](one)))
    return st.one_of(st.just((None, some)), leaf, pair)


def deep(levels: int) -> Filter:
    return ~((F.stars == 1) & deep(levels - 2)) if levels > 2 else F.size == 1


def where(query: Query, one: Filter | None) -> Query:
    return query if one is None else query.where(one)


def assert_ranked(hits: Hits, expected: Mapping[str, float], limit: int) -> None:
    assert len(hits) == min(limit, len(expected))
    assert set(hits.ids) <= set(expected)
    best = sorted(expected.values(), reverse=True)[:limit]
    assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-4)
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.id] for hit in hits], abs=1e-4)


@pytest.mark.feature("Ranking by children and parents")
@NEEDS_JOINS
@SEEDED
@given(
    outer=conditions("size"),
    inner=conditions("size", "stars"),
    mode=st.sampled_from(list(SCORES)),
    embedding=st.sampled_from(["v", "c"]),
    exact=st.booleans(),
    limit=st.integers(1, SHOPS),
    seed=st.integers(0, 99),
)
def test_a_document_by_its_children(
    engine: Engine,
    town: Town,
    outer: Case,
    inner: Case,
    mode: Any,
    embedding: str,
    exact: bool,
    limit: int,
    seed: int,
) -> None:
    by = where(Query().semantic(embedding, vector=unit(seed), exact=exact), inner[0])
    hits = town.search(engine, where(Query().by_child("review", by, score=mode, inner=100), outer[0]).limit(limit))
    found: dict[str, list[float]] = {}
    for owner, key in town.pairs(outer[1], inner[1]):
        found.setdefault(owner, []).append(score(unit(seed), key))
    assert_ranked(hits, {owner: SCORES[mode](scores) for owner, scores in found.items()}, limit)
    for hit in hits:
        assert [child.score for child in hit.children] == pytest.approx(sorted(found[hit.id], reverse=True), abs=1e-4)


@pytest.mark.feature("Ranking by children and parents")
@NEEDS_JOINS
@SEEDED
@given(
    outer=conditions("size", "stars"),
    inner=conditions("size"),
    embedding=st.sampled_from(["v", "c"]),
    limit=st.integers(1, REVIEWS),
    seed=st.integers(0, 99),
)
def test_a_document_by_its_parent(
    engine: Engine, town: Town, outer: Case, inner: Case, embedding: str, limit: int, seed: int
) -> None:
    by = where(Query().semantic(embedding, vector=unit(seed)), inner[0])
    hits = town.search(engine, where(Query().by_parent("shop", by, inner=1), outer[0]).limit(limit))
    expected = {key: score(unit(seed), owner) for owner, key in town.pairs(inner[1], outer[1])}
    assert_ranked(hits, expected, limit)
    for hit in hits:
        assert hit.parent is not None
        assert hit.parent.id == town.reviews[hit.id]["of"]


@NEEDS_JOINS
@SEEDED
@given(outer=conditions("size"), seed=st.integers(0, 99), k=st.integers(1, 6))
def test_k_counts_children_of_documents_that_the_filter_lets_through(
    engine: Engine, town: Town, outer: Case, seed: int, k: int
) -> None:
    """The k nearest of each of two shards hold the k nearest of all, however near the children of others are."""
    by = Query().semantic("v", vector=unit(seed), k=k)
    hits = town.search(engine, where(Query().by_child("review", by, inner=100), outer[0]).limit(SHOPS))
    ranked = sorted(town.pairs(outer[1], lambda one: True), key=lambda pair: -score(unit(seed), pair[1]))
    found = [(hit.id, child.id) for hit in hits for child in hit.children]
    assert set(found) >= set(ranked[:k])
    assert set(found) <= set(ranked)
    assert len(found) <= 2 * k


@NEEDS_JOINS
def test_relatives_come_with_their_fields_and_passages_and_without_vectors(engine: Engine, town: Town) -> None:
    def first(query: Query) -> Hit:
        return town.search(engine, query.limit(1))[0]

    probe = Query().semantic("c", vector=unit("r7"))
    hit = first(Query().by_child("review", probe, inner=2))
    assert hit.id == town.reviews["r7"]["of"]
    assert hit.children[0].id == "r7"
    assert set(hit.children[0].source) == {"stars", "size", "said", "relation"}
    assert hit.children[0].parts == {"review.c": pytest.approx(1.0, abs=1e-4)}
    assert {passage.text for passage in hit.children[0].passages} == {"r7 0", "r7 1"}
    assert hit.passages == ()
    assert not {"v", "c"} & set(hit.source)
    assert first(Query().by_child("review", probe)).children == ()
    chosen = first(Query().by_child("review", probe.select("stars").passages(1), inner=1).select("city"))
    assert dict(chosen.source) == {"city": hit["city"]}
    assert dict(chosen.children[0].source) == {"stars": hit.children[0]["stars"]}
    assert len(chosen.children[0].passages) == 1
    by_words = first(Query().by_parent("shop", Query("s3").lexical("said"), inner=1))
    assert by_words.parent is not None
    assert (by_words.parent.id, by_words["relation"]) == ("s3", {"name": "review", "parent": "s3"})
    assert by_words.children == ()


@NEEDS_JOINS
def test_families_are_fused_with_other_parts(engine: Engine, town: Town) -> None:
    query = (
        Query("s3")
        .lexical("said", weight=1)
        .by_child("review", Query().semantic("v", vector=unit("r7"), weight=2), inner=3)
        .by_child("review", Query("r7 r14").lexical("said", weight=1), inner=3, score="sum")
        .where(F.size < 6)
    )
    hits = town.search(engine, query.limit(SHOPS))
    assert hits[0].id == town.reviews["r7"]["of"]
    assert all(town.shops[hit.id]["size"] < 6 and not town.shops[hit.id]["gone"] for hit in hits)
    assert {name for hit in hits for name in hit.parts} == {"lexical", "review.v", "review.lexical"}
    assert hits[0].children[0].id == "r7"
    assert set(hits[0].children[0].parts) == {"review.v", "review.lexical"}
    assert len({child.id for child in hits[0].children}) == len(hits[0].children)
    said = "\n".join(plan(query, town.stored, engine.dialect, encode).explain())
    assert "review.v: the 50 best by their children 'review' (the 250 of these nearest by kNN" in said
    assert "(BM25, sum of their scores)" in said


@NEEDS_JOINS
def test_families_take_what_other_parts_take(engine: Engine, town: Town) -> None:
    """Facets, post-filters, collapse, examples beside them, and lookups inside."""
    by = Query().semantic("v", vector=unit("r7"), exact=True).where(F.stars > 1)
    alive = {owner for owner, _ in town.pairs(lambda one: True, lambda one: one["stars"] > 1)}
    cities = Query().by_child("review", by).aggregate(city={"terms": {"field": "city"}}).limit(SHOPS)
    found = town.search(engine, cities.post_filter(F.city == "Rome"))
    assert set(found.ids) == {key for key in alive if town.shops[key]["city"] == "Rome"}
    counted = {one["key"]: one["doc_count"] for one in found.aggregations["city"]["buckets"]}
    assert counted == Counter(town.shops[key]["city"] for key in alive)
    collapsed = town.search(engine, Query().by_child("review", by).collapse("city"))
    assert sorted(hit["city"] for hit in collapsed) == ["Berlin", "Kyoto", "Rome"]
    beside = Query().semantic("v").by_child("review", by).like("s3", "s6").where(F.city.exists()).limit(SHOPS)
    assert not {"s3", "s6"} & set(town.search(engine, beside).ids)
    shops = Query("s3 s7").lexical("said").where_lookup("same", F.city == "Rome")
    through = town.search(engine, Query().by_parent("shop", shops).limit(REVIEWS))
    romans = {one["size"] for one in town.shops.values() if one["city"] == "Rome" and not one["gone"]}
    said = [key for key in ("s3", "s7") if town.shops[key]["size"] in romans]
    assert set(through.ids) == {key for owner, key in town.pairs(lambda one: True, lambda one: True) if owner in said}


@pytest.mark.parametrize(
    ("version", "own"), [((8, 14), {"num_candidates": 100}), ((9, 5), {"k": 100, "num_candidates": 200})]
)
def test_elasticsearch_is_asked_in_the_query_form(version: tuple[int, ...], own: dict[str, int]) -> None:
    """Its embedded distribution lacks the module; the clauses it would get are those its documentation has."""
    stored = Stored("town-000001", town_spec("town"), {name: Resolved(DIMS, "f" * 32) for name in ("v", "c")})
    by = Query("x").semantic("c").where(F.stars > 3)
    query = Query().by_child("review", by, inner=2).where(F.city == "Rome")
    body = plan(query, stored, Elasticsearch(version), encode).to_dict()["body"]
    clause = body["query"]["bool"]["must"][0]["has_child"]
    assert body["query"]["bool"]["filter"] == [{"term": {"city": "Rome"}}]
    assert (clause["type"], clause["score_mode"], clause["inner_hits"]["name"]) == ("review", "max", "child:review")
    nested = clause["query"]["nested"]
    assert (nested["path"], nested["inner_hits"]["size"]) == ("c", 3)
    knn = nested["query"]["knn"]
    assert {key: knn[key] for key in knn.keys() - {"filter", "query_vector"}} == {
        "field": "c.vector",
        **own,
    }
    alive = {"bool": {"must_not": [{"term": {"_knnex.deleted": True}}]}}
    assert knn["filter"]["bool"]["filter"] == [
        alive,
        {"range": {"stars": {"gt": 3}}},
        {"term": {"relation": "review"}},
        {
            "has_parent": {
                "parent_type": "shop",
                "query": {"bool": {"filter": [{"term": {"city": "Rome"}}], **alive["bool"]}},
            }
        },
    ]


@NEEDS_JOINS
@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (Query().by_child("reviews", Query("x").semantic("v")), UnknownField, "no child 'reviews'; did you mean 'rev"),
        (Query().by_parent("review", Query("x").semantic("v")), UnknownField, "no parent 'review'"),
        (Query().by_child("review", Query("x").semantic("w")), UnknownField, "no embedding 'w'"),
        (Query().by_child("review", Query("x").lexical("sad")), UnknownField, "did you mean 'said'"),
        (Query().by_child("review", Query("x").semantic("v").where(F.star > 1)), UnknownField, "did you mean 'stars'"),
        (Query().by_child("review", Query("x").lexical("said").select("star")), UnknownField, "did you mean 'stars'"),
        (Query().by_child("review", Query("x").lexical("said").select("v")), QueryError, "hits do not carry vectors"),
        (Query().by_child("review", Query().semantic("v")), QueryError, "nothing to compare v"),
        (Query().by_child("review", Query().semantic("v")).like("s1"), QueryError, "no part does"),
        (
            Query().semantic("v").by_child("review", Query().semantic("v")).like("s1"),
            QueryError,
            "nothing to compare v of",
        ),
        (Query().by_child("review", Query("x").semantic("v", vector=[1.0])), QueryError, "vectors of 8 dims"),
        (Query().by_child("review", Query("x").semantic("v", k=0)), QueryError, "k is 0"),
        (Query().by_child("review", Query("x").semantic("v"), inner=101), QueryError, "inner of by_child"),
        (Query().by_child("review", Query("x").semantic("v"), score="most"), QueryError, "use max, avg, sum or min"),  # type: ignore[arg-type]
        (
            Query().by_child("review", Query("x").semantic("v")).where(*[F.size > number for number in range(300)]),
            QueryError,
            "clauses; engines take 1,000",
        ),
        (
            Query().by_child("review", Query("x").semantic("v")).raw({"match_all": {}}).where(deep(20)),
            QueryError,
            "more than 18 levels",
        ),
    ],
)
def test_what_cannot_be_asked(engine: Engine, town: Town, query: Query, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        town.search(engine, query)
    assert message in f"{caught.value} {getattr(caught.value, 'hint', '')}"


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (Query("x"), "needs a query of one part"),
        (Query("x").semantic("v").lexical("said"), "needs a query of one part"),
        (Query().by_child("review", Query("x").semantic("v")), "needs a query of one part"),
        (Query("x").semantic("v").limit(3), "takes a part, filters, select\\(\\) and passages\\(\\)"),
        (Query("x").semantic("v").like("s1"), "takes a part, filters"),
    ],
)
def test_a_family_has_one_part_and_filters(by: Query, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Query().by_child("review", by)
