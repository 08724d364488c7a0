"""A new version of an index: filled beside the old one, compared, swapped in, and left again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feeding import Stranger, wrong
from filling import draining, films, held, made, own_log
from tiny import tiny_model

from knnex.encoders import VectorCache
from knnex.engines import Engine, Request, path_of
from knnex.errors import EngineBusy, IndexMissing, ReindexStopped
from knnex.ingest import Event, RedisLog, Target, apply_events, make_target
from knnex.ingest.audit import audit
from knnex.ingest.reindex import Options, Report, abort, drop_version, reindex, roll_back, versions
from knnex.mappings import Spec, load

# A busy machine needs its time while writes are refused.
FAST = Options(page=20, ttl=1.0, headway=20.0, stall=60.0)
SHARDS = {"number_of_shards": 2, "number_of_replicas": 0}


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 9)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("other"), seed=7))


@pytest.fixture
def spec(index_name: str, tiny: Path) -> Spec:
    return films(index_name, str(tiny), settings=SHARDS)


@pytest.fixture
def target(engine: Engine, spec: Spec) -> Target:
    return made(engine, spec)


def film(number: int, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "title": f"cat {number}", "plot": "the dog sat on the log", "year": number, **more}


def filled(engine: Engine, target: Target, count: int, version: int = 10) -> None:
    """Documents as knnex writes them, one of them deleted."""
    events = [Event(target.alias, str(one), "upsert", film(one), version) for one in range(count)]
    apply_events(engine, target, [*events, Event(target.alias, "gone", "delete", {}, version)])


def now(engine: Engine, alias: str, cache: VectorCache | None = None) -> Target:
    """The index as it is behind the alias now."""
    return make_target(alias, engine.run(load(alias)), cache)


def again(engine: Engine, log: RedisLog | None, spec: Spec, **options: Any) -> Report:
    return reindex(engine, log, spec, options=options.pop("options", FAST), **options)


@pytest.mark.feature("A new version of an index without a gap, and a way back")
def test_vectors_that_stay_the_same_are_taken_over(engine: Engine, target: Target, spec: Spec, log: RedisLog) -> None:
    filled(engine, target, 70)
    before = held(engine, spec.index)
    wider = spec.model_copy(update={"fields": {**spec.fields, "country": spec.fields["genre"]}})
    done = again(engine, log, wider)
    assert (done.source, done.target) == (f"{spec.index}-000001", f"{spec.index}-000002")
    assert (done.copied.copied, done.copied.reused, done.copied.encoded) == (71, 70, 0)
    assert (done.compared.differences, done.stalls) == (0, ())
    assert held(engine, spec.index) == before
    changed = now(engine, spec.index)
    assert (changed.stored.index, changed.spec, changed.stored.also) == (done.target, wider, ())
    assert [(one.name, one.state, one.documents) for one in engine.run(versions(spec.index))] == [
        (done.source, "kept", 71),
        (done.target, "live", 71),
    ]


@pytest.mark.feature("A new version of an index without a gap, and a way back")
def test_another_model_fills_the_new_version_and_the_old_one_can_be_returned_to(
    engine: Engine, target: Target, spec: Spec, log: RedisLog, other_model: str
) -> None:
    filled(engine, target, 50)
    before = held(engine, spec.index)
    newer = films(spec.index, other_model, settings=SHARDS)
    done = again(engine, log, newer)
    assert (done.copied.copied, done.copied.reused) == (51, 0)
    after = held(engine, spec.index)
    assert after.keys() == before.keys()
    assert all(after[id_]["plot_vector"] != before[id_]["plot_vector"] for id_ in before)
    assert wrong(engine, now(engine, spec.index)) == {}

    # What is written after the swap, by knnex and by others, is there after the way back too.
    changed = now(engine, spec.index)
    apply_events(
        engine,
        changed,
        [Event(spec.index, "1", "upsert", film(1, title="robot"), 20), Event(spec.index, "2", "delete", {}, 20)],
    )
    stranger = Stranger(engine, spec.index)
    stranger.change("3", {"title": "human"})
    stranger.put("new", film(99))
    stranger.delete("4")
    back = roll_back(engine, log, spec.index, options=FAST)
    assert (back.source, back.target) == (done.target, done.source)
    returned = held(engine, spec.index)
    assert returned.keys() == (before.keys() | {"new"}) - {"2", "4"}
    assert (returned["1"]["title"], returned["3"]["title"]) == ("robot", "human")
    assert all(returned[id_] == before[id_] for id_ in before.keys() - {"1", "2", "3", "4"})
    assert wrong(engine, now(engine, spec.index)) == {}
    forth = roll_back(engine, log, spec.index, done.target, options=FAST)
    assert forth.target == done.target
    assert held(engine, spec.index).keys() == returned.keys()


def test_what_others_write_meanwhile_is_caught_up_with_writes_stopped_for_a_moment(
    engine: Engine, target: Target, spec: Spec, log: RedisLog, other_model: str
) -> None:
    filled(engine, target, 60)
    stranger = Stranger(engine, spec.index)
    steps: list[str] = []

    def write(step: Any) -> None:
        if step.name != "copy" or not step.done or "written" in steps:
            return
        steps.append("written")
        stranger.change("1", {"title": "robot"})
        stranger.delete("2")
        stranger.put("3", film(3, title="human"))
        stranger.delete("5")
        stranger.put("5", film(5, title="a log"))
        stranger.put("new", film(99))

    done = again(engine, log, films(spec.index, other_model, settings=SHARDS), tell=write)
    assert (steps, len(done.stalls) > 0) == (["written"], True)
    found = held(engine, spec.index)
    assert found.keys() == ({str(one) for one in range(60)} | {"new"}) - {"2"}
    assert [found[id_]["title"] for id_ in ("1", "3", "5")] == ["robot", "human", "a log"]
    assert wrong(engine, now(engine, spec.index)) == {}
    with pytest.raises(EngineBusy, match="blocked by"):  # who writes to the old one by its name hears of it
        Stranger(engine, done.source).put("late", film(1))


def test_one_that_broke_off_is_gone_on_with_or_given_up(
    engine: Engine, target: Target, spec: Spec, log: RedisLog, other_model: str
) -> None:
    filled(engine, target, 60)
    newer = films(spec.index, other_model, settings=SHARDS)
    for name in ("announce", "copy", "compare", "swap"):

        def stop(step: Any, name: str = name) -> None:
            if step.name == name and (name != "copy" or step.done):
                raise ReindexStopped(f"at {name}")

        with pytest.raises(ReindexStopped, match=f"at {name}"):
            again(engine, log, newer, tell=stop)
        assert now(engine, spec.index).stored.index == f"{spec.index}-000001"
    assert abort(engine, spec.index) == f"{spec.index}-000002"
    assert now(engine, spec.index).stored.also == ()
    assert abort(engine, spec.index) == ""
    with pytest.raises(ReindexStopped, match="at compare"):
        again(engine, log, newer, tell=lambda step: stop(step, "compare"))
    done = again(engine, log, newer)
    assert (done.target, done.copied.copied) == (f"{spec.index}-000002", 0)
    assert wrong(engine, now(engine, spec.index)) == {}


def test_a_gate_that_says_no_leaves_both_versions_as_they_are(
    engine: Engine, target: Target, spec: Spec, log: RedisLog, other_model: str
) -> None:
    filled(engine, target, 30)
    asked = []

    def gate(old: Any, new: Any) -> None:
        asked.append((old.index, new.index))
        if len(asked) == 1:
            raise ReindexStopped("worse")

    newer = films(spec.index, other_model, settings=SHARDS)
    with pytest.raises(ReindexStopped, match="worse"):
        again(engine, log, newer, gate=gate)
    states = {one.name: (one.state, one.documents) for one in engine.run(versions(spec.index))}
    assert states == {asked[0][0]: ("live", 31), asked[0][1]: ("building", 31)}
    with draining(log, engine):
        log.append([Event(spec.index, "late", "upsert", film(7))])
        again(engine, log, newer, gate=gate)
    assert "late" in held(engine, spec.index)


def test_documents_that_the_new_version_refuses_stop_it(
    engine: Engine, target: Target, spec: Spec, log: RedisLog
) -> None:
    filled(engine, target, 10)
    fields = {**spec.fields, "title": spec.fields["year"]}
    with pytest.raises(ReindexStopped, match="does not take 10 documents") as stopped:
        again(engine, log, spec.model_copy(update={"fields": fields}))
    assert "knnex abort" in str(stopped.value.hint)
    assert len(held(engine, spec.index)) == 10
    abort(engine, spec.index)


def test_versions_can_be_dropped_but_not_the_one_in_use(
    engine: Engine, target: Target, spec: Spec, log: RedisLog
) -> None:
    filled(engine, target, 5)
    with pytest.raises(IndexMissing, match="no former version"):
        roll_back(engine, log, spec.index)
    done = again(engine, log, spec)
    with pytest.raises(ReindexStopped, match="is live"):
        drop_version(engine, spec.index, done.target)
    with pytest.raises(IndexMissing, match="no version of"):
        drop_version(engine, spec.index, f"{spec.index}-000009")
    drop_version(engine, spec.index, done.source)
    with pytest.raises(IndexMissing, match="no former version"):
        roll_back(engine, log, spec.index)
    assert len(held(engine, spec.index)) == 5


def test_an_index_of_somebody_else_is_no_version(engine: Engine, target: Target, spec: Spec) -> None:
    theirs = f"{spec.index}-202401"
    engine.send(Request("PUT", path_of(theirs)))
    try:
        assert [one.name for one in engine.run(versions(spec.index))] == [target.stored.index]
        with pytest.raises(IndexMissing, match="no version of"):
            drop_version(engine, spec.index, theirs)
    finally:
        engine.send(Request("DELETE", path_of(theirs)))


def test_chunks_nested_objects_and_routing_are_taken_over(
    engine: Engine, index_name: str, tiny: Path, log: RedisLog
) -> None:
    spec = films(
        index_name,
        str(tiny),
        settings=SHARDS,
        embedding={"chunk": {"unit": "sentence", "max_tokens": 8, "overlap": 0}},
        joins={"cast": {"kind": "nested", "fields": {"name": {"type": "keyword"}}}},
    )
    target = made(engine, spec)
    events = [
        Event(index_name, str(one), "upsert", film(one, cast=[{"name": f"actor {one}"}]), 10, routing=f"r{one % 3}")
        for one in range(30)
    ]
    apply_events(engine, target, [*events, Event(index_name, "empty", "upsert", {"id": "empty"}, 10)])
    before = held(engine, index_name)
    done = again(engine, log, spec.model_copy(update={"settings": {**SHARDS, "number_of_shards": 3}}))
    assert (done.copied.copied, done.copied.reused, done.copied.encoded) == (31, 30, 0)
    assert held(engine, index_name) == before
    assert len(before["7"]["plot_vector"]) > 1
    assert audit(engine, now(engine, index_name).stored, alias=index_name, encode=31).faults == {}
    stranger = Stranger(engine, index_name)
    assert stranger.get("7", routing="r1")["found"]
    assert stranger.count({"nested": {"path": "cast", "query": {"term": {"cast.name": "actor 7"}}}}) == 1


def test_lone_surrogates_and_objects_for_texts_do_not_stop_it(
    engine: Engine, target: Target, spec: Spec, log: RedisLog, other_model: str
) -> None:
    stranger = Stranger(engine, spec.index)
    stranger.send("PUT", "_doc", "odd", body={"genre": "x", "plot": "a dog", "unmapped": {"a": [None, {"b": 1}]}})
    stranger.send("PUT", "_doc", "list", body={"title": ["cat", "dog"], "plot": "mat"})
    raw = b'{"title": "a \\ud800 cat", "plot": "on the mat"}'
    stranger.send("POST", "_bulk", body=(b'{"index": {"_id": "torn"}}', raw))
    before = held(engine, spec.index).keys()
    done = again(engine, None, films(spec.index, other_model, settings=SHARDS))
    assert held(engine, spec.index).keys() == before == {"odd", "list", "torn"}
    assert (done.copied.copied, len(done.stalls)) == (3, 1)
