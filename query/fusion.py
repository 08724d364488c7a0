"""Several rankings made one, on the client: the same order on every engine, version and licence.

Scores are compared after min-max normalisation and to six decimals, so that neither an engine's scale of BM25
(OpenSearch's is Elasticsearch's divided by 2.2) nor its float32 arithmetic moves a document; what is equal then is
ordered by id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

#: id -> score, of the best documents of one part of the query.
Ranking = Mapping[str, float]
Fused = list[tuple[str, float]]

#: The constant of reciprocal rank fusion in Cormack, Clarke and Buettcher, SIGIR 2009.
RANK_CONSTANT = 60
_DECIMALS = 6
# A spread below that is float32 arithmetic and no difference.
_NOISE = 1e-6


def normalise(ranking: Ranking) -> dict[str, float]:
    """Min-max: the best score becomes 1, the worst 0; all 1 where they are equal."""
    if not ranking:
        return {}
    low, high = min(ranking.values()), max(ranking.values())
    if high - low <= _NOISE * abs(high):
        return dict.fromkeys(ranking, 1.0)
    return {key: round((score - low) / (high - low), _DECIMALS) for key, score in ranking.items()}


def weighted(rankings: Sequence[Ranking], weights: Sequence[float]) -> Fused:
    """The convex combination of normalised scores (Bruch et al., TOIS 2023), from 0 to 1; absence counts as 0."""
    total = sum(weights)
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for key, score in normalise(ranking).items():
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


FUSIONS: dict[str, Callable[[Sequence[Ranking], Sequence[float]], Fused]] = {"rrf": rrf, "weighted": weighted}
