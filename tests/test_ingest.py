"""Documents go in, through the log and without it, and both say truthfully what became of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filling import draining, films, held, made, own_log, settled
from homes import until

from knnex.encoders import VectorCache, input_hash, load_encoder
from knnex.engines import Engine
from knnex.engines.embedded import start_redis
from knnex.errors import IngestIncomplete, LogUnavailable
from knnex.ingest import (
    Progress,
    RedisLog,
    Report,
    accept,
    apply_events,
    delete,
    delete_inline,
    ingest,
    ingest_inline,
    make_target,
    read_files,
)
from knnex.mappings import Spec, create, load, load_spec
from knnex.settings import settings

Send = Callable[[Spec, Iterable[Any]], Report]

FILMS: list[dict[str, Any]] = [
    {"id": 1, "title": "Solaris", "plot": "A planet that thinks.", "year": 1972},
    {"id": 2, "title": "Stalker", "plot": "A room that grants wishes.", "year": 1979},
    {"id": 3, "title": "Mirror", "year": 1975},
]
BAD: list[Any] = [
    {"id": 4, "year": 1980},
    {"id": 5, "title": "Bad year", "year": "never"},
    {"title": "No id"},
    "no object",
    {"id": 6, "title": "Not finite", "year": float("nan")},
]


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "vectors.sqlite")


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 2)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture(params=["log", "inline"])
def send(request: pytest.FixtureRequest, engine: Engine, log: RedisLog, cache: VectorCache) -> Iterator[Send]:
    """Sends documents by either way: both must do the same."""

    def inline(spec: Spec, documents: Iterable[Any]) -> Report:
        return ingest_inline(engine, make_target(spec.index, engine.run(load(spec.index)), cache), documents)

    if request.param == "inline":
        yield inline
    else:
        with draining(log, engine, cache=cache):
            yield lambda spec, documents: ingest(engine, spec, documents, log)


@pytest.mark.feature("Ingest with checked counts")
def test_documents_go_in_with_their_vectors_and_the_rest_is_named(
    engine: Engine, index_name: str, minilm: str, send: Send
) -> None:
    spec = films(index_name, minilm)
    target = made(engine, spec)
    report = send(spec, [*FILMS[:2], *BAD, FILMS[2]])
    assert (report.read, report.accepted, report.in_index, report.checked, report.complete) == (8, 5, 4, True, False)
    assert [str(one) for one in report.refused] == [
        "document 5: the id field 'id' is missing",
        "document 6: it is str, not an object",
        "document 7, id 6: field 'year' is nan, which JSON cannot hold",
    ]
    assert [(one.id, "failed to parse field [year]" in one.reason) for one in report.buried] == [("5", True)]
    assert [str(one) for one in report.without_vector] == ["document 3, id 4: no plot_vector: title, plot are empty"]
    assert (report.encoded, report.cached, report.missing) == (4, 0, ())
    found = held(engine, index_name)
    assert sorted(found) == ["1", "2", "3", "4"]
    encoder, resolved = target.encoders["plot_vector"], target.stored.resolved["plot_vector"]
    texts = {"1": "Solaris. A planet that thinks.", "2": "Stalker. A room that grants wishes.", "3": "Mirror."}
    for id_, text in texts.items():
        (vector,) = encoder.encode_documents([text])
        assert np.dot(found[id_]["plot_vector"], vector) == pytest.approx(1, abs=1e-4)
        made_by = found[id_]["_knnex"]["vectors"]["plot_vector"]
        assert made_by == {"fingerprint": resolved.fingerprint, "input_hash": input_hash(text)}
    assert "plot_vector" not in found["4"]
    assert "vectors" not in found["4"]["_knnex"]
    assert {key: found["1"][key] for key in FILMS[0]} == FILMS[0]


def test_sending_again_changes_nothing_and_encodes_nothing(
    engine: Engine, index_name: str, minilm: str, send: Send
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    send(spec, FILMS)
    before = held(engine, index_name)
    again = send(spec, [*FILMS, *FILMS, {**FILMS[0], "year": 2002}])
    assert (again.accepted, again.in_index, again.encoded, again.complete) == (7, 7, 0, True)
    after = held(engine, index_name)
    assert after["1"]["year"] == 2002
    for id_ in after:
        assert after[id_]["plot_vector"] == before[id_]["plot_vector"]
        assert after[id_]["_knnex"]["version"] > before[id_]["_knnex"]["version"]


@pytest.mark.feature("Long texts in chunks, with passages and offsets")
def test_long_text_goes_in_as_chunks(engine: Engine, index_name: str, minilm: str, send: Send) -> None:
    spec = films(index_name, minilm, embedding={"source": ["plot"], "chunk": {"max_tokens": 16, "overlap": 4}})
    target = made(engine, spec)
    plot = "\n\n".join(f"Paragraph {number} tells of planet number {number}." for number in range(9))
    assert send(spec, [{"id": "a", "plot": plot}, {"id": "b", "plot": "short"}, {"id": "c"}]).in_index == 3
    found = held(engine, index_name)
    chunks = found["a"]["plot_vector"]
    assert len(chunks) > 3
    assert all(plot[one["start"] : one["end"]] == one["text"] for one in chunks)
    (vector,) = target.encoders["plot_vector"].encode_documents([chunks[1]["text"]])
    assert np.dot(chunks[1]["vector"], vector) == pytest.approx(1, abs=1e-4)
    assert [one["text"] for one in found["b"]["plot_vector"]] == ["short"]
    assert "plot_vector" not in found["c"]


def test_the_producers_versions_decide_in_whatever_order_they_come(
    engine: Engine, index_name: str, minilm: str, send: Send
) -> None:
    spec = films(index_name, minilm, version="rev")
    made(engine, spec)
    order = random.Random(3)
    events = [{"id": id_, "rev": rev, "title": f"{id_} {rev % 3}"} for id_ in "abc" for rev in range(1, 8)]
    for _ in range(3):
        order.shuffle(events)
        for start in range(0, len(events), 5):
            assert send(spec, events[start : start + 5]).complete
    found = held(engine, index_name)
    assert {id_: (one["rev"], one["_knnex"]["version"]) for id_, one in found.items()} == dict.fromkeys("abc", (7, 7))


def test_a_deleted_document_is_not_revived_by_an_older_write(
    engine: Engine, index_name: str, minilm: str, send: Send, log: RedisLog, cache: VectorCache, request: Any
) -> None:
    spec = films(index_name, minilm, version="rev")
    target = made(engine, spec, cache)
    send(spec, [{"id": "a", "title": "old", "rev": 5}, {"id": "b", "title": "kept", "rev": 5}])
    tombstones = [{"id": "a", "rev": 7}, {"id": "never", "rev": 7}, "b"]
    if request.node.callspec.params["send"] == "inline":
        report = delete_inline(engine, target, tombstones)
    else:
        report = delete(engine, spec, tombstones, log)
    assert (report.accepted, report.in_index) == (2, 2)
    assert report.refused[0].reason.startswith("the version field 'rev' must be an integer")
    late = send(spec, [{"id": "a", "title": "late", "rev": 6}, {"id": "never", "title": "late", "rev": 1}])
    assert (late.in_index, late.complete) == (2, True)
    assert sorted(held(engine, index_name)) == ["b"]
    assert send(spec, [{"id": "a", "title": "newer", "rev": 8}]).complete
    assert sorted(held(engine, index_name)) == ["a", "b"]


def test_deleting_by_id(engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    with draining(log, engine, cache=cache):
        ingest(engine, spec, FILMS, log)
        assert delete(engine, spec, ["1", 2], log).in_index == 2
    assert sorted(held(engine, index_name)) == ["3"]
    assert log.counts(index_name) == {"written": 3, "encoded": 3, "deleted": 2}
    assert settled(log, index_name)


@pytest.mark.feature("Parent and child documents")
@pytest.mark.never(
    "elasticsearch", reason="the embedded distribution lacks the join module; the full one has it", embedded=True
)
def test_children_lie_with_their_parent_and_are_deleted_there(
    engine: Engine, index_name: str, minilm: str, send: Send, cache: VectorCache
) -> None:
    joins = {"studio": {"kind": "parent", "children": ["movie"]}}
    spec = films(index_name, minilm, joins=joins, settings={"number_of_shards": 3})
    target = made(engine, spec, cache)
    studio = {"id": "s", "title": "Mosfilm", "relation": "studio"}
    children = [{**film, "relation": {"name": "movie", "parent": "s"}} for film in FILMS]
    orphan = {"id": "o", "title": "orphan", "relation": "movie"}
    report = send(spec, [studio, *children, orphan])
    assert (report.in_index, report.refused_count) == (4, 1)
    assert delete_inline(engine, target, ["1", "s"]).in_index == 2
    send(spec, [])
    assert sorted(held(engine, index_name)) == ["2", "3"]


def test_coalesced_events_are_written_once_and_counted(
    engine: Engine, index_name: str, minilm: str, cache: VectorCache
) -> None:
    spec = films(index_name, minilm, version="rev")
    target = made(engine, spec, cache)
    documents = [{"id": "a", "title": f"title {rev}", "rev": rev} for rev in (2, 9, 4)]
    events = [accept(spec, document) for document in documents]
    done = apply_events(engine, target, events)  # type: ignore[arg-type]
    assert (done.written, done.stale, done.encoded) == (1, 2, 1)
    assert held(engine, index_name)["a"]["rev"] == 9


@pytest.mark.feature("Ingest with checked counts")
def test_a_stream_without_length_is_read_in_windows(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    seen: list[Progress] = []
    rings: list[int] = []
    ahead: list[int] = []

    def documents() -> Iterator[dict[str, Any]]:
        for number in range(1300):
            ahead.append(number - (seen[-1].done if seen else 0))
            yield {"id": number, "title": f"film {number % 5}"}

    def ring() -> None:
        rings.append(1)
        raise LogUnavailable("the bell is broken")

    with draining(log, engine, cache=cache, batch=200):
        report = ingest(engine, spec, documents(), log, seen.append, ring=ring, most_waiting=300)
    assert (report.read, report.in_index, report.encoded, report.complete) == (1300, 1300, 5, True)
    assert len(rings) == 3
    assert max(ahead) <= 800
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[0].total, seen[-1]) == (None, Progress(1300, 1300, 5, report.cached))


def test_files_go_in_with_the_lines_named_that_do_not(
    engine: Engine, index_name: str, minilm: str, send: Send, tmp_path: Path
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    (tmp_path / "a.ndjson").write_text('{"id": 1, "title": "Solaris"}\n{"id": 2,\n{"title": "no id"}\n')
    (tmp_path / "b.csv").write_text("id,title,year\n3,Mirror,1975\n4,Bad,never\n")
    report = send(spec, read_files([tmp_path / "a.ndjson", tmp_path / "b.csv"], spec))
    assert (report.read, report.in_index) == (5, 2)
    assert [str(one).removeprefix(str(tmp_path)) for one in report.refused] == [
        "/a.ndjson line 2: not JSON: unexpected end of data at character 10",
        "/a.ndjson line 3: the id field 'id' is missing",
        "/b.csv line 3: column 'year': 'never' is no integer",
    ]


def test_the_shared_cache_lies_in_the_cache_directory(engine: Engine, index_name: str, minilm: str) -> None:
    spec = films(index_name, minilm)
    target = made(engine, spec)
    assert target.cache is make_target(index_name, target.stored).cache
    assert (settings().cache_dir / "vectors.sqlite").exists()
    assert load_encoder(spec.embeddings["plot_vector"]).dims == 384


def test_a_log_that_is_full_takes_nothing_and_is_emptied_all_the_same(
    engine: Engine, index_name: str, tmp_path: Path
) -> None:
    """Redis at its maxmemory: a producer is told why, none of its window is in the log, and workers go on."""
    spec = load_spec({"index": index_name, "fields": {"title": {"type": "text"}}})
    engine.run(create(spec, engine.dialect, {}))
    with start_redis(home=tmp_path) as server:
        log = RedisLog(server.url)
        with pytest.raises(IngestIncomplete, match="no worker"):
            ingest(engine, spec, [{"id": n, "title": "x" * 1000} for n in range(700)], log, patience=0.1)
        assert log.backlog(index_name).total == 700
        log.redis.config_set("maxmemory", log.redis.info("memory")["used_memory"] - 100_000)
        path = tmp_path / "films.ndjson"
        path.write_text("".join(f'{{"id": {n}, "title": "full"}}\n' for n in range(600)))
        with pytest.raises(LogUnavailable, match="is full") as caught:
            ingest(engine, spec, read_files([path], spec), log, lane="live", patience=0.1)
        assert "maxmemory" in str(caught.value.hint)
        assert (log.backlog(index_name).total, log.marks(index_name)) == (700, {})
        with draining(log, engine):
            until(lambda: log.backlog(index_name).total == 0)
        assert len(held(engine, index_name)) == 700
        log.redis.config_set("maxmemory", 0)
        with draining(log, engine):
            assert ingest(engine, spec, read_files([path], spec), log).complete
        log.close()


def test_producers_wait_while_too_much_waits_for_the_index(
    engine: Engine, index_name: str, log: RedisLog, fresh_settings: pytest.MonkeyPatch, caplog: Any
) -> None:
    fresh_settings.setenv("KNNEX_MAX_WAITING", "600")
    spec = load_spec({"index": index_name, "fields": {"title": {"type": "text"}}})
    engine.run(create(spec, engine.dialect, {}))
    read: list[int] = []

    def documents(count: int) -> Iterator[dict[str, Any]]:
        for number in range(count):
            read.append(number)
            yield {"id": number}

    with pytest.raises(IngestIncomplete, match="no worker"):
        ingest(engine, spec, documents(2000), log, patience=0.1)
    assert len(read) == 1000, "up to the first window beyond it"
    with pytest.raises(IngestIncomplete, match="no worker"):
        ingest(engine, spec, documents(1), log, lane="live", patience=0.1)
    assert len(read) == 1000
    assert "more than 600 events" in caplog.text
    with draining(log, engine):
        assert ingest(engine, spec, documents(2000), log).complete
