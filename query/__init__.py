"""Asking: the query as people write it, its plan on an engine, and the hits."""

from __future__ import annotations

from .fields import F
from .hits import Hit, Hits, Passage
from .parts import Picture, Text
from .plan import Plan
from .planning import plan
from .profile import Profile, profiled
from .query import Query
from .run import prepare, search, search_all

__all__ = [
    "F",
    "Hit",
    "Hits",
    "Passage",
    "Picture",
    "Plan",
    "Profile",
    "Query",
    "Text",
    "plan",
    "prepare",
    "profiled",
    "search",
    "search_all",
]
