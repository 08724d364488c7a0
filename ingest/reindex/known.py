"""Finding what was deleted in a version index since it was read whole, without reading it whole again.

A delete leaves nothing that can be searched for. But every document that is left has its place in the history of its
shard, `_seq_no`, and an engine counts those between two places in no time: where there are fewer than there were, and
none of them has been seen at a later place, one is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ...engines import Dialect, Flow, Request, path_of
from ..feed import Head, on_shard
from .reading import Held, Place

# In so many spans the history of a shard is counted; an engine refuses more than 65,536 in an answer.
_SPANS = 5_000
# Of a place in memory, the bits for the number of the span.
_BITS = 48


class Known:
    """The documents of an index by the span of history in which each was changed last; some 200 bytes a document."""

    def __init__(self, heads: Iterable[Head]) -> None:
        self.width = 1 + max((head.checkpoint for head in heads), default=0) // _SPANS
        self._spans: dict[Place, int] = {}
        self._counts: Counter[int] = Counter()
        # Documents of which only that they are there is known.
        self._unplaced: set[Place] = set()

    def note(self, found: Iterable[Held]) -> None:
        """These documents were seen where they say."""
        for one in found:
            self.forget([one.place])
            span = self._spans[one.place] = one.shard << _BITS | one.seq_no // self.width
            self._counts[span] += 1

    def forget(self, places: Iterable[Place]) -> None:
        """These are gone, and that is known."""
        for place in places:
            self._unplaced.discard(place)
            if (span := self._spans.pop(place, None)) is not None:
                self._counts[span] -= 1

    def watch(self, places: Iterable[Place]) -> None:
        """These are there, but changed while all was read, and were not seen."""
        self._unplaced.update(place for place in places if place not in self._spans)

    def suspects(self, index: str, dialect: Dialect, shards: Iterable[int]) -> Flow[list[Place]]:
        """Documents among which are all that were deleted, and few others; the index must have been refreshed."""
        left: dict[int, int] = {}
        for shard in shards:
            counting = {"histogram": {"field": "_seq_no", "interval": self.width, "min_doc_count": 1}}
            body = {"size": 0, "track_total_hits": False, "aggs": {"spans": counting}}
            response = yield Request("POST", path_of(index, "_search"), on_shard(dialect, shard), body)
            for one in response.body["aggregations"]["spans"]["buckets"]:
                left[shard << _BITS | int(one["key"]) // self.width] = int(one["doc_count"])
        fewer = {span for span, count in self._counts.items() if left.get(span, 0) < count}
        among = (place for place, span in self._spans.items() if span in fewer) if fewer else ()
        return [*self._unplaced, *among]
