"""The tasks by name. Importing this module gives them to every Celery application of the process.

On an application of your own, `app.autodiscover_tasks(["knnex.workers"])` or `register(app)`.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import shared_task
from celery.exceptions import Reject

from ..errors import LogUnavailable
from . import beat, lifecycle
from .app import Bell, worker_of
from .config import routes
from .intake import patiently
from .queues import INGEST, QUEUE, SWEEP, TASK, TIDY, VERIFY
from .sweeper import rest_of
from .worker import drain_safely

log = logging.getLogger(__name__)

# A doorbell may be lost: the sweeper rings again. One that came again after a crash would crash again.
_DOORBELL = {"bind": True, "ignore_result": True, "acks_late": False, "serializer": "json", "max_retries": 0}
# Documents stay in the broker until they are in the log, whatever dies. There is no retry: one whose message cannot be
# published would lose them.
_DOCUMENTS = {
    "bind": True,
    "ignore_result": False,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "acks_on_failure_or_timeout": True,
    "serializer": "json",
    "max_retries": 0,
}

# What upkeep found is for whoever asks.
_UPKEEP = _DOORBELL | {"ignore_result": False}

lifecycle.connect()


def register(app: Any, *, route: bool = True) -> None:
    """Let another Celery application know our tasks, and send them into our queues when they are sent by name."""
    if route:
        app.conf.task_routes = routes(app.conf.task_routes)
        app.amqp.flush_routes()
        app.amqp.__dict__.pop("router", None)


def _press(app: Any, queue: str = QUEUE) -> None:
    """Ring; where that fails, the sweepers do."""
    try:
        Bell(app, queue).press()
    except LogUnavailable as error:
        log.debug("%s", error, extra={"action": "ring_failed"})


@shared_task(name=TASK, **_DOORBELL)  # type: ignore[untyped-decorator, unused-ignore]
def drain(self: Any) -> None:
    """Drain the log; what is left when the time is over is the next doorbell's."""
    worker = worker_of(self.app)
    if drain_safely(worker):
        _press(self.app, (self.request.delivery_info or {}).get("routing_key") or QUEUE)


@shared_task(name=INGEST, **_DOCUMENTS)  # type: ignore[untyped-decorator, unused-ignore]
def ingest(self: Any, index: str, documents: list[Any], op: str = "upsert", lane: str = "live") -> dict[str, Any]:
    """Append documents to the log: {"accepted": 2, "positions": [...], "refused": [{"number", "id", "reason"}]}."""
    worker = worker_of(self.app)
    again = bool((self.request.delivery_info or {}).get("redelivered"))
    taken = patiently(
        lambda: worker.intake.take(
            index,
            documents,
            op=op,
            lane=lane,
            message=self.request.id or "",
            again=again,
            trace=self.request.get("traceparent"),
        ),
        worker.stop.wait,
    )
    if taken is None:
        raise Reject("log or engine do not answer", requeue=True)
    if taken.accepted:
        _press(self.app)
    return taken.to_dict()


@shared_task(name=SWEEP, **_DOORBELL)  # type: ignore[untyped-decorator, unused-ignore]
def sweep(self: Any) -> None:
    """Ring where events wait."""
    worker = worker_of(self.app)
    for queue in rest_of(worker.log):
        _press(self.app, queue)


@shared_task(name=TIDY, **_UPKEEP)  # type: ignore[untyped-decorator, unused-ignore]
def tidy(self: Any) -> dict[str, Any] | None:
    """Clear away what nobody needs any more, on one worker at a time."""
    worker = worker_of(self.app)
    done = beat.safely(
        lambda: beat.tidy(worker.engine, worker.log, owner=worker.name, stopping=lambda: worker.stop.stopping)
    )
    return done.to_dict() if done else None


@shared_task(name=VERIFY, **_UPKEEP)  # type: ignore[untyped-decorator, unused-ignore]
def verify(self: Any) -> list[dict[str, Any]] | None:
    """Look at a sample of each index, on one worker at a time."""
    worker = worker_of(self.app)
    found = beat.safely(
        lambda: beat.verify_all(worker.engine, worker.log, owner=worker.name, stopping=lambda: worker.stop.stopping)
    )
    return [one.to_dict() for one in found] if found else None
