"""Accepting documents, and the text of an embedding."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from knnex.errors import InputError
from knnex.ingest import Event, Origin, Refused, accept
from knnex.ingest.events import dump, load, version_of
from knnex.ingest.render import text_of
from knnex.mappings import load_spec

SPEC = load_spec(
    {
        "index": "films",
        "fields": {"title": {"type": "text"}, "year": {"type": "integer"}},
        "embeddings": {"v": {"source": ["title"], "encoder": "m"}},
    }
)
VERSIONED = SPEC.model_copy(update={"version": "rev"})
FAMILY = load_spec(
    {
        "index": "films",
        "fields": {"title": {"type": "text"}},
        "joins": {
            "studio": {"kind": "parent", "children": ["movie"]},
            "movie": {"kind": "parent", "children": ["scene"]},
        },
    }
)

REFUSED: list[tuple[Any, str]] = [
    ("a line of text", "it is str, not an object"),
    ([1, 2], "it is list, not an object"),
    ({"title": "no id"}, "the id field 'id' is missing"),
    ({"id": ""}, "the id field 'id' is empty"),
    ({"id": 1.5}, "the id field 'id' is float, not a string or an integer"),
    ({"id": True}, "the id field 'id' is bool, not a string or an integer"),
    ({"id": "é" * 257}, "the id has 514 bytes; at most 512 are allowed"),
    ({"id": "1", "year": float("nan")}, "field 'year' is nan, which JSON cannot hold"),
    ({"id": "1", "a": {"b": [1.0, float("inf")]}}, "field 'a.b' is inf, which JSON cannot hold"),
    ({"id": "1", "a": np.array([1.0, np.nan])}, "field 'a' is nan, which JSON cannot hold"),
    ({"id": "1", "a": Decimal("NaN")}, "a value is NaN, which JSON cannot hold"),
    ({"id": "1", "a": b"bytes"}, "it has no JSON form: bytes \"b'bytes'\""),
    ({"id": "1", "a": 1 << 70}, "it has no JSON form: Integer exceeds 64-bit range"),
    ({"id": "1", "title": "x" * 10_000_001}, "it has 10,000,022 bytes; at most 10,000,000 are allowed"),
    ({"id": "1", "v": [0.1]}, "field 'v' is written by knnex; leave it out"),
    ({"id": "1", "_knnex": {}}, "field '_knnex' is written by knnex; leave it out"),
    (
        {"id": "1", "title": {"en": "x"}},
        "field 'title', a source of an embedding, holds an object: name a field inside it",
    ),
]


@pytest.mark.parametrize(("document", "reason"), REFUSED, ids=[reason[:40] for _, reason in REFUSED])
def test_a_document_that_cannot_go_in_is_refused_with_its_reason(document: Any, reason: str) -> None:
    origin = Origin("films.ndjson", 7)
    found = accept(SPEC, document, origin)
    assert isinstance(found, Refused)
    assert found.reason == reason
    assert str(found).startswith("films.ndjson line 7")


def test_an_accepted_document_is_plain_json_under_its_id_as_a_string() -> None:
    document = {
        "id": 7,
        "title": "Solaris",
        "on": date(1972, 3, 20),
        "cost": Decimal("1.5"),
        "tags": ("a", "b"),
        "no": None,
    }
    event = accept(SPEC, document)
    plain = {"id": 7, "title": "Solaris", "on": "1972-03-20", "cost": 1.5, "tags": ["a", "b"], "no": None}
    assert event == Event("films", "7", "upsert", plain)


def test_lone_surrogates_become_replacement_characters_and_pairs_are_joined() -> None:
    event = accept(SPEC, {"id": "a\ud83d\ude00", "title": "\ud83d\ude00 \udc00", "\ud801": 1})
    assert isinstance(event, Event)
    assert (event.id, event.document["title"], event.document["�"]) == ("a😀", "😀 �", 1)


def test_an_id_with_a_lone_surrogate_is_refused_since_mending_could_make_one_of_two() -> None:
    found = accept(SPEC, {"id": "a\ud800", "title": "x"})
    assert isinstance(found, Refused)
    assert found.reason == "the id 'a\\ud800' holds a lone surrogate, which is no character"
    found.id.encode()


def test_a_document_too_deep_to_be_mended_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    found = accept(SPEC, {"id": "1", "title": "\ud800", "deep": deep})
    assert isinstance(found, Refused)
    assert found.reason == "it is nested too deeply"


def test_an_id_that_a_terminal_would_obey_is_spelled_out() -> None:
    assert str(Refused(None, "a\x1b[2J\n", "bad")) == r"id 'a\x1b[2J\n': bad"
    assert str(Refused(None, "é 1", "bad")) == "id é 1: bad"


@pytest.mark.parametrize("version", [None, 0, -1, "3", 1.5, True, (1 << 62) + 1])
def test_a_version_that_is_none_is_refused(version: object) -> None:
    found = accept(VERSIONED, {"id": "1", "rev": version})
    assert isinstance(found, Refused)
    assert found.reason.startswith("the version field 'rev' must be an integer from 1 to 2^62")


def test_a_version_is_the_producers_where_the_spec_says_so_and_else_the_logs() -> None:
    producers = accept(VERSIONED, {"id": "1", "rev": 1 << 62})
    assert isinstance(producers, Event)
    assert producers.order == 1 << 62
    assert Event("films", "1", "upsert", {}, position="5-3").order == (5 << 20) + (3 << 6)
    with pytest.raises(InputError, match="neither version nor position"):
        _ = Event("films", "1", "upsert", {}).order
    with pytest.raises(InputError, match=r"more than 2\^14 events"):
        version_of("5-16384")


def test_children_are_routed_to_their_parent() -> None:
    def routing(relation: object, **more: object) -> object:
        found = accept(FAMILY, {"id": "1", "relation": relation, **more})
        return found.routing if isinstance(found, Event) else found.reason

    assert routing("studio") is None
    assert routing({"name": "movie", "parent": 12}) == "12"
    assert routing({"name": "scene", "parent": "m"}, _routing="s") == "s"
    assert "its parent is itself a child" in str(routing({"name": "scene", "parent": "m"}))
    assert "'movie' is a child and names no parent" in str(routing("movie"))
    assert "names 'actor'; the spec's joins know studio, movie, movie, scene" in str(routing("actor"))


def test_a_delete_keeps_of_its_document_only_the_join() -> None:
    child = {"id": "1", "title": "x", "relation": {"name": "movie", "parent": "a"}}
    event = accept(FAMILY, child, op="delete")
    assert event == Event("films", "1", "delete", {"relation": child["relation"]}, routing="a")


def test_events_survive_the_log_and_strange_ones_are_refused() -> None:
    event = Event("films", "1", "delete", {"title": "é"}, version=3, routing="r", position="1-0")
    assert load(dump(event), "1-0") == event
    for damaged in (b"{", b"[]", b'{"schema": 1}', dump(event).replace(b'"schema":1', b'"schema":9')):
        with pytest.raises(InputError):
            load(damaged, "1-0")


DOCUMENT = {
    "title": " Solaris ",
    "plot": None,
    "year": 1972,
    "colour": True,
    "tags": ["a", "", None, "b"],
    "cast": [{"name": "Banionis"}, {"name": "Bondarchuk"}, {}],
    "studio": {"name": "Mosfilm"},
    "dotted.key": "yes",
}

TEXTS: list[tuple[str | list[str], str | None]] = [
    ("{title}. {plot}", "Solaris."),
    ("{plot}. {missing}!", None),
    ("{year} {colour}", "1972 true"),
    (["title", "plot", "tags"], "Solaris\na, b"),
    (["plot", "missing"], None),
    (["cast.name", "studio.name", "dotted.key"], "Banionis, Bondarchuk\nMosfilm\nyes"),
    (["title.deeper", "tags.deeper"], None),
]


@pytest.mark.parametrize(("source", "text"), TEXTS, ids=[str(source) for source, _ in TEXTS])
def test_the_text_of_an_embedding(source: str | list[str], text: str | None) -> None:
    assert text_of(source, DOCUMENT) == text


@pytest.mark.parametrize("source", ["{studio}", ["cast"]])
def test_an_object_is_no_text(source: str | list[str]) -> None:
    with pytest.raises(InputError, match="holds an object: name a field inside it"):
        text_of(source, DOCUMENT)
