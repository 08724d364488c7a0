"""Following the change feed of an index: one pass over what was written since the last, or pass after pass."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

from ..engines import Engine
from ..errors import (
    AccessDenied,
    IndexMissing,
    KnnexError,
    LogUnavailable,
    ModelMismatch,
    ModelUnavailable,
    SpecError,
    UnsupportedByEngine,
)
from . import feed
from .feed_read import PAGE, Reader
from .feed_state import FeedReport, keep_lag, load_cursor
from .log import EventLog
from .patience import Patience, patiently
from .prepare import Target

log = logging.getLogger(__name__)

# A pass goes on while others write, but not for ever: whoever called wants to hear of it.
_ROUNDS = 4
# Seconds for which one follower is believed to live, and the longest wait after a failure.
LEASE, _LONGEST = 15.0, 30.0
# What does not pass by waiting, where it is so from the start.
_WRONG = (IndexMissing, SpecError, AccessDenied, ModelUnavailable, ModelMismatch)

TargetOf = Callable[[str], Target]


def catch_up(
    engine: Engine,
    events: EventLog,
    target_of: TargetOf,
    index: str,
    *,
    page: int = PAGE,
    patience: Patience | None = None,
    going: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], object] = time.sleep,
    tell: Callable[[FeedReport], None] | None = None,
) -> FeedReport:
    """One pass: look at all that changed since the last one, and at what changes meanwhile, for a few rounds.

    `going` is asked before every page, and `tell` told of it after; `sleep` gives a true answer when it is cut short.
    Only one follower of an index should be at work at a time, see `follow`; a second one does no harm, but all the work
    again.

    Raises EngineBusy and EngineUnreachable when patience is over, UnsupportedByEngine for an index without sequence
    numbers, EncoderError, IndexMissing, SpecMismatch, AccessDenied, LogUnavailable. What was done until then stays.
    """
    done = FeedReport()
    patience = patience or Patience()
    for _ in range(_ROUNDS):
        target = target_of(index)
        name = target.stored.index
        cursor = load_cursor(events, index, name)
        asked = events.now()
        heads = patiently(engine, partial(feed.heads, name), patience, sleep)
        behind = cursor.behind(heads)
        keep_lag(events, index, behind, asked)
        done += FeedReport(behind=sum(behind.values()))
        if not done.behind or not going():
            break
        # After the checkpoints were asked for: all up to them is visible then.
        patiently(engine, partial(feed.refresh, name), patience, sleep)
        reader = Reader(
            engine, events, target, cursor, heads, asked, patience=patience, going=going, sleep=sleep, tell=tell
        )
        for shard in [shard for shard, count in behind.items() if count]:
            done += reader.read(shard, page)
        done += FeedReport(behind=sum(reader.cursor.behind(heads).values()))
    return done


def tend(
    engine: Engine,
    events: EventLog,
    target_of: TargetOf,
    index: str,
    stop: threading.Event | None = None,
    *,
    page: int = PAGE,
    lease: float = LEASE,
    patience: Patience | None = None,
    tell: Callable[[FeedReport], None] | None = None,
) -> FeedReport | None:
    """One pass, or None where another follower is at it: for whoever calls at intervals, such as a beat schedule.

    Raises what `catch_up` raises.
    """
    stop = stop or threading.Event()
    with _leading(events, index, lease) as leads:
        if not leads():
            return None
        return catch_up(
            engine,
            events,
            target_of,
            index,
            page=page,
            patience=patience,
            going=partial(_going, leads, stop),
            sleep=stop.wait,
            tell=partial(_tell, index, tell),
        )


def follow(
    engine: Engine,
    events: EventLog,
    target_of: TargetOf,
    index: str,
    stop: threading.Event,
    interval: float = 1.0,
    *,
    page: int = PAGE,
    lease: float = LEASE,
    patience: Patience | None = None,
    tell: Callable[[FeedReport], None] | None = None,
) -> FeedReport:
    """Follow an index until `stop` is set; the page at hand is finished. All that was done.

    Looks every `interval` seconds, and at once again while there is something. Of several followers one works, and the
    others stand by. `tell` is called after each page of documents. A failure of engine, log or model is logged and
    tried again. Raises UnsupportedByEngine; IndexMissing, SpecMismatch, AccessDenied, ModelUnavailable and
    ModelMismatch where the very first pass does.
    """
    done = FeedReport()
    first, failures, standing_by = True, 0, False
    with _leading(events, index, lease) as leads:
        while not stop.is_set():
            wait = interval
            try:
                if not leads():
                    standing_by = _stand_by(index, standing_by)
                    stop.wait(interval)
                    continue
                standing_by = False
                passed = catch_up(
                    engine,
                    events,
                    target_of,
                    index,
                    page=page,
                    patience=patience,
                    going=partial(_going, leads, stop),
                    sleep=stop.wait,
                    tell=partial(_tell, index, tell),
                )
                failures = 0
                done += passed
                if passed.seen:
                    wait = interval / 10
            except UnsupportedByEngine:
                raise
            except KnnexError as error:
                if first and isinstance(error, _WRONG):
                    raise
                failures += 1
                wait = min(_LONGEST, interval * 2**failures)
                _complain(index, error, wait, stop)
            first = False
            stop.wait(wait)
    return done


def _going(leads: Callable[[], bool], stop: threading.Event) -> bool:
    return leads() and not stop.is_set()


def _stand_by(index: str, already: bool) -> bool:
    if not already:
        log.info(
            "Another follower of %s is at work; standing by", index, extra={"action": "feed_standby", "index": index}
        )
    return True


def _tell(index: str, tell: Callable[[FeedReport], None] | None, passed: FeedReport) -> None:
    log.info(
        "%s: %d changes seen, %d enriched, %d unchanged, %d changed meanwhile, %d buried, %d behind",
        index,
        passed.seen,
        passed.enriched,
        passed.unchanged,
        passed.conflicts,
        passed.buried,
        passed.behind,
        extra={"action": "feed_passed", "index": index, "enriched": passed.enriched, "behind": passed.behind},
    )
    if tell:
        tell(passed)


def _complain(index: str, error: KnnexError, wait: float, stop: threading.Event) -> None:
    if not stop.is_set():
        hint = f" ({error.hint})" if error.hint else ""
        log.warning(
            "The feed of %s waits %.0f s: %s%s",
            index,
            wait,
            error,
            hint,
            extra={"action": "feed_waits", "index": index},
        )


@contextmanager
def _leading(events: EventLog, index: str, lease: float) -> Iterator[Callable[[], bool]]:
    """Whether this follower is the one to work, kept true by a thread while a long batch is with the model."""
    name, owner = f"feed:{index}", f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    over = threading.Event()
    until = [0.0]

    def hold() -> bool:
        asked = time.monotonic()
        try:
            until[0] = asked + lease if events.hold(name, owner, lease) else 0.0
        except LogUnavailable as error:
            log.warning("%s", error, extra={"action": "log_unavailable"})
        return time.monotonic() < until[0]

    def keep() -> None:
        while not over.wait(lease / 3):
            if until[0]:
                hold()

    def leads() -> bool:
        return time.monotonic() < until[0] or hold()

    thread = threading.Thread(target=keep, name="knnex-feed-lease", daemon=True)
    thread.start()
    try:
        yield leads
    finally:
        over.set()
        thread.join()
        if until[0]:
            _let_go(events, name, owner)


def _let_go(events: EventLog, name: str, owner: str) -> None:
    try:
        events.hold(name, owner, 0.001)
    except LogUnavailable as error:  # then it ends with its lease
        log.debug("Could not give up %s: %s", name, error)
