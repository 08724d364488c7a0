"""Copying all documents of one version index into another, and what changes meanwhile, round by round."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ...engines import Engine, Flow
from .. import feed
from ..feed_state import Cursor
from ..log import EventLog
from ..patience import patiently
from . import cutover, fencing
from .compare import Compared
from .control import Checkpoints, Lock
from .copying import Copied, Copier
from .handing import Handed, Handing
from .reading import Held, page
from .report import Options, Report, Step, Tell

T = TypeVar("T")
Work = Callable[[Sequence[Held]], Copied | Compared | Handed]
# A page that is being written, and the number of its last change.
Writing = tuple[Future[Copied | Compared | Handed], int]

# Pages that are read and not yet noted: the next is written while it is noted that one was.
_QUEUED = 2
#: A round of catching up that finds no more than so many changes was the last one.
FEW = 200


class Filling:
    """The part of a coordinator that copies; how far each shard was copied lies in the cluster."""

    events: EventLog | None

    def __init__(
        self, engine: Engine, alias: str, back: str, options: Options, tell: Tell, sleep: Callable[[float], object]
    ) -> None:
        self.engine, self.alias, self.back, self.options, self.tell, self.sleep = (
            engine,
            alias,
            back,
            options,
            tell,
            sleep,
        )
        self.lock = Lock(engine, alias, ttl=options.ttl, beats=options.beats, sleep=sleep)
        self.report = Report(alias, "", "")
        # Whether others than knnex write to the source.
        self.others = False
        self.pool: Executor
        # What has workers encode, while documents are copied.
        self._handing: Handing | None = None
        self._cursor = Cursor("")

    def _copy(self, copier: Copier) -> None:
        """Copy all there is, and then what has changed meanwhile, until that is little."""
        self.lock.save(step="copy")
        looking = bool(self.back or self._cursor.shards) or copier.kept < copier.target.spec.embeddings.keys()
        work = self._begin_handing(copier)
        while True:
            count = self._round(copier, partial(work, looking=looking))
            self.report = replace(self.report, rounds=self.report.rounds + 1)
            looking = True
            if count <= FEW:
                break
        self._end_handing(copier.target.stored.index)

    def _begin_handing(self, copier: Copier) -> Callable[..., Copied | Handed]:
        """What copies a page: with the workers' help, if there may be any."""
        if self.events is None or self.options.encode == "here":
            return copier.copy
        epoch, options = self.lock.control.epoch, self.options
        let = partial(fencing.let_copy, copier.target.stored.index, epoch)
        self._handing = Handing(self.events, self.alias, copier, epoch, options, self.sleep, lambda: self._ask(let))
        return self._handing.work

    def _end_handing(self, index: str) -> None:
        """From here on no worker copies anything, not even one that was stopped for a while."""
        handing, self._handing = self._handing, None
        if handing and handing.opened:
            self._ask(partial(fencing.bar_copies, index, self.lock.control.epoch))
            if self.others:
                # What they delete leaves no trace against which a late copy would count as old.
                self._ask(partial(cutover.block, self.lock.by(index)))
                self._ask(partial(cutover.unblock, self.lock.by(index)))

    def _round(self, copier: Copier, work: Work, step: str = "copy") -> int:
        """Have the changes up to where the shards stand now copied, a page at a time; how many there were."""
        index = copier.source.index
        heads = self._ask(partial(feed.heads, index))
        behind = self._cursor.behind(heads)
        # After the checkpoints were asked for: all up to them is visible then.
        self._ask(partial(feed.refresh, index))
        done, total = 0, sum(behind.values())
        for shard in [shard for shard, count in behind.items() if count]:
            for count in self._shard(copier, shard, heads[shard], work):
                done += count
                self.tell(Step(step, min(done, total), total, self._by_whom()))
        return done

    def _by_whom(self) -> str:
        workers = self._handing.workers if self._handing else 0
        return f"copying documents, encoded by {workers} worker{'s'[: workers > 1]}" if workers else ""

    def _shard(self, copier: Copier, shard: int, head: feed.Head, work: Work) -> Iterator[int]:
        """Copy one shard, a page at a time: others are read while one is written; workers encode several at once."""
        writing: deque[Writing] = deque()
        after = self._cursor.after(shard, head)
        stored = copier.source
        while after < head.checkpoint:
            found: list[Held] = self._ask(
                partial(
                    page, stored, self.engine.dialect, shard, after, head.checkpoint,
                    self.options.page, copier.left_out, copier.moves,
                )
            )  # fmt: skip
            helped = bool(self._handing and self._handing.workers)
            while len(writing) >= (max(1, self.options.ahead // self.options.page) if helped else _QUEUED):
                self._note(*writing.popleft(), shard, head)
            if helped and writing:
                writing[-1][0].result()
            after = found[-1].seq_no if found else head.checkpoint
            self.others = self.others or any(not one.ours for one in found)
            writing.append((self.pool.submit(work, found), after))
            yield len(found)
        while writing:
            self._note(*writing.popleft(), shard, head)

    def _note(self, writing: Future[Copied | Compared | Handed], reached: int, shard: int, head: feed.Head) -> None:
        """Wait for a page to be written, and note how far that is."""
        done = writing.result()
        self.report += self._handed(done) if isinstance(done, Handed) else done
        self._cursor = self._cursor.moved(shard, head, reached)
        self.lock.save(cursors=checkpoints(self._cursor.shards))

    def _handed(self, page: Handed) -> Copied:
        """Wait for workers; what they leave is done where all else is."""
        handing = self._handing
        if handing is None or not page.positions:
            return page.copied
        left = handing.wait(page)
        return self.pool.submit(handing.take_back, left).result() if left.places else left.copied

    def _ask(self, flow: Callable[[], Flow[T]]) -> T:
        return patiently(self.engine, flow, self.options.patience, self.sleep)


def checkpoints(shards: Mapping[int, tuple[str, int]]) -> Checkpoints:
    """As the control document has them."""
    return {str(shard): (one[0], one[1]) for shard, one in shards.items()}
