"""What producers with and without a log share: windows of events, and tombstones for ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ..engines import Engine
from ..mappings import Spec
from .events import Event
from .verify import relations

WINDOW = 500
WINDOW_BYTES = 8_000_000
#: Windows asked for in the index at once: each asking needs a refresh.
CHECK_AT_ONCE = 20


def cut(events: Iterable[Event], most: int, most_bytes: int) -> Iterator[list[Event]]:
    """Windows of at most `most` events, and about `most_bytes` of documents."""
    part: list[Event] = []
    size = 0
    for event in events:
        part.append(event)
        size += weight(event.document)
        if len(part) >= most or size >= most_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def weight(value: Any) -> int:
    """Roughly the bytes of a document, without writing it out: its strings."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(weight, value.values()))
    return sum(map(weight, value)) if isinstance(value, list) else 8


def tombstones(engine: Engine, spec: Spec, ids: Iterable[Any]) -> Iterator[Any]:
    """The documents of deletes, of ids or of dicts with an id; a child whose parent is not told is looked up."""

    def document(given: Any) -> Any:
        return given if isinstance(given, Mapping) else {spec.id: given, **known.get(str(given), {})}

    known: Mapping[str, Mapping[str, Any]] = {}
    source = iter(ids)
    while part := list(islice(source, WINDOW)):
        plain = [str(given) for given in part if not isinstance(given, Mapping)]
        if plain and spec.parents():
            known = engine.run(relations(spec, plain))
        yield from map(document, part)
