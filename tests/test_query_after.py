"""After retrieval, on both engines: boosts, functions, groups, rerank and diversity, agreeing with what Python makes of it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import numpy as np
import pytest
from query_corpus import Corpus, indexed, unit

from knnex.engines import Access, Engine, open_async_engine, open_engine
from knnex.errors import EncoderError, QueryError, UnknownField
from knnex.query import F, Hits, Query, search

NEAR = Query("a lonely robot").semantic("v")
ALL = NEAR.limit(60)


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Best first; what is equal to six digits by id."""
    return sorted(scores, key=lambda key: (-float(f"{scores[key]:.6g}"), key))


def length(query: str, texts: Sequence[str]) -> list[float]:
    """A reranker: the longer the better."""
    return [float(len(text)) for text in texts]


@pytest.mark.feature("Popularity and freshness, after fusion")
@pytest.mark.parametrize("half", [None, 2.0])
def test_popularity_raises_scores_as_it_says(engine: Engine, corpus: Corpus, half: float | None) -> None:
    plain = corpus.search(engine, ALL)
    found = corpus.search(engine, ALL.popularity("rating", weight=0.7, half=half))
    ratings = {hit.id: corpus.documents[hit.id].get("rating") for hit in plain}
    assert None in ratings.values()
    assert 0 in ratings.values()
    middle = half or median(one for one in ratings.values() if one)
    factors = {key: 1 if one is None else 1 + 0.7 * one / (one + middle) for key, one in ratings.items()}
    scores = {hit.id: hit.score * factors[hit.id] for hit in plain}
    assert list(found.ids) == ranked(scores)
    for hit in found:
        assert hit.score == pytest.approx(scores[hit.id], rel=1e-6)
        assert hit.parts == pytest.approx({"v": plain[plain.ids.index(hit.id)].score, "popularity": factors[hit.id]})
    assert found.ids != plain.ids
    assert len(found) == len(plain)


def test_freshness_halves_with_age(engine: Engine, corpus: Corpus) -> None:
    plain = corpus.search(engine, ALL)
    found = corpus.search(engine, ALL.freshness("released", half_life=timedelta(days=3650), weight=2))
    now = datetime.now(UTC)
    scores = {}
    for hit in plain:
        age = now - datetime.fromisoformat(corpus.documents[hit.id]["released"]).replace(tzinfo=UTC)
        scores[hit.id] = hit.score * (1 + 2 * 0.5 ** (age / timedelta(days=3650)))
    assert list(found.ids) == ranked(scores)
    assert [hit.score for hit in found] == pytest.approx([scores[key] for key in found.ids], rel=1e-5)
    in_days = corpus.search(engine, ALL.freshness("released", half_life=3650, weight=2))
    assert in_days.ids == found.ids


def test_what_lies_in_the_future_is_as_fresh_as_today(engine: Engine, corpus: Corpus) -> None:
    found = corpus.search(engine, ALL.freshness("released", half_life=1e9))
    assert all(1 < hit.parts["freshness"] <= 2 for hit in found)


def test_boosts_of_one_kind_multiply_and_are_told_apart(engine: Engine, corpus: Corpus) -> None:
    found = corpus.search(
        engine, ALL.popularity("rating").popularity("year", half=1950).freshness("released", half_life=9)
    )
    for hit in found:
        factor = hit.parts["popularity"] * hit.parts["popularity_2"] * hit.parts["freshness"]
        assert hit.score == pytest.approx(hit.parts["v"] * factor)


def test_a_boost_counts_after_fusion(engine: Engine, corpus: Corpus) -> None:
    both = Query("robot moon").semantic("v", weight=0.6).lexical("title", "plot", weight=0.4).fuse(window=60).limit(60)
    plain = {hit.id: hit.score for hit in corpus.search(engine, both)}
    found = corpus.search(engine, both.popularity("rating", weight=3))
    scores = {hit.id: plain[hit.id] * hit.parts["popularity"] for hit in found}
    assert list(found.ids) == ranked(scores)
    assert any(score == 0 for score in plain.values())  # the last of its part stays the last


def test_a_popular_hit_comes_up_from_below_the_page(engine: Engine, corpus: Corpus) -> None:
    whole = corpus.search(engine, ALL.popularity("rating", weight=100))
    page = corpus.search(engine, NEAR.fuse(window=60).popularity("rating", weight=100).limit(3))
    assert page.ids == whole.ids[:3]
    assert not set(page.ids) <= set(corpus.search(engine, NEAR.limit(3)).ids)
    following = corpus.search(engine, NEAR.fuse(window=60).popularity("rating", weight=100).offset(3).limit(4))
    assert following.ids == whole.ids[3:7]


@pytest.mark.feature("Functions of yours as filters, after retrieval")
def test_a_function_leaves_hits_out_before_the_page_is_cut(engine: Engine, corpus: Corpus) -> None:
    kept = NEAR.keep(lambda hit: int(hit.id[1:]) % 3 == 0).keep(lambda hit: hit.get("seen"))
    found = corpus.search(engine, kept.limit(8))
    whole = corpus.search(engine, ALL)
    expected = [hit.id for hit in whole if int(hit.id[1:]) % 3 == 0 and corpus.documents[hit.id].get("seen")]
    assert list(found.ids) == expected[:8]
    assert list(corpus.search(engine, kept.offset(3).limit(4)).ids) == expected[3:7]
    assert list(corpus.search(engine, kept.limit(60)).ids) == expected


def test_what_a_function_raises_is_raised_as_it_is(engine: Engine, corpus: Corpus) -> None:
    with pytest.raises(ZeroDivisionError):
        corpus.search(engine, NEAR.keep(lambda hit: 1 / 0 > 0))
    with pytest.raises(KeyError, match="no 'year'"):
        corpus.search(engine, NEAR.select("title").keep(lambda hit: hit["year"] > 1))


@pytest.mark.feature("Collapse: the best of each group")
@pytest.mark.parametrize("field", ["studio", "year", "title.raw", "released", "seen", "address.city"])
def test_the_best_of_each_value_is_left(engine: Engine, corpus: Corpus, field: str) -> None:
    def value(key: str) -> object:
        there = corpus.documents[key]
        if "." in field:
            return there["title"] if field == "title.raw" else there["address"]["city"]
        return there.get(field, key)  # without the field a document stays by itself

    groups: dict[object, list[str]] = {}
    for key in corpus.search(engine, ALL).ids:
        groups.setdefault(value(key), []).append(key)
    found = corpus.search(engine, ALL.collapse(field, inner=2))
    assert [(hit.id, *(one.id for one in hit.group)) for hit in found] == [tuple(keys[:3]) for keys in groups.values()]
    assert all(one["title"] for hit in found for one in hit.group)
    assert all(hit.group == () for hit in corpus.search(engine, ALL.collapse(field)))


def test_groups_are_made_of_raised_scores_and_of_what_is_kept(engine: Engine, corpus: Corpus) -> None:
    raised = ALL.popularity("rating", weight=5).keep(lambda hit: hit.get("year", 0) > 1940)
    first: dict[str, str] = {}
    for hit in corpus.search(engine, raised):
        first.setdefault(hit["studio"], hit.id)
    assert list(corpus.search(engine, raised.collapse("studio")).ids) == list(first.values())


def test_a_document_of_several_groups_is_an_error_that_names_it(engine: Engine, corpus: Corpus) -> None:
    with pytest.raises(QueryError, match=r"document 'd\d+' has 2 values of genre \(\w+"):
        corpus.search(engine, NEAR.collapse("genre"))


@pytest.mark.feature("Rerank by a cross-encoder or a function")
def test_a_function_scores_the_best_again(engine: Engine, corpus: Corpus) -> None:
    asked: list[tuple[str, list[str]]] = []

    def scored(query: str, texts: Sequence[str]) -> list[float]:
        asked.append((query, list(texts)))
        return length(query, texts)

    plain = corpus.search(engine, NEAR.limit(20))
    found = corpus.search(engine, NEAR.limit(20).rerank(scored, "plot", "title", top=12))
    texts = {hit.id: f"{hit['plot']}\n{hit['title']}" for hit in plain}
    expected = sorted(plain.ids[:12], key=lambda key: -len(texts[key]))
    assert list(found.ids) == [*expected, *plain.ids[12:]]
    assert asked == [("a lonely robot", [texts[key] for key in plain.ids[:12]])]
    assert [hit.parts.get("rerank") for hit in found[:12]] == [len(texts[hit.id]) for hit in found[:12]]
    assert all("rerank" not in hit.parts for hit in found[12:])
    assert {hit.id: hit.score for hit in found} == {hit.id: hit.score for hit in plain}
    assert found.missing == ()


@pytest.mark.parametrize(
    ("query", "read"),
    [
        (NEAR, lambda hit: hit["title"]),
        (Query("moon").lexical("plot"), lambda hit: hit["title"]),
        (Query("moon").semantic("c"), lambda hit: hit.passages[0].text),
        (Query("moon").semantic("c").passages(0), lambda hit: hit["plot"]),
    ],
    ids=["embedding", "lexical", "passage", "no passages"],
)
def test_what_is_read_where_no_field_is_named(
    engine: Engine, corpus: Corpus, query: Query, read: Callable[[Any], str]
) -> None:
    seen: list[str] = []
    corpus.search(engine, query.rerank(lambda asked, texts: [seen.append(one) or 0.0 for one in texts], top=10))  # type: ignore[func-returns-value]
    assert seen == [read(hit) for hit in corpus.search(engine, query)]


def test_fields_that_are_read_are_not_returned_unless_selected(engine: Engine, corpus: Corpus) -> None:
    seen: list[str] = []

    def scored(query: str, texts: Sequence[str]) -> list[float]:
        seen.extend(texts)
        return length(query, texts)

    query = NEAR.select("year").rerank(scored, "plot", "genre", "cast.name", "seen", "year", "title.raw", top=5)
    for hit in corpus.search(engine, query):
        assert set(hit.source) <= {"year"}
    whole = corpus.documents[corpus.search(engine, NEAR)[0].id]
    genre = whole.get("genre", "")
    read = [
        whole["plot"],
        genre if isinstance(genre, str) else ", ".join(genre),
        ", ".join(one["name"] for one in whole.get("cast", [])),
        {True: "true", False: "false"}.get(whole.get("seen"), ""),  # type: ignore[arg-type]
        str(whole.get("year", "")),
        whole["title"],
    ]
    assert seen[0] == "\n".join(one for one in read if one)


def test_hits_without_a_text_follow_in_their_old_order(engine: Engine, corpus: Corpus) -> None:
    plain = corpus.search(engine, ALL)
    found = corpus.search(engine, ALL.rerank(lambda _, texts: [-float(text) for text in texts], "year", top=60))
    with_year = [key for key in plain.ids if "year" in corpus.documents[key]]
    without = [key for key in plain.ids if "year" not in corpus.documents[key]]
    assert without
    years = {key: corpus.documents[key].get("year") for key in plain.ids}
    assert list(found.ids) == [*sorted(with_year, key=lambda key: years[key]), *without]


def test_a_deadline_returns_what_is_scored_and_says_what_is_not(engine: Engine, corpus: Corpus) -> None:
    def slow(query: str, texts: Sequence[str]) -> list[float]:
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            pass
        return [float(number) for number in range(len(texts))]

    plain = corpus.search(engine, ALL)
    found = corpus.search(engine, ALL.rerank(slow, "title", top=50, deadline=0.5))
    assert found.missing == ("rerank: 18 of 50 hits were not scored within 0.5 s",)
    assert list(found.ids) == [*plain.ids[:32][::-1], *plain.ids[32:]]
    whole = corpus.search(engine, ALL.rerank(slow, "title", top=50, deadline=60))
    assert whole.missing == ()
    assert all("rerank" in hit.parts for hit in whole[:50])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], r"shape \(1,\) for 10 texts"),
        ([[1.0]] * 10, r"shape \(10, 1\) for 10 texts"),
        ([math.nan] * 10, "gave nan"),
        ([1.0] * 9 + [math.inf], "gave inf"),
        (["good"] * 10, "gave list, no list of numbers"),
        (None, r"gave nan for a text|shape \(\)"),
    ],
)
def test_what_are_no_scores_is_an_error(engine: Engine, corpus: Corpus, scores: Any, message: str) -> None:
    def broken(query: str, texts: Sequence[str]) -> Any:
        return scores

    with pytest.raises(EncoderError, match=message) as caught:
        corpus.search(engine, NEAR.rerank(broken, "title", top=10))
    assert "broken" in str(caught.value)


def test_what_a_reranking_function_raises_is_raised_as_it_is(engine: Engine, corpus: Corpus) -> None:
    def failing(query: str, texts: Sequence[str]) -> list[float]:
        raise TimeoutError("the service is down")

    with pytest.raises(TimeoutError, match="the service is down"):
        corpus.search(engine, NEAR.rerank(failing))


def likeness(corpus: Corpus, embedding: str, one: str, other: str) -> float:
    rows = {key: chunks.mean(axis=0) for key, chunks in corpus.chunks.items()} if embedding == "c" else corpus.plain
    if one not in rows or other not in rows:
        return 0.0
    a, b = np.asarray(rows[one], dtype=float), np.asarray(rows[other], dtype=float)
    if embedding == "w":
        return float(1 / (1 + ((a - b) ** 2).sum()))
    return max(0.0, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


@pytest.mark.feature("Diversity: maximal marginal relevance")
@pytest.mark.parametrize("balance", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("embedding", ["v", "w", "c"])
def test_each_hit_is_relevant_and_unlike_those_before_it(
    engine: Engine, corpus: Corpus, embedding: str, balance: float
) -> None:
    words = Query("robot moon ocean").lexical("title", "plot").limit(40)
    plain = corpus.search(engine, words)
    low, high = min(hit.score for hit in plain[:30]), max(hit.score for hit in plain[:30])
    scores = {hit.id: (hit.score - low) / (high - low) for hit in plain[:30]}
    assert set(scores) - set(corpus.plain)  # some have no vector
    found = corpus.search(engine, words.diversify(balance, embedding=embedding, top=30))
    assert found.ids[30:] == plain.ids[30:]
    assert set(found.ids) == set(plain.ids)

    def gain(key: str, before: Sequence[str]) -> float:
        nearest = max((likeness(corpus, embedding, key, one) for one in before), default=0.0)
        return balance * scores[key] - (1 - balance) * nearest

    for place in range(30):
        before = found.ids[:place]
        best = max(gain(key, before) for key in scores if key not in before)
        assert gain(found.ids[place], before) == pytest.approx(best, abs=2e-5)
    assert found.ids != plain.ids


def test_relevance_alone_changes_nothing(engine: Engine, corpus: Corpus) -> None:
    assert corpus.search(engine, NEAR.diversify(1)).ids == corpus.search(engine, NEAR).ids


def test_pages_of_diverse_hits_fit_together(engine: Engine, corpus: Corpus) -> None:
    query = NEAR.diversify(0.4, embedding="c", top=40)
    whole = corpus.search(engine, query.limit(20))
    assert corpus.search(engine, query.limit(8)).ids == whole.ids[:8]
    assert corpus.search(engine, query.offset(8).limit(8)).ids == whole.ids[8:16]


def test_all_steps_in_their_order(engine: Engine, corpus: Corpus) -> None:
    query = (
        Query("robot moon")
        .semantic("v", weight=0.5)
        .lexical("title", "plot", weight=0.5)
        .where(F.year > 1925)
        .popularity("rating")
        .freshness("released", half_life=9000)
        .keep(lambda hit: hit["studio"] != "fox")
        .collapse("title.raw", inner=1)
        .rerank(length, "plot", top=20)
        .diversify(0.9, top=20)
    )
    found = corpus.search(engine, query)
    assert len(found) > 5
    assert len({hit["title"] for hit in found}) == len(found)
    assert all(hit["studio"] != "fox" and hit["year"] > 1925 for hit in found)
    assert all({"popularity", "freshness", "rerank"} < set(hit.parts) for hit in found)


def test_both_engines_give_the_same_order(elasticsearch_url: str, opensearch_url: str) -> None:
    both = Query("robot moon").semantic("v", weight=0.5).lexical("title", "plot", weight=0.5).limit(40).fuse(window=60)
    queries = [
        both.popularity("rating").freshness("released", half_life=9000),
        both.popularity("year", weight=9).collapse("studio", inner=3),
        both.collapse("title.raw").diversify(0.4, top=40),
        both.rerank(length, "title", top=40),
        both.popularity("rating").diversify(0.6, embedding="c"),
    ]
    answers: list[list[list[tuple[str, ...]]]] = []
    for url in (elasticsearch_url, opensearch_url):
        engine = open_engine(url, Access())
        with indexed(engine) as corpus:
            found = [corpus.search(engine, query) for query in queries]
        answers.append([[(hit.id, *(one.id for one in hit.group)) for hit in hits] for hits in found])
        engine.close()
    assert answers[0] == answers[1]


def test_nothing_found_is_nothing_to_do(engine: Engine, corpus: Corpus) -> None:
    query = NEAR.where(F.year == 1).popularity("rating").keep(bool).collapse("studio")
    assert corpus.search(engine, query.rerank(length).diversify()).ids == ()
    found = corpus.search(engine, Query("zzz").lexical("title").popularity("rating").collapse("studio").rerank(length))
    assert found.ids == ()


def test_filters_alone_are_ranked_by_what_comes_after(engine: Engine, corpus: Corpus) -> None:
    found = corpus.search(engine, Query().where(F.genre == "noir").popularity("rating").fuse(window=60).limit(60))
    rated = {key: corpus.documents[key].get("rating", 0) for key in found.ids}
    assert list(found.ids) == sorted(rated, key=lambda key: (-rated[key], key))
    diverse = corpus.search(engine, Query().where(F.genre == "noir").diversify(0.5))
    assert len(diverse) == min(10, len(found))


def test_async_scores_in_a_thread_and_the_loop_goes_on(engine: Engine, engine_url: str, corpus: Corpus) -> None:
    met = threading.Event()
    threads: list[int] = []

    def scored(query: str, texts: Sequence[str]) -> list[float]:
        threads.append(threading.get_ident())
        assert met.wait(20), "the event loop stood still"
        return length(query, texts)

    async def ask(query: Query) -> Hits:
        opened = open_async_engine(engine_url, Access())
        try:
            asked = asyncio.create_task(opened.run(search(corpus.plan(opened, query))))
            while not threads and not asked.done():
                await asyncio.sleep(0)
            met.set()
            return await asked
        finally:
            await opened.close()

    query = NEAR.rerank(scored, "title").diversify(0.5)
    found = asyncio.run(ask(query))
    assert threads
    assert threads[0] != threading.get_ident()
    assert found.ids == corpus.search(engine, query).ids


def test_explain_names_each_step(engine: Engine, corpus: Corpus) -> None:
    query = (
        NEAR.popularity("rating", weight=2)
        .freshness("released", half_life=30)
        .keep(bool)
        .collapse("studio", inner=2)
        .rerank("cross-encoder/ms-marco-MiniLM-L6-v2", top=20, deadline=0.5)
        .diversify(0.7)
    )
    said = "\n".join(corpus.plan(engine, query).explain())
    for part in (
        "the candidates' values of rating, released, studio, by their ids",
        "1 + 2 * rating / (rating + the median of the candidates' above 0)",
        "1 + 1 * 0.5 ** (days since released / 30)",
        "a function of yours",
        "keep the best of each studio, 2 more of it on hit.group",
        "the best 20 again by the cross-encoder cross-encoder/ms-marco-MiniLM-L6-v2",
        "the best passage, or title, for 0.5 s at most",
        "the vectors (v) of the best 50; order them by maximal marginal relevance (balance 0.7)",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda q: q.popularity("ratng"), UnknownField, "did you mean 'rating'"),
        (lambda q: q.popularity("studio"), QueryError, "needs a number, and studio is of type keyword"),
        (lambda q: q.popularity("v"), UnknownField, "is an embedding"),
        (lambda q: q.popularity("cast.age"), QueryError, "nested objects 'cast'"),
        (lambda q: q.popularity("rating", weight=-1), QueryError, "weight of popularity"),
        (lambda q: q.popularity("rating", weight=math.nan), QueryError, "weight of popularity"),
        (lambda q: q.popularity("rating", half=0), QueryError, "half is 0"),
        (lambda q: q.popularity("rating", half=True), QueryError, "half is True"),
        (lambda q: q.freshness("year", half_life=3), QueryError, "needs a date, and year is of type integer"),
        (lambda q: q.freshness("released", half_life=timedelta(0)), QueryError, "half_life is 0.0"),
        (lambda q: q.freshness("released", half_life="30d"), QueryError, "half_life is '30d'"),
        (lambda q: q.freshness("released", half_life=math.inf), QueryError, "half_life is inf"),
        (lambda q: q.keep("year > 1"), QueryError, "is no function"),
        (lambda q: q.collapse("title"), QueryError, "title is of type text"),
        (lambda q: q.collapse("cast.name"), QueryError, "nested objects 'cast'"),
        (lambda q: q.collapse("address"), QueryError, "address is of type object"),
        (lambda q: q.collapse("stdio"), UnknownField, "did you mean 'studio'"),
        (lambda q: q.collapse("studio", inner=-1), QueryError, "inner is -1"),
        (lambda q: q.collapse("studio", inner=1.5), QueryError, "inner is 1.5"),
        (lambda q: q.rerank(3), QueryError, "cannot score by 3"),
        (lambda q: q.rerank(" "), QueryError, "name of the cross-encoder is empty"),
        (lambda q: q.rerank(length, "tilte"), UnknownField, "did you mean 'title'"),
        (lambda q: q.rerank(length, "v"), UnknownField, "has no text"),
        (lambda q: q.rerank(length, "address"), QueryError, "is an object"),
        (lambda q: q.rerank(length, top=0), QueryError, "top of rerank() is 0"),
        (lambda q: q.rerank(length, top=10_001), QueryError, "top of rerank() is 10,001"),
        (lambda q: q.rerank(length, deadline=0), QueryError, "deadline is 0"),
        (lambda q: q.rerank(length, text="\x00"), QueryError, "control character"),
        (lambda q: Query().semantic("v", vector=unit(1)).rerank(length), QueryError, "has no text to score by"),
        (lambda q: q.diversify(1.5), QueryError, "balance is 1.5"),
        (lambda q: q.diversify(-0.1), QueryError, "balance is -0.1"),
        (lambda q: q.diversify(math.nan), QueryError, "balance is nan"),
        (lambda q: q.diversify(embedding="x"), UnknownField, "no embedding 'x'"),
        (lambda q: q.diversify(top=True), QueryError, "top of diversify() is True"),
        (lambda q: Query("a").lexical("title").sort("-year").rerank(length), QueryError, "sort() orders by fields"),
        (lambda q: Query("a").lexical("title").sort("year").popularity("rating"), QueryError, "and popularity()"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    engine: Engine, corpus: Corpus, wrong: Callable[[Query], Query], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        corpus.plan(engine, wrong(NEAR))
    assert message in str(caught.value)
    assert getattr(caught.value, "hint", None)
