"""Waiting for workers, as long as there is something to wait for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..errors import EngineBusy, EngineUnreachable, IngestIncomplete, LogUnavailable
from .log import Backlog, EventLog
from .positions import version_of
from .tally import Tally

T = TypeVar("T")
log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 0.01, 0.2
# Seconds without movement after which an engine is given up, and a living worker taken for hung.
_BLOCKED, _HUNG = 300.0, 900.0
# How often `patience` a server may need for being started again.
_RESTART = 4


class Waiting:
    """Watches the backlog of an index on behalf of one producer."""

    def __init__(self, log: EventLog, index: str, tally: Tally, patience: float) -> None:
        self.log, self.index, self.tally, self.patience = log, index, tally, patience
        self.before = log.counts(index)
        self._told: str | None = None

    def steadily(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, as long as a log or an engine may need to come up again."""
        until = time.monotonic() + _RESTART * self.patience
        while True:
            try:
                return ask()
            except (LogUnavailable, EngineUnreachable, EngineBusy) as error:
                if time.monotonic() > until:
                    raise
                self._tell(str(error))
                time.sleep(_LONGEST)

    def _tell(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            log.warning("Waiting: %s", reason, extra={"action": "ingest_waiting", "index": self.index})

    def until(self, done: Callable[[Backlog], bool]) -> Backlog:
        """Wait for a state of the backlog. Raises IngestIncomplete where nobody works on it."""
        state: Backlog | None = None
        moved, pause = time.monotonic(), _SHORTEST
        while True:
            backlog = self.steadily(lambda: self.log.backlog(self.index))
            if done(backlog):
                self._show(backlog)
                return backlog
            if backlog != state:
                state, moved, pause = backlog, time.monotonic(), _SHORTEST
                self._show(backlog)
            self.steadily(partial(self._check, backlog, time.monotonic() - moved))
            time.sleep(pause)
            pause = min(_LONGEST, pause * 1.5)

    def _show(self, backlog: Backlog) -> None:
        now = self.steadily(lambda: self.log.counts(self.index))
        self.tally.encoded = now.get("encoded", 0) - self.before.get("encoded", 0)
        self.tally.cached = now.get("cached", 0) - self.before.get("cached", 0)
        self.tally.show(backlog.total)

    def _check(self, backlog: Backlog, idle: float) -> None:
        if idle < min(1.0, self.patience):
            return
        waiting = f"{backlog.total} documents for {self.index!r} wait in the log"
        reason = self.log.paused(self.index)
        if reason:
            raise IngestIncomplete(
                f"{waiting}, and workers leave them alone: {reason}", hint="`knnex doctor` says more"
            )
        if idle > self.patience and not self.log.workers():
            raise IngestIncomplete(
                f"{waiting}, and no worker is running",
                hint="start one with `knnex worker`; nothing is lost, it writes what waits",
            )
        if idle > self.patience and (reason := self.log.resting(self.index)):
            self._tell(reason)
            if idle > _BLOCKED:
                raise IngestIncomplete(
                    f"{waiting}, and the engine does not take them: {reason}",
                    hint="nothing is lost: workers write what waits as soon as it does",
                )
        if idle > _HUNG:
            raise IngestIncomplete(
                f"{waiting}, and its workers have done nothing for {idle:.0f} s", hint="restart them"
            )


def passed(position: str | None, low_water: str | None) -> bool:
    """Whether everything up to `position` is settled."""
    return position is None or low_water is None or version_of(low_water) > version_of(position)
