"""Following the change feed while others write, with processes and servers that die in the middle of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from feeding import Stranger, passed, wrong
from filling import draining, films, held, made, one_engine, own_log
from homes import open_home, until
from servers import HEAP
from test_cli import Shell

from knnex.engines import Access, Engine, open_engine
from knnex.engines.embedded import EmbeddedServer, start_elasticsearch, start_opensearch
from knnex.errors import EngineUnreachable, IndexMissing
from knnex.ingest import Event, Patience, RedisLog, Target
from knnex.ingest.feed_follow import follow, tend
from knnex.ingest.feed_state import FeedReport, feed_state

WORDS = ("cat", "dog", "robot", "mat", "log", "human", "passage", "query")


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 11)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def target(engine: Engine, index_name: str, tiny: Path) -> Target:
    return made(engine, films(index_name, str(tiny), settings={"number_of_shards": 3, "number_of_replicas": 0}))


class Follower(threading.Thread):
    """`follow` in a thread."""

    def __init__(self, engine: Engine, log: RedisLog, target: Target, **options: Any) -> None:
        super().__init__()
        self.stop, self.done, self.failed = threading.Event(), FeedReport(), None
        self._work = lambda: follow(engine, log, lambda _: target, target.alias, self.stop, 0.05, **options)

    def run(self) -> None:
        self.done = self._work()

    @contextmanager
    def running(self) -> Iterator[Follower]:
        self.start()
        try:
            yield self
        finally:
            self.stop.set()
            self.join()


def caught_up(log: RedisLog, index: str, since: int) -> bool:
    state = feed_state(log, index)
    return bool(state and not state.behind and state.at > since)


class Writer(threading.Thread):
    """Somebody who writes, changes and deletes documents of a few ids, and remembers what of theirs must be there."""

    def __init__(self, engine: Engine, index: str, name: int, steps: int) -> None:
        super().__init__()
        self.random, self.steps, self.name_ = random.Random(name), steps, name
        self.stranger = Stranger(engine, index)
        self.expected: dict[str, dict[str, Any] | None] = {}

    def text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=4))

    def run(self) -> None:
        acts: list[Callable[[str], None]] = [
            self.put,
            self.put,
            self.change,
            self.change,
            self.bulk,
            self.delete,
            self.remake,
        ]
        for _ in range(self.steps):
            self.random.choice(acts)(f"{self.name_}-{self.random.randrange(15)}")

    def film(self) -> dict[str, Any]:
        return {
            "title": self.text(),
            "plot": self.text(),
            "rev": self.random.randrange(1000),
            "mine": {"by": self.name_},
        }

    def put(self, id_: str) -> None:
        self.expected[id_] = film = self.film()
        self.stranger.put(id_, film)

    def change(self, id_: str) -> None:
        fields = self.random.choice(
            [{"title": self.text()}, {"rev": 7}, {"title": None, "plot": None}, {"plot": self.text()}]
        )
        if held := self.expected.get(id_):
            self.expected[id_] = held | fields
        self.stranger.change(id_, fields)

    def bulk(self, id_: str) -> None:
        ids = [id_, f"{self.name_}-{self.random.randrange(15)}"]
        films = {one: self.film() for one in ids}
        self.expected |= films
        self.stranger.bulk(films.items())

    def delete(self, id_: str) -> None:
        self.expected[id_] = None
        self.stranger.delete(id_)

    def remake(self, id_: str) -> None:
        self.delete(id_)
        self.put(id_)


@pytest.mark.feature("Vectors for what others write into an index")
def test_while_others_write_no_change_is_missed_and_none_of_theirs_is_undone(
    engine: Engine, target: Target, log: RedisLog
) -> None:
    index = target.alias
    writers = [Writer(engine, index if name % 2 else target.stored.index, name, 60) for name in range(8)]
    own = [
        Event(
            index, f"own-{number % 20}", "upsert", {"id": f"own-{number % 20}", "title": f"cat {number}", "plot": "dog"}
        )
        for number in range(60)
    ]
    with Follower(engine, log, target, page=50).running() as follower, draining(log, engine):
        for one in writers:
            one.start()
        for event in own:
            log.append([event])
        log.append([Event(index, f"own-{number}", "delete", {}) for number in range(5)])
        for one in writers:
            one.join()
        until(lambda: not log.backlog(index).total)
        now = log.now()
        until(lambda: caught_up(log, index, now))
    expected = {id_: film for one in writers for id_, film in one.expected.items() if film}
    documents = held(engine, index)
    assert documents.keys() == expected.keys() | {f"own-{number}" for number in range(5, 20)}
    assert wrong(engine, target) == {}
    for id_, film in expected.items():
        assert {key: value for key, value in documents[id_].items() if key not in ("_knnex", "plot_vector")} == film
        assert documents[id_].get("_knnex", {}).keys() <= {"vectors"}
    # Each that has something to encode at least once; how often more depends on how fast the feed is.
    encoded = sum(film.get("plot") is not None for film in expected.values())
    assert (log.burials(index), follower.done.enriched >= encoded > 0) == ([], True)
    assert passed(engine, log, target).enriched == 0


def test_of_two_followers_one_works_and_the_other_takes_over(
    engine: Engine, target: Target, log: RedisLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "knnex")
    stranger = Stranger(engine, target.alias)
    first, second = Follower(engine, log, target), Follower(engine, log, target)
    with first.running():
        stranger.put("1", {"title": "cat"})
        until(lambda: not wrong(engine, target))
        second.start()
        until(lambda: "standing by" in caplog.text)
        assert tend(engine, log, lambda _: target, target.alias) is None
    try:
        stranger.put("2", {"title": "dog"})
        until(lambda: not wrong(engine, target))
    finally:
        second.stop.set()
        second.join()
    assert second.done.enriched == 1
    alone: list[FeedReport] = []

    def tended() -> bool:  # a lease that was given up ends a millisecond later
        alone.extend(filter(None, [tend(engine, log, lambda _: target, target.alias)]))
        return bool(alone)

    until(tended)
    assert alone[0].enriched == 0


def test_what_is_wrong_from_the_start_is_said_and_what_passes_is_waited_for(
    engine: Engine, target: Target, log: RedisLog, tmp_path: Path
) -> None:
    def missing(index: str) -> Target:
        raise IndexMissing(f"there is no index {index!r}")

    with pytest.raises(IndexMissing):
        follow(engine, log, missing, target.alias, threading.Event(), 0.01)

    stop, asked = threading.Event(), 0

    def flaky(index: str) -> Target:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise IndexMissing(f"there is no index {index!r}")
        if asked == 3:
            raise EngineUnreachable("no answer")
        if asked == 5:
            stop.set()
        return target

    follow(engine, log, flaky, target.alias, stop, 0.01)
    assert asked == 5


class Process:
    """`knnex follow` as a process of its own."""

    def __init__(self, engine_url: str, log: RedisLog, home: Path, index: str, *words: str) -> None:
        ours = {
            "KNNEX_URL": engine_url,
            "KNNEX_LOG_URL": log.url,
            "KNNEX_CACHE_DIR": str(home),
            "KNNEX_HOME": str(home),
        }
        command = [sys.executable, "-m", "knnex", "follow", index, "--json", "--interval", "0.05", *words]
        self.process = subprocess.Popen(
            command, env={**os.environ, **ours}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self, how: signal.Signals) -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, the lines that were told, and the messages."""
        self.process.send_signal(how)
        told, said = self.process.communicate(timeout=120)
        return self.process.returncode, [orjson.loads(line) for line in told.splitlines()], said


@one_engine
def test_a_killed_process_leaves_nothing_undone_and_a_stopped_one_finishes_its_batch(
    engine: Engine, engine_url: str, target: Target, log: RedisLog, tmp_path: Path
) -> None:
    index, stranger = target.alias, Stranger(engine, target.alias)
    for part in range(4):
        stranger.bulk((f"{part}-{number}", {"title": f"cat {number}", "plot": f"{part}"}) for number in range(500))
    process = Process(engine_url, log, tmp_path, index)
    until(lambda: bool(log.recall(index, "feed")))
    code, _, _ = process.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    stranger.bulk((f"0-{number}", {"title": f"dog {number}"}) for number in range(100))
    process = Process(engine_url, log, tmp_path, index)
    now = log.now()
    # The dead one is believed to live for a while.
    until(lambda: caught_up(log, index, now))
    code, told, said = process.end(signal.SIGTERM)
    assert (code, told[-1]["total"]) == (0, True), said
    assert sum(line["seen"] for line in told[:-1]) == told[-1]["seen"] >= 100
    assert stranger.count({"exists": {"field": "plot_vector"}}) == 2000
    assert wrong(engine, target) == {}


@pytest.mark.feature("Vectors for what others write into an index")
def test_one_pass_from_the_command_line(
    engine: Engine, engine_url: str, target: Target, log: RedisLog, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, KNNEX_URL=engine_url, KNNEX_LOG_URL=log.url)
    Stranger(engine, target.alias).bulk((str(number), {"title": f"cat {number}"}) for number in range(30))
    told = shell("follow", target.alias, "--once")
    assert told.returncode == 0, told.stderr
    assert "in all: 60 seen, 30 enriched, 30 unchanged, 0 changed meanwhile, 0 buried; 0 behind" in told.stdout
    told = shell("follow", target.alias, "--once", "--afresh", "--json")
    assert [orjson.loads(line)["total"] for line in told.stdout.splitlines()][-1] is True
    last = orjson.loads(told.stdout.splitlines()[-1])
    assert (last["seen"], last["enriched"], last["behind"]) == (30, 0, 0)
    log.hold(f"feed:{target.alias}", "somebody", 30)
    told = shell("follow", target.alias, "--once")
    assert (told.returncode, "another follower" in told.stderr) == (1, True)
    told = shell("follow", "knnex-test-none", "--once")
    assert (told.returncode, "there is no index" in told.stderr) == (1, True)


def test_five_thousand_documents_are_looked_at_once_and_given_their_vectors(
    engine: Engine, target: Target, log: RedisLog
) -> None:
    stranger = Stranger(engine, target.alias)
    for part in range(5):
        stranger.bulk((f"{part}-{number}", {"title": f"cat {number}"}) for number in range(1000))
    report = passed(engine, log, target)
    assert (report.enriched, report.seen, report.behind) == (5000, 10_000, 0)
    assert report.encoded + report.cached >= 1000
    assert stranger.count({"exists": {"field": "plot_vector"}}) == 5000


@contextmanager
def node(name: str, home: Path, port: int) -> Iterator[EmbeddedServer]:
    start = {"elasticsearch": start_elasticsearch, "opensearch": start_opensearch}[name]
    with start(home=home, keep="node", port=port, heap=HEAP) as server:
        yield server


def test_an_engine_that_dies_in_the_middle_is_waited_for(engine_name: str, redis_url: str, tiny: Path) -> None:
    log, index = own_log(redis_url, 11), f"knnex-test-restart-{engine_name}"
    try:
        with open_home() as home:
            with node(engine_name, home, 0) as server:
                url, port = server.url, int(server.url.rpartition(":")[2])
                engine = open_engine(url, Access(timeout=10))
                # A replica that has no place to go must not keep the feed waiting.
                target = made(
                    engine, films(index, str(tiny), settings={"number_of_shards": 2, "number_of_replicas": 1})
                )
                stranger = Stranger(engine, index)
                stranger.bulk((str(number), {"title": f"cat {number}"}) for number in range(300))
                pages: list[FeedReport] = []

                def told(page: FeedReport) -> None:
                    pages.append(page)
                    if len(pages) == 3:
                        os.kill(server.pid, signal.SIGKILL)

                patience = Patience(attempts=3, first=0.05, longest=0.1)
                follower = Follower(engine, log, target, page=20, tell=told, patience=patience)
                follower.start()
                until(lambda: not server.alive())
            try:
                with node(engine_name, home, port):
                    stranger.bulk((str(number), {"title": f"dog {number}"}) for number in range(50))
                    now = log.now()
                    until(lambda: caught_up(log, index, now))
                    assert wrong(engine, target) == {}
                    assert stranger.count({"exists": {"field": "plot_vector"}}) == 300
            finally:
                follower.stop.set()
                follower.join()
                engine.close()
    finally:
        log.forget(index)
        log.close()
