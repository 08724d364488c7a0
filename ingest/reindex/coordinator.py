"""Building a new version of an index beside the one that is searched, and putting it in its place.

The steps, each of which may be repeated: make the new version; announce it, so that workers write to both; wait until
all that was accepted before is written; copy what is there, and what changes meanwhile; compare; let a gate judge;
swap the alias. Where others write to the index too, it takes no writes during the last two. How far it is lies in the
cluster (control.py): a coordinator that dies is followed by one that goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from ...engines import Engine
from ...errors import ReindexStopped
from ...mappings import Stored, find, load
from ..feed_state import Cursor
from ..log import EventLog, unwritten
from ..positions import version_of
from ..prepare import Target
from . import cutover
from .compare import Comparer
from .control import Control
from .copying import Copier
from .fencing import leave
from .quality import noting
from .report import Gate, Options, Report, Step, Tell
from .swapping import Swapping

log = logging.getLogger(__name__)

# Seconds between two looks at a log that is to be drained.
_LOOK = 0.05
# Where no version is being built; documents may be being changed in place, which a new version makes needless.
_NOTHING = ("", "rewrite", "fill")


class Coordinator(Swapping):
    """Moves an alias from one version index to another, which is made if need be.

    `wanted` gives what the new version is to hold, by its name; `back` is the name of a former version to return to
    instead. `open_target` gives the target of a version index with its encoders.
    """

    def __init__(
        self,
        engine: Engine,
        events: EventLog | None,
        alias: str,
        open_target: Callable[[str, Stored], Target],
        *,
        wanted: Callable[[str], Stored] | None = None,
        back: str = "",
        gate: Gate | None = None,
        options: Options | None = None,
        tell: Tell = lambda _: None,
        sleep: Callable[[float], object] = time.sleep,
        copying: Executor | None = None,
    ) -> None:
        super().__init__(engine, alias, back, options or Options(), tell, sleep)
        self.events, self.open_target, self.wanted, self.gate = events, open_target, wanted, gate
        self._copying = copying
        self._seconds: dict[str, float] = {}

    def run(self) -> Report:
        """Do it, or go on where another one stopped.

        Raises ReindexStopped, with both versions as they are, where it cannot be ended; AlreadyRunning; EngineError,
        EncoderError, SpecMismatch, IndexMissing. Whatever was raised, the next run goes on.
        """
        with self.lock.held() as control, self._pool() as self.pool:
            return self._run(control)

    def _run(self, control: Control) -> Report:
        if control.step not in _NOTHING:
            # Before the alias is looked at: the one before may be about to move it.
            self.lock.fence(control.source)
        stored = self._ask(partial(load, self.alias))
        if control.step and control.target == stored.index:
            return self._finish(control.source, control.target)
        control = self._begin(control, stored)
        source = replace(self._ask(partial(load, control.source)), also=())
        target = self._target(control)
        self.report = replace(self.report, source=source.index, target=target.stored.index)
        self._timed("announce", lambda: self._announce(source, target))
        options = self.options
        copier = Copier(self.engine, source, target, moves=control.moves, patience=options.patience, sleep=self.sleep)
        comparer = Comparer(copier, self._ask)
        self._cursor = Cursor(source.index, {int(key): (one[0], one[1]) for key, one in control.cursors.items()})
        self._timed("copy", lambda: self._copy(copier))
        self._settle(target)
        self._timed("compare", lambda: self._compare(comparer))
        if self.gate:
            self._timed("gate", lambda: self._judge(source, target.stored))
        self._timed("swap", lambda: self._swap(comparer))
        return self._finish(source.index, target.stored.index)

    def _pool(self) -> AbstractContextManager[Executor]:
        return nullcontext(self._copying) if self._copying else ThreadPoolExecutor(1, "knnex-copy")

    def _begin(self, control: Control, stored: Stored) -> Control:
        """Take up what is under way, or begin."""
        if control.step in _NOTHING:
            if self.back == stored.index:  # another one that was waited for has returned to it
                raise ReindexStopped(f"{self.alias!r} points at {self.back} already")
            target = self.back or self._ask(partial(cutover.next_version, self.alias))
            cursors = control.kept.get(self.back, {}) if self.back else {}
            control = self.lock.save(step="make", source=stored.index, target=target, cursors=cursors, settings={})
            self.lock.fence(stored.index)
            return control
        if control.source != stored.index:
            raise ReindexStopped(
                f"{self.alias!r} points at {stored.index}, no longer at {control.source}, whose successor "
                f"{control.target} is half built",
                hint=f"point it back, or give up with `knnex abort {self.alias}`",
            )
        if self.back and self.back != control.target:
            raise ReindexStopped(
                f"{control.target} is being built for {self.alias!r}", hint="let it end first, or abort it"
            )
        # It may have died while writes were refused.
        self._ask(partial(cutover.unblock, self.lock.by(stored.index)))
        return control

    def _target(self, control: Control) -> Target:
        """The version index to fill, made unless it is there."""
        name, fresh = control.target, control.step == "make"
        if self.wanted and not self.back:
            wanted = self.wanted(name)
            self._ask(partial(cutover.make, wanted, self.engine.dialect))
        stored = self._ask(partial(find, name))
        if stored is None:
            raise ReindexStopped(
                f"there is no index {name!r} any more", hint=f"`knnex abort {self.alias}`, and apply again"
            )
        self.lock.fence(name)
        target = self.open_target(self.lock.by(name), replace(stored, also=()))
        if not fresh:
            # What the one before has sent may still be on its way: refusing writes waits for it.
            self._ask(partial(cutover.block, self.lock.by(name)))
        if self.back or not fresh:
            self._ask(partial(cutover.unblock, self.lock.by(name)))
        if self.back:
            self._ask(partial(cutover.write_to, name))
        elif fresh:
            if not control.settings:  # of a run that was broken off here they are kept already
                self.lock.save(settings=self._ask(partial(cutover.settings, name, tuple(cutover.FILLING))))
            self._ask(partial(cutover.change_settings, self.lock.by(name), cutover.FILLING))
        if fresh:
            self.lock.save(step="announce")
        return target

    def _announce(self, source: Stored, target: Target) -> None:
        """Have it written to by all who write, and wait for those who began before they knew."""
        # From here on it is written to by its own name: what is on its way when the alias moves was made for it.
        self._ask(partial(cutover.write_to, source.index))
        self._ask(partial(cutover.announce, self.lock.by(source.index), (target.stored.index,)))
        if self.events:
            self._wait_for_log(self.events)

    def _wait_for_log(self, events: EventLog) -> None:
        head = events.head(self.alias)
        waited, before = 0.0, -1
        while head:
            backlog = unwritten(events, self.alias)
            if backlog.low_water is None or version_of(backlog.low_water) > version_of(head):
                return
            self.tell(Step("announce", note=f"{backlog.total:,} events accepted before are still to be written"))
            waited = 0.0 if backlog.total != before else waited + _LOOK
            before = backlog.total
            if waited > self.options.headway:
                reason = events.paused(self.alias) or events.resting(self.alias)
                raise ReindexStopped(
                    f"the log of {self.alias!r} makes no headway: {backlog.total:,} events wait"
                    + (f" ({reason})" if reason else ""),
                    hint="see `knnex status`; start a worker or resume the lanes, and run this again",
                )
            self.sleep(_LOOK)

    def _settle(self, target: Target) -> None:
        """Searchable now, with the copies it is to have."""
        if held := dict(self.lock.control.settings):
            self._ask(partial(cutover.change_settings, self.lock.by(target.stored.index), held))
        self._refuse(self.report.copied.refused)

    def _judge(self, source: Stored, target: Stored) -> None:
        self.lock.save(step="gate")
        self._heads(target.index)
        if self.gate:
            noting(self.lock, self.gate)(source, target)

    def _finish(self, source: str, target: str) -> Report:
        """Nothing is announced any more, and nothing under way."""
        control = self.lock.save(step="finish")
        if self._ask(partial(find, source)):
            # Whoever writes to it by its own name is to hear of it.
            self._ask(partial(cutover.block, self.lock.by(source)))
            self._ask(partial(cutover.announce, self.lock.by(source), ()))
            self._ask(partial(leave, source, control.epoch))
        kept = {name: at for name, at in control.kept.items() if name != target}
        self.lock.save(step="", source="", target="", cursors={}, settings={}, kept=kept, moves=control.moves + 1)
        self.report = replace(self.report, source=source, target=target, seconds=self._seconds)
        log.info(
            "%s is %s now, it was %s", self.alias, target, source, extra={"action": "swapped", "index": self.alias}
        )
        return self.report

    def _timed(self, name: str, work: Callable[[], object]) -> None:
        self.tell(Step(name))
        began = time.monotonic()
        try:
            work()
        finally:
            self._seconds[name] = round(time.monotonic() - began, 3)
