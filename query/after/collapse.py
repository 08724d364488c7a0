"""One hit for each value of a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import QueryError
from ..hits import Hit
from ..parts import Collapse
from .values import Held


def collapsed(hits: Sequence[Hit], given: Collapse, held: Held) -> list[Hit]:
    """The first hit of each value, with the next ones as its `group`; documents without the field stay by themselves.

    Raises QueryError, as engines do, for a document with several values: it would be in several groups.
    """
    groups: dict[object, list[Hit]] = {}
    for hit in hits:
        values = set(held.get(hit.id, ()))
        if len(values) > 1:
            shown = ", ".join(sorted(map(str, values))[:3])
            raise QueryError(
                f"document {hit.id!r} has {len(values)} values of {given.field} ({shown}): it is of no one group",
                hint="collapse by a field that has one value in each document",
            )
        groups.setdefault(("value", *values) if values else ("document", hit.id), []).append(hit)
    return [replace(best, group=tuple(others[: given.inner])) for best, *others in groups.values()]
