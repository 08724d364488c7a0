"""Documents that kill: tried where a death harms nobody, and buried after three at most; their neighbours go in."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deadly import RESOLVED, Deadly, DeadlyTargets, deadly_spec, deadly_target
from filling import films, held, one_engine, own_log

from knnex.encoders import PROBE, TextEncoder, VectorCache, resolve
from knnex.engines import Engine
from knnex.ingest import Event, RedisLog, Target, make_target
from knnex.mappings import Stored, create
from knnex.workers import drain
from knnex.workers.heartbeat import HUNG
from knnex.workers.quarantine import Died, Quarantine, Raised, Survived, Unjudged


@pytest.fixture
def quarantine() -> Iterator[Quarantine]:
    with Quarantine() as opened:
        yield opened


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 7)
    yield opened
    opened.forget(index_name)
    opened.close()


def awaited(state: Callable[[], Any]) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + 120
    while not (found := state()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def event(title: str, id_: str = "1", index: str = "films") -> Event:
    return Event(index, id_, "upsert", {"id": id_, "title": title}, version=1)


def opened(quarantine: Quarantine, target: Target) -> Any:
    while (answer := quarantine.open(target, 120)) == "starting":
        pass
    return answer


def tried(quarantine: Quarantine, target: Target, title: str, seconds: float = 60.0) -> Any:
    assert opened(quarantine, target) == "ready"
    quarantine.begin(event(title), seconds)
    return awaited(lambda: quarantine.outcome(0.1))


def test_a_death_ends_neither_the_worker_nor_those_that_come_after(quarantine: Quarantine) -> None:
    target = deadly_target()
    first = tried(quarantine, target, "abc")
    assert isinstance(first, Survived)
    assert (first.prepared.items[0].body["v"].tolist(), first.prepared.encoded) == ([3, 1, 2, 3], 1)
    keeper = quarantine.pid
    assert tried(quarantine, target, "KILL") == Died("it was ended by SIGKILL")
    assert tried(quarantine, target, "LEAVE") == Died("it ended with code 1")
    assert tried(quarantine, target, "HANG", 0.5) == Died("it gave no answer within 0.5 s")
    assert tried(quarantine, target, "SPIN", 0.5) == Died("it gave no answer within 0.5 s")
    assert isinstance(tried(quarantine, target, "abc"), Survived)
    assert quarantine.pid == keeper


def test_an_error_is_told_as_in_the_worker(quarantine: Quarantine) -> None:
    refused = tried(quarantine, deadly_target(), "FAIL")
    assert isinstance(refused, Survived)
    assert "RuntimeError: no device" in refused.prepared.refused[0].reason
    broken = tried(quarantine, deadly_target(encoder=Deadly(broken=True)), "abc")
    assert isinstance(broken, Raised)
    assert broken.broken
    assert "no device" in broken.reason


def test_a_document_that_takes_all_memory_meets_a_limit_of_its_own() -> None:
    with Quarantine(max_bytes=256 << 20) as quarantine:
        hog = tried(quarantine, deadly_target(), "HOG")
        assert "MemoryError" in hog.prepared.refused[0].reason
        assert isinstance(tried(quarantine, deadly_target(), "abc"), Survived)


def test_a_real_model_is_found_as_by_a_worker_and_its_vectors_are_kept(
    quarantine: Quarantine, tiny: Path, tmp_path: Path
) -> None:
    spec = films("films", str(tiny), embedding={"chunk": {"max_tokens": 16, "overlap": 4}})
    with VectorCache(tmp_path / "vectors.sqlite") as cache:
        target = make_target("films", Stored("films", spec, resolve(spec)), cache)
        encoder = target.encoders["plot_vector"]
        assert isinstance(encoder, TextEncoder)
        text = "the cat sat on the mat. a robot sat on the log. " * 10
        for encoded in (True, False):
            outcome = tried(quarantine, target, text)
            assert bool(outcome.prepared.encoded) == encoded
            for one in outcome.prepared.items[0].body["plot_vector"]:
                assert one["vector"] == pytest.approx(encoder.encode_documents([one["text"]])[0], abs=1e-5)
        assert len(cache) == len({one["text"] for one in outcome.prepared.items[0].body["plot_vector"]})


def test_what_cannot_go_to_another_process_is_said_to_be_impossible(quarantine: Quarantine) -> None:
    class Local(Deadly):
        pass

    local = deadly_target(encoder=Local())
    assert quarantine.open(local) == "impossible"
    elsewhere = Stored("films", films("films", "no-such-model"), RESOLVED)
    assert opened(quarantine, Target("films", elsewhere, {}, None)) == "impossible"
    assert isinstance(tried(quarantine, deadly_target(), "abc"), Survived)
    assert quarantine.open(local) == "impossible"


class Forkless(Deadly):
    """Works in the process that unpickled it, and in no fork of that after the first."""

    def __init__(self, notes: Path) -> None:
        super().__init__(notes)

    def encode_documents(self, texts: Any) -> Any:
        if list(texts) == [PROBE]:
            assert self.notes
            with self.notes.open("a") as file:
                file.write("fork\n")
            if self.notes.read_text().count("fork") > 1:
                os._exit(1)
        return super().encode_documents(texts)


def test_an_event_is_not_to_blame_where_no_process_can_be_had(quarantine: Quarantine, tmp_path: Path) -> None:
    target = deadly_target(encoder=Forkless(tmp_path / "notes"))
    assert isinstance(tried(quarantine, target, "KILL"), Died)
    assert isinstance(tried(quarantine, target, "abc"), Unjudged)
    assert quarantine.open(target) == "impossible"
    assert isinstance(tried(quarantine, deadly_target(), "abc"), Survived)


def test_an_idle_process_ends_and_another_one_is_started() -> None:
    target = deadly_target()
    with Quarantine(idle=2.0) as quarantine:
        quarantine.warm(target)
        first = quarantine.pid
        assert first
        tried(quarantine, target, "abc")
        quarantine.warm(deadly_target())
        assert quarantine.pid == first
        awaited(lambda: quarantine.pid is None)
        assert isinstance(tried(quarantine, target, "abc"), Survived)
        assert quarantine.pid not in (None, first)
    assert quarantine.pid is None


ORPHANS = """
import sys
from deadly import deadly_target
from test_quarantine import event, opened
from knnex.workers.quarantine import Quarantine

quarantine = Quarantine()
assert opened(quarantine, deadly_target()) == "ready"
quarantine.begin(event(sys.argv[1]), 600)
print(quarantine.pid, flush=True)
quarantine.outcome(600)
"""


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, text=True, **options)


@pytest.mark.parametrize("word", ["HANG", "SPIN"])
def test_its_processes_end_with_the_worker_even_where_that_is_killed(word: str) -> None:
    with python(ORPHANS, word, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        keeper = int(worker.stdout.readline())
        cells = awaited(lambda: Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split())
        worker.kill()
    for pid in (keeper, *map(int, cells)):
        awaited(lambda pid=pid: not running(pid))


LOADS = """
import sys
from pathlib import Path
from deadly import deadly_target
from test_quarantine import Endless
from knnex.workers.quarantine import Quarantine

quarantine = Quarantine()
assert quarantine.open(deadly_target(encoder=Endless(Path(sys.argv[1])))) == "starting"
print(quarantine.pid, flush=True)
quarantine.outcome(600)
"""


class Endless(Deadly):
    """A model that takes for ever to load."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["notes"].touch()
        time.sleep(3600)


def test_its_process_ends_with_a_killed_worker_while_a_model_is_loaded(tmp_path: Path) -> None:
    with python(LOADS, str(tmp_path / "loading"), stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        keeper = int(worker.stdout.readline())
        awaited((tmp_path / "loading").exists)
        worker.kill()
    awaited(lambda: not running(keeper))


def test_a_process_that_died_in_between_is_no_fault_of_the_next_event(quarantine: Quarantine) -> None:
    assert opened(quarantine, deadly_target()) == "ready"
    (cell,) = Path(f"/proc/{quarantine.pid}/task/{quarantine.pid}/children").read_text().split()
    os.kill(int(cell), signal.SIGKILL)
    awaited(lambda: not running(int(cell)))
    quarantine.begin(event("abc"), 60)
    assert isinstance(awaited(lambda: quarantine.outcome(0.1)), Survived)


def test_a_keeper_that_is_killed_takes_the_document_with_it(quarantine: Quarantine) -> None:
    target = deadly_target()
    assert opened(quarantine, target) == "ready"
    quarantine.begin(event("HANG"), 600)
    (cell,) = awaited(lambda: Path(f"/proc/{quarantine.pid}/task/{quarantine.pid}/children").read_text().split())
    os.kill(quarantine.pid or 0, signal.SIGKILL)
    assert "ended" in awaited(lambda: quarantine.outcome(0.1)).how
    awaited(lambda: not running(int(cell)))
    assert isinstance(tried(quarantine, target, "abc"), Survived)


WORKER = """
import logging, os, sys
from pathlib import Path
from deadly import DeadlyTargets
from knnex.engines import Access, open_engine
from knnex.ingest import RedisLog
from knnex.workers import drain

logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
log = RedisLog(sys.argv[2])
targets = DeadlyTargets(open_engine(sys.argv[1], Access()), Path(sys.argv[4]))
while log.backlog(sys.argv[3]).total:
    drain(log, targets, consumer=str(os.getpid()), lease=2.0, batch=100, deadline=6.0)
"""


@one_engine
def test_killers_are_buried_after_a_few_deaths_and_their_neighbours_go_in(
    engine: Engine, engine_url: str, index_name: str, log: RedisLog, tmp_path: Path
) -> None:
    engine.run(create(deadly_spec(index_name), engine.dialect, RESOLVED))
    bad = dict.fromkeys(range(7, 300, 30), "KILL") | {120: "HANG"}
    log.append([event(f"{bad.get(n, 'film')} {n}", str(n), index_name) for n in range(300)])
    notes, codes = tmp_path / "notes", list[int]()
    while not codes or codes[-1]:
        with python(WORKER, engine_url, log.url, index_name, str(notes), stderr=subprocess.PIPE) as worker:
            errors = worker.communicate(timeout=250)[1]
        codes.append(worker.returncode)
        assert worker.returncode in (0, -signal.SIGKILL, HUNG), errors
        assert ("KNNEX_DEADLINE" in errors) == (worker.returncode == HUNG), errors
    deaths = Counter(line.split()[1] for line in notes.read_text().splitlines())
    buried = {int(one.id): one.reason for one in log.buried(index_name)}
    assert buried.keys() == bad.keys()
    assert all(" died: " in reason for reason in buried.values()), buried
    assert deaths.keys() == {str(n) for n in bad}
    # With its batch, with other suspects, alone; where another batch killed the worker meanwhile, with them once more.
    assert max(deaths.values()) <= 4
    # A batch of a hundred with several killers costs one worker.
    assert len(codes) - 1 <= 4
    assert sorted(map(int, held(engine, index_name))) == [n for n in range(300) if n not in bad]


def test_updates_stay_in_their_order_where_one_is_suspect(engine: Engine, index_name: str, log: RedisLog) -> None:
    engine.run(create(deadly_spec(index_name), engine.dialect, RESOLVED))
    targets = DeadlyTargets(engine)
    log.append([event("film", "1", index_name)])
    awaited(lambda: drain(log, targets, consumer="a").written)
    changes: list[dict[str, Any]] = [{"title": "KILL"}, {"year": 1972}, {"month": 2}]
    log.append([Event(index_name, "1", "update", change) for change in changes[:2]])
    assert len(log.take(index_name, "dead", 2, 0.2)) == 2
    log.append([Event(index_name, "1", "update", changes[2])])
    awaited(lambda: not (drain(log, targets, consumer="a", lease=0.2), log.backlog(index_name).total)[1])
    document = held(engine, index_name)["1"]
    assert (document["title"], document["year"], document["month"]) == ("film", 1972, 2)
    (one,) = log.buried(index_name)
    assert one.event
    assert (one.event.op, one.event.document) == ("update", {"title": "KILL"})


@one_engine
def test_only_what_was_being_tried_when_its_worker_died_is_tried_alone(
    engine: Engine, index_name: str, log: RedisLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "knnex")
    engine.run(create(deadly_spec(index_name), engine.dialect, RESOLVED))
    words = {3: "KILL", 30: "KILL"}
    positions = log.append([event(f"{words.get(n, 'film')} {n}", str(n), index_name) for n in range(40)])
    for consumer in ("dead", "too"):
        assert len(awaited(lambda name=consumer: log.take(index_name, name, 40, 0.2))) == 40
    log.doubt(index_name, positions[:8])
    targets = DeadlyTargets(engine, tmp_path / "notes")
    awaited(lambda: (drain(log, targets, consumer="a", lease=0.2), not log.backlog(index_name).total)[1])
    written = [record.getMessage() for record in caplog.records if "wrote" in record.getMessage()]
    # Seven of those alone; the others sixteen at a time, of which the second group had to be gone through.
    assert sum(" of 1 documents" in one for one in written) == 7 + 15
    assert sum(" of 16 documents" in one for one in written) == 1
    assert sorted(int(one.id) for one in log.buried(index_name)) == [3, 30]
    deaths = Counter(line.split()[1] for line in (tmp_path / "notes").read_text().splitlines())
    assert deaths == {"3": 1, "30": 2}
    assert log.redis.hlen(f"knnex:{{{index_name}}}:suspects") == 0


@one_engine
def test_a_worker_that_tries_suspects_takes_more_of_them_until_it_has_enough(
    engine: Engine, index_name: str, log: RedisLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "knnex")
    monkeypatch.setattr("knnex.workers.suspects.ENOUGH", 30)
    engine.run(create(deadly_spec(index_name), engine.dialect, RESOLVED))
    log.append([event(f"film {n}", str(n), index_name) for n in range(100)])
    assert len(log.take(index_name, "dead", 100, 0.2)) == 100
    targets = DeadlyTargets(engine)
    awaited(lambda: (drain(log, targets, consumer="a", lease=0.2, batch=20), not log.backlog(index_name).total)[1])
    told = [record.getMessage() for record in caplog.records if "apart from the others" in record.getMessage()]
    assert all(one.startswith("Trying 20 of 20 ") for one in told), "none is taken only to be handed back"
    written = [record.getMessage() for record in caplog.records if "wrote" in record.getMessage()]
    assert len(written) < 10, "those of two batches are tried together"
    assert len(held(engine, index_name)) == 100


@one_engine
def test_a_worker_serves_others_while_one_document_hangs_and_lets_go_when_it_stops(
    engine: Engine, index_name: str, log: RedisLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("knnex.workers.suspects.GRACE", 0.2)
    engine.run(create(deadly_spec(index_name), engine.dialect, RESOLVED))
    log.append([event("HANG", "1", index_name), event("film", "2", index_name)])
    log.take(index_name, "dead", 2, 0.5)
    stop = threading.Event()
    options: dict[str, Any] = {"lease": 3.0, "stop": stop, "deadline": 600.0}
    reports: list[Any] = []

    def work() -> None:
        while not stop.is_set():
            reports.append(drain(log, DeadlyTargets(engine), consumer="a", **options))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        awaited(lambda: "apart from the others" in caplog.text)
        log.append([event("film", str(n), index_name) for n in range(3, 6)])
        awaited(lambda: held(engine, index_name).keys() == {"3", "4", "5"})
        # Others must not get the ones that wait.
        assert log.take(index_name, "b", 10, 0.5) == []
    finally:
        stop.set()
        thread.join()
    assert log.buried(index_name) == []
    assert log.redis.hlen(f"knnex:{{{index_name}}}:suspects") == 0
    assert {one.event.id for one in awaited(lambda: _both(log, index_name))} == {"1", "2"}


def _both(log: RedisLog, index: str) -> list[Any]:
    taken = log.take(index, "c", 10, 0.5)
    if len(taken) < 2:
        log.release(index, "c", taken, 0.5, 0.0)
        return []
    return taken
