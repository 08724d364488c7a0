"""Malformed documents, events and vectors: the verdict on each, the same on both engines, and its neighbours go in.

`in`: stored as it was. `mended`: stored, with what no engine can give back replaced. `bare`: stored without vector.
`refused`: told to the producer before anything is sent. `buried`: kept with a reason. What went in can be read back
and sent again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
from filling import own_log
from homes import until

from knnex.encoders import Encoder, VectorCache, resolve
from knnex.engines import Engine, Request, path_of
from knnex.ingest import Event, RedisLog, Refused, Target, accept, make_target, read_files
from knnex.ingest.redis_link import stream
from knnex.mappings import PROVENANCE, Spec, create, drop, find, load_spec
from knnex.workers import Targets, drain

FIELDS: dict[str, Any] = {
    "title": {"type": "text"},
    "genre": {"type": "keyword"},
    "year": {"type": "integer"},
    "score": {"type": "float"},
    "day": {"type": "date"},
    "place": {"type": "geo_point"},
    "flag": {"type": "boolean"},
    "address": {"type": "ip"},
    "cast": {"properties": {"name": {"type": "keyword"}}, "type": "object"},
    "rev": {"type": "long"},
}


def spec_of(index: str, model: str, **changes: Any) -> Spec:
    embedding = {"source": "{title}", "encoder": model}
    return load_spec({"index": index, "fields": FIELDS, "embeddings": {"meaning": embedding}, **changes})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"deeper": value}
    return value


@dataclass(frozen=True)
class Case:
    """One document, by what is wrong with it; `id` is its own, unless that is what is wrong."""

    name: str
    verdict: str
    given: Any = field(default_factory=dict)
    # The reason, or for `mended` what is stored.
    said: Any = ""

    def document(self) -> Any:
        return {"id": self.name, "title": "a cat", **self.given} if isinstance(self.given, dict) else self.given

    def id(self) -> str:
        given = self.document()
        return str(given["id"]) if isinstance(given, dict) and given.get("id") not in (None, "") else self.name


DOCUMENTS = (
    # What cannot be JSON.
    Case("nan", "refused", {"score": float("nan")}, "field 'score' is nan, which JSON cannot hold"),
    Case("infinity", "refused", {"score": float("inf")}, "field 'score' is inf"),
    Case("minus infinity inside", "refused", {"cast": {"name": [1.0, float("-inf")]}}, "field 'cast.name' is -inf"),
    Case("nan of numpy", "refused", {"score": np.float32("nan")}, "'score' is nan"),
    Case("array of numpy with nan", "refused", {"score": np.array([1, np.nan])}, "'score' is nan"),
    Case("nan of decimal", "refused", {"score": Decimal("NaN")}, "a value is NaN"),
    Case("bytes", "refused", {"genre": b"x"}, "has no JSON form: bytes"),
    Case("a set", "refused", {"genre": {"x"}}, "has no JSON form: set"),
    Case("an integer of 70 bits", "refused", {"year": 1 << 70}, "has no JSON form"),
    Case("nested 300 deep", "refused", {"extra": nested(300)}, "has no JSON form"),
    Case("not an object", "refused", ["a", "list"], "it is list, not an object"),
    Case("text instead of an object", "refused", "a cat", "it is str, not an object"),
    Case("null instead of an object", "refused", None, "it is NoneType, not an object"),
    Case("more than 10 MB", "refused", {"genre": "x" * 10_000_001}, "at most 10,000,000 are allowed"),
    # Ids.
    Case("id missing", "refused", {"id": None}, "the id field 'id' is missing"),
    Case("id empty", "refused", {"id": ""}, "the id field 'id' is empty"),
    Case("id float", "refused", {"id": 1.5}, "is float, not a string or an integer"),
    Case("id true", "refused", {"id": True}, "is bool, not a string or an integer"),
    Case("id list", "refused", {"id": ["x"]}, "is list, not a string or an integer"),
    Case("id of 513 bytes", "refused", {"id": "é" * 256 + "x"}, "513 bytes; at most 512"),
    Case("id with a lone surrogate", "refused", {"id": "x\ud800"}, "holds a lone surrogate"),
    Case("id of 512 bytes", "in", {"id": "é" * 256}),
    Case("id of odd characters", "in", {"id": "a/b?c#d%2e e\t\n\u0000é😀\"'\\<*,>"}),
    Case("id with an underscore first", "in", {"id": "_all"}),
    Case("id negative", "in", {"id": -7}),
    Case("id of a path", "in", {"id": "../../_cluster/settings"}),
    # Names that are ours.
    Case("our own field", "refused", {PROVENANCE: {"version": 1}}, f"field '{PROVENANCE}' is written by knnex"),
    Case("a vector of its own", "refused", {"meaning": [0.1] * 32}, "field 'meaning' is written by knnex"),
    # What the embedding reads.
    Case("source an object", "refused", {"title": {"en": "cat"}}, "field 'title', a source of an embedding, holds an object"),
    Case("source null", "bare", {"title": None}),
    Case("source empty", "bare", {"title": ""}),
    Case("source blank", "bare", {"title": " \n\t"}),
    Case("source a list", "in", {"title": ["a cat", "a dog"]}),
    Case("source a number", "in", {"title": 12}),
    Case("source of zero bytes", "in", {"title": "\u0000\u0001"}),
    Case("source of a megabyte", "in", {"title": "the cat sat on the mat. " * 42_000}),
    Case("source unknown to the model", "in", {"title": "猫 😀 Ω"}),
    Case("source missing", "bare", {"title": None, "genre": "x"}),
    # Strings.
    Case("lone surrogate", "mended", {"genre": "a\ud800b"}, {"genre": "a\ufffdb"}),
    Case("lone surrogate in a key", "mended", {"k\udc00": 1}, {"k\ufffd": 1}),
    Case("lone surrogates in the source", "mended", {"title": "cat\ud83d \ude00"}, {"title": "cat\ufffd \ufffd"}),
    Case("a pair of surrogates", "mended", {"genre": "\ud83d\ude00"}, {"genre": "😀"}),
    Case("zero byte", "in", {"genre": "a\u0000b"}),
    Case("line separators", "in", {"genre": "a\u2028b\r\nc\u0085"}),
    Case("noncharacter", "in", {"genre": "\uffff\ufffe"}),
    Case("a keyword of 33,000 bytes", "buried", {"genre": "x" * 33_000}, "immense term"),
    Case("a text of a megabyte without a space", "in", {"title": "x" * 1_000_000}),
    # Types that the mapping does not have.
    Case("a word for an integer", "buried", {"year": "bad"}, "failed to parse field [year]"),
    Case("an object for an integer", "buried", {"year": {"is": 1}}, "failed to parse field [year]"),
    Case("an integer out of range", "buried", {"year": 3_000_000_000}, "out of range"),
    Case("a fraction for an integer", "in", {"year": 1999.7}),
    Case("digits for an integer", "in", {"year": "1999"}),
    Case("true for an integer", "buried", {"year": True}, "failed to parse field [year]"),
    Case("a list of integers", "in", {"year": [1999, 2000]}),
    Case("null in a list", "in", {"year": [1999, None]}),
    Case("an empty list", "in", {"year": []}),
    Case("an empty word for an integer", "in", {"year": ""}),
    Case("a float beyond float32", "buried", {"score": 1e39}, "finite"),
    Case("no date", "buried", {"day": "yesterday"}, "failed to parse field [day]"),
    Case("the 30th of February", "buried", {"day": "2026-02-30"}, "failed to parse field [day]"),
    Case("a date of Python", "in", {"day": datetime(2026, 2, 3, 4, 5, tzinfo=UTC)}),
    Case("a year of five digits", "buried", {"day": "12026-01-01"}, "failed to parse field [day]"),
    Case("milliseconds for a date", "in", {"day": 1_795_000_000_000}),
    Case("a latitude of 91", "buried", {"place": {"lat": 91, "lon": 0}}, "latitude"),
    Case("half a place", "buried", {"place": {"lat": 1}}, "failed to parse field [place]"),
    Case("a place the other way round", "in", {"place": [13.4, 52.5]}),
    Case("maybe for a boolean", "buried", {"flag": "maybe"}, "failed to parse field [flag]"),
    Case("no address", "buried", {"address": "256.1.1.1"}, "failed to parse field [address]"),
    Case("a word for an object", "buried", {"cast": "Ann"}, "object mapping for [cast]"),
    Case("an object for a keyword", "buried", {"genre": {"is": "x"}}, "failed to parse field [genre]"),
    # Shapes.
    Case("a thousand unknown fields", "in", {f"unknown {n}": n for n in range(1000)}),
    Case("nested 100 deep", "in", {"extra": nested(100)}),
    Case("a list of 10,000", "in", {"extra": list(range(10_000))}),
    Case("an empty key", "buried", {"": 1}, "field name"),
    Case("a key of dots", "buried", {"..": 1}, "field name"),
    Case("a key with a blank part", "in", {"a b": 1}),
    Case("keys that are numbers", "in", {"extra": {"1": 2}}),
    Case("an integer of 63 bits", "in", {"extra": (1 << 63) - 1}),
    Case("an integer of 64 bits", "in", {"extra": (1 << 64) - 1}),
    Case("routing of its own", "in", {"_routing": "elsewhere"}),
    Case("a field named like the engine's own", "buried", {"_id": "x"}, "_id"),
)  # fmt: skip
# Whose stored form is JSON's, and not what Python gave.
AS_JSON = {"a date of Python": {"day": "2026-02-03T04:05:00+00:00"}, "routing of its own": {"_routing": None}}


@dataclass(frozen=True)
class Answer:
    """What became of one index full of cases."""

    refused: Mapping[str, str]
    buried: Mapping[str, str]
    stored: Mapping[str, Mapping[str, Any]]

    def verdict(self, key: str, id_: str, sent: Mapping[str, Any] | None) -> str:
        if key in self.refused:
            return "refused"
        if id_ in self.buried:
            return "buried" if id_ not in self.stored else "buried, and an older form is in"
        if id_ not in self.stored:
            return "lost"
        if "meaning" not in self.stored[id_]:
            return "bare"
        return "in" if plain(self.stored[id_]) == sent else "mended"


def plain(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key not in (PROVENANCE, "meaning")}


def everything(engine: Engine, index: str) -> dict[str, dict[str, Any]]:
    def flow() -> Any:
        yield Request("POST", path_of(index, "_refresh"))
        body = {"size": 2000, "_source": engine.dialect.source_with_vectors(["*"])}
        return (yield Request("POST", path_of(index, "_search"), {}, body)).body

    return {hit["_id"]: hit["_source"] for hit in engine.run(flow())["hits"]["hits"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tiny import tiny_model

    return str(tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 13)
    yield opened
    opened.forget(index_name)
    opened.close()


class Opened:
    """One target, opened already."""

    def __init__(self, engine: Engine, target: Target) -> None:
        self.engine, self.target = engine, target

    def get(self, _: str) -> Target:
        return self.target


def worked_off(log: RedisLog, targets: Any, index: str, **options: Any) -> None:
    """Drain until nothing of the index waits."""

    def done() -> bool:
        drain(log, targets, consumer="a", lease=1.0, **options)
        return log.backlog(index).total == 0

    until(done)


def made(engine: Engine, spec: Spec, cache: VectorCache | None = None) -> Target:
    stored, _ = engine.run(create(spec, engine.dialect, resolve(spec)))
    return make_target(spec.index, stored, cache)


def answer(log: RedisLog, engine: Engine, index: str, refused: Mapping[str, str] | None = None) -> Answer:
    buried = log.find_buried(index, log.burials(index)).values()
    return Answer(refused or {}, {one.id: one.reason for one in buried}, everything(engine, index))


NEIGHBOURS = 5


def neighbours(place: int) -> list[dict[str, Any]]:
    return [{"id": f"neighbour-{place}-{n}", "title": f"the dog sat on log {n}"} for n in range(NEIGHBOURS)]


@pytest.fixture(scope="module")
def filled(
    engine: Engine, redis_url: str, model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Answer, Spec]]:
    """An index to which all cases were sent at once, with neighbours between them."""
    spec = spec_of(f"knnex-test-malformed-{time.time_ns() % 10**9}", model)
    log = own_log(redis_url, 13)
    cache = VectorCache(tmp_path_factory.mktemp("cache") / "vectors.sqlite")
    try:
        target = made(engine, spec, cache)
        refused: dict[str, str] = {}
        batch: list[Event] = []
        for place, case in enumerate(DOCUMENTS):
            found = accept(spec, case.document())
            if isinstance(found, Refused):
                refused[case.name] = found.reason
            else:
                batch.append(found)
            for neighbour in neighbours(place):
                one = accept(spec, neighbour)
                assert isinstance(one, Event)
                batch.append(one)
        for start in range(0, len(batch), 200):
            log.append(batch[start : start + 200])
        worked_off(log, Opened(engine, target), spec.index, batch=200)
        yield answer(log, engine, spec.index, refused), spec
    finally:
        log.forget(spec.index)
        log.close()
        if engine.run(find(spec.index)):
            engine.run(drop(spec.index))


@pytest.mark.parametrize("case", DOCUMENTS, ids=lambda case: case.name)
def test_verdict_on_a_document(filled: tuple[Answer, Spec], case: Case) -> None:
    found, _ = filled
    sent = case.document()
    if isinstance(sent, dict):
        sent |= AS_JSON.get(case.name, {})
        sent.pop("_routing", None)
    verdict = found.verdict(case.name, case.id(), sent)
    reason = found.refused.get(case.name) or found.buried.get(case.id(), "")
    assert verdict == case.verdict, reason[:500]
    if verdict == "mended":
        expected = {"id": case.name, "title": "a cat", **case.said}
        assert plain(found.stored[case.id()]) == expected
    else:
        assert case.said in reason


def test_all_neighbours_are_in(filled: tuple[Answer, Spec]) -> None:
    found, _ = filled
    wanted = {one["id"] for place in range(len(DOCUMENTS)) for one in neighbours(place)}
    assert wanted <= found.stored.keys()
    assert all(len(found.stored[id_]["meaning"]) == 32 for id_ in wanted)


def test_what_went_in_can_be_read_back_and_sent_again(
    filled: tuple[Answer, Spec], engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path
) -> None:
    found, _ = filled
    spec = spec_of(index_name, model)
    target = made(engine, spec, VectorCache(tmp_path / "vectors.sqlite"))
    events = [accept(spec, plain(source)) for source in found.stored.values()]
    assert [one for one in events if isinstance(one, Refused)] == []
    kept = cast(list[Event], events)
    for start in range(0, len(kept), 100):
        log.append(kept[start : start + 100])
    worked_off(log, Opened(engine, target), index_name)
    again = answer(log, engine, index_name)
    assert again.buried == {}
    assert {id_: plain(source) for id_, source in again.stored.items()} == {
        id_: plain(source) for id_, source in found.stored.items()
    }
    texts = [orjson.dumps(source).decode() for source in again.stored.values()]
    assert all(text.encode() for text in texts)


LINES = (
    (b'{"id":"whole","title":"cat"}', "in", ""),
    (b'{"id":"cut","title":"c', "refused", "not JSON"),
    (b'{"id":"keys","title":"cat","genre":"a","genre":"b"}', "in", ""),
    (b'{"id":"nan","title":"cat","score":NaN}', "refused", "JSON"),
    (b'{"id":"huge","title":"cat","score":1e400}', "refused", "JSON"),
    (b'{"id":"surrogate","title":"a \\ud800 cat"}', "refused", "not JSON"),
    (b'{"id":"bytes","title":"a \xed\xa0\x80 cat"}', "refused", "not"),
    (b'{"id":"latin","title":"caf\xe9"}', "refused", "not"),
    (b'{"id":"zero","title":"a \\u0000 cat"}', "in", ""),
    (b'["an","array"]', "refused", "not an object"),
    (b'"a word"', "refused", "not an object"),
    (b"null", "refused", "not an object"),
    (b'{"id":"two","title":"cat"} {"id":"three"}', "refused", "not JSON"),
    (b"{'id':'quotes'}", "refused", "not JSON"),
    (b'{"id":"comma","title":"cat",}', "refused", "not JSON"),
    (b'{"id":"deep","title":"cat","extra":' + b"[" * 3000 + b"]" * 3000 + b"}", "refused", ""),
    (b'{"id":"zeros","title":"cat","year":007}', "refused", "not JSON"),
    (b'{"id":"raw\ttab","title":"cat"}', "refused", "not JSON"),
    (b"\x00", "refused", "not JSON"),
)
_NAMED = ("whole", "cut", "keys", "nan", "huge", "surrogate", "bytes", "latin", "zero", "array", "word", "null", "two",
          "quotes", "comma", "deep", "zeros", "tab", "nothing")  # fmt: skip


def test_verdicts_on_lines_of_a_file(
    engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path
) -> None:
    spec = spec_of(index_name, model)
    target = made(engine, spec, VectorCache(tmp_path / "vectors.sqlite"))
    path = tmp_path / "lines.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(line for line, _, _ in LINES) + b'\n\n{"id":"last","title":"cat"}')
    refused: dict[int, str] = {}
    for found in read_files([str(path)], spec):
        if isinstance(found, Refused):
            assert found.origin is not None
            refused[found.origin.number] = found.reason
            continue
        origin, document = found
        one = accept(spec, document, origin)
        if isinstance(one, Refused):
            refused[origin.number] = one.reason
        else:
            log.append([one])
    worked_off(log, Opened(engine, target), index_name)
    stored = everything(engine, index_name)
    verdicts = {
        name: "refused" if number in refused else "mended" if "\ufffd" in str(stored.get(name)) else "in"
        for number, name in enumerate(_NAMED, 1)
    }
    assert verdicts == {name: verdict for name, (_, verdict, _) in zip(_NAMED, LINES, strict=True)}, refused
    for number, (_, verdict, said) in enumerate(LINES, 1):
        assert verdict != "refused" or said in refused[number]
    assert stored.keys() == {name for name, verdict in verdicts.items() if verdict != "refused"} | {"last"}
    assert stored["keys"]["genre"] == "b"


VERSIONS = (
    (0, "refused"),
    (-1, "refused"),
    (1, "in"),
    (1 << 62, "in"),
    ((1 << 62) + 1, "refused"),
    (1 << 63, "refused"),
    (1.0, "refused"),
    ("1", "refused"),
    (True, "refused"),
    (None, "refused"),
    ([1], "refused"),
)


@pytest.mark.parametrize(("version", "verdict"), VERSIONS, ids=lambda value: repr(value))
def test_verdict_on_a_version_of_the_producers(
    engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path, version: Any, verdict: str
) -> None:
    spec = spec_of(index_name, model, version="rev")
    found = accept(spec, {"id": "1", "title": "a cat", "rev": version})
    if verdict == "refused":
        assert isinstance(found, Refused)
        assert "the version field 'rev' must be an integer from 1 to 2^62" in found.reason
        return
    assert isinstance(found, Event)
    target = made(engine, spec, VectorCache(tmp_path / "vectors.sqlite"))
    log.append([found])
    worked_off(log, Opened(engine, target), index_name)
    assert answer(log, engine, index_name).stored["1"][PROVENANCE]["version"] == version


def test_events_out_of_order_and_twice_end_as_the_newest(
    engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path
) -> None:
    spec = spec_of(index_name, model, version="rev")
    target = made(engine, spec, VectorCache(tmp_path / "vectors.sqlite"))
    order = [3, 1, 5, 2, 5, 4, 1]
    for chosen in (order, order[::-1]):
        events = [accept(spec, {"id": f"{chosen[0]}", "title": f"cat {rev}", "rev": rev}) for rev in chosen]
        for event in cast(list[Event], events):
            log.append([event])
            worked_off(log, Opened(engine, target), index_name)
    found = answer(log, engine, index_name)
    assert found.buried == {}
    assert {id_: one["title"] for id_, one in found.stored.items()} == {"3": "cat 5", "1": "cat 5"}


def test_two_documents_under_one_version_are_told(
    engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path
) -> None:
    spec = spec_of(index_name, model, version="rev")
    target = made(engine, spec, VectorCache(tmp_path / "vectors.sqlite"))
    for title in ("first", "second"):
        event = accept(spec, {"id": "1", "title": title, "rev": 7})
        assert isinstance(event, Event)
        log.append([event])
        worked_off(log, Opened(engine, target), index_name)
    found = answer(log, engine, index_name)
    assert found.stored["1"]["title"] == "first"
    assert "another document was sent under the same version 7" in found.buried["1"]


@dataclass(frozen=True)
class Change:
    """Events of one document, one after the other, and what is left of it."""

    name: str
    steps: Sequence[tuple[str, dict[str, Any]]]
    left: dict[str, Any] | None
    said: str = ""


CHANGES = (
    Change("update of nothing", [("update", {"year": 1})], None, "there is no document"),
    Change("update of a deleted one", [("upsert", {"title": "cat"}), ("delete", {}), ("update", {"year": 1})], None, "there is no document"),
    Change("update that is no document any more", [("upsert", {"title": "cat"}), ("update", {"year": "bad"})], {"title": "cat"}, "failed to parse field [year]"),
    Change("update to an empty source", [("upsert", {"title": "cat"}), ("update", {"title": ""})], {"title": ""}),
    Change("update to null", [("upsert", {"title": "cat", "year": 1}), ("update", {"year": None})], {"title": "cat", "year": None}),
    Change("update of an object", [("upsert", {"title": "cat", "cast": {"name": "Ann"}}), ("update", {"cast": {"age": 3}})], {"title": "cat", "cast": {"name": "Ann", "age": 3}}),
    Change("update of a list", [("upsert", {"title": "cat", "year": [1, 2]}), ("update", {"year": [3]})], {"title": "cat", "year": [3]}),
    Change("update beside a bad one", [("upsert", {"title": "cat"}), ("update", {"year": "bad"}), ("update", {"genre": "x"})], {"title": "cat", "genre": "x"}, "failed to parse field [year]"),
    Change("delete of nothing", [("delete", {})], None),
    Change("delete twice", [("upsert", {"title": "cat"}), ("delete", {}), ("delete", {})], None),
    Change("back after a delete", [("upsert", {"title": "cat"}), ("delete", {}), ("upsert", {"title": "dog"})], {"title": "dog"}),
    Change("worse than before", [("upsert", {"title": "cat"}), ("upsert", {"title": "dog", "year": "bad"})], {"title": "cat"}, "failed to parse field [year]"),
)  # fmt: skip


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
def test_verdicts_on_changes(
    engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path, apart: bool
) -> None:
    spec = spec_of(index_name, model)
    target = made(engine, spec, VectorCache(tmp_path / "vectors.sqlite"))
    for step in range(3):
        for change in CHANGES:
            if step < len(change.steps):
                op, body = change.steps[step]
                event = accept(spec, {"id": change.name, **body}, op=cast(Any, op))
                assert isinstance(event, Event)
                log.append([event])
        if apart:
            worked_off(log, Opened(engine, target), index_name)
    worked_off(log, Opened(engine, target), index_name)
    found = answer(log, engine, index_name)
    left = {change.name: {"id": change.name, **change.left} for change in CHANGES if change.left is not None}
    assert {id_: plain(source) for id_, source in found.stored.items()} == left
    assert found.buried.keys() == {change.name for change in CHANGES if change.said}
    for change in CHANGES:
        assert change.said in found.buried.get(change.name, "")
    assert "meaning" not in found.stored["update to an empty source"]


def entry(**changes: Any) -> bytes:
    body = {"schema": 1, "index": "x", "id": "entry", "op": "upsert", "document": {"id": "entry", "title": "cat"}}
    return orjson.dumps(body | changes)


# What no producer of ours writes, found in the log all the same.
ENTRIES = (
    ("no JSON", b"{", "is damaged"),
    ("no bytes", b"", "is damaged"),
    ("no object", b"[]", "is damaged"),
    ("not UTF-8", b'{"id":"\xff"}', "is damaged"),
    ("schema of the future", entry(schema=99), "are unknown here"),
    ("no schema", b'{"id":"1"}', "is damaged"),
    ("unknown op", entry(op="replace"), "op 'replace'"),
    ("op a list", entry(op=["upsert"]), "are unknown here"),
    ("id a number", entry(id=7), "is damaged"),
    ("id null", entry(id=None), "is damaged"),
    ("id empty", entry(id=""), "is damaged"),
    ("id too long", entry(id="x" * 513), "is damaged"),
    ("document a list", entry(document=["x"]), "is damaged"),
    ("document null", entry(document=None), "is damaged"),
    ("document a word", entry(document="x"), "is damaged"),
    ("version negative", entry(version=-1), "is damaged"),
    ("version zero", entry(version=0), "is damaged"),
    ("version of 63 bits", entry(version=1 << 63), "is damaged"),
    ("version a word", entry(version="new"), "is damaged"),
    ("version a float", entry(version=1.5), "is damaged"),
    ("routing a number", entry(routing=7), "is damaged"),
    ("our own field", entry(document={"id": "entry", "title": "cat", "_id": "y"}), "_id"),
    ("source an object", entry(document={"id": "entry", "title": {"en": "x"}}), "holds an object"),
)


@pytest.mark.parametrize(("data", "said"), [one[1:] for one in ENTRIES], ids=[one[0] for one in ENTRIES])
def test_an_entry_of_the_log_that_is_no_event_of_ours_is_buried_alone(
    engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path, data: bytes, said: str
) -> None:
    spec = spec_of(index_name, model)
    target = made(engine, spec, VectorCache(tmp_path / "vectors.sqlite"))
    good = [Event(index_name, f"good-{n}", "upsert", {"id": f"good-{n}", "title": "a dog"}) for n in range(3)]
    log.append(good[:2])
    log.redis.xadd(
        stream(index_name, "live"), {"event": data.replace(b'"index":"x"', b'"index":"%s"' % index_name.encode())}
    )
    log.append(good[2:])
    worked_off(log, Opened(engine, target), index_name)
    buried = list(log.find_buried(index_name, log.burials(index_name)).values())
    assert [said in one.reason for one in buried] == [True], buried
    assert everything(engine, index_name).keys() == {"good-0", "good-1", "good-2"}


def test_an_index_that_is_not_there_is_not_made(engine: Engine, log: RedisLog, index_name: str) -> None:
    log.append([Event(index_name, "1", "upsert", {"id": "1"})])
    targets = Targets(engine)
    drain(log, targets, consumer="a")
    assert f"there is no index '{index_name}'" in str(log.paused(index_name))
    assert engine.run(find(index_name)) is None
    assert (log.backlog(index_name).total, log.burials(index_name)) == (1, [])


class Broken:
    """A real encoder that gives something else for texts with a certain word."""

    def __init__(self, encoder: Any, row: Callable[[Any], Any], whole: bool) -> None:
        self._encoder, self._row, self._whole = encoder, row, whole
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str]) -> Any:
        matrix = self._encoder.encode_documents(texts)
        bad = [place for place, text in enumerate(texts) if "robot" in text]
        if bad and self._whole:
            return self._row(matrix)
        for place in bad:
            matrix[place] = self._row(matrix[place])
        return matrix


def along(value: float) -> Callable[[Any], Any]:
    """A vector of that length."""

    def row(vector: Any) -> Any:
        made = np.zeros_like(vector)
        made[0] = value
        return made

    return row


VECTORS: tuple[tuple[str, Callable[[Any], Any], bool, str], ...] = (
    ("nan", along(float("nan")), False, "buried"),
    ("infinity", along(float("inf")), False, "buried"),
    ("zero", along(0.0), False, "buried"),
    ("1e-30", along(1e-30), False, "buried"),
    ("1e-44", along(1e-44), False, "buried"),
    ("1e-7", along(1e-7), False, "buried"),
    ("1e-5", along(1e-5), False, "in"),
    ("1e5", along(1e5), False, "in"),
    ("1e7", along(1e7), False, "buried"),
    ("1e19", along(1e19), False, "buried"),
    ("3e38", along(3e38), False, "buried"),
    ("none", lambda _: None, True, "buried"),
    ("too wide", lambda matrix: np.hstack([matrix, matrix]), True, "buried"),
    ("too narrow", lambda matrix: matrix[:, :16], True, "buried"),
    ("a row too few", lambda matrix: matrix[:-1], True, "buried"),
    ("a row too many", lambda matrix: np.vstack([matrix, matrix[:1]]), True, "buried"),
    ("one row", lambda matrix: matrix[0], True, "buried"),
    ("of objects", lambda matrix: [["x"] * 32] * len(matrix), True, "buried"),
    ("float64", lambda matrix: matrix.astype(np.float64), True, "in"),
    ("lists", lambda matrix: matrix.tolist(), True, "in"),
)  # fmt: skip


@pytest.mark.parametrize(("row", "whole", "verdict"), [one[1:] for one in VECTORS], ids=[one[0] for one in VECTORS])
def test_verdict_on_a_vector(
    engine: Engine, model: str, log: RedisLog, index_name: str, tmp_path: Path,
    row: Callable[[Any], Any], whole: bool, verdict: str,
) -> None:  # fmt: skip
    cache = VectorCache(tmp_path / "vectors.sqlite")
    target = made(engine, spec_of(index_name, model), cache)
    broken = Broken(target.encoders["meaning"], row, whole)
    target = Target(target.alias, target.stored, {"meaning": cast(Encoder, broken)}, cache)
    titles = ["the cat sat", "a dog on the log", "a robot", "the mat"]
    log.append([Event(index_name, str(n), "upsert", {"id": str(n), "title": t}) for n, t in enumerate(titles)])
    worked_off(log, Opened(engine, target), index_name)
    found = answer(log, engine, index_name)
    assert {"0", "1", "3"} <= found.stored.keys()
    assert found.verdict("2", "2", {"id": "2", "title": "a robot"}) == verdict, found.buried
    # Once more: what is bad has not been kept in the cache.
    log.append([Event(index_name, "4", "upsert", {"id": "4", "title": "a robot"})])
    worked_off(log, Opened(engine, target), index_name)
    assert answer(log, engine, index_name).verdict("4", "4", {"id": "4", "title": "a robot"}) == verdict
