"""Workers: they drain the log, encode and write. Celery is imported when one is made."""

from __future__ import annotations

from .app import make_app, ring
from .books import DrainReport
from .drain import drain
from .queues import INGEST, INGEST_QUEUE, QUEUE, ROUTES, TASK
from .run import run_worker
from .scaling import wanted_workers
from .targets import Targets
from .worker import Worker

__all__ = [
    "INGEST",
    "INGEST_QUEUE",
    "QUEUE",
    "ROUTES",
    "TASK",
    "DrainReport",
    "Targets",
    "Worker",
    "drain",
    "make_app",
    "ring",
    "run_worker",
    "wanted_workers",
]
