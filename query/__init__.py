"""Asking: the query as people write it, its plan on an engine, and the hits."""

from __future__ import annotations

from .fields import F
from .hits import Hit, Hits, Passage
from .plan import Plan, plan
from .query import Query, Text
from .run import prepare, search

__all__ = ["F", "Hit", "Hits", "Passage", "Plan", "Query", "Text", "plan", "prepare", "search"]
