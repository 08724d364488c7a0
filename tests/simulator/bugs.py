"""Protocols that are broken, each in one place, which the simulator must find."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from knnex.ingest.reindex import Coordinator, cutover, fencing, reading
from knnex.ingest.reindex.compare import Comparer

from .reindexing import FROZEN, TO_AND_FRO, Reindex
from .shard import Shard
from .world import Scenario

Bug = Callable[[pytest.MonkeyPatch], Scenario]


def barrier_not_awaited(patch: pytest.MonkeyPatch) -> Scenario:
    """What workers took before the new version was announced is not waited for."""
    patch.setattr(Coordinator, "_wait_for_log", lambda *_: None)
    # One worker alone, since what another one holds is taken from it.
    return Reindex(workers=1, freezes=0.02, longest=400)


def no_must_exist(patch: pytest.MonkeyPatch) -> Scenario:
    """The alias is put on the new version although it has left the old one."""
    moved = cutover._moved

    def moving(*args: Any) -> list[dict[str, Any]]:
        away, there = moved(*args)
        return [{"remove": {key: value for key, value in away["remove"].items() if key != "must_exist"}}, there]

    patch.setattr(cutover, "_moved", moving)
    return Reindex(hostile=40, pace=1, events=10)


def no_block(patch: pytest.MonkeyPatch) -> Scenario:
    """Others go on writing while the alias moves."""
    patch.setattr(Coordinator, "_blocks", lambda _: False)
    return Reindex(own=False, workers=0, foreign=20, pace=20)


def swapped_uncompared(patch: pytest.MonkeyPatch) -> Scenario:
    """What others deleted meanwhile is not looked for."""
    patch.setattr(Coordinator, "_compare", lambda *_: None)
    patch.setattr(Coordinator, "_count", lambda *_: 0)
    return Reindex(own=False, workers=0, foreign=20, pace=20)


def copies_counted_anew(patch: pytest.MonkeyPatch) -> Scenario:
    """A copy gets a version of the engine, and not that of its original."""
    index = Shard._index

    def counting(self: Shard, id_: str, action: Any, source: Any) -> Any:
        held = self.documents.get(id_)
        return index(self, id_, action | {"version": held["version"] + 1 if held else 1}, source)

    patch.setattr(Shard, "_index", counting)
    return Reindex()


def written_by_the_alias(patch: pytest.MonkeyPatch) -> Scenario:
    """A batch that was made for one version goes where the alias points by then."""
    from knnex.ingest import Target

    patch.setattr(Target, "address", property(lambda self: self.alias))
    return Reindex()


def not_announced(patch: pytest.MonkeyPatch) -> Scenario:
    """Workers are not told of the new version."""
    patch.setattr(cutover, "announce", lambda *_: iter(()))
    return Reindex()


def not_fenced(patch: pytest.MonkeyPatch) -> Scenario:
    """A coordinator that was taken for dead goes on where it was stopped."""
    patch.setattr(fencing, "_former", lambda *_: (yield from ()) or [])
    return FROZEN


def later_is_higher(patch: pytest.MonkeyPatch) -> Scenario:
    """What others made again is taken for older than what was copied before the alias moved, and left at that."""

    def copied(self: Coordinator, comparer: Comparer, **_: bool) -> int:
        return self._round(comparer.copier, partial(comparer.copier.copy, looking=True), "swap")

    patch.setattr(Coordinator, "_mended", copied)
    patch.setattr(reading, "_MOVES", 0)
    return TO_AND_FRO


BUGS: list[Bug] = [
    barrier_not_awaited,
    no_must_exist,
    no_block,
    swapped_uncompared,
    written_by_the_alias,
    not_announced,
    copies_counted_anew,
    not_fenced,
    later_is_higher,
]
