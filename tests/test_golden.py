"""Golden requests: what each dialect sends for a query, as it was; every one of them is also sent to a live engine.

KNNEX_UPDATE_GOLDEN=1 writes the files anew; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from query_corpus import Corpus, indexed, unit
from query_corpus import encode as encode_text
from test_query_joins import family

from knnex.engines import Dialect, Engine, Request, Response, drive, encode
from knnex.mappings import Stored, drop, find
from knnex.query import F, Hits, Query, Text, plan, search

GOLDEN = Path(__file__).parent / "golden"
# Read on import: the harness takes KNNEX_ variables away before a test runs.
UPDATE = os.environ.get("KNNEX_UPDATE_GOLDEN") == "1"
NEWEST = {"elasticsearch": 9, "opensearch": 3}

QUERIES = {
    "everything": Query(),
    "filters": Query().where(
        F.year.between(1930, 1990),
        (F.genre == "noir") | F.genre.isin(["drama", "comedy"]),
        ~(F.seen == True),  # noqa: E712
        F.rating.exists(),
        F["title.raw"].startswith("The"),
        F.released < "1999-12-31",
    ),
    "filters_that_cannot_match": Query().where(F.year > 2**40, F.genre.isin([])),
    "knn": Query("a lonely robot").semantic("v"),
    "knn_l2": Query("a lonely robot").semantic("w", k=5, candidates=40).limit(5).offset(2),
    "knn_filtered": Query("a lonely robot").semantic("v").where(F.year > 1950, F.genre != "noir"),
    "knn_least_similarity": Query("a lonely robot").semantic("v", min_similarity=0.1),
    "knn_least_similarity_l2": Query("a lonely robot").semantic("w", min_similarity=1.5),
    "chunks": Query("a lonely robot").semantic("c"),
    "chunks_one_passage": Query("a lonely robot").semantic("c").passages(1),
    "chunks_filtered": Query("a lonely robot")
    .semantic("c")
    .passages(0)
    .where(F.year > 1950)
    .where_nested("cast", F.age > 30),
    "bm25": Query("robot moon").lexical("title^2", "plot").highlight("plot").where(F.year > 1950),
    "bm25_one_field": Query("robot").lexical("title^2").select("title", "year"),
    "hybrid_weighted": Query("robot")
    .semantic("c", weight=0.7)
    .lexical("title", "plot", weight=0.3)
    .where(F.year > 1950),
    "hybrid_rrf": Query("robot").semantic("v").semantic("w").lexical("plot", text="moon").limit(20),
    "like_and_unlike": Query().semantic("v").semantic("c").like("d001", Text("moon")).unlike("d002"),
    "nested": Query().where_nested("cast", F.name == "actor1", F.age.between(20, 40)),
    "lookup": Query("robot").semantic("v").where_lookup("studios", F.country == "US").select("title"),
    "lookup_by_id": Query().where_lookup("sequel", F.year > 1980),
    "knn_exact": Query("a lonely robot").semantic("v", exact=True).where(F.year > 1950),
    "knn_exact_chunks": Query("a lonely robot").semantic("c", exact=True).passages(1),
    "knn_oversampled": Query("a lonely robot").semantic("v", oversample=3),
    "facets": Query()
    .where(F.year > 1950)
    .aggregate(genres={"terms": {"field": "genre"}})
    .post_filter(F.genre == "noir")
    .sort("-year", "title.raw")
    .within(5),
    "facets_of_candidates": Query("robot")
    .semantic("v")
    .lexical("plot")
    .aggregate(genres={"terms": {"field": "genre"}})
    .post_filter(F.genre == "noir"),
    "raw": Query("robot").semantic("v").raw({"wildcard": {"genre": {"value": "sci*"}}}),
    "patterns": Query("robot")
    .semantic("v")
    .where(
        F.code.matches("A?-*")
        | F.code.matches("b*", case_sensitive=False)
        | F.code.startswith("a", case_sensitive=False),
        ~F.code.regexp(r'say "x"|\d+', case_sensitive=False),
    ),
    "places": Query("robot")
    .semantic("v")
    .where(F.place.near(52.5, 13.4, "9000km") | F.place.within_box(top_left=(30, 170), bottom_right=(-30, -170.5))),
    "dates": Query().where(
        (F.released >= "now-500y/d") & (F.released < "2024-01-01||+1M/y"),
        (F.shown > datetime(1971, 2, 3, 4, 5, 6, 789_000, tzinfo=timezone(timedelta(hours=2))))
        | (F.shown <= date(1970, 1, 1)),
        F.shown < 1_700_000_000_123,
        F.day > date(1970, 1, 2),
        ~F.day.isin(["01/02/1990", "02/02/1990"]),
        ~(F.released == "1999-12-31"),
    ),
    "nested_in_nested": Query("robot")
    .semantic("c")
    .where(
        F.cast.any(F.age > 20, F.awards.any(F.name == "oscar", F.year > 1950)),
        F["cast.awards"].any(F.name == "bear") | ~F.cast.exists(),
    ),
    "filters_simplified": Query().where(F.genre.isin([]) | ((F.year < 2**40) & ~(F.year > 2**40))),
    "words_most_fields": Query("robot moon train").lexical("title^2", "plot", type="most_fields", minimum="2<75%"),
    "words_cross_fields": Query("robot moon").lexical("title^2", "plot", type="cross_fields", operator="and"),
    "words_fuzzy": Query("robit moon").lexical("plot", fuzziness="auto", minimum=1),
    "words_fuzzy_many": Query("robit moon " * 20).lexical("title", "plot", fuzziness="auto:3,7"),
    "phrase": Query("the robot and").lexical("title^2", "plot", type="phrase", slop=2),
    "phrase_prefix": Query("the robot and the ro").lexical("title", type="phrase_prefix").highlight("title"),
    "bool_prefix": Query("robot moon tra")
    .lexical("title^3", "plot", type="bool_prefix", operator="or")
    .highlight("plot"),
    "query_string": Query('+robot -"the moon" tra*').lexical("title^2", "plot", type="query_string", operator="and"),
    "query_string_of_parentheses": Query("(" * 51 + "robot").lexical("plot", type="query_string"),
}
FAMILY = {
    "parent": Query().semantic("v", vector=unit(1)).where_parent("studio", F.country == "US"),
    "parent_of_chunks": Query()
    .semantic("c", vector=unit(1))
    .where_parent("studio", F.country == "US")
    .where(F.year > 1930),
    "child": Query().where_child("movie", F.year > 1930),
    "by_child": Query()
    .by_child("movie", Query().semantic("v", vector=unit(1)).where(F.year > 1930), score="avg", inner=2)
    .where(F.country == "US"),
    "by_child_chunks": Query().by_child("movie", Query().semantic("c", vector=unit(1)), inner=1),
    "by_child_words": Query("film")
    .by_child("movie", Query().lexical("title", weight=0.4).select("year"), score="sum", inner=1)
    .by_child("movie", Query().semantic("v", weight=0.6)),
    "by_parent": Query("rko").by_parent("studio", Query().lexical("name"), inner=1).where(F.year > 1930),
}


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


def run_and_record(engine: Engine, stored: Stored, query: Query) -> tuple[Hits, list[dict[str, Any]]]:
    """The hits, and every request that was sent for them, under names that do not change."""
    sent: list[dict[str, Any]] = []

    def send(request: Request) -> Response:
        path = request.path.replace(stored.spec.index, "movies")
        sent.append({"method": request.method, "path": path, "body": _shown(request.body)})
        return engine.send(request)

    hits = drive(search(plan(query, stored, engine.dialect, encode_text)), send)
    return hits, sent


def _shown(body: Any) -> Any:
    if isinstance(body, tuple):
        return [_shown(line) for line in body]
    return rounded(orjson.loads(encode(body)))


def rounded(value: Any) -> Any:
    """The last digits of a vector are arithmetic's, not the dialect's."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def assert_same(case: str, dialect: Dialect, sent: list[dict[str, Any]]) -> None:
    """An older major version has a file of its own where it is asked differently."""
    path = GOLDEN / case / f"{dialect.product}.json"
    own = path.with_stem(f"{dialect.product}-{dialect.version[0]}")
    newest = dialect.version[0] == NEWEST[dialect.product]
    if UPDATE and (newest or json.loads(path.read_text(encoding="utf-8")) != sent):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(sent, indent=1, ensure_ascii=False) + "\n"
        (path if newest else own).write_text(text, encoding="utf-8")
    golden = own if own.exists() else path
    assert json.loads(golden.read_text(encoding="utf-8")) == sent


@pytest.mark.parametrize("case", QUERIES)
def test_what_is_sent_is_what_it_was_and_the_engine_takes_it(engine: Engine, corpus: Corpus, case: str) -> None:
    hits, sent = run_and_record(engine, corpus.stored, QUERIES[case])
    assert bool(hits) == (case != "filters_that_cannot_match")
    assert_same(case, engine.dialect, sent)


@pytest.mark.never(
    "elasticsearch", reason="the embedded distribution lacks the join module; the full one has it", embedded=True
)
@pytest.mark.parametrize("case", FAMILY)
def test_what_is_sent_of_families_is_what_it_was(engine: Engine, case: str) -> None:
    name = f"knnex-test-{uuid4().hex[:12]}"
    try:
        hits, sent = run_and_record(engine, engine.run(family(engine, name)), FAMILY[case])
        assert hits
        assert_same(case, engine.dialect, sent)
    finally:
        if engine.run(find(name)):
            engine.run(drop(name))


def test_no_golden_file_is_left_over() -> None:
    # Mappings have a test of their own.
    cases = {path.parent.name for path in GOLDEN.glob("*/*.json")} - {"mappings"}
    assert cases == {*QUERIES, *FAMILY}
