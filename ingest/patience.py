"""How long a busy engine is asked again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ..engines import Engine, Flow
from ..errors import EngineBusy, EngineUnreachable

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a busy engine is asked again: `attempts` times, after growing delays in seconds, with jitter."""

    attempts: int = 8
    first: float = 0.25
    longest: float = 10.0

    def delays(self) -> Iterator[float]:
        """The delay before each further attempt."""
        for attempt in range(self.attempts - 1):
            yield min(self.longest, self.first * 2**attempt) * random.uniform(0.5, 1.5)  # noqa: S311


def patiently(
    engine: Engine,
    flow: Callable[[], Flow[T]],
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Run a flow, again where the engine is busy or away; a `sleep` that gives a true answer was cut short.

    Raises what the flow does, EngineBusy and EngineUnreachable after the last time.
    """
    for delay in (patience or Patience()).delays():
        try:
            return engine.run(flow())
        except (EngineBusy, EngineUnreachable) as error:
            log.info("The engine is asked again in %.1f s: %s", delay, error, extra={"action": "engine_busy"})
            if sleep(delay):
                raise
    return engine.run(flow())
