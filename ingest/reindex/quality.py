"""How good the versions of an index were found to be: noted when a gate has judged, refusals included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ...errors import ReindexStopped
from ...mappings import Stored
from . import cutover
from .control import Control, Lock, Quality
from .report import Gate


@dataclass(frozen=True)
class Judged:
    """What a gate found: the quality of versions by their names, and why the new one may not go in; empty: it may."""

    quality: Mapping[str, Quality] = field(default_factory=dict)
    refused: str = ""


def noting(lock: Lock, gate: Gate) -> Callable[[Stored, Stored], None]:
    """A gate whose figures are kept before it lets a version pass, or raises ReindexStopped."""

    def judge(old: Stored, new: Stored) -> None:
        found = gate(old, new)
        if not isinstance(found, Judged):
            return
        note(lock, found.quality)
        if found.refused:
            raise ReindexStopped(
                f"{new.index} is not good enough to take the place of {old.index}: {found.refused}",
                hint=f"both are kept: lower the gate and apply again, or `knnex abort {lock.control.alias}`",
            )

    return judge


def note(lock: Lock, found: Mapping[str, Quality]) -> None:
    """Keep the figures of versions, and let go those of versions that are gone."""
    control = lock.control
    made = lock.engine.run(cutover.made(control.alias))
    held = {name: one for name in control.quality if (one := of(control, name, made.get(name, 0)))}
    lock.save(quality=held | {name: replace(one, created=made.get(name, 0)) for name, one in found.items()})


def of(control: Control, name: str, created: int) -> Quality | None:
    """What was found of a version; not of one that had its name before it."""
    found = control.quality.get(name)
    return found if found and found.created == created else None
