"""Making an index what its spec says: in place where the engine can, by a new version where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...encoders import Cache, resolve
from ...engines import Engine, Flow, Request, path_of
from ...errors import LogUnavailable, ReindexStopped, SpecMismatch
from ...mappings import Spec, Stored, load
from ...mappings.look import look
from ...mappings.plan import ChangePlan, plan
from .. import feed
from ..feed_follow import catch_up
from ..feed_state import FeedReport, forget_feed
from ..log import EventLog
from ..patience import patiently
from ..target import make_target
from .control import Lock, read
from .reading import Held, scanned
from .report import Gate, Options, Report, Step, Tell
from .runs import reindex

#: What is under way in place, by the name of its step: documents are written again, or get the vectors they lack.
REWRITE, FILL = "rewrite", "fill"
_IN_PLACE = ("", REWRITE, FILL)
_PAGE = 500


@dataclass(frozen=True)
class Applied:
    """What was done: the plan, and what became of the documents, in place or in a new version."""

    plan: ChangePlan
    index: str
    rewritten: int = 0
    filled: FeedReport | None = None
    moved: Report | None = None


def planned(engine: Engine, spec: Spec) -> ChangePlan:
    """What `apply` would do. Changes nothing. Raises SpecMismatch, UnsupportedByEngine, ModelUnavailable."""
    return plan(spec, resolve(spec), engine.run(look(spec.index, spec)), engine.dialect)


def apply(
    engine: Engine,
    events: EventLog | None,
    spec: Spec,
    *,
    cache: Cache | None = None,
    gate: Gate | None = None,
    options: Options | None = None,
    tell: Tell = lambda _: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Applied:
    """Make the index what the spec says, or go on where an earlier run stopped.

    A new version is judged by `gate` before it takes the place of the present one; see `reindex`. Raises what that
    raises, and what planning does.
    """
    if engine.run(read(spec.index)).step in _IN_PLACE:
        done = _InPlace(engine, events, spec, cache, options or Options(), tell, sleep).run()
        if not done.plan.new_version:
            return done
        changes = done.plan
    else:
        changes = planned(engine, spec)
    moved = reindex(engine, events, spec, cache=cache, gate=gate, options=options, tell=tell, sleep=sleep)
    return Applied(changes, moved.target, moved=moved)


class _InPlace:
    """Changes of the live index, one after the other, and then of its documents."""

    def __init__(
        self,
        engine: Engine,
        events: EventLog | None,
        spec: Spec,
        cache: Cache | None,
        options: Options,
        tell: Tell,
        sleep: Callable[[float], object],
    ) -> None:
        self.engine, self.events, self.spec, self.alias, self.cache = engine, events, spec, spec.index, cache
        self.options, self.tell, self.sleep = options, tell, sleep
        self.changes = ChangePlan(spec.index)
        self.lock = Lock(engine, spec.index, ttl=options.ttl, beats=options.beats, sleep=sleep)

    def run(self) -> Applied:
        """Do what can be done in place, unless the plan asks for a new version."""
        with self.lock.held() as control:
            if control.step not in _IN_PLACE:
                raise ReindexStopped(f"{self.alias!r} was changed meanwhile", hint="look at the plan, and apply again")
            # Not before the lock is ours: somebody may be changing it.
            self.changes = planned(self.engine, self.spec)
            if self.changes.new_version:
                return Applied(self.changes, self.changes.new_version.source)
            self._begin(control.step)
            for operation in self.changes.operations:
                self.tell(Step("change", note=operation.describe()))
                for request in operation.requests(self.engine.dialect):
                    self._ask(partial(_sent, request))
            step = self.lock.control.step
            stored = self._ask(partial(load, self.alias))
            rewritten = self._rewrite(stored) if step == REWRITE else 0
            filled = self._fill() if step else None
            if step:
                self.lock.save(step="", source="")
            return Applied(self.changes, stored.index, rewritten, filled)

    def _begin(self, under_way: str) -> None:
        """Note what documents will need, before anything is changed: the plan will not tell it afterwards."""
        step = REWRITE if self.changes.rewrite else FILL if self.changes.backfill else ""
        if REWRITE in (step, under_way):
            step = REWRITE
        step = step or under_way
        if step and self.events is None:
            raise LogUnavailable("filling in vectors needs the event log", hint="set KNNEX_LOG_URL")
        if step and step != under_way:
            self.lock.save(step=step)
        if self.events and self.changes.backfill:
            forget_feed(self.events, self.alias)

    def _rewrite(self, stored: Stored) -> int:
        """Write every document again as it is: engines index a new field only as a document comes in."""
        heads = self._ask(partial(feed.heads, stored.index))
        self._ask(partial(feed.refresh, stored.index))
        total, done = sum(head.checkpoint + 1 for head in heads.values()), 0
        spans = {shard: (-1, head.checkpoint) for shard, head in heads.items()}
        for found in scanned(self._ask, stored, self.engine.dialect, spans, _PAGE):
            self._ask(partial(_touched, stored.index, found))
            done += len(found)
            self.tell(Step(REWRITE, done, max(total, done)))
        return done

    def _fill(self) -> FeedReport:
        """One pass of the change feed over all documents gives them the vectors they lack."""
        if self.events is None:
            raise LogUnavailable("filling in vectors needs the event log", hint="set KNNEX_LOG_URL")
        done, total = FeedReport(), 0

        def show(passed: FeedReport) -> None:
            nonlocal done, total
            done += passed
            total = max(total, done.seen + passed.behind)
            self.tell(Step(FILL, done.seen, total))

        return catch_up(
            self.engine,
            self.events,
            lambda alias: make_target(alias, self.engine.run(load(alias)), self.cache),
            self.alias,
            patience=self.options.patience,
            sleep=self.sleep,
            tell=show,
        )

    def _ask(self, flow: Callable[[], Flow[Any]]) -> Any:
        return patiently(self.engine, flow, self.options.patience, self.sleep)


def _sent(request: Request) -> Flow[None]:
    response = yield request
    if isinstance(response.body, Mapping) and response.body.get("acknowledged") is False:
        raise SpecMismatch(f"{request.method} {request.path} was not acknowledged by all nodes", hint="run it again")


def _touched(index: str, found: Sequence[Held]) -> Flow[None]:
    """Write documents again; one that was changed meanwhile needs it no more."""
    lines: list[Mapping[str, Any]] = []
    for one in found:
        action = {"_id": one.id, "if_seq_no": one.seq_no, "if_primary_term": one.primary_term}
        lines.append({"update": action if one.routing is None else action | {"routing": one.routing}})
        lines.append({"doc": {}, "detect_noop": False})
    response = yield Request("POST", path_of(index, "_bulk"), {}, tuple(lines))
    for answer in response.body["items"]:
        if answer["update"]["status"] not in (200, 404, 409):
            raise SpecMismatch(f"{answer['update']['_id']} of {index} could not be written again: {answer['update']}")
