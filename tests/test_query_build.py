"""Building a query: filters by comparing fields, an immutable value, and compilers that may not be silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from knnex.engines.opensearch import OpenSearch
from knnex.errors import QueryError, UnsupportedByEngine
from knnex.query import F, Query
from knnex.query.compile import COMPILERS, Decline
from knnex.query.compile.base import Compiler
from knnex.query.nodes import NODES, And, Exists, HasParent, Knn, Node, Not, Or, Prefix, Range, RawDsl, Term, Terms


def test_comparing_a_field_makes_a_filter() -> None:
    assert (F.genre == "noir") == Term("genre", "noir")
    assert (F.genre != "noir") == Not(Term("genre", "noir"))
    assert (F.year > 1) == Range("year", gt=1)
    assert (F.year <= 2) == Range("year", lte=2)
    assert F.year.between(1, 2) == Range("year", gte=1, lte=2)
    assert F.genre.isin(["a", "b"]) == Terms("genre", ("a", "b"))
    assert F["cast.name"].startswith("B") == Prefix("cast.name", "B")
    assert (F.genre == None) == Not(Exists("genre"))  # noqa: E711
    assert (F.genre != None) == Exists("genre")  # noqa: E711


def test_filters_combine_without_needless_levels() -> None:
    a, b, c = F.a == 1, F.b == 2, F.c == 3
    assert a & b & c == And((a, b, c))
    assert (a | b) | c == Or((a, b, c))
    assert ~~a == a


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: 1980 <= F.year <= 1999, "no truth value"),
        (lambda: (F.year > 1) and (F.year < 2), "no truth value"),
        (lambda: not (F.year > 1), "no truth value"),
        (lambda: [1] if F.seen else [], "alone is no filter"),
        (lambda: "noir" in F.genre, "cannot be asked"),
        (lambda: F.genre == ["a"], "isin"),
        (lambda: F.genre.isin("noir"), "wants a list"),
        (lambda: F.year > True, "more or less than True"),
        (lambda: F.a == F.b, "cannot be compared"),
        (lambda: F.year.between(None, None), "excludes nothing"),
        (lambda: (F.a == 1) & True, "filter on each side"),
        (lambda: F.a.startswith(3), "wants a string"),
        (lambda: Query().where(True), "no filter"),
        (lambda: Query().where({"term": {}, "range": {}}), "one key"),
        (lambda: Query().where_nested("cast"), "no filter"),
        (lambda: Query().like(3), "no example"),  # type: ignore[arg-type]
        (lambda: Query().semantic("v", vector="abc"), "no list of numbers"),  # type: ignore[arg-type]
    ],
)
def test_what_python_would_get_wrong_is_an_error(wrong: Any, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        wrong()
    assert message in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


def test_a_misspelt_method_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"it has between.*F\['year.betwen'\]"):
        F.year.betwen(1, 2)
    with pytest.raises(AttributeError, match=r"F\['cast.name'\]"):
        assert F.cast.name == "x"


def test_every_method_returns_a_new_query() -> None:
    first = Query("a")
    others = [
        first.semantic("v"),
        first.lexical("title^2"),
        first.where(F.a == 1),
        first.raw({"term": {"a": 1}}),
        first.where_parent("p", F.a == 1),
        first.where_child("c"),
        first.where_nested("n", F.a == 1),
        first.where_lookup("l"),
        first.like("1"),
        first.unlike("1"),
        first.fuse("rrf"),
        first.limit(3),
        first.offset(3),
        first.select("title"),
        first.highlight("title"),
        first.passages(1),
    ]
    assert first == Query("a")
    assert all(other != first for other in others)


def test_a_raw_clause_may_be_an_object_of_elasticsearch_dsl_and_is_copied() -> None:
    from elasticsearch.dsl import Q

    assert Query().where(Q("term", year=1980)).filters == (RawDsl({"term": {"year": 1980}}),)
    body = {"terms": {"year": [1, 2]}}
    query = Query().raw(body)
    body["terms"]["year"].append(3)
    assert query.filters == (RawDsl({"terms": {"year": [1, 2]}}),)


def test_a_compiler_that_forgets_a_node_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="Silent neither compiles nor declines Knn"):
        type("Silent", (Compiler,), {})


def test_a_declined_node_names_engine_clause_reason_and_way_out() -> None:
    class Poorer(COMPILERS["opensearch"]):  # type: ignore[misc]
        declines = {HasParent: Decline("it has no joins", "use a lookup join")}  # noqa: RUF012

    with pytest.raises(
        UnsupportedByEngine, match=r"OpenSearch 3\.6\.0 cannot run HasParent: it has no joins"
    ) as caught:
        Poorer(OpenSearch((3, 6, 0))).visit(HasParent("studio"))
    assert caught.value.hint == "use a lookup join"


def test_before_3_5_opensearch_declines_what_it_would_answer_wrongly() -> None:
    old = COMPILERS["opensearch"](OpenSearch((3, 4, 0)))
    knn = Knn("c.vector", (1.0, 0.0), 3, 10, path="c", filter=And((Term("a", 1), Not(Term("b", 2)))))
    with pytest.raises(UnsupportedByEngine, match="negations and nested filters"):
        old.visit(knn)
    assert COMPILERS["opensearch"](OpenSearch((3, 5, 0))).visit(knn)
    assert old.visit(Knn("c.vector", (1.0, 0.0), 3, 10, path="c", filter=Term("a", 1)))


def test_every_node_says_what_it_is() -> None:
    @dataclass(frozen=True)
    class Other(Node):
        pass

    assert Other not in NODES
    assert all(one.__doc__ and one.__doc__.rstrip().endswith(".") for one in NODES)
    assert len({one.verb for one in NODES}) == len(NODES)
