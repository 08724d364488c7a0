"""Building a new version of an index beside the one that is searched, and putting it in its place.

The steps, each of which may be repeated: make the new version; announce it, so that workers write to both; wait until
all that was accepted before is written; copy what is there, and what changes meanwhile; compare; let a gate judge;
swap the alias. Where others write to the index too, it takes no writes during the last two. How far it is lies in the
cluster (control.py): a coordinator that dies is followed by one that goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from ...engines import Engine
from ...errors import EngineError, KnnexError, ReindexStopped
from ...mappings import Stored, find, load, write_alias
from .. import feed
from ..feed_state import Cursor
from ..log import EventLog
from ..positions import version_of
from ..prepare import Target
from . import cutover
from .compare import Compared, Comparer
from .control import Control
from .copying import Copier
from .filling import FEW, Filling, checkpoints
from .report import Gate, Options, Report, Step, Tell

log = logging.getLogger(__name__)

# Seconds between two looks at a log that is to be drained.
_LOOK = 0.05
_COMPARISONS, _CUTS = 10, 8
# Where no version is being built; documents may be being changed in place, which a new version makes needless.
_NOTHING = ("", "rewrite", "fill")


class Coordinator(Filling):
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
            stored = self._ask(partial(load, self.alias))
            if control.step and control.target == stored.index:
                return self._finish(control.source, control.target)
            control = self._begin(control, stored)
            source = replace(self._ask(partial(load, control.source)), also=())
            target = self._target(control)
            self.report = replace(self.report, source=source.index, target=target.stored.index)
            self._timed("announce", lambda: self._announce(source, target))
            copier = Copier(self.engine, source, target, patience=self.options.patience, sleep=self.sleep)
            comparer = Comparer(copier, self._ask)
            self._cursor = Cursor(source.index, {int(key): (one[0], one[1]) for key, one in control.cursors.items()})
            self._timed("copy", lambda: self._copy(copier))
            self._settle(target)
            self._timed("compare", lambda: self._compare(comparer))
            if self.gate:
                self._timed("gate", lambda: self._judge(source, target.stored))
            self._timed("swap", lambda: self._swap(copier, comparer))
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
            return self.lock.save(step="make", source=stored.index, target=target, cursors=cursors, settings={})
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
        self._ask(partial(cutover.unblock, stored.index))
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
        target = self.open_target(write_alias(name), replace(stored, also=()))
        if self.back:
            self._ask(partial(cutover.unblock, name))
            self._ask(partial(cutover.write_to, name))
        elif fresh:
            if not control.settings:  # of a run that was broken off here they are kept already
                self.lock.save(settings=self._ask(partial(cutover.settings, name, tuple(cutover.FILLING))))
            self._ask(partial(cutover.change_settings, name, cutover.FILLING))
        if fresh:
            self.lock.save(step="announce")
        return target

    def _announce(self, source: Stored, target: Target) -> None:
        """Have it written to by all who write, and wait for those who began before they knew."""
        # From here on it is written to by its own name: what is on its way when the alias moves was made for it.
        self._ask(partial(cutover.write_to, source.index))
        self._ask(partial(cutover.announce, source.index, (target.stored.index,)))
        if self.events:
            self._wait_for_log(self.events)

    def _wait_for_log(self, events: EventLog) -> None:
        head = events.head(self.alias)
        waited, before = 0.0, -1
        while head:
            backlog = events.backlog(self.alias)
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
            self._ask(partial(cutover.change_settings, target.stored.index, held))
        self._refuse(self.report.copied.refused)

    def _compare(self, comparer: Comparer) -> None:
        self.lock.save(step="compare")
        for number in range(_COMPARISONS):
            compared = self._difference(comparer)
            # Others go on writing; what they do last is caught up with while they are refused.
            if not compared.differences or (number and self._blocks()):
                return
        if not self._blocks():
            raise ReindexStopped(
                f"{compared.differences} documents of {comparer.target.index} differ from {comparer.source.index} "
                "each time they are compared",
                hint="somebody writes to it without knnex: run it again with --block",
            )

    def _difference(self, comparer: Comparer) -> Compared:
        heads = {one: self._heads(one) for one in (comparer.source.index, comparer.target.index)}
        compared = comparer.compare(
            heads[comparer.source.index],
            heads[comparer.target.index],
            lambda seen: self.tell(Step("compare", seen)),
        )
        self.report = replace(self.report, compared=self.report.compared + compared)
        self.others = self.others or compared.others > 0
        self._refuse(compared.refused)
        return compared

    def _heads(self, index: str) -> dict[int, feed.Head]:
        """Where the shards stand, all up to there being visible."""
        heads = self._ask(partial(feed.heads, index))
        self._ask(partial(feed.refresh, index))
        return heads

    def _refuse(self, refused: Mapping[str, str]) -> None:
        if refused:
            id_, reason = next(iter(refused.items()))
            raise ReindexStopped(
                f"{self.report.target} does not take {len(refused)} documents of {self.report.source}; {id_}: {reason}",
                hint=f"correct the documents or the spec (after `knnex abort {self.alias}`), and run it again",
            )

    def _judge(self, source: Stored, target: Stored) -> None:
        self.lock.save(step="gate")
        self._heads(target.index)
        if self.gate:
            self.gate(source, target)

    def _blocks(self) -> bool:
        """Whether writes must be refused during the swap: of others, no log tells what they did last."""
        return (self.others or self.events is None) if self.options.block is None else self.options.block

    def _swap(self, copier: Copier, comparer: Comparer) -> None:
        source, target = comparer.source.index, comparer.target.index
        self.lock.save(step="swap", cursors=checkpoints(self._cursor.shards))
        if not self._blocks():
            self._move(source, target, self._heads(target))
            return
        for _ in range(_CUTS):
            # What little is left is encoded before, and not while writers wait.
            while self._round(copier, looking=True, step="swap") > FEW:
                pass
            began = time.monotonic()
            try:
                self._ask(partial(cutover.block, source))
                moved = self._cut(copier, comparer, began)
            except BaseException:
                self._release(source)
                raise
            stall = time.monotonic() - began
            if not moved:
                self._release(source)
            self.report = replace(self.report, stalls=(*self.report.stalls, round(stall, 3)))
            if moved:
                return
        raise ReindexStopped(
            f"what others write to {source} cannot be caught up within {self.options.stall} s",
            hint="try it at a quieter time, or allow a longer stall with --stall",
        )

    def _cut(self, copier: Copier, comparer: Comparer, began: float) -> bool:
        """The last changes, with writes refused; whether it was done in time."""
        self._round(copier, looking=True, step="swap")
        heads = self._heads(comparer.target.index)
        if self._count(comparer.source.index) != self._count(comparer.target.index):
            if time.monotonic() - began > self.options.stall:
                return False
            self._difference(comparer)
            heads = self._heads(comparer.target.index)
        if time.monotonic() - began > self.options.stall:
            return False
        self._move(comparer.source.index, comparer.target.index, heads)
        return True

    def _count(self, index: str) -> int:
        counted: int = self._ask(partial(cutover.count, index))
        return counted

    def _release(self, index: str) -> None:
        try:
            self._ask(partial(cutover.unblock, index))
        except KnnexError as error:
            log.error(
                "%s still refuses writes; the next run lets them in: %s", index, error,
                extra={"action": "reindex_blocked", "index": self.alias},
            )  # fmt: skip

    def _move(self, source: str, target: str, heads: Mapping[int, feed.Head]) -> None:
        """Swap; what the target gets from here on is what the source will lack."""
        at = checkpoints({shard: (head.history, head.checkpoint) for shard, head in heads.items()})
        self.lock.save(kept={**self.lock.control.kept, source: at})
        # Not tried again: an answer that was lost may have been a yes.
        try:
            self.engine.run(cutover.swap(self.alias, source, target))
        except EngineError as error:
            if self._ask(partial(load, self.alias)).index != target:
                raise
            log.info("The answer to the swap was lost: %s", error, extra={"action": "swap_answer_lost"})

    def _finish(self, source: str, target: str) -> Report:
        """Nothing is announced any more, and nothing under way."""
        self.lock.save(step="finish")
        # Whoever writes to it by its own name is to hear of it.
        self._ask(partial(cutover.block, source))
        self._ask(partial(cutover.announce, source, ()))
        kept = {name: at for name, at in self.lock.control.kept.items() if name != target}
        self.lock.save(step="", source="", target="", cursors={}, settings={}, kept=kept)
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
