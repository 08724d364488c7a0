"""New versions of an index: built beside the one that is searched, filled, compared, and swapped in."""

from __future__ import annotations

from .control import read as read_control
from .coordinator import Coordinator
from .report import Gate, Options, Report, Step
from .runs import Version, abort, drop_version, reindex, roll_back, versions

__all__ = [
    "Coordinator",
    "Gate",
    "Options",
    "Report",
    "Step",
    "Version",
    "abort",
    "drop_version",
    "read_control",
    "reindex",
    "roll_back",
    "versions",
]
