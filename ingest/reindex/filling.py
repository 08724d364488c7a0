"""Copying all documents of one version index into another, and what changes meanwhile, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ...engines import Engine, Flow
from .. import feed
from ..feed_read import patiently
from ..feed_state import Cursor
from .compare import Compared
from .control import Checkpoints, Lock
from .copying import Copied, Copier
from .reading import Held, page
from .report import Options, Report, Step, Tell

T = TypeVar("T")
Work = Callable[[Sequence[Held]], Copied | Compared]

#: A round of catching up that finds no more than so many changes was the last one.
FEW = 200


class Filling:
    """The part of a coordinator that copies; how far each shard was copied lies in the cluster."""

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
        self._cursor = Cursor("")

    def _copy(self, copier: Copier) -> None:
        """Copy all there is, and then what has changed meanwhile, until that is little."""
        self.lock.save(step="copy")
        looking = bool(self.back or self._cursor.shards) or copier.kept < copier.target.spec.embeddings.keys()
        while True:
            count = self._round(copier, partial(copier.copy, looking=looking))
            self.report = replace(self.report, rounds=self.report.rounds + 1)
            looking = True
            if count <= FEW:
                return

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
                self.tell(Step(step, min(done, total), total))
        return done

    def _shard(self, copier: Copier, shard: int, head: feed.Head, work: Work) -> Iterator[int]:
        """Copy one shard, a page at a time; the next is read while one is written."""
        writing: Future[Copied | Compared] | None = None
        after = self._cursor.after(shard, head)
        reached = after
        stored = copier.source
        while after < head.checkpoint:
            found: list[Held] = self._ask(
                partial(
                    page, stored, self.engine.dialect, shard, after, head.checkpoint,
                    self.options.page, copier.left_out, copier.moves,
                )
            )  # fmt: skip
            self._note(writing, shard, head, reached)
            reached = after = found[-1].seq_no if found else head.checkpoint
            self.others = self.others or any(not one.ours for one in found)
            writing = self.pool.submit(work, found)
            yield len(found)
        self._note(writing, shard, head, reached)

    def _note(self, writing: Future[Copied | Compared] | None, shard: int, head: feed.Head, reached: int) -> None:
        """Wait for a page to be written, and note how far that is."""
        if writing is None:
            return
        self.report += writing.result()
        self._cursor = self._cursor.moved(shard, head, reached)
        self.lock.save(cursors=checkpoints(self._cursor.shards))

    def _ask(self, flow: Callable[[], Flow[T]]) -> T:
        return patiently(self.engine, flow, self.options.patience, self.sleep)


def checkpoints(shards: Mapping[int, tuple[str, int]]) -> Checkpoints:
    """As the control document has them."""
    return {str(shard): (one[0], one[1]) for shard, one in shards.items()}
