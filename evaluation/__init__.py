"""How good an index is: rankings beside judgments, graphs beside exact search, one version beside another."""

from __future__ import annotations

from .compare import Comparison, compare, measure
from .gate import Gate, Verdict
from .judgments import Judgments, read_judgments
from .ranking import ndcg, recall, reciprocal_rank

__all__ = [
    "Comparison",
    "Gate",
    "Judgments",
    "Verdict",
    "compare",
    "measure",
    "ndcg",
    "read_judgments",
    "recall",
    "reciprocal_rank",
]
