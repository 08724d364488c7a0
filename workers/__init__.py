"""Workers: they drain the log, encode and write. Celery is imported when one is made."""

from __future__ import annotations

from .app import QUEUE, TASK, Worker, make_app, ring
from .drain import DrainReport, drain
from .run import run_worker
from .targets import Targets

__all__ = ["QUEUE", "TASK", "DrainReport", "Targets", "Worker", "drain", "make_app", "ring", "run_worker"]
