"""A version index announced beside the one behind the alias: all that is written goes to it too, and none of its
troubles is the other's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filling import FIELDS, draining, films, held, made, own_log, settled
from tiny import tiny_model

from knnex.encoders import VectorCache, resolve
from knnex.engines import Engine, Request, path_of
from knnex.errors import IngestIncomplete
from knnex.ingest import Event, Op, Patience, RedisLog, Target, ingest, ingest_inline, make_target
from knnex.mappings import META, PROVENANCE, Resolved, Spec, index_body, load, write_alias
from knnex.mappings.compile import meta
from knnex.workers import Targets, drain

FILMS: list[dict[str, Any]] = [
    {"id": "1", "title": "the cat", "plot": "a cat sat on the mat", "year": 1971},
    {"id": "2", "title": "the dog", "plot": "a dog sat on the log", "year": 1979},
    {"id": "3", "title": "robot", "plot": "a robot that longs to be human", "year": 1982},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two models, of which the second shall replace the first."""
    first, second = (tiny_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in (1, 2))
    return str(first), str(second)


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "vectors.sqlite")


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 10)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def other(engine: Engine, index_name: str) -> Iterator[str]:
    """The name of the second version of the index."""
    name = f"{index_name}-000002"
    yield name
    ask(engine, "DELETE", path_of(name), allow={404})


def ask(engine: Engine, method: str, path: str, body: Any = None, allow: set[int] | None = None) -> Any:
    def flow() -> Any:
        return (yield Request(method, path, {}, body, allow=frozenset(allow or ()))).body

    return engine.run(flow())


def build(engine: Engine, other: str, spec: Spec, resolved: dict[str, Resolved] | None = None) -> None:
    """The second version, as yet behind no alias but its own."""
    body = index_body(spec, engine.dialect, resolved or resolve(spec)) | {"aliases": {write_alias(other): {}}}
    ask(engine, "PUT", path_of(other), body)


def announce(engine: Engine, spec: Spec, *also: str) -> None:
    """Whoever writes to the index from now on writes to these too."""
    stored = engine.run(load(spec.index))
    said = meta(spec, stored.resolved) | ({"also": list(also)} if also else {})
    ask(engine, "PUT", path_of(stored.index, "_mapping"), {"_meta": {META: said}})


def upserts(spec: Spec, *documents: dict[str, Any]) -> list[Event]:
    return [Event(spec.index, str(one["id"]), "upsert", one) for one in documents or FILMS]


def awaited(state: Callable[[], Any]) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + 60
    while not (found := state()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def drained(log: RedisLog, targets: Targets, index: str) -> None:
    """Until the log holds nothing more of the index."""
    awaited(
        lambda: (drain(log, targets, consumer="a", lease=0.5, patience=Patience(attempts=1)), settled(log, index))[1]
    )


def plain(engine: Engine, index: str) -> dict[str, dict[str, Any]]:
    """What an index version holds, tombstones too, without what its own spec makes of it."""
    return {
        id_: {key: value for key, value in one.items() if key not in ("plot_vector", PROVENANCE)}
        | {"version": one[PROVENANCE]["version"], "deleted": one[PROVENANCE]["deleted"]}
        for id_, one in held(engine, index).items()
    }


@pytest.fixture(params=["log", "inline"])
def send(request: pytest.FixtureRequest, engine: Engine, log: RedisLog, cache: VectorCache) -> Iterator[Any]:
    """Sends by either way: both must do the same."""

    def inline(spec: Spec, documents: Any, op: Op = "upsert") -> Any:
        return ingest_inline(engine, make_target(spec.index, engine.run(load(spec.index)), cache), documents, op=op)

    def logged(spec: Spec, documents: Any, op: Op = "upsert") -> Any:
        return ingest(engine, spec, documents, log, op=op)

    if request.param == "inline":
        yield inline
    else:
        with draining(log, engine, cache=cache):
            yield logged


@pytest.mark.parametrize("chunk", [None, {"max_tokens": 8, "overlap": 2}], ids=["whole", "chunked"])
def test_whatever_is_written_is_written_to_both(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], send: Any, chunk: Any
) -> None:
    spec, later = (films(index_name, model) for model in models)
    later = films(index_name, models[1], embedding={"source": ["plot"]} | ({"chunk": chunk} if chunk else {}))
    made(engine, spec)
    build(engine, other, later)
    announce(engine, spec, other)
    reports = [
        send(spec, FILMS),
        send(spec, ["2"], op="delete"),
        send(spec, [{"id": "3", "plot": "a robot"}, {"id": "3", "year": 1983}], op="update"),
    ]
    assert [(one.in_index, one.complete, one.encoded) for one in reports] == [(3, True, 3), (1, True, 0), (2, True, 1)]
    source, beside = held(engine, f"{index_name}-000001"), held(engine, other)
    assert plain(engine, other) == plain(engine, f"{index_name}-000001")
    assert plain(engine, other)["2"]["deleted"]
    assert (beside["3"]["plot"], beside["3"]["year"]) == ("a robot", 1983)
    for name, found, made_by in ((spec, source, spec), (later, beside, later)):
        (encoder,) = make_target(index_name, engine.run(load(index_name if name is spec else other))).encoders.values()
        assert found["3"][PROVENANCE]["vectors"]["plot_vector"]["fingerprint"] == (
            resolve(made_by)["plot_vector"].fingerprint
        )
        text = "robot. a robot" if name is spec else "a robot"
        vector = found["3"]["plot_vector"][0]["vector"] if chunk and name is later else found["3"]["plot_vector"]
        assert vector == pytest.approx(encoder.encode_documents([text])[0], abs=1e-5)


def test_a_document_that_the_other_refuses_is_buried_for_it_alone(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, models[0])
    target = made(engine, spec, cache)
    build(engine, other, films(index_name, models[1], fields=FIELDS | {"genre": {"type": "integer"}}))
    announce(engine, spec, other)
    log.append(upserts(spec, FILMS[0] | {"genre": "drama"}, FILMS[1] | {"genre": "7"}))
    report = drain(log, Targets(engine, cache), consumer="a")
    assert (report.written, report.buried, report.handed_back, report.encoded) == (2, 1, 0, 2)
    assert settled(log, index_name)
    assert (sorted(held(engine, index_name)), sorted(held(engine, other))) == (["1", "2"], ["2"])
    (grave,) = log.buried(index_name)
    assert grave.reason.startswith(f"{other} refuses it: ")
    assert "genre" in grave.reason
    counts = log.counts(index_name)
    assert (counts["written"], counts["buried"], counts["encoded"]) == (2, 1, 2)
    log.append([Event(index_name, "2", "update", {"genre": "comedy"}), Event(index_name, "2", "update", {"year": 5})])
    drained(log, Targets(engine, cache), index_name)
    assert held(engine, index_name)["2"]["genre"] == "comedy"
    # The update as it was sent: tried again, it makes the document that there is then.
    update = log.buried(index_name)[1]
    assert update.event
    assert (update.event.op, dict(update.event.document)) == ("update", {"year": 5})
    log.append([Event(index_name, "2", "update", {"genre": "8"})])
    drained(log, Targets(engine, cache), index_name)
    log.retry_buried(index_name, [update.position])
    drained(log, Targets(engine, cache), index_name)
    assert [one.id for one in log.buried(index_name)] == ["1"]
    assert plain(engine, other)["2"] == plain(engine, target.stored.index)["2"]


def test_what_the_index_itself_does_not_take_goes_nowhere(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, models[0], version="rev")
    made(engine, spec)
    log.append([replace(one, version=1) for one in upserts(spec, FILMS[0] | {"rev": 1})])
    drained(log, Targets(engine, cache), index_name)
    build(engine, other, films(index_name, models[1], version="rev", fields=FIELDS | {"year": {"type": "keyword"}}))
    announce(engine, spec, other)
    again = FILMS[0] | {"rev": 1, "title": "another under the same version"}
    bad = FILMS[1] | {"rev": 1, "year": "never"}
    log.append([replace(one, version=1) for one in upserts(spec, again, bad, FILMS[2] | {"rev": 1})])
    drained(log, Targets(engine, cache), index_name)
    assert sorted(one.id for one in log.buried(index_name)) == ["1", "2"]
    assert not any(other in one.reason for one in log.buried(index_name))
    assert sorted(held(engine, other)) == ["3"]


def waits(log: RedisLog, engine: Engine, spec: Spec, targets: Targets, reason: str) -> None:
    """Events go into the index, and come again for the other, of which people are told."""
    first = drain(log, targets, consumer="a", lease=0.5, patience=Patience(attempts=1))
    assert (first.handed_back, first.buried, first.written) == (3, 0, 0)
    assert sorted(held(engine, spec.index)) == ["1", "2", "3"]
    assert reason in str(log.resting(spec.index))
    assert log.paused(spec.index) is None
    assert log.backlog(spec.index).total == 3


def indexes_of(engine: Engine, index: str) -> set[str]:
    return set(ask(engine, "GET", f"{path_of(index)}*/_settings"))


def test_an_index_goes_on_where_the_other_is_gone(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, models[0])
    made(engine, spec)
    announce(engine, spec, other)
    targets = Targets(engine, cache)
    log.append(upserts(spec))
    waits(log, engine, spec, targets, f"there is no index '{other}'")
    # No handing back counts as a delivery, after which others would take them for deadly.
    assert awaited(lambda: drain(log, targets, consumer="a", lease=0.5).handed_back) == 3
    taken = awaited(lambda: log.take(index_name, "look", 9, 0.5))
    assert [one.deliveries for one in taken] == [1, 1, 1]
    log.release(index_name, "look", taken, 0.5, 0)
    announce(engine, spec)
    drained(log, targets, index_name)
    assert targets.get(index_name).alone
    assert log.buried(index_name) == []
    assert sum(log.counts(index_name).get(name, 0) for name in ("written", "stale")) == 3
    assert indexes_of(engine, index_name) == {f"{index_name}-000001"}


def test_an_other_that_is_deleted_meanwhile_is_not_made_by_a_write(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, models[0])
    made(engine, spec)
    build(engine, other, films(index_name, models[1]))
    announce(engine, spec, other)

    class Late(Targets):
        def get(self, alias: str) -> Target:
            target = super().get(alias)
            ask(engine, "DELETE", path_of(other))
            return target

    log.append(upserts(spec))
    waits(log, engine, spec, Late(engine, cache), f"{other} has to wait: there is no index '{write_alias(other)}'")
    assert indexes_of(engine, index_name) == {f"{index_name}-000001"}


def test_an_index_goes_on_where_the_model_of_the_other_is_not_there(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec, later = (films(index_name, model) for model in models)
    made(engine, spec)
    build(engine, other, later, {"plot_vector": Resolved(32, "another")})
    announce(engine, spec, other)
    log.append(upserts(spec))
    waits(log, engine, spec, Targets(engine, cache), "was filled under fingerprint another")
    with pytest.raises(IngestIncomplete, match="not in its next version.*fingerprint another"):
        ingest_inline(engine, make_target(index_name, engine.run(load(index_name)), cache), FILMS)
    ask(engine, "DELETE", path_of(other))
    build(engine, other, later)
    drained(log, Targets(engine, cache), index_name)
    assert plain(engine, other).keys() == {"1", "2", "3"}


def test_what_a_blocked_other_misses_comes_again_updates_too(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, models[0])
    made(engine, spec)
    targets = Targets(engine, cache)
    log.append(upserts(spec))
    drained(log, targets, index_name)
    build(engine, other, films(index_name, models[1]))
    announce(engine, spec, other)
    ask(engine, "PUT", path_of(other, "_block", "write"))
    log.append([Event(index_name, "1", "update", {"year": 1}), Event(index_name, "1", "update", {"genre": "drama"})])
    log.append([Event(index_name, "2", "update", {"year": 2})])
    first = drain(log, targets, consumer="a", lease=0.5, patience=Patience(attempts=1))
    # Of changes made together one has to come again.
    assert (first.written, first.handed_back) == (1, 2)
    assert f"{other} has to wait: 403" in str(log.resting(index_name))
    found = held(engine, index_name)
    assert (found["1"]["year"], found["1"]["genre"], found["2"]["year"]) == (1, "drama", 2)
    log.append([Event(index_name, "2", "delete", {})])
    awaited(lambda: drain(log, targets, consumer="a", lease=0.5, patience=Patience(attempts=1)).handed_back)
    ask(engine, "PUT", path_of(other, "_settings"), {"index.blocks.write": None})
    drained(log, targets, index_name)
    source = plain(engine, f"{index_name}-000001")
    assert plain(engine, other) == {id_: source[id_] for id_ in "12"}
    assert (source["2"]["deleted"], log.buried(index_name)) == (True, [])
    counts = log.counts(index_name)
    assert sum(counts.get(name, 0) for name in ("written", "stale", "deleted")) == 7


def test_a_suspect_is_tried_for_both_before_it_is_written(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, models[0])
    made(engine, spec)
    build(engine, other, films(index_name, models[1]))
    announce(engine, spec, other)
    log.append(upserts(spec))
    log.take(index_name, "dead", 9, 0.2)
    targets = Targets(engine, cache)
    done = awaited(lambda: drain(log, targets, consumer="a", lease=0.2).written)
    assert done == 3
    assert plain(engine, other) == plain(engine, f"{index_name}-000001")
    assert set(targets.facts()["model"].split(", ")) == set(models)


def test_both_are_opened_once_and_the_other_is_let_go(
    engine: Engine, index_name: str, other: str, models: tuple[str, str], log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, models[0])
    made(engine, spec)
    build(engine, other, films(index_name, models[1]))
    targets = Targets(engine, cache, log)
    assert targets.get(index_name).alone
    announce(engine, spec, other)
    both = targets.get(index_name)
    assert [one.alias for one in both.beside] == [write_alias(other)]
    assert targets.get(index_name) is both
    ask(engine, "PUT", path_of(other, "_settings"), {"index.translog.durability": "async"})
    announce(engine, spec)
    assert targets.get(index_name).alone
    announce(engine, spec, other)
    log.append(upserts(spec))
    drained(log, targets, index_name)
    assert len(held(engine, other)) == 3
    again = Targets(engine, cache, log).get(index_name)
    assert (again.beside, "durability: async" in again.shut[other]) == ((), True)
    announce(engine, spec)
    log.append([Event(index_name, "4", "upsert", FILMS[0] | {"id": "4"})])
    drained(log, targets, index_name)
    assert ("4" in held(engine, index_name), "4" in held(engine, other)) == (True, False)


def test_a_writer_without_log_sees_what_is_announced_while_it_writes(
    engine: Engine,
    index_name: str,
    other: str,
    models: tuple[str, str],
    cache: VectorCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = films(index_name, models[0], embedding={"source": ["genre"]})
    made(engine, spec)
    build(engine, other, films(index_name, models[0], fields=FIELDS | {"rev": {"type": "ip"}}))

    def documents() -> Iterator[dict[str, Any]]:
        for number in range(700):
            if number == 600:
                announce(engine, spec, other)
            yield {"id": str(number), "title": "the cat", "rev": number}

    with caplog.at_level(logging.WARNING, "knnex"):
        report = ingest_inline(engine, make_target(index_name, engine.run(load(index_name)), cache), documents())
    assert (report.in_index, report.complete) == (700, True)
    assert held(engine, other) == {}
    told = [one.getMessage() for one in caplog.records if getattr(one, "action", "") == "refused_beside"]
    assert len(told) == 200
    assert f"499 is in {index_name}, but {other} refuses it: " not in told[0]
    assert f"500 is in {index_name}, but {other} refuses it: " in told[0]
