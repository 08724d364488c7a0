"""New versions of an index: built beside the one that is searched, filled, compared, and swapped in."""

from __future__ import annotations

from .control import Quality
from .control import read as read_control
from .coordinator import Coordinator
from .quality import Judged
from .report import Gate, Options, Report, Step
from .runs import Version, abort, drop_version, note_quality, reindex, roll_back, versions

__all__ = [
    "Coordinator",
    "Gate",
    "Judged",
    "Options",
    "Quality",
    "Report",
    "Step",
    "Version",
    "abort",
    "drop_version",
    "note_quality",
    "read_control",
    "reindex",
    "roll_back",
    "versions",
]
