"""Reading the shards of an index up to their checkpoints, a page at a time, and giving documents their vectors.

The cursor of a shard moves on when a page is done with, so that whoever dies in between leaves one page to be looked at
again. What is written here comes by once more, has what it needs, and is let pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import orjson

from ..encoders import input_hash
from ..engines import Engine, Flow
from . import feed
from .enrich import Enriched, Work, enrich, needed
from .feed_state import Cursor, FeedReport, keep_cursor, keep_lag, keep_trying, tried
from .log import Buried, EventLog
from .patience import Patience, patiently
from .prepare import Target

log = logging.getLogger(__name__)

# Documents read at once.
PAGE = 512
# Followers that died on one document alone, until it is that document.
_TRIES_ALONE = 2
_DEADLY = "the follower died {tries} times while it worked on this document alone (input {input})"


class Reader:
    """Reads the shards of an index, which stood at `heads` when that was `asked`; `going` is asked before each page."""

    def __init__(
        self,
        engine: Engine,
        events: EventLog,
        target: Target,
        cursor: Cursor,
        heads: Mapping[int, feed.Head],
        asked: int,
        *,
        patience: Patience,
        going: Callable[[], bool],
        sleep: Callable[[float], object],
        tell: Callable[[FeedReport], None] | None = None,
    ) -> None:
        self.engine, self.events, self.target, self.cursor, self.heads = engine, events, target, cursor, heads
        self.asked, self.patience, self.going, self.sleep, self.tell = asked, patience, going, sleep, tell

    def read(self, shard: int, page: int) -> FeedReport:
        """Look at all changes of a shard up to its checkpoint. Raises what `enrich` raises."""
        head, alias = self.heads[shard], self.target.alias
        done = FeedReport()
        while self.going() and (after := self.cursor.after(shard, head)) < head.checkpoint:
            found = self._changes(shard, after, page)
            passed = self._page(found)
            # Only an empty page says that nothing is left below the checkpoint.
            self.cursor = self.cursor.moved(shard, head, found[-1].seq_no if found else head.checkpoint)
            keep_cursor(self.events, alias, self.cursor)
            behind = self.cursor.behind(self.heads)
            keep_lag(self.events, alias, behind, self.asked)
            passed += FeedReport(behind=sum(behind.values()))
            done += passed
            if self.tell and passed.seen:
                self.tell(passed)
        return done

    def _changes(self, shard: int, after: int, page: int) -> list[feed.Change]:
        stored, upto, attempts = self.target.stored, self.heads[shard].checkpoint, 0

        def ask() -> Flow[list[feed.Change]]:
            nonlocal attempts
            # Fewer with each attempt: it may be the size of the answer that the engine cannot bear.
            size, attempts = max(1, page >> attempts), attempts + 1
            return feed.changes(stored.index, stored.spec, self.engine.dialect, shard, after, upto, size)

        return patiently(self.engine, ask, self.patience, self.sleep)

    def _page(self, found: Sequence[feed.Change]) -> FeedReport:
        alias = self.target.alias
        before = self.events.find_buried(alias, [change.position for change in found])
        works = [_spared(work, before) for work in needed(self.target, found)]
        done = Enriched()
        if works:
            suspects = tried(self.events, alias)
            try:
                for part in _parts(works, suspects):
                    done += self._try(part, suspects)
            finally:  # an error is no death
                keep_trying(self.events, alias, ())
        fresh = self._settle(found, done, before)
        return FeedReport(
            seen=len(found),
            enriched=done.enriched,
            unchanged=len(found) - done.enriched - done.conflicts - len(fresh),
            conflicts=done.conflicts,
            buried=len(fresh),
            encoded=done.encoded,
            cached=done.cached,
        )

    def _try(self, works: Sequence[Work], suspects: frozenset[str]) -> Enriched:
        alias, positions = self.target.alias, [work.change.position for work in works]
        alone = len(works) == 1 and positions[0] in suspects
        if alone and self.events.blame(alias, positions[0]) > _TRIES_ALONE:
            works = [_hopeless(works[0])]
        keep_trying(self.events, alias, positions)
        done = enrich(self.engine, self.target, works, patience=self.patience, sleep=self.sleep)
        if alone:
            self.events.acquit(alias, positions)
        return done

    def _settle(self, found: Sequence[feed.Change], done: Enriched, before: Mapping[str, Buried]) -> list[Buried]:
        """Keep what was buried, and forget the burials of documents that are well now; the burials that are news."""
        alias = self.target.alias
        bad = {one.position: one for one in done.buried}
        if well := [change.position for change in found if change.position in before.keys() - bad.keys()]:
            self.events.drop_buried(alias, well)
        fresh = [one for at, one in bad.items() if at not in before or before[at].reason != one.reason]
        for one in fresh:
            log.warning("Buried %s of %s: %s", one.id, alias, one.reason, extra={"action": "buried", "index": alias})
        counts = {"enriched": done.enriched, "encoded": done.encoded, "cached": done.cached}
        if fresh or any(counts.values()):
            self.events.settle(alias, (), fresh, counts)
        return fresh


def _hopeless(work: Work) -> Work:
    """No vectors for a document on which followers die, and none of a former text of it."""
    change = work.change
    mark = input_hash(orjson.dumps(change.document, option=orjson.OPT_SORT_KEYS).decode())
    gone = [name for name in (*work.encode, *work.clear) if name in change.vectors | change.made.keys()]
    return replace(work, encode=(), clear=tuple(gone), reason=_DEADLY.format(tries=_TRIES_ALONE, input=mark))


def _spared(work: Work, before: Mapping[str, Buried]) -> Work:
    """The work, unless followers died on this very input: then it stays buried."""
    held = before.get(work.change.position)
    if held is None or not held.reason.startswith(_DEADLY[:17]):
        return work
    hopeless = _hopeless(work)
    return hopeless if hopeless.reason == held.reason else work


def _parts(works: Sequence[Work], suspects: frozenset[str]) -> Iterator[Sequence[Work]]:
    """All at once; those on which a follower died in halves of what it had, down to the one that did it."""
    doubtful = [work for work in works if work.change.position in suspects]
    half = max(1, -(-len(suspects) // 2))
    for start in range(0, len(doubtful), half):
        yield doubtful[start : start + half]
    if rest := [work for work in works if work.change.position not in suspects]:
        yield rest
