"""Waiting for workers, as long as there is something to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import IngestIncomplete
from .log import Backlog, EventLog
from .tally import Tally

_SHORTEST, _LONGEST = 0.01, 0.2
# Seconds without movement after which a living worker is taken for hung.
_HUNG = 900.0


class Waiting:
    """Watches the backlog of an index on behalf of one producer."""

    def __init__(self, log: EventLog, index: str, tally: Tally, patience: float) -> None:
        self.log, self.index, self.tally, self.patience = log, index, tally, patience
        self.before = log.counts(index)

    def until(self, done: Callable[[Backlog], bool]) -> Backlog:
        """Wait for a state of the backlog. Raises IngestIncomplete where nobody works on it."""
        state: Backlog | None = None
        moved, pause = time.monotonic(), _SHORTEST
        while True:
            backlog = self.log.backlog(self.index)
            if done(backlog):
                self._show(backlog)
                return backlog
            if backlog != state:
                state, moved, pause = backlog, time.monotonic(), _SHORTEST
                self._show(backlog)
            self._check(backlog, time.monotonic() - moved)
            time.sleep(pause)
            pause = min(_LONGEST, pause * 1.5)

    def _show(self, backlog: Backlog) -> None:
        now = self.log.counts(self.index)
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
        if idle > _HUNG:
            raise IngestIncomplete(
                f"{waiting}, and its workers have done nothing for {idle:.0f} s", hint="restart them"
            )


def passed(position: str | None, low_water: str | None) -> bool:
    """Whether everything up to `position` is settled."""
    return position is None or low_water is None or _order(low_water) > _order(position)


def _order(position: str) -> tuple[int, ...]:
    return tuple(int(part) for part in position.split("-"))
