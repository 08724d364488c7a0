"""The streams behind the log, one for each lane of an index, and the appending to them in one order over all lanes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ..errors import LogUnavailable
from .events import Event, dump, id_in
from .log import Mark
from .positions import LANES, Lane, lane_of, position_of, split
from .redis_link import key_of, stream, text_in
from .redis_notes import NOTES, RedisNotes

GROUP = "workers"
_INDEXES = "knnex:indexes"
# Gets an entry when an index has its first event, for who waits and does not know of the index.
_NEW = "knnex:new"
# Entries that are read at once only for their ids.
_PAGE = 200
# One after the other, and beyond the last id of every lane even where the clock was set back; nothing where the index
# was dropped, as a stream made here would have no group, and no worker would know of it. KEYS: the streams of LANES,
# and the marks. ARGV: source and count of a mark, or two empty texts; then the number of a lane and an event, in turn.
_APPEND = """
local time = redis.call('TIME')
local ms, seq = time[1] * 1000 + math.floor(time[2] / 1000), 0
for lane = 1, 4 do
  if redis.call('EXISTS', KEYS[lane]) == 0 then return {} end
  local info = redis.call('XINFO', 'STREAM', KEYS[lane])
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      local last_ms, last_seq = string.match(info[at + 1], '(%d+)-(%d+)')
      last_ms, last_seq = tonumber(last_ms), tonumber(last_seq)
      if last_ms > ms or last_ms == ms and last_seq >= seq then ms, seq = last_ms, last_seq + 1 end
    end
  end
end
local ids = {}
for at = 3, #ARGV, 2 do
  if seq >= 16384 then ms, seq = ms + 1, 0 end
  ids[#ids + 1] = redis.call('XADD', KEYS[tonumber(ARGV[at])], string.format('%.0f-%d', ms, seq), 'event', ARGV[at + 1])
  seq = seq + 1
end
if ARGV[1] ~= '' then redis.call('HSET', KEYS[5], ARGV[1], ARGV[2]) end
return ids
"""


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

    def wait(self, timeout: float) -> bool:
        """Block until an event is appended to any index, `timeout` seconds at most; whether one was."""
        streams = {_NEW: "$"} | {stream(index, lane): "$" for index in self.indexes() for lane in LANES}
        with self.talking():
            return bool(self.redis.xread(streams, count=1, block=max(1, int(timeout * 1000))))

    def append(self, events: Sequence[Event], lane: Lane = "live", mark: Mark | None = None) -> list[str]:
        """Append events, one script for each index; their positions in the order given."""
        mine: dict[str, list[int]] = {}
        for place, event in enumerate(events):
            mine.setdefault(event.index, []).append(place)
        positions = [""] * len(events)
        for index, places in mine.items():
            chosen = [lane_of(events[place].op, lane) for place in places]
            payloads = [dump(events[place]) for place in places]
            found = self._append(index, chosen, payloads, mark if index == events[0].index else None)
            for place, position in zip(places, found, strict=True):
                positions[place] = position
        return positions

    def _append(self, index: str, chosen: Sequence[Lane], payloads: Sequence[bytes], mark: Mark | None) -> list[str]:
        keys = [*(stream(index, lane) for lane in LANES), key_of(index, "marks")]
        arguments: list[str | bytes | int] = [mark.source, mark.count] if mark else ["", ""]
        for lane, payload in zip(chosen, payloads, strict=True):
            arguments += [LANES.index(lane) + 1, payload]
        while True:
            new = self._ensure(index)
            with self.talking():
                ids = self.redis.eval(_APPEND, len(keys), *keys, *arguments)
            if ids:
                if new:
                    with suppress(LogUnavailable), self.talking():  # then it is noticed somewhat later
                        self.redis.xadd(_NEW, {"index": index}, maxlen=1)
                return [placed(one, lane) for one, lane in zip(ids, chosen, strict=True)]
            self._known.discard(index)  # somebody dropped the index since

    def unsettled(self, index: str, lane: Lane, after: str | None, most: int) -> list[tuple[str, str]]:
        """What the stream of the lane still holds; of unreadable entries, which will be buried, the id is empty."""
        start = "({}-{}".format(*split(after)) if after else "-"
        found: list[tuple[str, str]] = []
        while len(found) < most:
            with self.talking():
                page = self.redis.xrange(stream(index, lane), start, "+", count=min(_PAGE, most - len(found)))
            found += [(placed(at, lane), id_in(fields.get(b"event", b""))) for at, fields in page]
            if len(page) < _PAGE:
                break
            start = f"({text_in(page[-1][0])}"
        return found

    def head(self, index: str) -> str | None:
        """The greatest position ever given: streams keep their last id when its entry is deleted."""
        last: list[tuple[int, int, Lane]] = []
        with self.talking():
            for lane in LANES:
                if self.redis.exists(stream(index, lane)):
                    id_ = self.redis.xinfo_stream(stream(index, lane))["last-generated-id"]
                    last.append((*numbers(text_in(id_)), lane))
        given = [one for one in last if one[0]]
        return position_of(*max(given, key=lambda one: one[:2])) if given else None

    def forget(self, index: str) -> None:
        """Drop all that the log holds of an index: for one that is gone."""
        with self.talking():
            # In the order opposite to that of `_ensure`, so that no stream is left of which nobody knows.
            self.redis.srem(_INDEXES, index)
            self.redis.delete(*(stream(index, lane) for lane in LANES), *(key_of(index, name) for name in NOTES))
        self._known.discard(index)

    def _ensure(self, index: str) -> bool:
        """Make the streams of an index, if need be; whether the log did not know it."""
        if index in self._known:
            return False
        from redis.exceptions import ResponseError

        with self.talking():
            for lane in LANES:
                try:
                    self.redis.xgroup_create(stream(index, lane), GROUP, id="0", mkstream=True)
                except ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise
            new = bool(self.redis.sadd(_INDEXES, index))
        self._known.add(index)
        return new


def by_lane(positions: Sequence[str]) -> dict[Lane, dict[str, str]]:
    """Of each lane the ids of its stream's entries, with their positions."""
    found: dict[Lane, dict[str, str]] = {}
    for position in positions:
        milliseconds, sequence, lane = split(position)
        found.setdefault(lane, {})[f"{milliseconds}-{sequence}"] = position
    return found


def placed(id_: bytes | str, lane: Lane) -> str:
    """The position of an entry of a lane's stream."""
    return position_of(*numbers(text_in(id_)), lane)


def numbers(id_: str) -> tuple[int, int]:
    """Milliseconds and sequence of the id of an entry."""
    milliseconds, sequence = id_.split("-")
    return int(milliseconds), int(sequence)
