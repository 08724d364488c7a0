"""Documents on their way in: readers, events, the log, and the writing of vectors under versions."""

from __future__ import annotations

from .apply import BatchReport, apply_events
from .bulk import Item, Outcome, Patience, write
from .events import Event, Origin, Refused, accept
from .ingest import delete, delete_inline, ingest, ingest_inline
from .log import Backlog, Buried, Delivered, EventLog, Mark
from .logs import open_log
from .positions import LANES, Lane
from .prepare import Casualty, Target
from .readers import count_rows, read_files
from .redis_log import RedisLog
from .report import Progress, Report
from .target import make_target

__all__ = [
    "LANES",
    "Backlog",
    "BatchReport",
    "Buried",
    "Casualty",
    "Delivered",
    "Event",
    "EventLog",
    "Item",
    "Lane",
    "Mark",
    "Origin",
    "Outcome",
    "Patience",
    "Progress",
    "RedisLog",
    "Refused",
    "Report",
    "Target",
    "accept",
    "apply_events",
    "count_rows",
    "delete",
    "delete_inline",
    "ingest",
    "ingest_inline",
    "make_target",
    "open_log",
    "read_files",
    "write",
]
