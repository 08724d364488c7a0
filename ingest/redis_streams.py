"""The streams behind the log, one for each lane of an index, and the appending to them in one order over all lanes."""

from __future__ import annotations

from collections.abc import Sequence

from .events import Event, dump
from .log import Mark
from .positions import LANES, MAX_SEQUENCE, Lane, position_of, split
from .redis_link import key_of, text_in
from .redis_notes import NOTES, RedisNotes

GROUP = "workers"
_INDEXES = "knnex:indexes"
# Told in the message of the error that an XADD with an explicit id gets when the stream is past it.
_PAST = "equal or smaller"


class RedisStreams(RedisNotes):
    """The streams of a Redis, a lane each, and the appending to them."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._known: set[str] = set()

    def now(self) -> int:
        """The clock of Redis, in milliseconds."""
        with self.talking():
            seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def indexes(self) -> tuple[str, ...]:
        """The indexes that ever had an event, sorted."""
        with self.talking():
            return tuple(sorted(text_in(name) for name in self.redis.smembers(_INDEXES)))

    def append(self, events: Sequence[Event], lane: Lane = "live", mark: Mark | None = None) -> list[str]:
        """Append events, one transaction for each index and lane; their positions in the order given."""
        places: dict[tuple[str, Lane], list[int]] = {}
        for place, event in enumerate(events):
            places.setdefault((event.index, "updates" if event.op == "update" else lane), []).append(place)
        positions = [""] * len(events)
        for (index, chosen), mine in places.items():
            payloads = [dump(events[place]) for place in mine]
            found = self._append(index, chosen, payloads, mark if index == events[0].index else None)
            for place, position in zip(mine, found, strict=True):
                positions[place] = position
        return positions

    def _append(self, index: str, lane: Lane, payloads: Sequence[bytes], mark: Mark | None) -> list[str]:
        """Append so that the positions are beyond those of all other lanes, even where the clock was set back."""
        undo: list[str] = []
        beyond: tuple[int, int] | None = None
        while True:
            self._ensure(index)
            ids, others = self._add(index, lane, payloads, mark, undo, beyond)
            if None in ids:
                self._known.discard(index)  # somebody dropped the index since
                undo, beyond = [], None
                continue
            given = [numbers(one) for one in ids if one]
            newest = max(others)
            if given[0] > newest and given[-1][1] < MAX_SEQUENCE:
                return [position_of(*one, lane) for one in given]
            undo = [one for one in ids if one]
            beyond = max(newest, given[-1])
            if beyond[1] + 1 + len(payloads) >= MAX_SEQUENCE:
                beyond = beyond[0] + 1, 0

    def _add(
        self,
        index: str,
        lane: Lane,
        payloads: Sequence[bytes],
        mark: Mark | None,
        undo: Sequence[str],
        beyond: tuple[int, int] | None,
    ) -> tuple[list[str | None], list[tuple[int, int]]]:
        """One transaction: the ids of the entries, and the last ones given in the other lanes."""
        key = stream(index, lane)
        with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
            if undo:
                pipeline.xack(key, GROUP, *undo)
                pipeline.xdel(key, *undo)
            if beyond:
                # An entry that is deleted at once moves the stream on to where it has to be.
                place = f"{beyond[0]}-{beyond[1] + 1}"
                pipeline.xadd(key, {"event": b""}, id=place, nomkstream=True)
                pipeline.xdel(key, place)
            start = len(pipeline)
            for payload in payloads:
                # A stream made here would have no group, and no worker would know of it.
                pipeline.xadd(key, {"event": payload}, nomkstream=True)
            if mark:
                pipeline.hset(key_of(index, "marks"), mark.source, mark.count)
            rest = [other for other in LANES if other != lane]
            for other in rest:
                pipeline.xinfo_stream(stream(index, other))
            answers = pipeline.execute(raise_on_error=False)
            for answer in answers[:start] + answers[start : start + len(payloads)]:
                if isinstance(answer, Exception) and _PAST not in str(answer):
                    raise answer
            ids = [None if one is None else text_in(one) for one in answers[start : start + len(payloads)]]
            last = [
                numbers(text_in(one["last-generated-id"])) if isinstance(one, dict) else (0, 0)
                for one in answers[-len(rest) :]
            ]
            return ids, last

    def forget(self, index: str) -> None:
        """Drop all that the log holds of an index: for one that is gone."""
        with self.talking():
            # In the order opposite to that of `_ensure`, so that no stream is left of which nobody knows.
            self.redis.srem(_INDEXES, index)
            self.redis.delete(*(stream(index, lane) for lane in LANES), *(key_of(index, name) for name in NOTES))
        self._known.discard(index)

    def _ensure(self, index: str) -> None:
        if index in self._known:
            return
        from redis.exceptions import ResponseError

        with self.talking():
            for lane in LANES:
                try:
                    self.redis.xgroup_create(stream(index, lane), GROUP, id="0", mkstream=True)
                except ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise
            self.redis.sadd(_INDEXES, index)
        self._known.add(index)


def stream(index: str, lane: Lane) -> str:
    """The key of the stream of a lane."""
    return key_of(index, "events" if lane == "live" else lane)


def by_lane(positions: Sequence[str]) -> dict[Lane, dict[str, str]]:
    """Of each lane the ids of its stream's entries, with their positions."""
    found: dict[Lane, dict[str, str]] = {}
    for position in positions:
        milliseconds, sequence, lane = split(position)
        found.setdefault(lane, {})[f"{milliseconds}-{sequence}"] = position
    return found


def numbers(id_: str) -> tuple[int, int]:
    """Milliseconds and sequence of the id of an entry."""
    milliseconds, sequence = id_.split("-")
    return int(milliseconds), int(sequence)
