"""The Celery side of a worker: an application, and the doorbell, a message without content.

Celery on Redis loses messages when connections are cut and redelivers late; so a message here carries nothing. It only
wakes a worker, which then looks into the log; a sweeper in every worker rings again where a doorbell got lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import LogUnavailable
from ..settings import Settings
from ..settings import settings as settings_here
from .config import configure
from .queues import QUEUE, TASK
from .worker import Worker

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)


def make_app(settings: Settings, name: str | None = None) -> Celery:
    """The Celery application, with the tasks of tasks.py. Raises SettingsError."""
    from celery import Celery

    from . import tasks

    app = Celery("knnex", set_as_current=False)
    configure(app, settings)
    app.knnex_worker = Worker(settings, name)
    tasks.register(app, route=False)
    return app


def worker_of(app: Any) -> Worker:
    """The worker behind an application; somebody else's application gets one by the settings of the environment."""
    worker: Worker | None = getattr(app, "knnex_worker", None)
    if worker is None:
        worker = app.knnex_worker = Worker(settings_here())
    return worker


def ring(app: Celery) -> Callable[[], None]:
    """The doorbell for producers: wakes a worker. Raises LogUnavailable where the broker does not answer."""
    return _nobody_hears if in_memory(app) else Bell(app).press


def in_memory(app: Any) -> bool:
    """Whether messages reach this process alone."""
    return str(app.conf.broker_write_url or app.conf.broker_url).startswith("memory:")


def _nobody_hears() -> None:
    """A broker in this process' memory reaches no other process; workers look into the log by themselves."""


class Bell:
    """The doorbell of one queue."""

    def __init__(self, app: Any, queue: str = QUEUE) -> None:
        self._app, self.queue = app, queue

    def press(self) -> None:
        """Wake a worker. Raises LogUnavailable."""
        from kombu.exceptions import OperationalError

        if in_memory(self._app) and worker_of(self._app).slot:
            return  # in a child, where nobody hears it
        try:
            self._app.send_task(TASK, queue=self.queue, ignore_result=True, retry=False)
        except (OperationalError, OSError) as error:
            raise LogUnavailable(f"no doorbell: {error}") from None

    def waiting(self, queue: str | None = None) -> int:
        """Messages that lie in a queue, this one's doorbells or those of another. Raises LogUnavailable."""
        from kombu.exceptions import OperationalError

        try:
            with self._app.pool.acquire(block=True, timeout=5) as connection:
                return self._ask(connection, queue or self.queue)
        except (OperationalError, OSError) as error:
            raise LogUnavailable(f"no broker: {error}") from None

    @staticmethod
    def _ask(connection: Any, queue: str) -> int:
        try:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
        except (*connection.channel_errors, *connection.connection_errors) as error:
            if str(getattr(error, "reply_code", "")) == "404":  # no such queue: it is empty
                return 0
            connection.collect()
            raise LogUnavailable(f"no broker: {error}") from None
