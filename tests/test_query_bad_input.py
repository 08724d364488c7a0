"""What cannot be asked is said before anything is sent: the thing, the reason, the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from query_corpus import DIMS, RESOLVED, Corpus, encode, indexed, spec, unit

from knnex.engines import Engine
from knnex.engines.elasticsearch import Elasticsearch
from knnex.errors import EncoderError, EngineError, QueryError, UnknownField
from knnex.mappings import Stored
from knnex.query import F, Query, Text, plan, search
from knnex.query.answers import whole
from knnex.query.nodes import Filter, Nested

STORED = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
NAN, INFINITE, SHORT, ZERO = [float("nan")] * DIMS, [1e39] * DIMS, [1.0], [0.0] * DIMS


def deep(levels: int) -> Filter:
    made: Filter = F.year == 1
    for level in range(levels):
        made = (made | (F.year == 2)) if level % 2 else (made & (F.year == 3))
    return made


WRONG: dict[str, tuple[Callable[[], Query], str]] = {
    "unknown field": (lambda: Query().where(F.yaer > 1), "no field 'yaer'; did you mean 'year'"),
    "unknown field deep inside": (lambda: Query().where((F.year > 1) | ~(F.genr == "a")), "did you mean 'genre'"),
    "unknown embedding": (lambda: Query("a").semantic("vv"), "no embedding 'vv'"),
    "a field as embedding": (lambda: Query("a").semantic("title"), "is a text field, no embedding"),
    "unknown words field": (lambda: Query("a").lexical("titel^2"), "did you mean 'title'"),
    "words of a number": (lambda: Query("a").lexical("year"), "of type integer: it has no words"),
    "words of an embedding": (lambda: Query("a").lexical("v"), "is an embedding"),
    "no words field": (lambda: Query("a").lexical(), "names no field"),
    "bad boost": (lambda: Query("a").lexical("title^x"), "'x' is no boost"),
    "negative boost": (lambda: Query("a").lexical("title^-1"), "is no boost"),
    "unknown nested": (lambda: Query().where_nested("crew", F.name == "x"), "no nested join 'crew'"),
    "unknown in nested": (lambda: Query().where_nested("cast", F.nme == "x"), "did you mean 'cast.name'"),
    "nested in nested": (lambda: Query().where(Nested("cast", Nested("crew", F.a == 1))), "no nested join 'crew'"),
    "no parents": (lambda: Query().where_parent("studio"), "no parent 'studio'"),
    "term on a text": (lambda: Query().where(F.title == "a"), "searched by its words"),
    "range on a text": (lambda: Query().where(F.title > "a"), "searched by its words"),
    "range on a truth": (lambda: Query().where(F.seen > 0), "has no order|no value of it"),
    "prefix of a number": (lambda: Query().where(F.year.startswith("19")), "only a keyword"),
    "a long prefix": (lambda: Query().where(F.genre.startswith("a" * 1001)), "1,001 characters"),
    "text for a number": (lambda: Query().where(F.year == "soon"), "'soon' is no value of it"),
    "truth for a number": (lambda: Query().where(F.year == True), "True is no value of it"),  # noqa: E712
    "number for a truth": (lambda: Query().where(F.seen == 3), "3 is no value of it"),
    "NaN value": (lambda: Query().where(F.rating > float("nan")), "compared with nan"),
    "surrogate value": (lambda: Query().where(F.genre == "a\ud800"), r"half a character \(U\+D800\) at position 1"),
    "too many values": (lambda: Query().where(F.year.isin(range(100_000))), "100,000 values; engines take 65,536"),
    "too many clauses": (lambda: Query().where(*(F.year != year for year in range(1200))), "more than 1,000 clauses"),
    "too deep": (lambda: Query().where(deep(40)), "more than 26 levels deep"),
    "absurdly deep": (lambda: Query().where(deep(3000)), "more than 26 levels deep"),
    "raw without JSON": (lambda: Query().raw({"term": {"a": object()}}), "no JSON form"),
    "NaN vector": (lambda: Query().semantic("v", vector=NAN), "holds nan at position 0"),
    "infinite vector": (lambda: Query().semantic("v", vector=INFINITE), r"holds 1e\+39 at position 0"),
    "wrong dims": (lambda: Query().semantic("v", vector=SHORT), "vectors of 8 dims, this one has 1"),
    "nested vector": (lambda: Query().semantic("v", vector=[[1.0] * DIMS]), "no list of numbers"),  # type: ignore[list-item]
    "zero vector": (lambda: Query().semantic("v", vector=ZERO), "is zero"),
    "nothing to compare": (lambda: Query().semantic("v"), "nothing to compare v with"),
    "text and vector": (lambda: Query().semantic("v", text="a", vector=unit(1)), "a text and a vector"),
    "k of 0": (lambda: Query("a").semantic("v", k=0), "k is 0"),
    "huge k": (lambda: Query("a").semantic("v", k=10_001), "k is 10,001"),
    "k no number": (lambda: Query("a").semantic("v", k=2.5), "no whole number"),  # type: ignore[arg-type]
    "few candidates": (lambda: Query("a").semantic("v", k=50, candidates=10), "candidates is 10"),
    "NaN similarity": (lambda: Query("a").semantic("v", min_similarity=float("nan")), "min_similarity is nan"),
    "negative weight": (lambda: Query("a").semantic("v", weight=-1), "weight is -1"),
    "NaN weight": (lambda: Query("a").semantic("v", weight=float("nan")), "weight is nan"),
    "no weight at all": (lambda: Query("a").semantic("v", weight=0), "has weight 0"),
    "limit of 0": (lambda: Query("a").limit(0), "limit is 0"),
    "negative offset": (lambda: Query("a").offset(-1), "offset is -1"),
    "too deep a page": (lambda: Query("a").limit(100).offset(9_950), "10,050|more than 10,000"),
    "bad window": (lambda: Query("a").fuse(window=0), "window is 0"),
    "bad fusion": (lambda: Query("a").fuse("sum"), "does not know 'sum'"),  # type: ignore[arg-type]
    "too many passages": (lambda: Query("a").passages(101), "passages is 101"),
    "empty text": (lambda: Query("").semantic("v"), "is empty"),
    "blank text": (lambda: Query(" \n\t ").lexical("title"), "is empty"),
    "no text": (lambda: Query().lexical("title"), "has no text"),
    "surrogate text": (lambda: Query("ab\udc00").semantic("v"), r"U\+DC00\) at position 2"),
    "control text": (lambda: Query("a\x00b").semantic("v"), r"control character U\+0000 at position 1"),
    "a megabyte": (lambda: Query("word " * 200_000).semantic("v"), "1,000,000 characters"),
    "too many words": (lambda: Query("ab " * 600).lexical("title", "plot"), "600 words in 2 fields"),
    "text of another type": (lambda: Query(3).semantic("v"), "is int, no text"),  # type: ignore[arg-type]
    "unlike alone": (lambda: Query().semantic("v").unlike("d001"), "nothing to compare|no direction"),
    "unlike without parts": (lambda: Query().unlike("d001"), "nothing to compare|no direction"),
    "empty example": (lambda: Query().like(""), "an example is empty"),
    "example text": (lambda: Query().like(Text("\x1b")), "control character"),
    "many examples": (lambda: Query().like(*map(str, range(1001))), "1,001 examples"),
    "bad share": (lambda: Query("a").unlike("1", share=float("inf")), "share is inf"),
    "highlight without words": (lambda: Query().highlight("title"), "no words to mark"),
    "highlight of a number": (lambda: Query("a").highlight("year"), "no words for highlight"),
    "a list of fields": (lambda: Query("a").select(["title"]), r"\['title'\] is no name for select"),  # type: ignore[arg-type]
    "a list to mark": (lambda: Query("a").highlight(["title"]), "is no name for highlight"),  # type: ignore[arg-type]
    "a list of embeddings": (lambda: Query("a").semantic(["v"]), "is no name for semantic"),  # type: ignore[arg-type]
    "a list for a name": (lambda: Query().where(F[["a"]] == 1), "is no field"),  # type: ignore[index]
    "order of ids": (lambda: Query().where(F.id > "a"), "id is the document's id: it is only compared"),
    "existence of an id": (lambda: Query().where(F.id.exists()), "id is the document's id"),
    "too many ids": (lambda: Query().where(F.id.isin(map(str, range(10_001)))), "10,001 ids; engines take 10,000"),
    "surrogate id": (lambda: Query().where(F.id == "a\ud800"), "half a character"),
    "the document's id inside": (lambda: Query().where_nested("cast", F.id == "d001"), "no field 'id' in cast"),
    "like without a vector": (lambda: Query("a").lexical("title").like("d001"), "no part does"),
    "select an unknown": (lambda: Query("a").select("tilte"), "did you mean 'title'"),
    "select a vector": (lambda: Query("a").select("v"), "hits do not carry vectors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_sent(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(QueryError, match=message) as caught:
        plan(make(), STORED, Elasticsearch((9, 5, 0)), encode)
    assert caught.value.hint


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UnknownField) as caught:
        plan(Query().where(F.nothing_like_it == 1), STORED, Elasticsearch((9, 5, 0)), encode)
    assert "address.city" in str(caught.value.hint)
    assert "_knnex" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (np.zeros((1, DIMS)), QueryError, "is zero"),
        (np.full((1, DIMS), np.nan), QueryError, "holds nan"),
        (np.ones((1, DIMS + 1)), QueryError, "vectors of 8 dims, this one has 9"),
        (np.ones((2, DIMS)), EncoderError, "gave 2 vectors for 1 texts"),
    ],
)
def test_an_encoder_that_fails_is_named(answer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(Query("a").semantic("v"), STORED, Elasticsearch((9, 5, 0)), lambda _name, _texts: answer)


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


@pytest.mark.parametrize(
    "text",
    [
        "🤖 robot",
        "‮robot",
        "!!! ??",
        "robot AND (",
        '"',
        "${robot}",
        "ロボット",
        "a" * 20_000,
        "robot\r\n\tmoon",
        "<em>robot",
    ],
)
def test_odd_texts_get_an_answer(engine: Engine, corpus: Corpus, text: str) -> None:
    found = corpus.search(engine, Query(text).semantic("c").lexical("title", "plot").highlight("plot"))
    assert found.ids


@pytest.mark.parametrize("value", ["🤖", "\x00", "a" * 40_000, '"', "*", "a\nb", "${x}"])
def test_odd_values_match_nothing(engine: Engine, corpus: Corpus, value: str) -> None:
    for made in (F.genre == value, F.genre.isin([value, value]), F["title.raw"].startswith(value[:1000])):
        assert corpus.search(engine, Query().where(made)).ids == ()


@pytest.mark.parametrize("value", [np.int64(1941), np.float32(1941), "1941"])
def test_numbers_of_other_kinds_are_read(engine: Engine, corpus: Corpus, value: Any) -> None:
    expected = corpus.matching(lambda one: one.get("year") == 1941)
    assert set(corpus.search(engine, Query().where(F.year == value)).ids) == expected
    assert expected


def test_what_the_engine_refuses_is_our_error(engine: Engine, corpus: Corpus) -> None:
    for query in (Query("a").semantic("v"), Query("a").semantic("v").lexical("title")):
        with pytest.raises(QueryError, match=r"unknown query \[no_such_query\]"):
            corpus.search(engine, query.raw({"no_such_query": {}}))
        with pytest.raises(EngineError, match="2020-99-99") as caught:
            corpus.search(engine, query.where(F.released > "2020-99-99"))
        assert caught.value.hint


def test_a_part_of_the_shards_is_not_enough() -> None:
    """Recorded from an engine that lost a shard."""
    failure = {"shard": 1, "index": "movies-000001", "reason": {"type": "x", "reason": "disk is gone"}}
    answer = {"_shards": {"total": 2, "successful": 1, "failed": 1, "failures": [failure]}, "hits": {"hits": []}}
    with pytest.raises(EngineError, match="1 of 2 shards failed: disk is gone"):
        whole(answer)
    with pytest.raises(EngineError, match="ran out of time"):
        whole({"_shards": {"failed": 0}, "timed_out": True})


def test_a_search_of_an_index_that_is_gone(engine: Engine) -> None:
    gone = Stored("nowhere", spec("knnex-test-nowhere", "knnex-test-nowhere-too"), RESOLVED)
    for query in (Query("a").semantic("v"), Query("a").semantic("v").lexical("title"), Query().where_lookup("studios")):
        with pytest.raises(EngineError, match="knnex-test-nowhere"):
            engine.run(search(plan(query, gone, engine.dialect, encode)))
