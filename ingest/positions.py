"""Positions in the log: where an event waits, in which lane, and the version this makes of it."""

from __future__ import annotations

import re
from typing import Literal

from ..errors import InputError

#: Events of one index wait in four lanes: live ones go before a backfill, updates after all that came before them, and
#: last what a re-index wants copied, which no write has to wait for.
Lane = Literal["live", "backfill", "updates", "copies"]
LANES: tuple[Lane, ...] = ("live", "backfill", "updates", "copies")
#: Those of what producers send.
WRITES = LANES[:3]
_SUFFIX: dict[Lane, str] = {"live": "", "backfill": "b", "updates": "u", "copies": "c"}
_LANE_OF = {suffix: lane for lane, suffix in _SUFFIX.items()}
_POSITION = re.compile(r"(\d+)-(\d+)([buc]?)")
#: So many events can have the same millisecond in one lane.
MAX_SEQUENCE = 1 << 14


def position_of(milliseconds: int, sequence: int, lane: Lane) -> str:
    """A position in the log: `1795261064918-0`, with `b`, `u` or `c` behind it in the other lanes."""
    return f"{milliseconds}-{sequence}{_SUFFIX[lane]}"


def split(position: str) -> tuple[int, int, Lane]:
    """Milliseconds, sequence and lane of a position. Raises InputError for what is none."""
    found = _POSITION.fullmatch(position)
    if not found:
        raise InputError(f"{position!r:.60} is no position in the log", hint="one looks like 1795261064918-0")
    return int(found[1]), int(found[2]), _LANE_OF[found[3]]


def lane_of(op: str, lane: Lane) -> Lane:
    """The lane of an event: updates and copies have their own, all else goes where it is sent."""
    own: dict[str, Lane] = {"update": "updates", "copy": "copies"}
    return own.get(op, lane)


def version_of(position: str) -> int:
    """The version a position of the log stands for, growing as positions do; no two positions have the same.

    `ms << 20 | sequence << 6 | lane << 4`: an engine that counts a version up by itself, as an update made by somebody
    else does, has 15 steps before the next event's. Raises InputError from 2^14 events in one millisecond on, which no
    log gives.
    """
    milliseconds, sequence, lane = split(position)
    if sequence >= MAX_SEQUENCE:
        raise InputError(f"position {position} has no version: more than 2^14 events in one millisecond")
    return milliseconds << 20 | sequence << 6 | LANES.index(lane) << 4
