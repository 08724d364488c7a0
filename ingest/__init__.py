"""Documents on their way in: readers, events, the log, and the writing of vectors under versions."""

from __future__ import annotations

from .apply import BatchReport, apply_events
from .bulk import Item, Outcome, write
from .events import Event, Op, Origin, Refused, accept
from .ingest import delete, ingest
from .inline import delete_inline, ingest_inline
from .log import Backlog, Buried, Delivered, EventLog, Mark
from .logs import open_log
from .patience import Patience
from .positions import LANES, Lane
from .prepare import Casualty, Target
from .redis_log import RedisLog
from .report import Progress, Report
from .resume import half_read
from .sources import Files, read_files
from .target import make_target
from .unchanged import Unchanged

__all__ = [
    "LANES",
    "Backlog",
    "BatchReport",
    "Buried",
    "Casualty",
    "Delivered",
    "Event",
    "EventLog",
    "Files",
    "Item",
    "Lane",
    "Mark",
    "Op",
    "Origin",
    "Outcome",
    "Patience",
    "Progress",
    "RedisLog",
    "Refused",
    "Report",
    "Target",
    "Unchanged",
    "accept",
    "apply_events",
    "delete",
    "delete_inline",
    "half_read",
    "ingest",
    "ingest_inline",
    "make_target",
    "open_log",
    "read_files",
    "write",
]
