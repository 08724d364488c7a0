"""What an index must hold in the end: the accepted events, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from knnex.ingest import Event
from knnex.ingest.updates import merge


def folded(events: Sequence[Event], without: set[str]) -> dict[str, dict[str, Any] | None]:
    """What events make of each id, one after the other; None where it is deleted."""
    made: dict[str, dict[str, Any] | None] = {}
    for event in sorted(events, key=lambda one: one.order):
        if event.position in without:
            continue
        held = made.get(event.id)
        if event.op != "update":
            made[event.id] = None if event.op == "delete" else dict(event.document)
        elif held is not None:
            made[event.id] = merge(held, event.document)
    return made
