"""Leaving out of a backfill what the index holds already, word for word, with vectors of the present model.

Not written is not fenced: had the document been written, nothing accepted before could have come after it. So nothing
is left out of which the log still has an event, in whatever lane, or a buried one, which may be tried again: whatever
was accepted before is then in the index by the time that is asked, and what is accepted later comes later anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import orjson

from ..encoders import input_hash
from ..engines import Engine
from ..mappings import Stored
from .enrich import made_of
from .events import Event
from .log import EventLog
from .positions import WRITES, Lane
from .render import text_of
from .updates import Current, current

# Where more new events than this are on their way, or more are buried, nothing is left out.
_MOST_NEW, _MOST_BURIED = 2_000, 10_000
# Ids kept of events that were on their way at some time.
_MOST_IDS = 1_000_000
# Windows without anything unchanged: so many are sent unseen before the next look, at most.
_LONGEST_REST = 15
# Where less than one in so many is unchanged, looking is not worth it.
_WORTH = 16


class Unchanged:
    """What one producer need not send. `stored` is the index as the cluster holds it."""

    def __init__(self, engine: Engine, stored: Stored, log: EventLog) -> None:
        self.engine, self.stored, self.log = engine, stored, log
        spec = stored.spec
        # Versions of producers must be seen by the index; a picture may have changed behind its name.
        self.possible = not spec.version and all(one.kind == "text" for one in spec.embeddings.values())
        self._after: dict[Lane, str] = {}
        self._burials: set[str] = set()
        # Of documents of which an event is on its way, or was since this began.
        self._touched: set[str] = set()
        self._rest = self._pause = 0

    def changed(self, events: Sequence[Event]) -> list[Event]:
        """Those of the events, upserts in their order, that must be sent. Raises LogUnavailable, EngineError."""
        if not self.possible or self._rest:
            self._rest = max(0, self._rest - 1)
            return list(events)
        # First what is on its way, then what is there: an event that is settled in between is seen by either.
        left = self._send(events) if self._look() else list(events)
        worth = (len(events) - len(left)) * _WORTH >= len(events)
        self._rest = self._pause = 0 if worth else min(2 * self._pause + 1, _LONGEST_REST)
        return left

    def _send(self, events: Sequence[Event]) -> list[Event]:
        times = Counter(event.id for event in events)
        asked = [event for event in events if times[event.id] == 1 and event.id not in self._touched]
        if not asked:
            return list(events)
        held = self.engine.run(current(self.stored.spec.index, self.stored.spec, asked))
        same = {event.id for event in asked if self._same(event, held.get(event.id))}
        return [event for event in events if event.id not in same]

    def _look(self) -> bool:
        """Note what is on its way since the last time; whether all of it could be."""
        # Asked before the lanes and after them: an event may leave one for its grave, and a grave for one, meanwhile.
        if not self._look_at_graves():
            return False
        for lane in WRITES:
            new = self.log.unsettled(self.stored.spec.index, lane, self._after.get(lane), _MOST_NEW)
            if len(new) == _MOST_NEW or len(self._touched) + len(new) > _MOST_IDS:
                return False
            if new:
                self._after[lane] = new[-1][0]
                self._touched |= {id_ for _, id_ in new}
        return self._look_at_graves()

    def _look_at_graves(self) -> bool:
        index = self.stored.spec.index
        burials = self.log.burials(index)
        if len(burials) > _MOST_BURIED:
            return False
        new = [at for at in burials if at not in self._burials]
        if new:
            self._touched |= {one.id for one in self.log.find_buried(index, new).values()}
            self._burials |= set(new)
        return True

    def _same(self, event: Event, held: Current | None) -> bool:
        if held is None or held.deleted or held.routing != event.routing:
            return False
        return _alike(event.document, held.document) and self._up_to_date(event, held)

    def _up_to_date(self, event: Event, held: Current) -> bool:
        """Whether its vectors are of the present model and of its text, as far as is noted."""
        for name, embedding in self.stored.spec.embeddings.items():
            made, text = held.vectors.get(name), text_of(embedding.source, event.document)
            if (made is None) != (text is None):
                return False
            if text is not None and not made_of(made or {}, self.stored.resolved[name].fingerprint, input_hash(text)):
                return False
        return True


def _alike(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether both are the same in JSON, in which 1 is not true, as it is in Python."""
    try:
        return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # numbers that somebody else wrote, longer than ours can be
        return False
