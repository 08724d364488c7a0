"""Copying documents into another version index, with the vectors they have where these are the same there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ...engines import Engine, encode
from ...errors import EngineBusy, InputError
from ...mappings import PROVENANCE, Stored
from ...mappings.change_embeddings import reusable
from ..apply import prepare_safely
from ..bulk import Item, Outcome, Patience, write
from ..enrich import Work, groups, needed
from ..events import _mended
from ..feed import Change, object_in
from ..prepare import Target
from .reading import Held, distinct, versions

# Of documents that did not come through whole, so many are named.
_NAMED = 20


@dataclass(frozen=True)
class Copied:
    """What became of documents. `stale` ones were there already, newer or the same; counts of vectors are in texts.

    `refused` are the ids that the other index does not take, with the reason; `without` those that lie there without
    a vector which could not be made.
    """

    copied: int = 0
    stale: int = 0
    reused: int = 0
    encoded: int = 0
    cached: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Copied) -> Copied:
        both: dict[str, Any] = {}
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            both[one.name] = dict([*mine.items(), *theirs.items()][-_NAMED:]) if one.name in _MAPS else mine + theirs
        return Copied(**both)


_MAPS = ("refused", "without")


class Copier:
    """Copies documents of one version index into another; the alias was moved `moves` times before."""

    def __init__(
        self,
        engine: Engine,
        source: Stored,
        target: Target,
        *,
        moves: int = 0,
        patience: Patience | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.engine, self.source, self.target, self.moves = engine, source, target, moves
        self.patience, self.sleep = patience or Patience(), sleep
        self.kept = frozenset(name for name in target.spec.embeddings if reusable(name, source, target.stored))
        # Vectors that are of no use there need not be read.
        self.left_out = sorted(source.spec.embeddings.keys() - self.kept)

    def copy(self, found: Sequence[Held], *, looking: bool = False) -> Copied:
        """Copy documents under their versions, so that what is newer there stays. With `looking` none is encoded that
        is there already. Raises EngineBusy, EngineUnreachable, IndexMissing, EncoderError."""
        done = Copied()
        for part in distinct(found):
            wanted = self._lacking(part) if looking else part
            done += Copied(stale=len(part) - len(wanted))
            made = self._copy(wanted) if wanted else Copied()
            if looking and made.stale and (left := self._lacking(wanted)):
                # Deleted there under a newer version, which an engine forgets after a while (index.gc_deletes).
                raise EngineBusy(
                    f"{self.target.stored.index} does not take {len(left)} documents yet, {left[0].id!r} first: they "
                    "were deleted and made again",
                    hint="run it again in a minute",
                )
            done += made
        return done

    def _lacking(self, found: Sequence[Held]) -> list[Held]:
        there = self.engine.run(versions(self.target.stored, [one.place for one in found]))
        return [one for one in found if one.place not in there or there[one.place].written < one.version]

    def _copy(self, found: Sequence[Held]) -> Copied:
        changes = [self._change(one) for one in found if not _deleted(one.source)]
        works = {work.change.id: work for work in needed(self.target, changes)}
        vectors, done = self._encode(list(works.values()))
        items = [
            Item(one.id, one.version, self._body(one, works.get(one.id), vectors.get(one.id, {})), one.routing)
            for one in found
        ]
        outcomes = self._written(items)
        if failed := [one for one in outcomes if one.status == "failed"]:
            raise EngineBusy(
                f"{len(failed)} documents could not be written to {self.target.stored.index}: {failed[0].reason}"
            )
        return done + Copied(
            copied=sum(one.status == "written" for one in outcomes),
            stale=sum(one.status == "stale" for one in outcomes),
            reused=sum(len(one.vectors.difference(works[one.id].encode if one.id in works else ())) for one in changes),
            refused={one.id: one.reason for one in outcomes if one.status == "buried"},
        )

    def _written(self, items: Sequence[Item]) -> list[Outcome]:
        """Write; lone surrogates, which an engine takes from others and no encoding of text can hold, become U+FFFD."""
        outcomes = write(self.engine, self.target.alias, items, patience=self.patience, sleep=self.sleep)
        refused = {one.id for one in outcomes if one.status == "buried"}
        torn = [replace(one, body=_mended(one.body)) for one in items if one.id in refused and not _has_form(one.body)]
        if not torn:
            return outcomes
        mended = write(self.engine, self.target.alias, torn, patience=self.patience, sleep=self.sleep)
        again = {one.id: one for one in mended}
        return [again.get(one.id, one) for one in outcomes]

    def _change(self, one: Held) -> Change:
        """The document as the change feed sees one: what its vectors are made of, and which of them can stay."""
        noted = object_in(object_in(one.source.get(PROVENANCE)).get("vectors"))
        made = {name: made for name in self.kept if (made := object_in(noted.get(name)))}
        there = frozenset(name for name in self.kept if one.source.get(name))
        return Change(one.id, one.routing, one.seq_no, one.primary_term, one.source, made, there)

    def _encode(self, works: Sequence[Work]) -> tuple[dict[str, Mapping[str, Any]], Copied]:
        """The new vectors of documents, as their bodies have them."""
        prepared = [prepare_safely(part, events) for part, events in groups(self.target, works)]
        without = {work.change.id: work.reason for work in works if work.reason}
        without |= {one.event.id: one.reason for part in prepared for one in part.refused}
        done = Copied(
            encoded=sum(part.encoded for part in prepared),
            cached=sum(part.cached for part in prepared),
            without=without,
        )
        return {item.id: item.body for part in prepared for item in part.items}, done

    def _body(self, one: Held, work: Work | None, made: Mapping[str, Any]) -> dict[str, Any]:
        body = {key: value for key, value in one.source.items() if key not in self.left_out}
        note = dict(object_in(body.pop(PROVENANCE, None)))
        noted = object_in(note.pop("vectors", None))
        kept = self.kept - set((*work.encode, *work.clear) if work else ())
        vectors = {name: noted[name] for name in sorted(kept) if name in body and name in noted}
        for name in work.encode if work else ():
            if name in made:
                body[name], vectors[name] = made[name], made[PROVENANCE]["vectors"][name]
            else:
                body.pop(name, None)
        for name in work.clear if work else ():
            body.pop(name, None)
        if vectors:
            note["vectors"] = vectors
        return body | {PROVENANCE: note} if note else body


def _has_form(body: Mapping[str, Any]) -> bool:
    try:
        encode(body)
    except InputError:
        return False
    return True


def _deleted(source: Mapping[str, Any]) -> bool:
    return bool(object_in(source.get(PROVENANCE)).get("deleted"))
