"""`knnex verify`: what is wrong with an index is found, nothing else is, and a repair ends clean."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from feeding import Stranger, wrong
from filling import FIELDS, films, made
from spoiling import DEAD, LIVING, Spoiler
from typer.testing import CliRunner

from knnex import cli_verify
from knnex.encoders import VectorCache
from knnex.engines import Engine, Request, path_of
from knnex.errors import InputError
from knnex.ingest import Event, Target, apply_events
from knnex.ingest.audit import AuditReport
from knnex.ingest.audit import audit as audit_index
from knnex.ingest.audit_checks import KINDS
from knnex.mappings import PROVENANCE
from knnex.settings import settings

SHARDS = {"number_of_shards": 3, "number_of_replicas": 0}
CHUNK = {"unit": "sentence", "max_tokens": 8, "overlap": 0}
EACH = 2
COUNT = 60


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VectorCache]:
    opened = VectorCache(tmp_path / "vectors.sqlite")
    yield opened
    opened.close()


def title(number: int) -> str:
    """Words that the tiny model knows, others for each number."""
    words = ("cat", "dog", "robot", "mat", "log", "human")
    return " ".join(words[int(digit) % 6] for digit in str(1_000_003 * (number + 1))) + f" {number}"


def fill(engine: Engine, target: Target, count: int = COUNT, deleted: int = 20) -> None:
    documents = [
        Event(target.alias, str(number), "upsert", {"title": title(number), "plot": PLOT, "rev": number}, 10)
        for number in range(count)
    ]
    gone = [Event(target.alias, f"gone-{number}", "delete", {}, 10) for number in range(deleted)]
    textless = [Event(target.alias, "textless", "upsert", {"rev": 1}, 10)]
    report = apply_events(engine, target, [*documents, *gone, *textless])
    assert report.written + report.deleted == count + deleted + 1


PLOT = "a dog sat on the mat. the robot that longs to be human. a log that longs to be a mat."


@pytest.fixture
def target(request: pytest.FixtureRequest, engine: Engine, index_name: str, tiny: Path, cache: VectorCache) -> Target:
    """A filled index; "chunked" as its parameter."""
    embedding = {"chunk": CHUNK} if getattr(request, "param", "") == "chunked" else {}
    filled = made(engine, films(index_name, str(tiny), settings=SHARDS, embedding=embedding), cache)
    fill(engine, filled)
    return filled


def verified(engine: Engine, target: Target, **options: Any) -> AuditReport:
    return audit_index(engine, target.stored, open_target=lambda: target, **options)


def spoilt(engine: Engine, target: Target) -> dict[str, set[str]]:
    """Some documents of each kind of fault, by kind."""
    spoiler, found = Spoiler(engine, target), dict[str, set[str]]()
    for place, kind in enumerate(LIVING):
        found[kind] = {str(place * EACH + number) for number in range(EACH)}
    for kind in DEAD:
        found[kind] = {f"gone-{number}" for number in range(EACH)}
    if target.spec.embeddings["plot_vector"].chunk:
        found["chunks"] = {"50", "51"}
    for kind, ids in found.items():
        for id_ in ids:
            spoiler.spoil(kind, id_)
    return found


def by_kind(report: AuditReport) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for fault in report.examples:
        found.setdefault(fault.kind, set()).add(fault.id)
    return found


@pytest.mark.parametrize("target", ["whole", "chunked"], indirect=True)
@pytest.mark.feature("Every vector checked against its text, and repaired")
def test_every_fault_is_found_no_other_is_told_and_a_repair_ends_clean(engine: Engine, target: Target) -> None:
    before = verified(engine, target)
    assert before.clean, before.examples
    assert (before.documents, before.deleted, before.without_text) == (COUNT + 1, 20, {"plot_vector": 1})
    injected = spoilt(engine, target)
    found = verified(engine, target)
    assert by_kind(found) == injected
    assert Counter(found.faults) == {kind: len(ids) for kind, ids in injected.items()}
    assert not found.clean
    repaired = verified(engine, target, repair=True)
    assert (repaired.clean, repaired.left) == (True, ())
    assert repaired.repaired == sum(map(len, injected.values()))
    after = verified(engine, target, encode=1000)
    assert after.clean, after.examples
    assert after.documents == COUNT + 1
    if not target.spec.embeddings["plot_vector"].chunk:
        assert wrong(engine, target) == {}


@pytest.mark.parametrize("target", ["chunked"], indirect=True)
def test_a_vector_of_another_text_shows_when_it_is_made_again(engine: Engine, target: Target) -> None:
    Spoiler(engine, target).foreign("3", "4")
    assert verified(engine, target).clean
    found = verified(engine, target, encode=10_000)
    assert (by_kind(found), found.compared) == ({"foreign": {"3"}}, COUNT + 1)
    assert verified(engine, target, encode=10_000, repair=True).clean
    assert verified(engine, target, encode=10_000).clean


def test_a_repair_leaves_what_is_written_meanwhile(engine: Engine, target: Target) -> None:
    spoilt(engine, target)
    stranger = Stranger(engine, target.alias)
    busy = {"0", str(LIVING.index("stale") * EACH)}

    def write(_: object) -> None:
        for id_ in busy:
            stranger.change(id_, {"title": "a newer cat", "year": 2001})

    encoders = {name: Meddling(encoder, write) for name, encoder in target.encoders.items()}
    meddled = replace(target, encoders=encoders)
    done = audit_index(engine, target.stored, open_target=lambda: meddled, repair=True)
    assert {fault.id for fault in done.left} <= busy
    for id_ in busy:
        held = stranger.get(id_)["_source"]
        assert (held["title"], held["year"]) == ("a newer cat", 2001)
    assert verified(engine, target, repair=True).clean


class Meddling:
    """An encoder during whose work somebody else writes."""

    def __init__(self, encoder: Any, write: Any) -> None:
        self._encoder, self._write = encoder, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Any) -> Any:
        vectors = self._encoder.encode_documents(texts)
        self._write(texts)
        return vectors


def test_a_sample_sees_some_and_a_sample_of_all_sees_all(engine: Engine, target: Target) -> None:
    injected = spoilt(engine, target)
    some = verified(engine, target, sample=30)
    assert 30 <= some.documents + some.deleted <= 30 + EACH
    everything = verified(engine, target, sample=5000)
    assert by_kind(everything) == injected
    with pytest.raises(InputError, match="a sample of 10,001"):
        verified(engine, target, sample=10_001)


def test_vectors_of_an_embedding_that_is_gone_are_cleared_and_a_field_of_that_name_is_not(
    engine: Engine, index_name: str, tiny: Path
) -> None:
    target = made(engine, films(index_name, str(tiny), settings=SHARDS))
    fill(engine, target, 10, 0)
    stranger = Stranger(engine, target.stored.index)
    field = engine.run(_mapping(target.stored.index))["plot_vector"]
    names = {"properties": {"vectors": {"properties": {"old_vector": {"type": "object"}}}}}
    stranger.send("PUT", "_mapping", body={"properties": {"old_vector": field, PROVENANCE: names}})
    vector = [0.1] * 32
    spoiler = Spoiler(engine, target)
    spoiler.change("1", {"old_vector": vector})
    spoiler.orphan("2")
    spoiler.note("3", {"fingerprint": "0" * 32}, "title")
    assert by_kind(verified(engine, target)) == {"orphan": {"1", "2", "3"}}
    assert verified(engine, target, repair=True).clean
    held = spoiler.held(["1", "3"])
    assert held["1"].get("old_vector") is None
    assert held["3"]["title"] == title(3)
    assert verified(engine, target).clean


def _mapping(index: str) -> Any:
    response = yield Request("GET", path_of(index, "_mapping"))
    return response.body[index]["mappings"]["properties"]


def test_what_cannot_be_repaired_is_told_with_its_reason(engine: Engine, index_name: str, tiny: Path) -> None:
    fields = FIELDS | {"extra": {"type": "object", "enabled": False}}
    source = {"source": "{title} {extra}"}
    target = made(engine, films(index_name, str(tiny), settings=SHARDS, fields=fields, embedding=source))
    fill(engine, target, 10, 0)
    Stranger(engine, target.stored.index).put("odd", {"title": "a cat", "extra": {"an": "object"}})
    spoiler = Spoiler(engine, target)
    # The copy of somebody who knows no versions, and a text that is gone from under its vector.
    spoiler.duplicate("1")
    spoiler.change("1", {PROVENANCE: {"version": None}})
    spoiler.change("2", {"extra": {"an": "object"}})
    spoiler.stale("3")
    done = verified(engine, target, repair=True)
    assert (done.clean, done.repaired, done.left_count) == (False, 1, 3)
    left = {fault.id: fault for fault in done.left}
    assert {id_: fault.kind for id_, fault in left.items()} == {"1": "duplicate", "2": "missing", "odd": "missing"}
    assert "only you can know" in left["1"].detail
    assert "'extra', a source of an embedding, holds an object" in left["odd"].detail
    assert spoiler.held(["2"])["2"].get("plot_vector") is None


def test_a_version_is_looked_at_by_its_own_name(engine: Engine, index_name: str, tiny: Path) -> None:
    target = made(engine, films(index_name, str(tiny), settings=SHARDS))
    fill(engine, target, 5, 2)
    index = target.stored.index
    Spoiler(engine, target).stale("1")
    assert by_kind(audit_index(engine, target.stored, alias=index)) == {"stale": {"1"}}
    done = audit_index(engine, target.stored, alias=index, repair=True)
    assert (done.clean, done.repaired) == (True, 1)


def test_an_alias_that_shows_deleted_documents_is_told(engine: Engine, index_name: str, tiny: Path) -> None:
    target = made(engine, films(index_name, str(tiny), settings=SHARDS))
    fill(engine, target, 5, 2)

    def unfiltered() -> Any:
        actions = [{"add": {"index": target.stored.index, "alias": target.alias, "is_write_index": True}}]
        yield Request("POST", "/_aliases", body={"actions": actions})

    engine.run(unfiltered())
    found = verified(engine, target)
    assert [str(fault) for fault in found.examples] == [
        f"count: a search of {target.alias} sees 8 documents; 6 are not deleted"
    ]


@pytest.mark.never("elasticsearch", reason="this distribution lacks the join module", embedded=True)
def test_children_that_moved_to_another_parent_left_no_copy(engine: Engine, index_name: str, tiny: Path) -> None:
    joins = {"studio": {"kind": "parent", "children": ["film"]}}
    target = made(engine, films(index_name, str(tiny), settings=SHARDS, joins=joins))

    def child(id_: str, parent: str, version: int) -> Event:
        document = {"title": f"cat {id_}", "relation": {"name": "film", "parent": parent}}
        return Event(index_name, id_, "upsert", document, version, parent)

    studios = [Event(index_name, f"s{n}", "upsert", {"title": "a dog", "relation": "studio"}, 1) for n in range(9)]
    apply_events(engine, target, [*studios, *(child(str(n), f"s{n % 9}", 2) for n in range(40))])
    assert verified(engine, target).clean
    apply_events(engine, target, [child("7", f"s{n}", 3 + n) for n in range(7)])
    copies = verified(engine, target).faults["duplicate"]
    assert copies >= 1
    done = verified(engine, target, repair=True)
    assert (done.clean, done.repaired) == (True, copies)
    after = verified(engine, target)
    assert (after.examples, after.documents, after.deleted) == ((), 49, copies)


def test_the_command_prints_what_is_wrong_and_says_so_by_its_exit_code(
    engine: Engine, engine_url: str, index_name: str, tiny: Path, fresh_settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fresh_settings.setenv("KNNEX_CACHE_DIR", str(tmp_path))
    settings.cache_clear()
    target = made(engine, films(index_name, str(tiny), settings=SHARDS))
    fill(engine, target, 30, 3)
    app = typer.Typer()
    cli_verify.register(app)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, [index_name, "--url", engine_url, *arguments])

    clean = run()
    assert (clean.exit_code, "nothing is wrong" in clean.stdout) == (0, True), clean.output
    Spoiler(engine, target).stale("7")
    found = run()
    assert found.exit_code == 1
    assert "1 stale: the vector of a former text" in found.stdout
    assert "stale: 7 plot_vector" in found.stdout
    told = run("--json", "--sample", "100")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["faults"] == {"stale": 1}
    mended = run("--repair")
    assert (mended.exit_code, "nothing is wrong any more" in mended.stdout) == (0, True), mended.output
    assert run("--encode", "10").exit_code == 0


def test_every_kind_says_what_it_is() -> None:
    assert set(KINDS) >= {*LIVING, *DEAD}
    assert all(KINDS.values())
