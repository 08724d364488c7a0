"""Popularity and freshness: numbers of a document that raise its score once all parts are fused.

Inside one part a boost would count by that part's scale, and differ between engines; here it is a factor of the one
score there is. Scores are compared to six significant digits, more than which float32 does not agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

from ..hits import Hit
from ..parts import Boost
from .values import Held

if TYPE_CHECKING:
    from ..plan import Plan

_DAY_MS = 86_400_000
Labelled = Sequence[tuple[str, Boost]]


def labelled(plan: Plan) -> Labelled:
    """The boosts with the names under which `hit.parts` has their factors; no part has the same."""
    taken = {leg.name for leg in plan.legs}
    found: list[tuple[str, Boost]] = []
    for boost in plan.query.boosts:
        names = (boost.kind if number == 1 else f"{boost.kind}_{number}" for number in range(1, 1_000_000))
        label = next(name for name in names if name not in taken)
        taken.add(label)
        found.append((label, boost))
    return found


def boosted(hits: Sequence[Hit], boosts: Labelled, held: Mapping[str, Held], now: datetime) -> list[Hit]:
    """The hits with every boost's factor in their scores, ordered anew; equal scores by id."""
    made = list(hits)
    for label, boost in boosts:
        # Of several values the highest counts: the newest date.
        numbers = {key: max(map(float, values)) for key, values in held[boost.field].items()}
        found = _FACTORS[boost.kind](boost, numbers, now)
        made = [_raised(hit, label, found.get(hit.id, 1.0)) for hit in made]
    return sorted(made, key=lambda hit: (-significant(hit.score), hit.id))


def significant(score: float) -> float:
    """To six digits."""
    return float(f"{score:.6g}")


def _raised(hit: Hit, label: str, factor: float) -> Hit:
    # A fused score below zero, as z-scores are, is raised by bringing it nearer to zero.
    score = hit.score * factor if hit.score >= 0 else hit.score / factor
    return replace(hit, score=score, parts={**hit.parts, label: factor})


def _popularity(boost: Boost, numbers: Mapping[str, float], now: datetime) -> dict[str, float]:  # noqa: ARG001
    """Saturation, as `rank_feature` has it: value / (value + half), 0 to 1."""
    positive = [number for number in numbers.values() if number > 0]
    half = boost.half if boost.half is not None else median(positive or [1.0])
    return {key: 1 + boost.weight * max(number, 0.0) / (max(number, 0.0) + half) for key, number in numbers.items()}


def _freshness(boost: Boost, numbers: Mapping[str, float], now: datetime) -> dict[str, float]:
    """Exponential decay by age; what is dated in the future is as fresh as what is of now."""
    here = now.timestamp() * 1000
    ages = {key: max(0.0, here - number) / _DAY_MS for key, number in numbers.items()}
    return {key: 1 + boost.weight * 0.5 ** (age / (boost.half or 1.0)) for key, age in ages.items()}


_FACTORS: dict[str, Callable[[Boost, Mapping[str, float], datetime], dict[str, float]]] = {
    "popularity": _popularity,
    "freshness": _freshness,
}
