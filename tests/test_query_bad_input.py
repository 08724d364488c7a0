"""What cannot be asked is said before anything is sent: the thing, the reason, the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from query_corpus import DIMS, RESOLVED, Corpus, encode, indexed, spec, unit

from knnex.engines import Engine, Request
from knnex.engines.elasticsearch import Elasticsearch
from knnex.errors import EncoderError, EngineError, QueryError, UnknownField
from knnex.mappings import Stored
from knnex.query import F, Query, Text, plan, search
from knnex.query.answers import whole
from knnex.query.nodes import Filter, Nested

STORED = Stored("movies-000001", spec("movies", "studios"), RESOLVED)
NAN, INFINITE, SHORT, ZERO = [float("nan")] * DIMS, [1e39] * DIMS, [1.0], [0.0] * DIMS


DAYS = [date(2000, 1, 1) + timedelta(days=number) for number in range(600)]


class Colour(Enum):
    RED = "red"
    YEAR = 1941
    NOIR = "noir"


def box(top_left: Any, bottom_right: Any) -> Filter:
    return F.place.within_box(top_left=top_left, bottom_right=bottom_right)


def words(**options: Any) -> Query:
    return Query("robot moon").lexical("title", "plot", **options)


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
    "too many values": (lambda: Query().where(F.year.isin(range(10**12))), "more than 1,000,000 values"),
    "too many dates": (lambda: Query().where(F.shown.isin(DAYS)), "more than 1,000 clauses"),
    "a mapping of values": (lambda: Query().where(F.genre.isin({"a": 1})), "wants a list"),
    "a text of values": (lambda: Query().where(F.genre.isin("drama")), "wants a list"),
    "None among values": (lambda: Query().where(F.genre.isin(["a", None])), "cannot equal None"),
    "an array": (lambda: Query().where(F.year == np.array([1, 2])), "isin|cannot equal"),
    "a range": (lambda: Query().where(F.year == range(3)), "cannot equal"),
    "a field": (lambda: Query().where(F.year == F.rating), "cannot be compared"),
    "an object": (lambda: Query().where(F.genre == object()), "is no value of it"),
    "bytes": (lambda: Query().where(F.genre == b"drama"), "is no value of it"),
    "a Decimal that is none": (lambda: Query().where(F.rating > Decimal("NaN")), "compared with nan"),
    "a Decimal too large": (lambda: Query().where(F.rating > Decimal("1e400")), "compared with inf"),
    "infinity": (lambda: Query().where(F.rating < float("inf")), "compared with inf"),
    "an enum of text": (lambda: Query().where(F.year == Colour.RED), "'red' is no value of it"),
    "a day for a number": (lambda: Query().where(F.year > date(1980, 1, 1)), "is no value of it"),
    "no address": (lambda: Query().where(F.address == "Berlin"), "holds objects"),
    "objects as a value": (lambda: Query().where(F.cast == "actor1"), "holds objects"),
    "a place as a value": (lambda: Query().where(F.place == "1,2"), "places are not compared"),
    "order of places": (lambda: Query().where(F.place > 3), "places are not compared"),
    "near a word": (lambda: Query().where(F.genre.near(1, 2, "3km")), "holds no places"),
    "near nowhere": (lambda: Query().where(F.place.near(91, 2, "3km")), "91 is no latitude"),
    "near nowhere else": (lambda: Query().where(F.place.near(13.4, 252, "3km")), "252 is no longitude"),
    "near NaN": (lambda: Query().where(F.place.near(float("nan"), 2, "3km")), "nan is no latitude"),
    "near a text": (lambda: Query().where(F.place.near("52", 2, "3km")), "'52' is no latitude"),  # type: ignore[arg-type]
    "near in a wrong unit": (lambda: Query().where(F.place.near(1, 2, "3kn")), "'kn' is no unit; did you mean"),
    "near by nothing": (lambda: Query().where(F.place.near(1, 2, 0)), "0 is no distance"),
    "near by less": (lambda: Query().where(F.place.near(1, 2, "-3km")), "'-3km' is no distance"),
    "near by NaN": (lambda: Query().where(F.place.near(1, 2, float("nan"))), "nan is no distance"),
    "near by None": (lambda: Query().where(F.place.near(1, 2, None)), "None is no distance"),  # type: ignore[arg-type]
    "a box upside down": (lambda: Query().where(box((0, 0), (1, 1))), "is not above its bottom"),
    "a box without width": (lambda: Query().where(box((1, 1), (0, 1))), "its left and its right are both 1"),
    "a box too far": (lambda: Query().where(box((1, 170), (0, 190))), "190 is no longitude"),
    "a box without corners": (lambda: Query().where(box(3, (0, 1))), "3 is no corner"),
    "a pattern for a number": (lambda: Query().where(F.year.matches("19*")), "only a keyword field"),
    "a pattern for a text": (lambda: Query().where(F.title.matches("T*")), "searched by its words"),
    "no pattern": (lambda: Query().where(F.genre.matches(3)), "wants a string, not 3"),  # type: ignore[arg-type]
    "a long pattern": (lambda: Query().where(F.genre.matches("a" * 1001)), "1,001 characters; engines take 1,000"),
    "a pattern with half a character": (lambda: Query().where(F.genre.matches("\ud800*")), "half a character"),
    "a pattern of many ways": (lambda: Query().where(F.genre.matches("*a" + "?" * 30)), "in more ways"),
    "a regexp without end": (lambda: Query().where(F.genre.regexp("a(b")), "no regular expression for genre"),
    "a regexp with an anchor": (lambda: Query().where(F.genre.regexp("^a$")), "the whole value is matched"),
    "a regexp that looks ahead": (lambda: Query().where(F.genre.regexp("a(?=b)")), "not known to the engines"),
    "a regexp with a reference": (lambda: Query().where(F.genre.regexp(r"(a)\1")), "not known to the engines"),
    "a regexp of many repeats": (lambda: Query().where(F.genre.regexp("a{99999999}")), "more than 1,000 times"),
    "a regexp of repeated repeats": (lambda: Query().where(F.genre.regexp("(a{99}){99}")), "more than 1,000 times"),
    "a regexp with a class without end": (lambda: Query().where(F.genre.regexp("[a")), "has no end"),
    "no day": (lambda: Query().where(F.released > "2023-02-29"), "'2023-02-29' is no value of it"),
    "a day as people write it": (lambda: Query().where(F.released > "1.2.2023"), "whose format is strict_date"),
    "no date": (lambda: Query().where(F.released == "soon"), "'soon' is no value of it"),
    "an empty date": (lambda: Query().where(F.released == ""), "is no value of it"),
    "a date with a space": (lambda: Query().where(F.released == "2024-01-01 10:00"), "is no value of it"),
    "a far year": (lambda: Query().where(F.released < "+12024-01-01"), "is no value of it"),
    "wrong date maths": (lambda: Query().where(F.released > "now-3q"), "the units are y M w d h m s"),
    "date maths with a space": (lambda: Query().where(F.released > "now - 3d"), "date maths is"),
    "date maths of a wrong day": (lambda: Query().where(F.released > "2024-13-01||/M"), "whose format is strict_date"),
    "date maths too far": (lambda: Query().where(F.released > "now+999999999y"), "date maths is"),
    "date maths without end": (lambda: Query().where(F.released > "now" + "+1d" * 40), "123 characters"),
    "a truth for a date": (lambda: Query().where(F.released == True), "True is no value of it"),  # noqa: E712
    "half a millisecond": (lambda: Query().where(F.released > 1.5), "1.5 is no value of it"),
    "a year as a number": (lambda: Query().where(F.released > 1960), "milliseconds since 1970, and the year is '1960'"),
    "no time": (lambda: Query().where(F.released > np.datetime64("NaT")), "NaT"),
    "ISO for another format": (lambda: Query().where(F.day == "2024-01-15"), "whose format is dd/MM/yyyy"),
    "no day of another format": (lambda: Query().where(F.day == "31/02/2024"), "whose format is dd/MM/yyyy"),
    "two formats": (lambda: Query().where(F.day.between(date(2024, 1, 1), "31/01/2024")), "give both bounds as dates"),
    "an unknown nested field": (lambda: Query().where(F.crew.any(F.name == "x")), "no nested join 'crew'"),
    "objects without a filter": (lambda: Query().where(F.cast.any()), "has no filter"),
    "a field that lies deeper": (lambda: Query().where(F.cast.any(F["awards.name"] == "x")), "objects 'cast.awards'"),
    "a nested field from outside": (lambda: Query().where(F["cast.name"] == "x"), "nested objects 'cast'"),
    "a very long name": (lambda: Query().where(F["x" * 100_000] == 1), r"no field 'x{80}…'"),
    "an empty name": (lambda: Query().where(F[""] == 1), "no field ''"),
    "a name with half a character": (lambda: Query().where(F["\ud800"] == 1), "no field"),
    "too many clauses": (lambda: Query().where(*(F.year != year for year in range(1200))), "more than 1,000 clauses"),
    "too deep": (lambda: Query().where(deep(40)), "more than 26 levels deep"),
    "absurdly deep": (lambda: Query().where(deep(3000)), "more than 26 levels deep"),
    "raw without JSON": (lambda: Query().raw({"term": {"a": object()}}), "no JSON form"),
    "raw without a clause": (lambda: Query().where({"year": 1950}), "no clause of the engine's DSL"),
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
    "more than a cosine": (lambda: Query("a").semantic("v", min_similarity=1.5), "min_similarity is 1.5"),
    "negative weight": (lambda: Query("a").semantic("v", weight=-1), "weight is -1"),
    "a weight beyond floats": (lambda: Query("a").semantic("v", weight=10**400), "weight is 1000"),
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
    "surrogate id": (lambda: Query().where(F.id == "a\ud800"), "half a character"),
    "the document's id inside": (lambda: Query().where_nested("cast", F.id == "d001"), "no field 'id' in cast"),
    "like without a vector": (lambda: Query("a").lexical("title").like("d001"), "no part does"),
    "an unknown type": (lambda: words(type="best_field"), "the type 'best_field'; did you mean 'best_fields'"),
    "an unknown operator": (lambda: words(operator="AND"), "does not know the operator 'AND'"),
    "slop without phrase": (lambda: words(slop=2), "slop lies between the words of a phrase"),
    "slop of a query string": (lambda: words(type="query_string", slop=2), "slop lies between"),
    "negative slop": (lambda: words(type="phrase", slop=-1), "slop is -1"),
    "minimum without number": (lambda: words(minimum="most"), "says no number of words"),
    "half a minimum": (lambda: words(minimum=1.5), "says no number of words"),
    "a minimum of truth": (lambda: words(minimum=True), "says no number of words"),
    "too many percent": (lambda: words(minimum="120%"), "says no number of words"),
    "half a condition": (lambda: words(minimum="3<"), "says no number of words"),
    "minimum of a phrase": (lambda: words(type="phrase", minimum=2), "minimum has no meaning"),
    "minimum of all": (lambda: words(operator="and", minimum=2), "wants every word"),
    "too fuzzy": (lambda: words(fuzziness=3), "fuzziness is 3"),
    "fuzzy word": (lambda: words(fuzziness="very"), "fuzziness is 'very'"),
    "fuzzy the wrong way": (lambda: words(fuzziness="auto:6,3"), "fuzziness is 'auto:6,3'"),
    "a fuzzy phrase": (lambda: words(type="phrase", fuzziness=1), "no fuzziness with type='phrase'"),
    "fuzzy fields taken for one": (lambda: words(type="cross_fields", fuzziness=1), "type='cross_fields'"),
    "a fuzzy query string": (lambda: words(type="query_string", fuzziness=1), "type='query_string'"),
    "a phrase's beginning in a keyword": (
        lambda: Query("a").lexical("genre", type="phrase_prefix"),
        "text fields alone",
    ),
    "too many fuzzy words": (lambda: Query("ab " * 201).lexical("title", fuzziness=1), "misspelt ones among them"),
    "words beside a filter": (
        lambda: Query("ab " * 500).lexical("title").where(*(F.genre == f"g{n}" for n in range(600))),
        "beside a filter of 601 clauses",
    ),
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


@pytest.mark.parametrize("value", [np.int64(1941), np.float32(1941), "1941", Decimal(1941), Colour.YEAR, 1941.0])
def test_numbers_of_other_kinds_are_read(engine: Engine, corpus: Corpus, value: Any) -> None:
    expected = corpus.matching(lambda one: one.get("year") == 1941)
    assert set(corpus.search(engine, Query().where(F.year == value)).ids) == expected
    assert expected


SHOWN = datetime(2000, 1, 2, 3, 4, 5, 678_900, tzinfo=timezone(timedelta(hours=5, minutes=30)))


@pytest.mark.parametrize(
    "made",
    [
        F.released >= datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        F.released <= datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
        F.released <= date.max,
        F.released >= date.min,
        F.released < 2**63,
        F.released > -(2**70),
        F.released >= "-0500-01-01",
        F.released >= "0000",
        F.released < "9223372036854775",
        F.released >= np.datetime64("1900"),
        F.released >= np.datetime64("1900-01-01T00:00:00.123456789"),
        F.released < np.datetime64("299999-01-01"),
        F.released < "now+1d/d",
        F.released > "now-999999y",
        F.released.isin([SHOWN, SHOWN.date(), "1950", "now/d", 0]) | ~F.released.isin([SHOWN]),
        F.genre.isin({2**70, "x", UUID(int=1), Colour.NOIR}) | F.title.exists(),
        (F.rating < 2**70) | ~F.rating.exists(),
        F.rating.between(-Decimal("1e30"), Decimal("1e30")) | ~F.rating.exists(),
        F.year.isin(np.arange(1900, 2100)) | ~F.year.exists(),
        F.code.regexp(".*"),
        F.code.matches("*"),
        F.code.startswith(""),
        F.code.matches("*a" * 200) | F.code.exists(),
        F.code.regexp("(" * 200 + "a" + ")*" * 200) | F.code.exists(),
        F.place.near(90, 180, "100000km") | ~F.place.exists(),
        box((90, -180), (-90, 180)) | ~F.place.exists(),
        F.id.isin(["", "x" * 100_000, "🤖"]) | F.title.exists(),
    ],
)
def test_what_is_odd_and_right_is_taken(engine: Engine, corpus: Corpus, made: Filter) -> None:
    found = corpus.search(engine, Query().where(made).limit(100))
    assert len(found) == len(corpus.documents)


def test_an_instant_is_what_an_engine_stores_of_it(engine: Engine, corpus: Corpus) -> None:
    """Milliseconds: a document written with this date is found by it."""
    name, at = corpus.stored.spec.index, SHOWN.astimezone(UTC)
    extra = {"shown": SHOWN.isoformat(), "_knnex": {"version": 1, "deleted": False}}
    engine.send(Request("PUT", f"/{name}/_doc/instant", {"refresh": "true"}, body=extra))
    try:
        for made in (
            F.shown == SHOWN,
            F.shown >= at,
            F.shown <= at.replace(tzinfo=None),
            F.shown.isin([np.datetime64(at.replace(tzinfo=None))]),
        ):
            assert "instant" in corpus.search(engine, Query().where(made).limit(100)).ids
        for made in (F.shown > at, F.shown < at, F.shown == at + timedelta(milliseconds=1)):
            assert "instant" not in corpus.search(engine, Query().where(made).limit(100)).ids
    finally:
        engine.send(Request("DELETE", f"/{name}/_doc/instant", {"refresh": "true"}))


def test_what_the_engine_refuses_is_our_error(engine: Engine, corpus: Corpus) -> None:
    for query in (Query("a").semantic("v"), Query("a").semantic("v").lexical("title")):
        with pytest.raises(QueryError, match=r"unknown query \[no_such_query\]"):
            corpus.search(engine, query.raw({"no_such_query": {}}))
        with pytest.raises(EngineError, match="2020-99-99") as caught:
            corpus.search(engine, query.raw({"range": {"released": {"gt": "2020-99-99"}}}))
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
