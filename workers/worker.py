"""One process that drains the log, and what it tells of itself. Knows no Celery."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from ..encoders import open_cache
from ..engines import Engine, open_engine
from ..engines.places import access, engine_url, log_url
from ..errors import EngineBusy, EngineUnreachable, KnnexError, LogUnreachable
from ..ingest import EventLog, Lane, Target, open_log
from ..ingest.log import DRAINED, URGENT
from ..ingest.patience import ask_again, delays_within
from ..settings import Settings
from .books import DrainReport
from .drain import drain
from .figures import Figures
from .intake import Intake
from .pauses import stays
from .quarantine import Quarantine
from .queues import kind_of
from .shared import Signals
from .targets import Targets

log = logging.getLogger(__name__)

#: Seconds after which a drain ends, so that a worker which does one thing at a time gets to other tasks.
LONGEST_DRAIN = 30.0
_LOOK_IDLE = 0.1
# Of the lease, after which a worker that was not heard of is given up for dead: its heartbeat comes every fifth of it.
_SILENT = 1 / 3
# Of the lease, and seconds at least, for which a silent worker's events are another's if nothing is heard of that one.
_HOLD, _SHORTEST_HOLD = 0.25, 2.0
# Of the lease, after which these are anybody's, and no more only of the process that made ready for them.
_ANYBODYS = 1.5
# Of the lease, for which it is believed that no worker is silent: what becomes so meanwhile is not yet to be taken.
_BELIEVED = 0.05
# Of a worker's rate, how much the newest drain weighs.
_NEWEST = 0.3
# Seconds between two looks for servers that do not answer yet; at first less.
_LOOK_AGAIN, _LOOK_SOON = 3.0, 0.25


class Worker:
    """One process that drains the log; connections and models are opened when they are first needed."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        self.settings = settings
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.kind = kind_of(settings)
        # Not where children are forked: neither threads nor a GPU survive that.
        self.preloads = True
        # Where a drain may keep all of the worker busy, it makes room for documents sent as messages.
        self.gives_way = True
        self.stop = Signals()
        self.slot = 0
        self._pid = os.getpid()
        self._draining = threading.Lock()
        self._rate = 0.0
        # Until when it is believed of an index that all its workers live.
        self._lively: dict[str, float] = {}
        self.figures = Figures()
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")

    @cached_property
    def log(self) -> EventLog:
        """The event log."""
        return open_log(log_url(self.settings))

    @cached_property
    def engine(self) -> Engine:
        """The engine. Raises EngineUnreachable, AccessDenied."""
        return open_engine(engine_url(self.settings), access(self.settings))

    @cached_property
    def targets(self) -> Targets:
        """The indexes, with their models."""
        self.settings.cache_dir.mkdir(parents=True, exist_ok=True)
        return Targets(self.engine, open_cache(self.settings), self.log)

    @cached_property
    def quarantine(self) -> Quarantine:
        """Where documents are tried on which a worker may have died."""
        return Quarantine(self.settings.trial_bytes)

    @cached_property
    def intake(self) -> Intake:
        """What takes documents that come as messages."""
        return Intake(self.engine, self.log)

    def forked(self, slot: int) -> None:
        """Now in a child: connections of the parent are of no use in it. In the parent itself it changes nothing."""
        if os.getpid() == self._pid:
            return
        self.slot = slot
        for name in ("engine", "log", "targets", "intake", "quarantine"):
            self.__dict__.pop(name, None)

    def begin(self) -> None:
        """Before anything else: refuse an unsafe log, reach the engine, and try again what another worker left alone.

        Servers that do not answer are waited for, as the settings say. Raises LogUnavailable, EngineUnreachable,
        EngineBusy, AccessDenied.
        """
        wait, told = self.settings.start_wait, set[str]()
        until = time.monotonic() + wait

        def tell(error: KnnexError, _: float) -> None:
            if str(error) not in told:
                told.add(str(error))
                left = until - time.monotonic()
                log.warning("%s; asked again for %.0f s", error, left, extra={"action": "start_waits"})

        away = (EngineBusy, EngineUnreachable, LogUnreachable)
        ask_again(self._begin, away, delays_within(wait, _LOOK_SOON, _LOOK_AGAIN), tell, self.stop.wait)

    def _begin(self) -> None:
        self.log.check()
        log.debug("%s at %s", self.engine.dialect, self.engine.address)
        for index in self.log.indexes():
            if not stays(self.log.paused(index)):
                self.log.pause(index, None)

    @property
    def draining(self) -> bool:
        """Whether this process is at it."""
        return self._draining.locked()

    def drain(self) -> bool:
        """Drain the log; whether there may be more to do at once.

        A second thread of this process leaves at once, since one model serves one thread best.
        """
        if not self._draining.acquire(blocking=False):
            return False
        try:
            self.stop.give_way(False)
            if self._left_to_another():
                return False
            began = time.monotonic()
            done = self._drain(self.lanes())
            took = time.monotonic() - began
            self._measure(done, took)
            cut_short = took >= LONGEST_DRAIN or self.stop.is_set()
            return bool(done.taken) and cut_short and not self.stop.stopping
        finally:
            self._draining.release()

    def _drain(self, lanes: tuple[Lane, ...]) -> DrainReport:
        return drain(
            self.log,
            self.targets,
            consumer=self._consumer,
            seconds=LONGEST_DRAIN,
            batch=self.settings.batch,
            lease=self.settings.lease,
            stop=self.stop,
            lanes=lanes,
            figures=self.figures,
            quarantine=self.quarantine,
            deadline=self.settings.deadline,
            lease_of=self.lease_of,
        )

    @property
    def _consumer(self) -> str:
        """Of this very process, whatever it is called: claims on events are told apart by it."""
        return f"{socket.gethostname()}-{os.getpid()}"

    def silent(self) -> list[str]:
        """The indexes of which a worker has events that was not heard of for a third of a lease: it may have died."""
        return [index for index in self.log.indexes() if self._is_silent(index)]

    def _is_silent(self, index: str) -> bool:
        """Not counting what nobody works on for now, and what is not for this worker."""
        log, seconds = self.log, self.settings.lease * _SILENT
        if not log.silent(index, seconds) or log.paused(index):
            return False
        return any(log.silent(index, seconds, lane) for lane in self.lanes() if not log.paused(index, lane))

    def expect(self, silent: Sequence[str], target_of: Callable[[str], Target | None] | None = None) -> bool:
        """Start the process in which the events of silent workers will be tried, so that it is there when the lease is
        over; whether this process is to do so. Of all workers one process does for each index. Without `target_of` it
        is none of those that have not opened the index."""
        seconds, mine = max(_SHORTEST_HOLD, self.settings.lease * _HOLD), False
        for index in silent:
            target = (target_of or self.targets.known)(index)
            if (target or target_of) and self.log.hold(f"suspects:{index}", self._consumer, seconds):
                mine = True
                if target:
                    self.quarantine.warm(target)
        return mine

    def lease_of(self, index: str) -> float:
        """The seconds after which this process takes the events of a silent worker of an index: where another one is
        ready for these, that comes first, since here they would have to wait for a process to be started."""
        lease, now = self.settings.lease, time.monotonic()
        if now < self._lively.get(index, 0.0):
            return lease
        if not self._is_silent(index):
            self._lively[index] = now + lease * _BELIEVED
            return lease
        return lease if self.expect([index], self._known) else lease * _ANYBODYS

    def _known(self, index: str) -> Target | None:
        return self.targets.known(index) or self._opened(index)

    def _left_to_another(self) -> bool:
        """Whether nothing waits but events of silent workers, and another process is ready for these."""
        silent = self.silent()
        if not silent or self.expect(silent, self._opened):
            return False
        late = self.settings.lease * _ANYBODYS
        return not any(
            self.log.backlog(index).undelivered or self.log.silent(index, late) for index in self.log.indexes()
        )

    def _opened(self, index: str) -> Target | None:
        try:
            return self.targets.get(index)
        except KnnexError as error:  # a drain says so, should there be anything to do for this index
            log.debug("%s cannot be opened: %s", index, error, extra={"action": "preload_failed"})
            return None

    def _measure(self, done: DrainReport, took: float) -> None:
        if worked := done.taken - done.handed_back:
            rate = worked / max(took, 0.001)
            self._rate = rate if not self._rate else self._rate + _NEWEST * (rate - self._rate)
            self.stop.note_rate(self.slot, self._rate)

    def lanes(self) -> tuple[Lane, ...]:
        """What this worker works on: without GPU no backfill and no copies, while any lives that has one."""
        if self.kind == "gpu" or self.settings.backfill == "any":
            return DRAINED
        if any(facts.get("kind") == "gpu" for facts in self.log.workers().values()):
            return URGENT
        return DRAINED

    def preload(self) -> None:
        """Load the models of the indexes in the log whenever nothing is to be drained, so that no batch has to wait."""
        for index in self.log.indexes():
            while self.draining and not self.stop.wait(_LOOK_IDLE):
                pass
            if self.stop.stopping:
                return
            if self._opened(index) and self.log.backlog(index).pending:  # perhaps a worker died on them
                self.expect([index])

    def facts(self) -> dict[str, Any]:
        """What others may know of this worker; `rate` is documents per second while it works, over all processes."""
        known = self.targets.facts() if "targets" in self.__dict__ else {}
        here = {"device": self.settings.device or "", "model": ""} | known
        where = {"pid": os.getpid(), "host": socket.gethostname(), "since": self._since}
        figures = {"figures": told} if (told := self.figures.facts()) else {}
        return here | {"kind": self.kind, "rate": round(self.stop.rate, 1)} | where | figures


def drain_safely(worker: Worker) -> bool:
    """Drain; an error is logged and nothing is raised: Celery ends its process on a MemoryError, and events wait."""
    try:
        return worker.drain()
    except KnnexError as error:
        log.error("%s", error, extra={"action": "drain_failed"})
    except Exception:
        log.exception("A drain failed; its events are tried again", extra={"action": "drain_failed"})
    return False


def preload_safely(worker: Worker) -> None:
    """Preload; what fails now fails again, and is told, when it is needed."""
    try:
        worker.preload()
    except Exception:
        log.debug("Models are loaded when they are needed", exc_info=True, extra={"action": "preload_failed"})
