"""Filters are strict: random ones agree exactly with an oracle in memory, alone and inside every kind of kNN search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_corpus import GENRES, Corpus, indexed, unit

from knnex.engines import Engine
from knnex.query import F, Query
from knnex.query.hits import value_at
from knnex.query.nodes import Filter, Nested

Document = Mapping[str, Any]
SEEDED = settings(
    derandomize=True, max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


@dataclass(frozen=True)
class Case:
    """A filter, and what it means."""

    filter: Filter
    holds: Callable[[Document], bool]


def values(document: Document, field: str) -> list[Any]:
    found = value_at(document, field)
    return [] if found is None else found if isinstance(found, list) else [found]


def some(field: str, condition: Callable[[Any], bool]) -> Callable[[Document], bool]:
    return lambda document: any(condition(value) for value in values(document, field))


YEARS = st.integers(1900, 2030)
HALVES = st.integers(-1, 12).map(lambda number: number / 2)
WIDE = st.sampled_from([2**31, -(2**40), 2**63, 2**70, 1980.5, 1e300])
NAMES = [*GENRES, "western", ""]


def leaves() -> st.SearchStrategy[Case]:
    genre, city = st.sampled_from(NAMES), st.sampled_from(["Berlin", "Kyoto", "Paris"])
    return st.one_of(
        genre.map(lambda v: Case(F.genre == v, some("genre", lambda x: x == v))),
        genre.map(lambda v: Case(F.genre != v, lambda d: v not in values(d, "genre"))),
        st.lists(genre, max_size=3).map(lambda vs: Case(F.genre.isin(vs), some("genre", lambda x: x in vs))),
        city.map(lambda v: Case(F["address.city"] == v, some("address.city", lambda x: x == v))),
        st.one_of(YEARS, WIDE).map(lambda v: Case(F.year == v, some("year", lambda x: x == v))),
        st.one_of(YEARS, WIDE).map(lambda v: Case(F.year < v, some("year", lambda x: x < v))),
        st.one_of(YEARS, WIDE).map(lambda v: Case(F.year >= v, some("year", lambda x: x >= v))),
        st.tuples(YEARS, YEARS).map(lambda v: Case(F.year.between(*v), some("year", lambda x: v[0] <= x <= v[1]))),
        HALVES.map(lambda v: Case(F.rating > v, some("rating", lambda x: x > v))),
        HALVES.map(lambda v: Case(F.rating <= v, some("rating", lambda x: x <= v))),
        st.booleans().map(lambda v: Case(F.seen == v, some("seen", lambda x: x is v))),
        YEARS.map(lambda v: Case(F.released >= f"{v}-01-01", some("released", lambda x: x >= f"{v}-01-01"))),
        st.sampled_from(["The r", "The", "the", "The moon and the w"]).map(
            lambda v: Case(F["title.raw"].startswith(v), some("title", lambda x: x.startswith(v)))
        ),
        st.sampled_from(["genre", "year", "seen", "title", "cast"]).map(_exists),
        st.tuples(st.integers(0, 6), st.integers(15, 60)).map(
            lambda v: Case(
                Nested("cast", (F.name == f"actor{v[0]}") & (F["cast.age"] > v[1])),
                some("cast", lambda x: x["name"] == f"actor{v[0]}" and x["age"] > v[1]),
            )
        ),
        st.just(Case(Query().raw({"term": {"genre": "noir"}}).filters[0], some("genre", lambda x: x == "noir"))),
    )


def _exists(field: str) -> Case:
    made = Nested("cast", F.age.exists()) if field == "cast" else F[field].exists()
    return Case(made, some(field, lambda _: True))


def combined(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    pair = st.tuples(inner, inner)
    return st.one_of(
        pair.map(lambda p: Case(p[0].filter & p[1].filter, lambda d: p[0].holds(d) and p[1].holds(d))),
        pair.map(lambda p: Case(p[0].filter | p[1].filter, lambda d: p[0].holds(d) or p[1].holds(d))),
        inner.map(lambda one: Case(~one.filter, lambda d: not one.holds(d))),
    )


CASES = st.recursive(leaves(), combined, max_leaves=6)


@pytest.mark.feature("kNN with strict filters")
@SEEDED
@given(case=CASES)
def test_a_filter_finds_exactly_what_it_means(engine: Engine, corpus: Corpus, case: Case) -> None:
    found = corpus.search(engine, Query().where(case.filter).limit(100))
    assert set(found.ids) == corpus.matching(case.holds)
    assert found.total == len(found)


@pytest.mark.feature("kNN with strict filters")
@SEEDED
@given(case=CASES, embedding=st.sampled_from(["v", "w"]), seed=st.integers(0, 99))
def test_a_filtered_knn_search_is_the_exact_one(
    engine: Engine, corpus: Corpus, case: Case, embedding: str, seed: int
) -> None:
    found = corpus.search(engine, Query().semantic(embedding, vector=unit(seed)).where(case.filter).limit(7))
    exact = corpus.nearest(unit(seed), corpus.matching(case.holds), embedding)
    assert list(found.ids) == [key for key, _ in exact[:7]]
    assert [hit.score for hit in found] == pytest.approx([score for _, score in exact[:7]], abs=1e-5)


@pytest.mark.feature("kNN with strict filters")
@SEEDED
@given(case=CASES, seed=st.integers(0, 99))
def test_a_filtered_search_of_chunks_is_the_exact_one(engine: Engine, corpus: Corpus, case: Case, seed: int) -> None:
    found = corpus.search(engine, Query().semantic("c", vector=unit(seed)).where(case.filter).limit(7))
    exact = corpus.nearest(unit(seed), corpus.matching(case.holds), "c")
    assert list(found.ids) == [key for key, _ in exact[:7]]
    assert [hit.score for hit in found] == pytest.approx([score for _, score in exact[:7]], abs=1e-5)


@pytest.mark.feature("kNN with strict filters")
@SEEDED
@given(case=CASES)
def test_a_filter_holds_for_bm25_too(engine: Engine, corpus: Corpus, case: Case) -> None:
    found = corpus.search(engine, Query("robot").lexical("plot").where(case.filter).limit(100))
    assert set(found.ids) == corpus.matching(lambda one: case.holds(one) and "robot" in one["plot"].split())


def test_ids_and_vectors_can_be_asked_for_too(engine: Engine, corpus: Corpus) -> None:
    assert set(corpus.search(engine, Query().where(F.id.isin(["d001", "d002", "nobody"]))).ids) == {"d001", "d002"}
    assert set(corpus.search(engine, Query().where(F.v.exists()).limit(100)).ids) == set(corpus.plain)
    missing = corpus.search(engine, Query().where(~F.c.exists()).limit(100))
    assert set(missing.ids) == set(corpus.documents) - set(corpus.chunks)


def test_the_longest_list_of_values_is_taken(engine: Engine, corpus: Corpus) -> None:
    many = [f"g{number}" for number in range(65_535)]
    found = corpus.search(engine, Query().semantic("v", vector=unit(1)).where(F.genre.isin([*many, "noir"])).limit(100))
    assert set(found.ids) == corpus.matching(some("genre", lambda x: x == "noir")) & set(corpus.plain)


def test_the_deepest_filter_is_taken(engine: Engine, corpus: Corpus) -> None:
    from knnex.query.resolve import MAX_DEPTH

    deep: Filter = F.genre == "noir"
    for level in range(MAX_DEPTH - 1):
        deep = (deep | (F.year == 1)) if level % 2 else (deep & F.title.exists())
    for query in (Query(), Query().semantic("c", vector=unit(1)), Query("robot").lexical("plot")):
        assert corpus.search(engine, query.where(deep).limit(100)).ids


def test_tombstones_are_never_found(engine: Engine, corpus: Corpus) -> None:
    assert set(corpus.search(engine, Query().limit(100)).ids) == set(corpus.documents)
    assert corpus.search(engine, Query().where(F["_knnex.version"] == 9, ~F.title.exists())).ids == ()
