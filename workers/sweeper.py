"""The thread beside a worker that says that it lives, and rings where events wait and no doorbell does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import LogUnavailable
from ..ingest import EventLog, Lane
from ..ingest.log import DRAINED, URGENT
from .queues import INGEST_QUEUE, QUEUE, queue_of
from .worker import Worker

log = logging.getLogger(__name__)

# Seconds: how often a worker says that it lives, for how long that is believed, how often the sweeper looks.
ANNOUNCE_EVERY, ANNOUNCE_TTL = 3.0, 10.0
SWEEP_EVERY, SHORTEST_SWEEP = 1.0, 0.02
# Events in another worker's hands need no doorbell, unless that worker died: look as often as that.
SWEEP_PENDING_EVERY = 5.0
# Those of a silent worker need many: one has to be heard by the process that is ready for them when the lease is over.
SWEEP_SILENT_EVERY = 1.0
# A doorbell that was pressed is heard within that time, or lost, or another worker's.
_HEARD_WITHIN = 1.0


class Rings(Protocol):
    """A doorbell: see app.py."""

    def press(self) -> None:
        """Wake a worker."""
        ...

    def waiting(self, queue: str | None = None) -> int:
        """Messages that lie in its queue, or in another."""
        ...


class Sweeper(threading.Thread):
    """Runs until the worker stops; `lives` is called at every look, whether or not the log answers."""

    def __init__(self, worker: Worker, bell: Rings, lives: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="knnex-sweeper", daemon=True)
        self._worker, self._bell, self._lives = worker, bell, lives
        self._announced = self._looked = self._pressed = self._listened = 0.0
        self._silent: list[str] = []
        self._cut_off = False

    def run(self) -> None:
        """Until the worker stops."""
        stop = self._worker.stop
        while not stop.stopping:
            self._lives()
            try:
                self.sweep()
                if self._cut_off:
                    log.warning("%s answers again", self._worker.log.address, extra={"action": "log_back"})
                    self._cut_off = False
                # A stream of appends would otherwise keep this loop spinning.
                stop.wait(SHORTEST_SWEEP if self._worker.log.wait(SWEEP_EVERY) else 0)
            except LogUnavailable as error:
                log.log(logging.DEBUG if self._cut_off else logging.WARNING, "%s", error, extra={"action": "cut_off"})
                self._cut_off = True
                stop.wait(SWEEP_EVERY)
            except Exception:  # without the sweeper a worker would look dead and hear no lost doorbell
                log.exception("A look into the log failed", extra={"action": "sweep_failed"})
                stop.wait(SWEEP_EVERY)

    def heard(self) -> None:
        """A doorbell was heard: the next one may be pressed at once."""
        self._pressed = 0.0

    def sweep(self) -> None:
        """One look."""
        now = time.monotonic()
        if now - self._announced >= ANNOUNCE_EVERY:
            self._worker.log.announce(self._worker.name, self._worker.facts(), ANNOUNCE_TTL)
            self._announced = now
        if now - self._listened >= SWEEP_SILENT_EVERY:
            self._listened = now
            self._silent = self._worker.silent()
            # A process that forks drains in its children, which look for themselves.
            if self._silent and self._worker.preloads:
                self._worker.expect(self._silent)
        if self._worker.draining and self._worker.gives_way and self._bell.waiting(INGEST_QUEUE):
            self._worker.stop.give_way(True)
        if now - self._pressed >= _HEARD_WITHIN and self._waiting(now) and not self._bell.waiting():
            self._bell.press()
            self._pressed = now

    def _waiting(self, now: float) -> bool:
        lanes = self._worker.lanes()
        if self._silent or undelivered(self._worker.log, lanes):
            return True
        if now - self._looked >= SWEEP_PENDING_EVERY:
            self._looked = now
            return any(self._worker.log.backlog(index).pending for index in self._worker.log.indexes())
        return False


def undelivered(log: EventLog, lanes: Sequence[Lane]) -> bool:
    """Whether events wait in one of these lanes of any index."""
    return any(log.backlog(index).of(*lanes).undelivered for index in log.indexes())


def rest_of(log: EventLog) -> list[str]:
    """The queues in which to ring for what waits in the log."""
    queues = [QUEUE] if undelivered(log, URGENT) else []
    if undelivered(log, [lane for lane in DRAINED if lane not in URGENT]):
        gpu = any(facts.get("kind") == "gpu" for facts in log.workers().values())
        queues += [queue_of("gpu")] if gpu else [QUEUE]
    return list(dict.fromkeys(queues))
