"""A new version of an index while people write and search, and while coordinators die."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feeding import Stranger, wrong
from filling import draining, films, held, made, own_log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reindex import FAST, SHARDS, filled, film, now

from knnex import connect
from knnex.encoders import resolve
from knnex.engines import Engine
from knnex.errors import AlreadyRunning, EngineBusy
from knnex.ingest import Event, RedisLog
from knnex.ingest.reindex import Options, Step, reindex
from knnex.mappings import Spec, create, drop, find

WORDS = ("cat", "dog", "robot", "mat", "log", "human", "passage", "query")


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 13)
    yield opened
    opened.forget(index_name)
    opened.close()


class Reader(threading.Thread):
    """Somebody who searches all the time, and must never see an error, nothing, or hits of two versions."""

    def __init__(self, address: str, index: str) -> None:
        super().__init__()
        self.address, self.index, self.over = address, index, threading.Event()
        self.searches, self.trouble, self.seen = 0, list[str](), set[frozenset[str]]()

    def run(self) -> None:
        with connect(self.address) as cluster:
            index = cluster.index(self.index)
            while not self.over.is_set():
                try:
                    hits = index.search("a cat sat on the mat")
                    self.searches += 1
                    self.seen.add(frozenset(hit.index for hit in hits))
                    if not hits.hits:
                        self.trouble.append("nothing was found")
                except Exception as error:  # whatever a reader sees
                    self.trouble.append(f"{type(error).__name__}: {error}")


@pytest.mark.feature("A new version of an index without a gap, and a way back")
def test_with_writers_and_readers_nothing_is_lost_and_nothing_is_seen_of_it(
    engine: Engine, log: RedisLog, index_name: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tiny import tiny_model

    spec = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, spec), 300, version=10)
    assert len(held(engine, index_name)) == 300  # and all of them can be found
    chance = random.Random(4)
    expected: dict[str, dict[str, Any] | None] = {str(one): film(one) for one in range(300)}
    reader, over = Reader(engine.address, index_name), threading.Event()

    def write() -> None:
        while not over.is_set():
            id_ = str(chance.randrange(320))
            if chance.random() < 0.25:
                expected[id_] = None
                log.append([Event(index_name, id_, "delete", {})])
            elif chance.random() < 0.3 and expected.get(id_):
                change = {"title": " ".join(chance.choices(WORDS, k=3))}
                expected[id_] = expected[id_] | change  # type: ignore[operator]
                log.append([Event(index_name, id_, "update", change)])
            else:
                expected[id_] = film(int(id_), title=" ".join(chance.choices(WORDS, k=3)))
                log.append([Event(index_name, id_, "upsert", expected[id_])] * chance.choice((1, 1, 2)))
            over.wait(0.005)

    newer = films(index_name, str(tiny_model(tmp_path_factory.mktemp("live"), seed=5)), settings=SHARDS)
    writer = threading.Thread(target=write)
    with draining(log, engine):
        reader.start()
        writer.start()
        done = reindex(engine, log, newer, options=FAST)
        over.set()
        writer.join()
        while log.backlog(index_name).total:
            log.wait(0.05)
        reader.over.set()
        reader.join()
    assert (reader.trouble, done.stalls) == ([], ())
    assert reader.seen <= {frozenset({done.source}), frozenset({done.target})}
    assert frozenset({done.target}) in reader.seen
    documents = held(engine, index_name)
    assert {id_: one["title"] for id_, one in documents.items()} == {
        id_: one["title"] for id_, one in expected.items() if one
    }
    assert wrong(engine, now(engine, index_name)) == {}
    # A delete goes before an update that waits for what came before it.
    assert {one.reason.split(" '")[0] for one in log.buried(index_name)} <= {"there is no document"}


# Who: 0 is somebody who writes by the alias, 1 knnex by the log. What they do, to which document, and after how many
# steps of the coordinator.
ACTS = st.tuples(
    st.sampled_from(("put", "change", "delete", "remake", "bulk")), st.integers(0, 11), st.sampled_from(WORDS)
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.tuples(st.integers(0, 9), ACTS), max_size=40), again=st.booleans())
def test_whatever_others_do_meanwhile_both_versions_hold_the_same(
    acts: list[tuple[int, tuple[str, int, str]]], again: bool, engine: Engine, index_name: str, tiny: Path
) -> None:
    # `again`: with the same model the vectors are taken over, with a prompt they are all made anew.
    spec = films(index_name, str(tiny), settings=SHARDS)
    engine.run(create(spec, engine.dialect, resolve(spec)))
    stranger, expected = Stranger(engine, index_name), dict[str, dict[str, Any]]()
    for one in range(12):
        expected[str(one)] = {"title": f"cat {one}"}
        stranger.put(str(one), expected[str(one)])
    left = sorted(acts, key=lambda one: one[0])
    steps = 0

    def act(_: Step) -> None:
        nonlocal steps
        while left and left[0][0] <= steps:
            kind, number, word = left.pop(0)[1]
            try:
                _do(stranger, expected, kind, str(number), word)
            except EngineBusy:  # refused for a moment: they try again later
                left.append((0, (kind, number, word)))
                break
        steps += 1

    newer = spec if again else films(index_name, str(tiny), settings=SHARDS, embedding={"document_prompt": "passage: "})
    done = reindex(engine, None, newer, options=Options(page=5, ttl=1.0), tell=act)
    steps = 99
    act(Step("after"))
    found = held(engine, index_name)
    assert {id_: one["title"] for id_, one in found.items()} == {id_: one["title"] for id_, one in expected.items()}
    if not left and not acts:
        assert wrong(engine, now(engine, index_name)) == {}
    assert engine.run(find(index_name)).index == done.target  # type: ignore[union-attr]
    engine.run(drop(index_name))


def _do(stranger: Stranger, expected: dict[str, dict[str, Any]], kind: str, id_: str, word: str) -> None:
    if kind in ("delete", "remake"):
        stranger.delete(id_)
        expected.pop(id_, None)
    if kind == "change":
        stranger.change(id_, {"title": word})
        if id_ in expected:
            expected[id_] = {"title": word}
    elif kind == "bulk":
        stranger.bulk([(id_, {"title": word}), ("more", {"title": word})])
        expected |= {id_: {"title": word}, "more": {"title": word}}
    elif kind != "delete":
        stranger.put(id_, {"title": word})
        expected[id_] = {"title": word}


def _die_at(url: str, redis: str, spec: dict[str, Any], name: str) -> None:
    """In a process of its own: re-index, and be killed at the first sign of a step."""
    from filling import own_log

    def tell(step: Step) -> None:
        if step.name == name and (name != "copy" or step.done > 20):
            os.kill(os.getpid(), signal.SIGKILL)

    with connect(url) as cluster:
        reindex(cluster.engine, own_log(redis, 13), Spec.model_validate(spec), options=FAST, tell=tell)


def test_a_coordinator_that_is_killed_at_any_step_is_followed_by_one_that_ends_it(
    engine: Engine, log: RedisLog, index_name: str, tiny: Path, redis_url: str
) -> None:
    spec = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, spec), 60)
    before = held(engine, index_name)
    newer = films(index_name, str(tiny), settings=SHARDS, embedding={"document_prompt": "passage: "})
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["knnex.ingest.reindex", "sentence_transformers"])
    for name in ("announce", "copy", "compare", "swap"):
        arguments = (engine.address, redis_url, newer.model_dump(mode="json"), name)
        killed = forked.Process(target=_die_at, args=arguments)
        killed.start()
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
        assert held(engine, index_name) == before
    done = reindex(engine, log, newer, options=FAST)
    assert (done.target, done.compared.differences) == (f"{index_name}-000002", 0)
    assert held(engine, index_name).keys() == before.keys()
    assert wrong(engine, now(engine, index_name)) == {}


def test_of_two_at_once_one_does_it_and_the_other_says_who(
    engine: Engine, log: RedisLog, index_name: str, tiny: Path
) -> None:
    spec = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, spec), 30)
    told: list[str] = []

    def second(step: Step) -> None:
        if step.name == "copy" and not told:
            with pytest.raises(AlreadyRunning) as other:
                reindex(engine, log, spec, options=FAST)
            told.append(str(other.value))

    reindex(engine, log, spec, options=FAST, tell=second)
    assert f"process {os.getpid()} of " in told[0]
    assert "at the step" in told[0]
