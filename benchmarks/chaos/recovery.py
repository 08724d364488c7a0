"""How long the events of a killed worker take until another one has done them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from knnex.errors import LogUnavailable
from knnex.ingest import LANES
from knnex.ingest.redis_link import stream
from knnex.ingest.redis_streams import GROUP

from .stage import Stage


def held_by(stage: Stage, index: str, pid: int, lease: float = math.inf) -> dict[str, list[str]]:
    """The events that a process has in its hands: ids of the entries by stream.

    What was handed back stays under its name until another one takes it, but is as old as a `lease`, in seconds, or as
    if it had never been delivered.
    """
    found: dict[str, list[str]] = {}
    for lane in LANES:
        key = stream(index, lane)
        if not stage.log.redis.exists(key):
            continue
        with stage.log.talking():
            consumers = [one["name"] for one in stage.log.redis.xpending(key, GROUP)["consumers"] or ()]
            for name in consumers:
                if (name.decode() if isinstance(name, bytes) else name).endswith(f"-{pid}"):
                    pending = stage.log.redis.xpending_range(key, GROUP, "-", "+", 2000, consumername=name)
                    found[key] = [one["message_id"] for one in pending if _is_held(one, lease)]
    return {key: ids for key, ids in found.items() if ids}


def _is_held(entry: dict[str, Any], lease: float) -> bool:
    return bool(entry["times_delivered"]) and entry["time_since_delivered"] < lease * 1000


class Recovery(threading.Thread):
    """Watches the events of killed workers; `seconds` holds, for each kill, how long the last of its events took."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.stage = stage
        self.seconds: list[float] = []
        self.events = 0
        self._watched: list[tuple[float, Mapping[str, Sequence[str]]]] = []
        self._lock, self._over = threading.Lock(), threading.Event()

    def watch(self, held: dict[str, list[str]]) -> None:
        """From now on."""
        if held:
            with self._lock:
                self._watched.append((time.monotonic(), held))
                self.events += sum(map(len, held.values()))

    @property
    def waiting(self) -> int:
        """Kills whose events are not all done."""
        with self._lock:
            return len(self._watched)

    def run(self) -> None:
        """Until it is told to stop."""
        while not self._over.wait(0.2):
            for one in list(self._watched):
                try:
                    left = {key: ids for key, known in one[1].items() if (ids := self._left(key, known))}
                except LogUnavailable:
                    break
                with self._lock:
                    self._watched.remove(one)
                    if left:
                        self._watched.append((one[0], left))
                    else:
                        self.seconds.append(time.monotonic() - one[0])

    def _left(self, key: str, ids: Sequence[str]) -> Sequence[str]:
        """From the first one on that is there still: to ask for all of them each time would be work for a core."""
        with self.stage.log.talking():
            for number, one in enumerate(ids):
                if self.stage.log.redis.xrange(key, one, one):
                    return ids[number:]
        return []

    def stop(self) -> None:
        """No more; doing it twice changes nothing."""
        self._over.set()
        self.join()

    def __enter__(self) -> Recovery:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def figures(self) -> dict[str, float]:
        """Seconds, over the kills whose worker had events in its hands."""
        if not self.seconds:
            return {"kills": 0}
        at = {name: self.at(share) for name, share in (("median", 0.5), ("p95", 0.95), ("most", 1.0))}
        return {"kills": len(self.seconds), "events": self.events, **{k: round(v, 1) for k, v in at.items()}}

    def at(self, share: float) -> float:
        """The seconds that this share of the kills took at most (nearest rank)."""
        return sorted(self.seconds)[math.ceil(len(self.seconds) * share) - 1]
