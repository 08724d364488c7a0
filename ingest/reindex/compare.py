"""Comparing two version indexes, id by id and version by version, and mending what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from zlib import crc32

from ...engines import Flow, Request, path_of
from ...mappings import Stored
from ..feed import Head
from .copying import Copier
from .known import Known
from .reading import Held, Place, Written, distinct, fetch, scanned, versions

T = TypeVar("T")
Heads = Mapping[int, Head]

# Ids and versions read at once, the most an index gives by default; documents looked at closely at once.
_SCAN, _CLOSE = 10_000, 500
#: Of so many documents the versions are held in memory at a time, at some 250 bytes each.
IN_MEMORY = 1_000_000


@dataclass(frozen=True)
class Compared:
    """What was found and mended: `behind` were missing or older, `ahead` newer than they can be, `extra` not there.

    `others` counts documents that others than knnex wrote last, or deleted.
    """

    seen: int = 0
    behind: int = 0
    ahead: int = 0
    extra: int = 0
    others: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Compared) -> Compared:
        return Compared(
            self.seen + other.seen,
            self.behind + other.behind,
            self.ahead + other.ahead,
            self.extra + other.extra,
            self.others + other.others,
            {**self.refused, **other.refused},
        )

    @property
    def differences(self) -> int:
        """How many documents were not the same."""
        return self.behind + self.ahead + self.extra


class Comparer:
    """Makes the target the same as the source. `ask` runs a flow, patiently."""

    def __init__(self, copier: Copier, ask: Callable[[Callable[[], Flow[Any]]], Any]) -> None:
        self.copier, self.ask = copier, ask
        self.dialect, self.source, self.target = copier.engine.dialect, copier.source, copier.target.stored
        self.moves = copier.moves
        # Versions, here and there, of documents that had to be written again under a version of their own.
        self._forced: dict[Place, tuple[int, int]] = {}
        # What the source held when it was last compared, and since; None where that is too much to be kept.
        self._known: Known | None = None

    @property
    def follows(self) -> bool:
        """Whether what was deleted since all was compared can be found."""
        return self._known is not None

    def compare(self, source: Heads, target: Heads, tell: Callable[[int], object] = lambda _: None) -> Compared:
        """All documents of both, which must have been refreshed since they stood at these heads; mends what differs.

        Others may go on writing: what differs at first sight is looked at once more, as it is by then.
        """
        done = Compared()
        count = sum(head.checkpoint + 1 for head in target.values())
        parts = -(-count // IN_MEMORY) or 1
        self._known = Known(source.values()) if parts == 1 else None
        for part in range(parts):
            there: dict[Place, int] = {}
            for found in self._pages(self.target, target):
                there |= {one.place: one.written for one in found if _in(one, part, parts)}
            doubtful: list[Place] = []
            for found in self._pages(self.source, source):
                mine = [one for one in found if _in(one, part, parts)]
                doubtful += [one.place for one in mine if there.pop(one.place, -1) != one.version]
                done += Compared(seen=len(mine), others=sum(not one.ours for one in mine))
                if self._known:
                    self._known.note(mine)
                tell(done.seen)
            for start in range(0, len(doubtful), _CLOSE):
                done += self.mend(doubtful[start : start + _CLOSE])
            extra = list(there)
            for start in range(0, len(extra), _CLOSE):
                gone = self._remove(extra[start : start + _CLOSE])
                done += Compared(extra=gone, others=gone)
        return done

    def changed(self, heads: Heads, since: Callable[[int, Head], int]) -> Iterator[list[Held]]:
        """The documents of the source that were changed last after the place that `since` tells of their shard."""
        for found in self._pages(self.source, heads, since):
            if self._known:
                self._known.note(found)
            yield found

    def suspects(self, shards: Iterable[int]) -> list[Place]:
        """Documents among which are all that were deleted since all was compared and before the source was refreshed,
        if what was changed by then has been read."""
        known = self._known
        return self.ask(lambda: known.suspects(self.source.index, self.dialect, shards)) if known else []

    def remove(self, suspects: Sequence[Place]) -> Compared:
        """Those of them that are gone are deleted in the target too."""
        gone = sum(self._remove(suspects[start : start + _CLOSE]) for start in range(0, len(suspects), _CLOSE))
        return Compared(extra=gone, others=gone)

    def mend(self, places: Sequence[Place]) -> Compared:
        """These documents as they are now: what is behind or ahead in the target is written again."""
        # Whoever writes to both writes the source first: it is asked after the target.
        there = self._versions(self.target, places)
        here = self.ask(lambda: fetch(self.source, self.dialect, places, self.moves))
        behind = [one for one in here if one.place not in there or there[one.place].written < one.version]
        ahead = [
            one
            for one in here
            if (held := there.get(one.place))
            and held.written > one.version
            and self._forced.get(one.place) != (one.version, held.written)
        ]
        refused: dict[str, str] = {}
        for part in distinct(behind):  # as `copy` with `looking`, but that has just been looked for
            refused |= self.copier.write(replace(self.copier.prepare(part), looking=True)).refused
        gone = [place for place in places if place not in {one.place for one in here} and place in there]
        return Compared(
            behind=len(behind),
            ahead=self._force(ahead, there),
            extra=self._remove(gone) if gone else 0,
            refused=refused,
        )

    def _force(self, found: Sequence[Held], there: Mapping[Place, Written]) -> int:
        """Documents that are newer there: deleted here, forgotten, and made again."""
        raised = [replace(one, version=there[one.place].written + 1) for one in found]
        self._forced |= {one.place: (one.version, more.version) for one, more in zip(found, raised, strict=True)}
        return sum(self.copier.copy(part).copied for part in distinct(raised))

    def _remove(self, places: Sequence[Place]) -> int:
        """Delete documents of the target that the source does not have, if they still are as they were; how many."""
        extra = self._versions(self.target, places)
        here = self._versions(self.source, places)
        if self._known:
            self._known.forget(place for place in places if place not in here)
            self._known.watch(here)
        gone = [held for place, held in extra.items() if place not in here]
        return int(self.ask(lambda: _deleted(self.copier.target.alias, gone))) if gone else 0

    def _versions(self, where: Stored, places: Sequence[Place]) -> dict[Place, Written]:
        found: dict[Place, Written] = self.ask(lambda: versions(where, places))
        return found

    def _pages(
        self, where: Stored, heads: Heads, since: Callable[[int, Head], int] = lambda _, __: -1
    ) -> Iterator[list[Held]]:
        spans = {shard: (since(shard, head), head.checkpoint) for shard, head in heads.items()}
        return scanned(self.ask, where, self.dialect, spans, _SCAN, self.moves)


def _in(one: Held, part: int, parts: int) -> bool:
    return parts == 1 or crc32(one.id.encode("utf-8", "surrogatepass")) % parts == part


def _deleted(alias: str, extra: Sequence[Written]) -> Flow[int]:
    """Delete documents that are still as they were read; how many."""
    lines: list[Mapping[str, object]] = []
    for one in extra:
        action = {"_id": one.id, "if_seq_no": one.seq_no, "if_primary_term": one.primary_term}
        lines.append({"delete": action if one.routing is None else action | {"routing": one.routing}})
    response = yield Request("POST", path_of(alias, "_bulk"), {"filter_path": "items.*.status"}, tuple(lines))
    return sum(int(one["delete"]["status"]) == 200 for one in response.body["items"])
