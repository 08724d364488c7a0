"""Finding what was deleted in a version index since it was read whole, without reading it whole again.

A delete leaves nothing that can be searched for. But every document that is left has its place in the history of its
shard, `_seq_no`, and an engine counts those between two places in no time: where there are fewer than there were, and
none of them has been seen at a later place, one is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from typing import Any

from ...engines import Dialect, Flow
from ..feed import Head, on_shards
from .reading import Held, Place

# In so many spans the history of a shard is counted.
_SPANS = 2_000
# Of a place in memory, the bits for the number in the shard's history.
_BITS = 48
# So many places are looked at one by one at a time: an engine takes no more than 65,536 terms, nor counts in an answer.
_CLOSELY = 50_000
# And so many times that at once.
_AT_ONCE = 4


class Known:
    """Where in the history of its shard each document of an index was changed last; some 250 bytes a document."""

    def __init__(self, heads: Iterable[Head]) -> None:
        self.width = 1 + max((head.checkpoint for head in heads), default=0) // _SPANS
        self._at: dict[Place, int] = {}
        self._spans: defaultdict[int, set[Place]] = defaultdict(set)
        # Documents of which only that they are there is known.
        self._unplaced: set[Place] = set()
        # What is mended and what is counted are read side by side.
        self._lock = RLock()

    def note(self, found: Iterable[Held]) -> None:
        """These documents were seen where they say."""
        with self._lock:
            for one in found:
                self.forget([one.place])
                at = self._at[one.place] = one.shard << _BITS | one.seq_no
                self._spans[self._span(at)].add(one.place)

    def forget(self, places: Iterable[Place]) -> None:
        """These are gone, and that is known."""
        with self._lock:
            for place in places:
                self._unplaced.discard(place)
                if (at := self._at.pop(place, None)) is not None:
                    self._spans[self._span(at)].discard(place)

    def watch(self, places: Iterable[Place]) -> None:
        """These are there, but changed while all was read, and were not seen."""
        with self._lock:
            self._unplaced.update(place for place in places if place not in self._at)

    def suspects(self, index: str, dialect: Dialect, shards: Iterable[int]) -> Flow[list[Place]]:
        """Documents among which are all that were deleted, and few others; the index must have been refreshed.

        First each span is counted, then each place of those in which there is less than there was.
        """
        numbers = list(shards)
        counted = yield from _counted(index, dialect, [(shard, self.width, None) for shard in numbers])
        with self._lock:
            found, parts = list(self._unplaced), list[tuple[int, dict[int, Place]]]()
            for shard, left in zip(numbers, counted, strict=True):
                above = shard << _BITS
                mine = ((key - above, places) for key, places in self._spans.items() if key >> _BITS == shard)
                among = {
                    self._at[place] - above: place
                    for span, places in mine
                    if left.get(span, 0) < len(places)
                    for place in places
                }
                doubtful = sorted(among)
                for start in range(0, len(doubtful), _CLOSELY):
                    parts.append((shard, {at: among[at] for at in doubtful[start : start + _CLOSELY]}))
        for start in range(0, len(parts), _AT_ONCE):
            asked = parts[start : start + _AT_ONCE]
            answers = yield from _counted(index, dialect, [(shard, 1, list(places)) for shard, places in asked])
            for (_, places), there in zip(asked, answers, strict=True):
                found += [place for at, place in places.items() if at not in there]
        return found

    def _span(self, at: int) -> int:
        shard, number = divmod(at, 1 << _BITS)
        return shard << _BITS | number // self.width


def _counted(
    index: str, dialect: Dialect, asked: Sequence[tuple[int, int, list[int] | None]]
) -> Flow[list[dict[int, int]]]:
    """How many documents were changed last in each span of the history of a shard, by its number: for each that is
    asked for, of a shard, of a width, all documents or those at some places."""
    bodies: list[tuple[int, Mapping[str, Any]]] = []
    for shard, width, places in asked:
        counting = {"histogram": {"field": "_seq_no", "interval": width, "min_doc_count": 1}}
        within = {} if places is None else {"query": {"terms": {"_seq_no": places}}}
        bodies.append((shard, {"size": 0, "track_total_hits": False, "aggs": {"spans": counting}} | within))
    counts = []
    for (_, width, _), answer in zip(asked, (yield from on_shards(index, dialect, bodies)), strict=True):
        buckets = answer["aggregations"]["spans"]["buckets"]
        counts.append({int(one["key"]) // width: int(one["doc_count"]) for one in buckets})
    return counts
