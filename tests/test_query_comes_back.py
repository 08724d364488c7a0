"""Request bodies read back: what a plan sends gives the query that sends it again, and what is spoilt is refused."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from query_cases import CASES
from query_corpus import DIMS, RESOLVED, encode, unit
from query_corpus import spec as corpus_spec
from test_golden import FAMILY, QUERIES, rounded
from test_query_families import town_spec
from test_query_joins import FAMILY as FAMILY_SPEC

from knnex.engines import Dialect
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.opensearch import OpenSearch
from knnex.errors import QueryError, UnsupportedByEngine
from knnex.mappings import Embedding, Resolved, Stored, load_spec
from knnex.query import F, Query, plan

MOVIES = Stored("movies-000001", corpus_spec("movies", "studios"), RESOLVED)
STUDIOS = Stored(
    "town-000001", load_spec(FAMILY_SPEC | {"index": "town"}), {name: Resolved(DIMS, "f" * 32) for name in ("v", "c")}
)
OTHERS = {
    "p": {"similarity": "max_inner_product"},
    "q": {"quantization": "int8"},
    "qc": {"quantization": "int8", "chunk": {}},
    "b": {"quantization": "int4"},
}
QUANTIZED = Stored(
    "movies-000001",
    MOVIES.spec.model_copy(
        update={
            "embeddings": {
                **MOVIES.spec.embeddings,
                **{name: Embedding(source="{title}", encoder="tests/none", **more) for name, more in OTHERS.items()},  # type: ignore[arg-type]
            }
        }
    ),
    {**RESOLVED, **dict.fromkeys(OTHERS, RESOLVED["v"])},
)
DIALECTS: dict[str, Dialect] = {
    "elasticsearch": Elasticsearch((9, 5, 0)),
    "opensearch": OpenSearch((3, 6, 0)),
    "older": Elasticsearch((8, 14, 0)),
}
Q1 = unit(1).tolist()


def sent(query: Query, stored: Stored, dialect: Dialect) -> Any:
    return plan(query, stored, dialect, encode).to_dict()["body"]


def assert_comes_back(body: Any, stored: Stored, dialect: Dialect) -> None:
    # Several searches are several bodies; a page behind the k nearest is empty.
    if isinstance(body, dict) and body["size"]:
        again = Query.from_dict(body, stored.spec)
        if "retriever" in body:  # read as parts that are fused here: a licence is not everywhere
            again = replace(again, native=True)
        assert rounded(sent(again, stored, dialect)) == rounded(body)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("case", [*QUERIES, *FAMILY])
def test_every_golden_query_comes_back(case: str, dialect: str) -> None:
    stored = MOVIES if case in QUERIES else STUDIOS
    try:
        body = sent((QUERIES | FAMILY)[case], stored, DIALECTS[dialect])
    except UnsupportedByEngine:
        return  # there is no body to read
    assert_comes_back(body, stored, DIALECTS[dialect])


EMBEDDINGS = st.sampled_from(["v", "w", "c", "p", "q", "qc", "b"])
TEXTS = st.sampled_from(["robot", "the moon", "a robot on the moon", 'robot tra* -"the moon"', "tra*"])
FIELDS = st.sampled_from([("title",), ("title^2",), ("title^2", "plot"), ("plot", "title^0.5")])
# What a type of words takes beside its fields.
WORDED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "best_fields": {"minimum": st.sampled_from([None, 2, "75%"]), "fuzziness": st.sampled_from([None, 1, "auto"])},
    "most_fields": {"minimum": st.sampled_from([None, 2, "75%"]), "fuzziness": st.sampled_from([None, 1, "auto"])},
    "cross_fields": {"operator": st.sampled_from(["or", "and"])},
    "phrase": {"slop": st.integers(0, 3)},
    "phrase_prefix": {"slop": st.integers(0, 3)},
    "bool_prefix": {"operator": st.sampled_from(["or", "and"]), "minimum": st.none()},
    "query_string": {"operator": st.sampled_from(["or", "and"])},
}


@st.composite
def nearest(draw: st.DrawFn) -> Query:
    k, exact = draw(st.none() | st.integers(1, 40)), draw(st.booleans())
    return Query().semantic(
        draw(EMBEDDINGS),
        vector=unit(draw(st.integers(0, 50))),
        weight=draw(st.none() | st.just(2.0)),
        k=k,
        candidates=None if exact else draw(st.none() | st.integers(50, 400)),
        min_similarity=draw(st.none() | st.floats(0.25, 0.75)),
        exact=exact,
        oversample=draw(st.none() | st.floats(1, 10)),
    )


@st.composite
def worded(draw: st.DrawFn) -> Query:
    kind = draw(st.sampled_from(list(WORDED)))
    options = {name: draw(one) for name, one in WORDED[kind].items()}
    query = Query(draw(TEXTS)).lexical(*draw(FIELDS), type=kind, **options)  # type: ignore[arg-type]
    return query.highlight("plot") if draw(st.booleans()) else query


@st.composite
def fused(draw: st.DrawFn) -> Query:
    """Parts that one engine fuses in one request."""
    parts = draw(st.lists(nearest() | worded(), min_size=2, max_size=3))
    query = Query("moon", tuple(part for one in parts for part in one.parts))
    method: Any = draw(st.sampled_from([None, "rrf", "weighted"]))
    return query.fuse(
        method, window=draw(st.integers(60, 90)), normalise=draw(st.sampled_from(["min_max", "l2"])), native=True
    )


@st.composite
def related(draw: st.DrawFn) -> Query:
    """Documents of another index by their children."""
    by = draw(
        st.sampled_from(
            [
                Query("rain").lexical("title"),
                Query().semantic("v", vector=unit(3)),
                Query().semantic("c", vector=unit(4), k=9),
            ]
        )
    )
    by = by.where(F.year > 1930) if draw(st.booleans()) else by
    inner = draw(st.integers(0, 2))
    by = by.select("year") if inner and draw(st.booleans()) else by
    query = Query().by_child("movie", by, score=draw(st.sampled_from(["max", "avg", "sum", "min"])), inner=inner)
    return query.where(F.country == "US") if draw(st.booleans()) else query


def beside(query: Query, asked: dict[str, Any]) -> Query:
    query = query.limit(asked["size"]).offset(asked["start"]).passages(asked["passages"])
    if asked["select"] is not None:
        query = query.select(*asked["select"])
    if asked["sort"]:
        query = query.sort(*asked["sort"])
    if asked["seconds"]:
        query = query.within(asked["seconds"], partial=True)
    return query.aggregate(genres={"terms": {"field": "genre"}}) if asked["facets"] else query


ASKED = st.fixed_dictionaries(
    {
        "size": st.integers(1, 50),
        "start": st.integers(0, 20),
        "passages": st.integers(0, 5),
        "select": st.sampled_from([None, (), ("title",), ("year", "title")]),
        "sort": st.sampled_from([(), ("-year",), ("genre", "-rating")]),
        "facets": st.booleans(),
        "seconds": st.sampled_from([None, 0.25, 3]),
    }
)
SEEDED = settings(derandomize=True, max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("dialect", DIALECTS)
@SEEDED
@given(
    query=st.just(Query()) | nearest() | worded() | fused(),
    cases=st.lists(CASES, max_size=3),
    post=st.none() | CASES,
    asked=ASKED,
)
def test_a_random_query_comes_back(dialect: str, query: Query, cases: Any, post: Any, asked: dict[str, Any]) -> None:
    query = beside(query.where(*(case.filter for case in cases)), asked)
    if post is not None:
        query = query.post_filter(post.filter)
    try:
        body = sent(query, QUANTIZED, DIALECTS[dialect])
    except QueryError:  # what cannot be asked has no body to read
        reject()
    if re.search(r'"match_all": \{\}\}\]|"post_filter": \{"match_all"', json.dumps(body)):
        reject()  # a filter that lets everything through is left out
    assert_comes_back(body, QUANTIZED, DIALECTS[dialect])


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(SEEDED, max_examples=40)
@given(query=related(), size=st.integers(1, 50))
def test_a_random_family_comes_back(dialect: str, query: Query, size: int) -> None:
    body = sent(query.limit(size), STUDIOS, DIALECTS[dialect])
    assert_comes_back(body, STUDIOS, DIALECTS[dialect])


def test_chunks_beside_other_parts_are_not_compared_again_on_opensearch() -> None:
    """By themselves they are: by the request's own rescore."""
    opensearch, near = DIALECTS["opensearch"], Query("x").semantic("qc", vector=unit(1))
    assert "rescore" in sent(near, QUANTIZED, opensearch)
    made = plan(near.lexical("title").fuse("rrf", native=True), QUANTIZED, opensearch, encode)
    assert made.legs[0].tree.oversample is None  # type: ignore[attr-defined]
    asked = near.semantic("qc", vector=unit(1), oversample=2).fuse("rrf", native=True)
    with pytest.raises(UnsupportedByEngine, match="in a search of their own only"):
        plan(asked, QUANTIZED, opensearch, encode)


def spoilt(body: Any, way: list[int], junk: Any) -> Any:
    """The body with one of its values, somewhere below, exchanged."""
    if way and isinstance(body, dict) and body:
        key = sorted(body)[way[0] % len(body)]
        return body | {key: spoilt(body[key], way[1:], junk)}
    if way and isinstance(body, list) and body:
        place = way[0] % len(body)
        return [*body[:place], spoilt(body[place], way[1:], junk), *body[place + 1 :]]
    return junk


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    case=st.sampled_from([*QUERIES, *FAMILY]),
    way=st.lists(st.integers(0, 9), max_size=9),
    junk=st.sampled_from([None, 3, "x", [], {}, [1], ["a"], {"a": 1}, {"match": {}}, {"knn": {}}, {"bool": []}, True]),
)
def test_a_body_that_is_spoilt_is_read_or_refused(dialect: str, case: str, way: list[int], junk: Any) -> None:
    try:
        body = sent((QUERIES | FAMILY)[case], MOVIES if case in QUERIES else STUDIOS, DIALECTS[dialect])
    except UnsupportedByEngine:
        reject()
    with suppress(QueryError):
        assert isinstance(Query.from_dict(spoilt(body, way, junk)), Query)


def test_a_family_comes_back_without_what_plans_write_into_it() -> None:
    query = (
        Query()
        .by_child("review", Query().semantic("v", vector=Q1, k=7, candidates=100).where(F.stars > 3), inner=2)
        .where(F.city == "Rome")
    )
    stored = Stored(
        "town-000001", spec := town_spec("town"), {name: Resolved(DIMS, "f" * 32) for name in spec.embeddings}
    )
    again = Query.from_dict(plan(query, stored, DIALECTS["opensearch"], encode).to_dict())
    (part,) = again.parts
    assert part.where == (F.stars > 3)  # type: ignore[union-attr]
    assert again.filters == (F.city == "Rome",)
