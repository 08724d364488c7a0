"""Repairing what an audit found: each document is read again, and written only if it is still the one that was read.

Nothing is written but vectors and their notes; of a deleted document, and of an older copy of one that moved to another
routing, the tombstone that should be there. A newer write wins, and is looked at again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..engines import encode
from ..mappings import PROVENANCE, write_alias
from .audit_checks import Fault, is_older, newest_of
from .audit_look import Looker, remade
from .audit_read import Looked
from .bulk import Line
from .enrich import Work, _action, _write, enrich
from .events import mended
from .patience import Patience
from .prepare import Target

Key = tuple[str, str | None]

# A repair met by another write is tried again; who is written so often is left to the next audit.
_ROUNDS = 4
# Documents repaired at once, and faults that are named where they are left.
_AT_ONCE, _NAMED = 256, 10_000
_ENCODE = frozenset({"missing", "lost", "unmarked", "stale", "mixed", "dims", "norm", "chunks", "foreign"})
# The vector may have come from the cache.
_ANEW = frozenset({"dims", "norm", "chunks", "foreign"})


@dataclass
class Mended:
    """How many documents are well again, and what is still wrong."""

    repaired: int = 0
    left_count: int = 0
    # The first of those that are left.
    left: list[Fault] = field(default_factory=list)


class Mender:
    """Repairs documents of an index. Raises what `enrich` raises."""

    def __init__(
        self, looker: Looker, target: Target, patience: Patience, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.looker, self.reader, self.target = looker, looker.reader, target
        self.patience, self.sleep = patience, sleep
        self.done = Mended()

    def mend(self, faults: Sequence[Fault]) -> None:
        """Repair the documents that these faults name, and see that they are well."""
        compared = {fault.key for fault in faults if fault.kind in ("foreign", "unreadable")}
        # What made a vector a foreign one only shows when it is made again, by which its picture is read too.
        looker = Looker(self.reader, self.target, lambda one: one.key in compared)
        keys = list(dict.fromkeys(fault.key for fault in faults))
        for start in range(0, len(keys), _AT_ONCE):
            self._mend(looker, set(keys[start : start + _AT_ONCE]))

    def _mend(self, looker: Looker, keys: set[Key]) -> None:
        reasons: dict[str, str] = {}
        for number in range(_ROUNDS):
            self.reader.refresh()
            looked = {one.key: one for one in self.reader.named(sorted({key[0] for key in keys}))}
            wrong = [fault for fault in looker.faults(list(looked.values())) if fault.key in keys]
            if not wrong or number == _ROUNDS - 1:
                break
            before, reasons = reasons, self._write(looked, wrong)
            if reasons == before and {fault.id for fault in wrong if fault.kind != "unreadable"} <= reasons.keys():
                break
        room = max(0, _NAMED - len(self.done.left))
        self.done.left += [replace(one, detail=reasons.get(one.id) or one.detail) for one in wrong[:room]]
        self.done.left_count += len(wrong)
        self.done.repaired += len(keys - {fault.key for fault in wrong})

    def _write(self, looked: Mapping[Key, Looked], wrong: Sequence[Fault]) -> dict[str, str]:
        """Write one thing for each id; why it cannot be done, by id."""
        by_key: dict[Key, list[Fault]] = {}
        for fault in wrong:
            by_key.setdefault(fault.key, []).append(fault)
        lines: dict[str, Line] = {}
        works: dict[bool, dict[str, Work]] = {True: {}, False: {}}
        for key, faults in by_key.items():
            one = looked.get(key)
            if one is None or key[0] in lines or any(key[0] in some for some in works.values()):
                continue  # the other copy of the id comes in the next round
            if line := self._line(one, faults, looked):
                lines[key[0]] = line
            elif work := _work(one, faults):
                anew = any(fault.kind in _ANEW for fault in faults)
                works[anew][key[0]] = work
        outcomes = _write(
            self.reader.engine, write_alias(self.target.stored.index), list(lines.values()), self.patience, self.sleep
        )
        reasons = {one.id: one.reason for one in outcomes if one.status == "buried"}
        for anew, some in works.items():
            target = remade(self.target) if anew else self.target
            done = enrich(self.reader.engine, target, list(some.values()), patience=self.patience, sleep=self.sleep)
            reasons |= {one.id: one.reason for one in done.buried}
        return reasons

    def _line(self, one: Looked, faults: Sequence[Fault], looked: Mapping[Key, Looked]) -> Line | None:
        """What is written for a document that needs no vector."""
        kinds = {fault.kind for fault in faults}
        if "zombie" in kinds:
            return self._tombstone(one, one.version)
        if "duplicate" in kinds:
            newest = newest_of(other for other in looked.values() if other.change.id == one.change.id)
            return self._tombstone(one, newest.version) if is_older(one, newest) else None
        names = [fault.embedding for fault in faults if fault.kind == "orphan"]
        if not names:
            return None
        # A name that is something else by now is the document's own.
        cleared: dict[str, Any] = {name: None for name in names if name in one.strays}
        doc = cleared | {PROVENANCE: {"vectors": dict.fromkeys(names)}}
        return Line(one.change.id, encode({"update": _action(one.change)}), encode({"doc": doc}))

    def _tombstone(self, one: Looked, version: int | None) -> Line:
        body = dict(one.relation)
        body[PROVENANCE] = {"deleted": True} if version is None else {"version": version, "deleted": True}
        return Line(one.change.id, encode({"index": _action(one.change)}), encode(body))


def _work(one: Looked, faults: Sequence[Fault]) -> Work | None:
    # Of a field that cannot be read no vector can be made.
    reasons = {fault.embedding: fault.detail for fault in faults if fault.kind == "missing" and fault.detail}
    wanted = tuple(fault.embedding for fault in faults if fault.kind in _ENCODE and fault.embedding not in reasons)
    clear = tuple(fault.embedding for fault in faults if fault.kind == "leftover")
    if not (wanted or clear or reasons):
        return None
    change = replace(one.change, document=mended(one.change.document))
    return Work(change, wanted, clear, "; ".join(reasons.values()))
