"""Celery's consumer, which is back soon after its broker is."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer as _Consumer

#: Seconds between two attempts at a broker that is away; Celery's own go up to 30.
RECONNECT_EVERY = 3.0


class Consumer(_Consumer):  # type: ignore[misc, unused-ignore]
    """Named in the setting `worker_consumer`."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes."""
        conn.ensure_connection = partial(conn.ensure_connection, interval_start=0.5, interval_max=RECONNECT_EVERY)
        return super().ensure_connected(conn)
