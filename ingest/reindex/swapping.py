"""Comparing the new version with the present one, until nothing differs, and swapping the alias."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from ...errors import EngineError, IndexMissing, KnnexError, ReindexStopped
from ...mappings import load
from ...mappings.look import count
from .. import feed
from ..log import EventLog
from . import cutover
from .compare import Compared, Comparer
from .filling import FEW, Filling, checkpoints
from .reading import Place
from .report import Step

log = logging.getLogger(__name__)

_COMPARISONS, _CUTS = 10, 8
# Catching up before writes are refused: so often at most, until it takes this part of the time that they may be, or
# is so often no less than this part of the least it was.
_ROUNDS, _QUICK, _STUCK, _LESS, _HARDLY_ANY = 20, 10, 2, 0.8, 10


class Swapping(Filling):
    """The part of a coordinator that compares and swaps; writes of others are refused meanwhile, for a moment."""

    events: EventLog | None

    def _compare(self, comparer: Comparer) -> None:
        self.lock.save(step="compare")
        for number in range(_COMPARISONS):
            compared = self._difference(comparer)
            # Others go on writing: what they did since is caught up with, and what they do last while they are refused.
            if not compared.differences or (self._blocks() and (number or comparer.follows)):
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
        self.report += compared
        self.others = self.others or compared.others > 0
        self._refuse(compared.refused)
        for shard, head in heads[comparer.source.index].items():
            self._cursor = self._cursor.moved(shard, head, head.checkpoint)
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

    def _blocks(self) -> bool:
        """Whether writes must be refused during the swap: of others, no log tells what they did last."""
        return (self.others or self.events is None) if self.options.block is None else self.options.block

    def _swap(self, comparer: Comparer) -> None:
        source, target = comparer.source.index, comparer.target.index
        self.lock.save(step="swap", cursors=checkpoints(self._cursor.shards))
        if not self._blocks():
            self._move(source, target, self._heads(target))
            return
        for _ in range(_CUTS):
            self._catch_up(comparer)
            began = time.monotonic()
            try:
                self._ask(partial(cutover.cut_off, self.lock.by(source), source, self.engine.dialect))
                moved = self._cut(comparer, began)
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

    def _catch_up(self, comparer: Comparer) -> None:
        """What little is left is encoded before writes are refused, until that takes a fraction of the time allowed, or
        does not become less any more."""
        least, stuck = float("inf"), 0
        for _ in range(_ROUNDS):
            began = time.monotonic()
            count = self._mended(comparer)
            # A refresh makes the graphs of vectors, too.
            self._ask(partial(feed.refresh, comparer.target.index))
            if not count or (count <= FEW and (time.monotonic() - began) * _QUICK <= self.options.stall):
                break
            stuck += count > least * _LESS
            if stuck == _STUCK:
                break
            least = min(count, least)
        # And then what is quick, so that the less is to be done while writes are refused.
        for _ in range(_ROUNDS):
            before, count = count, self._mended(comparer, deletes=False)
            if count > before * _LESS or count <= _HARDLY_ANY:
                break
        if count <= _HARDLY_ANY:
            return
        # What was deleted since, too, and the graphs of what was mended; and once more what is quick.
        self._mended(comparer)
        self._ask(partial(feed.refresh, comparer.target.index))
        self._mended(comparer, deletes=False)

    def _cut(self, comparer: Comparer, began: float) -> bool:
        """The last changes, with writes refused; whether it was done in time."""
        self._mended(comparer, last=True)
        counted = self.pool.submit(self._count, comparer.source.index)  # while the target's graphs are made
        heads = self._heads(comparer.target.index)
        if counted.result() != self._count(comparer.target.index):
            if time.monotonic() - began > self.options.stall:
                return False
            self._difference(comparer)
            heads = self._heads(comparer.target.index)
        if time.monotonic() - began > self.options.stall:
            return False
        self._move(comparer.source.index, comparer.target.index, heads)
        return True

    def _mended(self, comparer: Comparer, *, deletes: bool = True, last: bool = False) -> int:
        """What has changed since is made the same, lower versions too: nothing is compared after this, and without
        `deletes` those are left to the next time; how many there were. The `last` time graphs are made of what was
        mended while it is asked what was deleted."""
        heads, waiting, count = self._heads(comparer.source.index), list[Place](), 0
        behind, page = self._cursor.behind(heads), self.options.page
        total = sum(behind.values())
        mending: list[Future[Compared]] = []
        try:
            for found in comparer.changed(heads, self._cursor.after):
                count += len(found)
                self.others = self.others or any(not one.ours for one in found)
                waiting += [one.place for one in found]
                while len(waiting) > page:
                    mending.append(self.pool.submit(comparer.mend, waiting[:page]))
                    del waiting[:page]
                self.tell(Step("swap", count, max(count, total)))
            # All shards' last ones together, and what is gone is removed meanwhile: writers may be waiting.
            mending.append(self.pool.submit(self._mend, comparer, waiting, last))
            gone = comparer.remove(comparer.suspects(heads)) if deletes else Compared()
        finally:
            self.report += sum((one.result() for one in mending), Compared())
        for shard in [shard for shard, more in behind.items() if more]:
            self._cursor = self._cursor.moved(shard, heads[shard], heads[shard].checkpoint)
        self._refuse(self.report.compared.refused)
        self.report += gone
        return count

    def _mend(self, comparer: Comparer, places: Sequence[Place], shown: bool) -> Compared:
        done = comparer.mend(places)
        if shown and places:
            self._ask(partial(feed.refresh, comparer.target.index))
        return done

    def _count(self, index: str) -> int:
        counted: int = self._ask(partial(count, index))
        return counted

    def _release(self, index: str) -> None:
        try:
            self._ask(partial(cutover.unblock, self.lock.by(index)))
        except IndexMissing:
            return  # another coordinator has taken over, and lets them in
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
            self.engine.run(cutover.swap(self.alias, source, target, self.lock.control.epoch))
        except EngineError as error:
            if self._ask(partial(load, self.alias)).index != target:
                raise
            log.info("The answer to the swap was lost: %s", error, extra={"action": "swap_answer_lost"})
