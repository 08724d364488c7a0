"""Several rankings made one, on the client: the same order on every engine, version and licence.

Scores are compared after min-max normalisation and to six decimals, so that neither an engine's scale of BM25
(OpenSearch's is Elasticsearch's divided by 2.2) nor its float32 arithmetic moves a document; what is equal then is
ordered by id.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from .parts import Normaliser

#: id -> score, of the best documents of one part of the query.
Ranking = Mapping[str, float]
Fused = list[tuple[str, float]]

#: The constant of reciprocal rank fusion in Cormack, Clarke and Buettcher, SIGIR 2009.
RANK_CONSTANT = 60
_DECIMALS = 6
# Float32 holds no more of a score of BM25.
_DECIMALS_OF_SCORES = 4
# A spread below that is float32 arithmetic and no difference.
_NOISE = 1e-6


def normalise(ranking: Ranking, by: Normaliser = "min_max") -> dict[str, float]:
    """Scores on a scale of their own, from 0 for the worst of them on; a document that a part has not found has 0 too.

    "min_max": the best becomes 1, all are 1 where they are equal. "z_score": in standard deviations above the worst.
    "l2": divided by the length of all scores together. "none": as they are.
    """
    if not ranking:
        return {}
    if by == "none":
        return {key: round(score, _DECIMALS_OF_SCORES) for key, score in ranking.items()}
    values = list(ranking.values())
    low, high = min(values), max(values)
    if by == "l2":
        length = math.hypot(*values) or 1.0
        return {key: round(score / length, _DECIMALS) for key, score in ranking.items()}
    if high - low <= _NOISE * abs(high):
        return dict.fromkeys(ranking, 1.0)
    scale = high - low if by == "min_max" else statistics.pstdev(values)
    return {key: round((score - low) / scale, _DECIMALS) for key, score in ranking.items()}


def weighted(rankings: Sequence[Ranking], weights: Sequence[float], by: Normaliser = "min_max") -> Fused:
    """The weighted sum of normalised scores; under min-max from 0 to 1 (Bruch et al., TOIS 2023)."""
    total = sum(weights) if by == "min_max" else 1.0
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for key, score in normalise(ranking, by).items():
            scores[key] = scores.get(key, 0.0) + weight / total * score
    return ordered(scores)


def rrf(rankings: Sequence[Ranking], weights: Sequence[float]) -> Fused:
    """The weighted sum of 1 / (60 + rank), rank from 1."""
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, (key, _) in enumerate(ordered(normalise(ranking)), 1):
            scores[key] = scores.get(key, 0.0) + weight / (RANK_CONSTANT + rank)
    return ordered(scores)


def ordered(scores: Ranking) -> Fused:
    """(id, score), the best first; equal to six significant decimals, by id."""
    return sorted(scores.items(), key=lambda item: (-round(item[1], _DECIMALS + 2), item[0]))
