"""Filters are strict: random ones agree exactly with an oracle in memory; inside whole queries, `test_query_oracle.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_cases import CASES, Case, read, some
from query_corpus import RESOLVED, Corpus, encode, indexed, spec, unit

from knnex.engines import Engine, Request
from knnex.engines.elasticsearch import Elasticsearch
from knnex.errors import QueryError
from knnex.mappings import Stored
from knnex.query import F, Query, plan, prepare
from knnex.query.conditions import where
from knnex.query.nodes import And, Exists, Filter, Ids, Nested, Not, Nothing, Or, Term, Terms

SEEDED = settings(
    derandomize=True, max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


@pytest.mark.feature("kNN with strict filters")
@SEEDED
@given(cases=st.lists(CASES, min_size=12, max_size=12))
def test_a_filter_finds_exactly_what_it_means(engine: Engine, corpus: Corpus, cases: list[Case]) -> None:
    """Twelve in one round trip; what is known to find nothing is not sent at all, and is right about that."""
    plans = [corpus.plan(engine, Query().where(case.filter).limit(100).select()) for case in cases]
    sent = [plan for plan in plans if not isinstance(plan.filter, Nothing)]
    lines = tuple(line for plan in sent for line in ({}, plan.requests[0].body))
    answers = iter(engine.send(Request("POST", f"/{corpus.stored.spec.index}/_msearch", body=lines)).body["responses"])
    for case, asked in zip(cases, plans, strict=True):
        hits = next(answers)["hits"]["hits"] if asked in sent else []
        assert {hit["_id"] for hit in hits} == corpus.matching(case.holds), case.filter


def test_ids_and_vectors_can_be_asked_for_too(engine: Engine, corpus: Corpus) -> None:
    assert set(corpus.search(engine, Query().where(F.id.isin(["d001", "d002", "nobody"]))).ids) == {"d001", "d002"}
    assert set(corpus.search(engine, Query().where(F.v.exists()).limit(100)).ids) == set(corpus.plain)
    missing = corpus.search(engine, Query().where(~F.c.exists()).limit(100))
    assert set(missing.ids) == set(corpus.documents) - set(corpus.chunks)


def test_an_empty_pattern_finds_what_is_empty(engine: Engine, corpus: Corpus) -> None:
    """Engines find nothing by an empty wildcard."""
    empty = corpus.matching(some("code", lambda x: x == ""))
    assert empty
    for one in (F.code.matches(""), F.code.matches("", case_sensitive=False), F.code.regexp("")):
        assert set(corpus.search(engine, Query().where(one)).ids) == empty


@pytest.mark.parametrize("count", [65_535, 65_536, 100_000])
def test_a_long_list_of_values_is_taken(engine: Engine, corpus: Corpus, count: int) -> None:
    """Beyond what engines take in one clause it becomes several."""
    query = Query().semantic("v", vector=unit(1)).limit(100)
    many = [f"g{number}" for number in range(count)]
    noir = corpus.matching(some("genre", lambda x: x == "noir"))
    assert set(corpus.search(engine, query.where(F.genre.isin([*many, "noir"]))).ids) == noir & set(corpus.plain)
    assert set(corpus.search(engine, query.where(~F.genre.isin([*many, "noir"]))).ids) == set(corpus.plain) - noir
    years = corpus.search(engine, Query().where(F.year.isin(np.arange(count))).limit(100))
    assert set(years.ids) == corpus.matching(lambda one: "year" in one)
    ids = corpus.search(engine, Query().where(F.id.isin([*map(str, range(count)), "d007"])))
    assert ids.ids == ("d007",)


@pytest.mark.parametrize(
    "one",
    [
        lambda n: F.genre == f"g{n}",
        lambda n: F.genre != f"g{n}",
        lambda n: F.year == n,
        lambda n: F.year.isin([n, n + 1]),
        lambda n: F.year.between(n, n + 3),
        lambda n: ~F.rating.between(n / 100, n),
        lambda n: F.released >= 86_400_000 * n,
        lambda n: F.place.near(n / 50, 10, "300km"),
        lambda n: F.place.within_box(top_left=(50 + n / 50, 170), bottom_right=(0, -170)),
        lambda n: F.code.matches(f"*{n}"),
        lambda n: F.cast.any(F.age > n),
        lambda n: (F.year > n) & (F.genre == "noir"),
        lambda n: F.id == f"d{n}",
    ],
)
def test_as_many_clauses_as_are_allowed_are_taken(engine: Engine, corpus: Corpus, one: Callable[[int], Filter]) -> None:
    """Engines count some of them twice: where one is too many that is said before it is sent."""
    for count in (240, 320, 480, 950):
        query = Query().semantic("v", vector=unit(1)).where(Or(tuple(map(one, range(count)))))
        with suppress(QueryError):
            asked = corpus.plan(engine, query)
            corpus.search(engine, asked.query)
    corpus.search(engine, Query().semantic("v", vector=unit(1)).where(Or(tuple(map(one, range(240))))))
    with pytest.raises(QueryError, match="more than 1,000 clauses"):
        corpus.plan(engine, Query().where(Or(tuple(map(one, range(1100))))))


def test_a_list_of_dates_is_taken_up_to_the_clauses_of_an_engine(engine: Engine, corpus: Corpus) -> None:
    days = np.arange("1979-01-01", "1980-05-01", dtype="datetime64[D]")
    assert len(days) > 480
    found = corpus.search(engine, Query().where(F.shown.isin(days)).limit(100))
    assert set(found.ids) == corpus.matching(
        some("shown", lambda x: np.datetime64(read(x).replace(tzinfo=None), "D") in days)
    )
    assert found.ids


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (F.year > 2**40, Nothing()),
        (F.year.between(1990, 1980), Nothing()),
        (F.year.between(3.2, 3.8), Nothing()),
        ((F.rating > 3) & (F.year == 1.5), Nothing()),
        (F.genre.isin([]) & F.title.exists(), Nothing()),
        (F.genre.isin([]) | (F.seen == True), Term("seen", True)),  # noqa: E712
        (F.genre.isin([]) | (F.year == 1.5), Nothing()),
        ((F.seen == True) & ~F.genre.isin([]), Term("seen", True)),  # noqa: E712
        (~F.genre.isin([]), Not(Nothing())),
        (~F.genre.isin([]) | (F.seen == True), Not(Nothing())),  # noqa: E712
        (~(~F.genre.isin([]) & ~F.genre.isin([])), Nothing()),
        (F.cast.any(F.age > 2**40), Nothing()),
        (F.cast.any(F.awards.any(F.year > 2**40) | (F.age > 2**40)), Nothing()),
        (F.shown.between("2024-01-02", "2024-01-01"), Nothing()),
        (F.id == "", Nothing()),
        (F.id.isin(["a", "", "a"]), Ids(("a",))),
        (F.genre.isin(f"g{number}" for number in range(65_537)), Or),
        (F.year.isin([1.5, 2**40, 7]), Terms("year", (7,))),
        (F.year <= 2**40, Exists("year")),
        ((F.year <= 2**40) & (F.seen == True), And((Exists("year"), Term("seen", True)))),  # noqa: E712
        (F.cast.any(~F.age.isin([])), Nested("cast", Not(Nothing()))),
    ],
)
def test_a_filter_is_no_larger_than_what_it_says(given: Filter, sent: Filter | type[Filter]) -> None:
    stored = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
    made = plan(Query().where(given), stored, Elasticsearch((9, 5, 0)), encode).filter
    assert made == sent or (isinstance(sent, type) and isinstance(made, sent))


def test_nothing_is_sent_for_a_filter_that_cannot_match(engine: Engine, corpus: Corpus) -> None:
    for query in (Query(), Query().semantic("c", vector=unit(1)), Query("robot").lexical("plot")):
        asked = corpus.plan(engine, query.where(F.seen == True, F.year > 2**40))  # noqa: E712
        assert asked.filter == Nothing()
        assert corpus.search(engine, asked.query).ids == ()
    asked = corpus.plan(engine, Query().where(F.seen == True).where_lookup("studios", F.country == "XX"))  # noqa: E712
    assert engine.run(prepare(asked)).filter == Nothing()
    assert len(corpus.search(engine, Query().where(~F.genre.isin([])).limit(100))) == len(corpus.documents)
    inside = corpus.search(engine, Query().where(F.cast.any(~F.age.isin([]))).limit(100))
    assert set(inside.ids) == corpus.matching(lambda one: "cast" in one)


def test_the_deepest_filter_is_taken(engine: Engine, corpus: Corpus) -> None:
    from knnex.query.resolve import MAX_DEPTH

    deep: Filter = F.genre == "noir"
    for level in range(MAX_DEPTH - 1):
        deep = (deep | (F.year == 1)) if level % 2 else (deep & F.title.exists())
    for query in (Query(), Query().semantic("c", vector=unit(1)), Query("robot").lexical("plot")):
        assert corpus.search(engine, query.where(deep).limit(100)).ids
    deepest = F.genre.isin([*map(str, range(70_000)), "noir"])
    for level in range(MAX_DEPTH - 1):
        deepest = (deepest | (F.year == 1)) if level % 2 else (deepest & F.title.exists())
    assert corpus.search(engine, Query().semantic("c", vector=unit(1)).where(deepest)).ids


@pytest.mark.parametrize(
    ("condition", "means"),
    [
        ("code~=A?-*", some("code", lambda x: re.fullmatch("A.-.*", x))),
        ("title.raw~=The r*", some("title", lambda x: x.startswith("The r"))),
        ("cast.name~=actor?", lambda one: "cast" in one),
        ("cast.awards.name=oscar,bear", some("cast", lambda x: {"oscar", "bear"} & {a["name"] for a in x["awards"]})),
        ("cast.awards.year>1980", some("cast", lambda x: any(a["year"] > 1980 for a in x["awards"]))),
        ("released>=1950-05-05||/M", some("released", lambda x: x >= "1950-05")),
        ("released<now-70y/y", some("released", lambda x: int(x[:4]) < datetime.now(UTC).year - 70)),
        ("day>=01/01/1990", some("day", lambda x: int(x[-4:]) >= 1990)),
        ("place=*", lambda one: "place" in one),
    ],
)
def test_conditions_of_the_command_line(
    engine: Engine, corpus: Corpus, condition: str, means: Callable[[Any], bool]
) -> None:
    found = corpus.search(engine, where(Query(), condition, corpus.stored.spec).limit(100))
    assert set(found.ids) == corpus.matching(means)
    assert found.ids


def test_tombstones_are_never_found(engine: Engine, corpus: Corpus) -> None:
    assert set(corpus.search(engine, Query().limit(100)).ids) == set(corpus.documents)
    assert corpus.search(engine, Query().where(F["_knnex.version"] == 9, ~F.title.exists())).ids == ()
