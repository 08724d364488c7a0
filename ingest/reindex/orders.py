"""Copies that a coordinator leaves to workers: events without a document, which say into which index and by which name.

A worker reads the document as the source holds it by then, and writes it under the version that the coordinator would:
twice, late or beside a newer write of the same document it changes nothing. The name is taken away when the coordinator
has copied all or another one follows it, so that nothing is copied after that. What is not copied is found when both
indexes are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from ...engines import Engine
from ...errors import EncoderError, EngineError, IndexMissing
from ..apply import BatchReport, prepare_safely
from ..beside import brief
from ..events import Event
from ..patience import Patience, patiently
from ..prepare import Casualty, Prepared, Target
from .copying import Copier, Prepare, Ready
from .fencing import is_fence
from .reading import Held, Place, distinct, fetch


@dataclass(frozen=True, slots=True)
class Order:
    """Into which version index, by which name, and how often the alias had been moved before."""

    into: str
    by: str
    moves: int

    def event(self, alias: str, place: Place) -> Event:
        """The event for one document."""
        return Event(alias, place[0], "copy", asdict(self), routing=place[1])

    @classmethod
    def of(cls, event: Event) -> Order | None:
        """The order of an event; None where somebody else made it up."""
        into, by, moves = (event.document.get(name) for name in ("into", "by", "moves"))
        if isinstance(into, str) and isinstance(by, str) and isinstance(moves, int) and is_fence(by, into):
            return cls(into, by, moves)
        return None


def prepare_copies(
    engine: Engine,
    target: Target,
    events: Sequence[Event],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
    prepare: Prepare = prepare_safely,
) -> Callable[[], BatchReport]:
    """Read and encode what is to be copied; calling what is given back writes it. `prepare` stands in for
    `prepare_safely`.

    No failure beside the source is one of the source: then the events wait. Raises EngineError where it cannot be read.
    """
    parts: dict[Order | None, list[Event]] = {}
    for event in events:
        parts.setdefault(Order.of(event), []).append(event)
    copying = [_Copying(engine, target, order, part, patience, sleep, prepare) for order, part in parts.items()]
    for one in copying:
        one.prepare()
    return lambda: sum((one.write() for one in copying), BatchReport())


def whole_copy(
    engine: Engine,
    target: Target,
    event: Event,
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Event | None:
    """The document to be copied, as an event that encodes as the copy does; None where there is nothing to encode.

    Raises EngineError.
    """
    copying = _Copying(engine, target, Order.of(event), [event], patience, sleep)
    held = copying.read() if copying.copier else []
    work = next((one for one in copying.copier.works(held) if one.encode), None) if copying.copier else None
    return replace(event, op="upsert", document=work.change.document, version=held[0].version) if work else None


def write_copy(
    engine: Engine,
    target: Target,
    event: Event,
    prepared: Prepared,
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> BatchReport:
    """Copy a document with vectors that were made of its `whole_copy`, unless it was changed since."""
    order = Order.of(event)
    made = next(one for one, at in zip(prepared.beside, target.beside, strict=True) if order and _is(at, order))
    if made.unready:
        return BatchReport(behind=(Casualty(event, made.unready),))
    versions = {one.version for one in made.items} | {one.event.version for one in made.refused}
    copying = _Copying(engine, target, order, [event], patience, sleep, lambda *_: made)
    copying.prepare([one for one in copying.read() if one.version in versions])
    return copying.write()


class _Copying:
    """The copies that have one order."""

    def __init__(
        self,
        engine: Engine,
        target: Target,
        order: Order | None,
        events: Sequence[Event],
        patience: Patience | None = None,
        sleep: Callable[[float], object] = time.sleep,
        prepare: Prepare = prepare_safely,
    ) -> None:
        self.engine, self.source, self.events = engine, target.stored, events
        self.patience, self.sleep = patience or Patience(), sleep
        self.ready: list[Ready] = []
        # Why they have to wait, if they do.
        self.later = target.shut.get(order.into, "") if order else ""
        self.copier: Copier | None = None
        other = next((one for one in target.beside if order and _is(one, order)), None)
        if order and other:
            self.copier = Copier(
                engine,
                replace(target.stored, also=()),
                replace(other, alias=order.by),
                moves=order.moves,
                patience=brief(self.patience),
                sleep=sleep,
                prepare=prepare,
            )

    def read(self) -> list[Held]:
        """The documents as the source holds them now."""
        places = [(event.id, event.routing) for event in self.events]
        moves, left_out = (self.copier.moves, self.copier.left_out) if self.copier else (0, [])
        flow = partial(fetch, self.source, self.engine.dialect, places, moves, left_out)
        return patiently(self.engine, flow, self.patience, self.sleep)

    def prepare(self, found: Sequence[Held] | None = None) -> None:
        if self.copier is None:
            return
        held = self.read() if found is None else found
        try:
            self.ready = [self.copier.prepare(part, looking=True) for part in distinct(held)]
        except IndexMissing:
            self.copier = None
        except (EncoderError, EngineError) as error:
            self.later = f"{self.copier.target.stored.index} has to wait: {error}"

    def write(self) -> BatchReport:
        if not self.later and self.copier:
            try:
                return self._written(self.copier)
            except IndexMissing:
                pass  # the name is gone: nobody waits for it any more
            except EngineError as error:
                self.later = f"{self.copier.target.stored.index} has to wait: {error}"
        if self.later:
            return BatchReport(behind=tuple(Casualty(event, self.later) for event in self.events))
        return BatchReport(stale=len(self.events))

    def _written(self, copier: Copier) -> BatchReport:
        done = [copier.write(one) for one in self.ready]
        name, refused = copier.target.stored.index, dict[str, str]()
        for one in done:
            refused |= {id_: f"{name} refuses it: {reason}" for id_, reason in one.refused.items()}
            refused |= {id_: f"{name} has it without a vector: {reason}" for id_, reason in one.without.items()}
        written = sum(one.copied for one in done)
        blamed = tuple(Casualty(as_look(event), refused[event.id]) for event in self.events if event.id in refused)
        return BatchReport(
            written=written,
            stale=max(0, len(self.events) - written - sum(len(one.refused) for one in done)),
            encoded=sum(one.encoded for one in done),
            cached=sum(one.cached for one in done),
            refused_beside=blamed,
        )


def as_look(event: Event) -> Event:
    """What is kept of a copy that is buried: tried again, it gives the document the vectors it lacks by then."""
    return replace(event, op="update", document={}, version=1) if event.op == "copy" else event


def _is(other: Target, order: Order) -> bool:
    return other.stored.index == order.into
