"""Measures of one ranking: ids, best first, beside the grades that people gave; what nobody judged has grade 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2

Grades = Mapping[str, float]


def ndcg(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """The gain of the best `k`, each divided by log2(rank + 1), as a share of what the best order would give.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002, with the grade
    itself as gain and the discount as `ndcg_cut` of trec_eval has it. 0 where no document has a grade above 0.
    """
    best = _gain(sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k])
    return _gain([max(0.0, grades.get(one, 0.0)) for one in ranked[:k]]) / best if best else 0.0


def _gain(grades: Sequence[float]) -> float:
    return sum(grade / log2(rank + 1) for rank, grade in enumerate(grades, 1))


def recall(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """The share of the relevant documents (grade above 0) that is among the best `k`; 0 where there are none.

    Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, section 8.3.
    """
    relevant = {one for one, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranked[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """One divided by the rank of the first relevant document among the best `k`, else 0; its mean is the MRR.

    Voorhees, "The TREC-8 Question Answering Track Report", 1999.
    """
    return next((1 / rank for rank, one in enumerate(ranked[:k], 1) if grades.get(one, 0.0) > 0), 0.0)


def judged(ranked: Sequence[str], grades: Grades, k: int) -> float:
    """The share of the best `k` that somebody judged: what nobody judged counts as wrong, and may not be."""
    return sum(one in grades for one in ranked[:k]) / len(ranked[:k]) if ranked[:k] else 0.0
