"""Copying documents into another version index, with the vectors they have where these are the same there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ...engines import Engine
from ...errors import EngineBusy
from ...mappings import PROVENANCE, Stored
from ...mappings.change_embeddings import reusable
from ..apply import prepare_safely
from ..bulk import Item, Outcome, write
from ..enrich import Work, groups, needed
from ..events import Event, mended
from ..feed import Change, object_in
from ..patience import Patience
from ..prepare import Prepared, Target
from .reading import Held, Place, distinct, versions

# Of documents that did not come through whole, so many are named.
_NAMED = 20


@dataclass(frozen=True)
class Copied:
    """What became of documents. `stale` ones were there already, newer or the same; counts of vectors are in texts.

    `handed` were left to workers, who count their texts themselves; `refused` are the ids that the other index does not
    take, with the reason; `without` those that lie there without a vector which could not be made.
    """

    copied: int = 0
    stale: int = 0
    reused: int = 0
    encoded: int = 0
    cached: int = 0
    handed: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Copied) -> Copied:
        both: dict[str, Any] = {}
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            both[one.name] = {**mine, **theirs} if one.name in _MAPS else mine + theirs
        return Copied(**both)

    def brief(self) -> Copied:
        """Without most names, of which there may be millions."""
        return replace(self, refused=_last(self.refused), without=_last(self.without))


_MAPS = ("refused", "without")


def _last(names: Mapping[str, str]) -> Mapping[str, str]:
    return dict(list(names.items())[-_NAMED:])


@dataclass(frozen=True)
class Ready:
    """Documents that can be written, no two of one id, and what came of them so far."""

    found: Sequence[Held]
    items: Sequence[Item]
    reused: int
    done: Copied
    looking: bool


#: Gives documents their vectors, as `prepare_safely` does.
Prepare = Callable[[Target, Sequence[Event]], Prepared]
#: Takes documents to be encoded and copied elsewhere, or answers False.
Hand = Callable[[Sequence[Held]], bool]


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
        prepare: Prepare = prepare_safely,
    ) -> None:
        self.prepare_vectors = prepare
        self.engine, self.source, self.target, self.moves = engine, source, target, moves
        self.patience, self.sleep = patience or Patience(), sleep
        self.kept = frozenset(name for name in target.spec.embeddings if reusable(name, source, target.stored))
        # Vectors that are of no use there need not be read.
        self.left_out = sorted(source.spec.embeddings.keys() - self.kept)
        #: Documents that go without the vectors they lack, with the reason.
        self.spared: dict[Place, str] = {}

    def copy(self, found: Sequence[Held], *, looking: bool = False, hand: Hand | None = None) -> Copied:
        """Copy documents under their versions, so that what is newer there stays. With `looking` none is encoded that
        is there already; with `hand` those that must be encoded are offered elsewhere first.

        Raises EngineBusy, EngineUnreachable, IndexMissing, EncoderError.
        """
        done = Copied()
        for part in distinct(found):
            done += self.write(self.prepare(part, looking=looking, hand=hand))
        return done

    def prepare(self, found: Sequence[Held], *, looking: bool = False, hand: Hand | None = None) -> Ready:
        """Encode what must be, of no two documents with one id; `write` does the rest."""
        wanted = self._lacking(found) if looking else found
        done = Copied(stale=len(found) - len(wanted))
        changes = self._changes(wanted)
        works = {work.change.id: work for work in needed(self.target, changes)}
        theirs = [one for one in wanted if one.id in works and self._must_encode(works[one.id])] if hand else []
        if hand and theirs and hand(theirs):
            gone = {one.id for one in theirs}
            wanted, done = [one for one in wanted if one.id not in gone], done + Copied(handed=len(gone))
            changes = [one for one in changes if one.id not in gone]
            works = {id_: work for id_, work in works.items() if id_ not in gone}
        vectors, made = self._encode(list(works.values()))
        items = [
            Item(one.id, one.version, self._body(one, works.get(one.id), vectors.get(one.id, {})), one.routing)
            for one in wanted
        ]
        reused = sum(len(one.vectors.difference(works[one.id].encode if one.id in works else ())) for one in changes)
        return Ready(wanted, items, reused, done + made, looking)

    def write(self, ready: Ready) -> Copied:
        """Write what is prepared."""
        if not ready.items:
            return ready.done
        outcomes = self._written(ready.items)
        if failed := [one for one in outcomes if one.status == "failed"]:
            raise EngineBusy(
                f"{len(failed)} documents could not be written to {self.target.stored.index}: {failed[0].reason}"
            )
        stale = sum(one.status == "stale" for one in outcomes)
        if ready.looking and stale and (left := self._lacking(ready.found)):
            # Deleted there under a newer version, which an engine forgets after a while (index.gc_deletes).
            raise EngineBusy(
                f"{self.target.stored.index} does not take {len(left)} documents yet, {left[0].id!r} first: they "
                "were deleted and made again",
                hint="run it again in a minute",
            )
        return ready.done + Copied(
            copied=sum(one.status == "written" for one in outcomes),
            stale=stale,
            reused=ready.reused,
            refused={one.id: one.reason for one in outcomes if one.status == "buried"},
        )

    def _lacking(self, found: Sequence[Held]) -> list[Held]:
        there = self.engine.run(versions(self.target.stored, [one.place for one in found]))
        return [one for one in found if one.place not in there or there[one.place].written < one.version]

    def _must_encode(self, work: Work) -> bool:
        return bool(work.encode) and (work.change.id, work.change.routing) not in self.spared

    def _written(self, items: Sequence[Item]) -> list[Outcome]:
        """Write; lone surrogates, which an engine takes from others and no encoding of text can hold, become U+FFFD."""
        outcomes = write(self.engine, self.target.alias, items, patience=self.patience, sleep=self.sleep)
        refused = {one.id for one in outcomes if one.status == "buried"}
        mends = ((one, mended(one.body)) for one in items if one.id in refused)
        torn = [replace(one, body=body) for one, body in mends if body is not one.body]
        if not torn:
            return outcomes
        written = write(self.engine, self.target.alias, torn, patience=self.patience, sleep=self.sleep)
        again = {one.id: one for one in written}
        return [again.get(one.id, one) for one in outcomes]

    def works(self, found: Sequence[Held]) -> list[Work]:
        """The documents that lack vectors there."""
        return needed(self.target, self._changes(found))

    def _changes(self, found: Sequence[Held]) -> list[Change]:
        return [self._change(one) for one in found if not _deleted(one.source)]

    def _change(self, one: Held) -> Change:
        """The document as the change feed sees one: what its vectors are made of, and which of them can stay."""
        noted = object_in(object_in(one.source.get(PROVENANCE)).get("vectors"))
        made = {name: made for name in self.kept if (made := object_in(noted.get(name)))}
        there = frozenset(name for name in self.kept if one.source.get(name))
        return Change(one.id, one.routing, one.seq_no, one.primary_term, one.source, made, there)

    def _encode(self, works: Sequence[Work]) -> tuple[dict[str, Mapping[str, Any]], Copied]:
        """The new vectors of documents, as their bodies have them."""
        chosen = [work for work in works if self._must_encode(work)]
        prepared = [self.prepare_vectors(part, events) for part, events in groups(self.target, chosen)]
        without = {work.change.id: work.reason for work in works if work.reason}
        spared = [(work.change.id, work.change.routing) for work in works if work.encode]
        without |= {place[0]: self.spared[place] for place in spared if place in self.spared}
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


def _deleted(source: Mapping[str, Any]) -> bool:
    return bool(object_in(source.get(PROVENANCE)).get("deleted"))
