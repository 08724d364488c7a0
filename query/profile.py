"""Where the time of one search goes: planning here, the engine's own time, the way there and back, the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..engines import Flow, Work
from .hits import Hits
from .plan import Plan
from .run import search

T = TypeVar("T")


@dataclass(frozen=True)
class Profile:
    """The hits of a search and its times in milliseconds; `engine` is the engine's own profile of each search.

    A profiled search is slower than others: the engine counts its own steps.
    """

    hits: Hits
    plan_ms: float
    engine_ms: float
    requests: tuple[tuple[str, float], ...]
    client_ms: float
    engine: tuple[Mapping[str, Any], ...]

    @property
    def total_ms(self) -> float:
        """From the question to the hits."""
        return self.plan_ms + sum(took for _, took in self.requests) + self.client_ms

    def __str__(self) -> str:
        there = sum(took for _, took in self.requests)
        lines = [
            f"{self.total_ms:8.1f} ms in all, {len(self.hits)} hits",
            f"{self.plan_ms:8.1f} ms encoding the query and planning",
            *(f"{took:8.1f} ms {name}" for name, took in self.requests),
            f"{self.engine_ms:8.1f} ms of them in the engine's search, {there - self.engine_ms:.1f} on the way",
            f"{self.client_ms:8.1f} ms reading the answers, and what is done after retrieval",
        ]
        return "\n".join(lines)


@dataclass
class Watch:
    """Times what a flow waits for, and what it does itself."""

    requests: list[tuple[str, float]] = field(default_factory=list)
    own: float = 0.0

    def flow(self, inner: Flow[T]) -> Flow[T]:
        """The same flow, watched."""
        since = time.perf_counter()
        try:
            request = next(inner)
            while True:
                self.own += (asked := time.perf_counter()) - since
                try:
                    response = yield request
                except Exception as error:
                    since = time.perf_counter()
                    request = inner.throw(error)
                else:
                    since = time.perf_counter()
                    name = "work" if isinstance(request, Work) else f"{request.method} {request.path}"
                    self.requests.append((name, (since - asked) * 1000))
                    request = inner.send(response)
        except StopIteration as done:
            self.own += time.perf_counter() - since
            return done.value  # type: ignore[no-any-return]


def profiled(plan: Plan, plan_ms: float) -> Flow[Profile]:
    """Search, and tell where the time went; `plan_ms` is what making the plan took."""
    watch = Watch()
    hits = yield from watch.flow(search(replace(plan, profiled=True)))
    return Profile(hits, plan_ms, hits.took_ms, tuple(watch.requests), watch.own * 1000, hits.profiles)
