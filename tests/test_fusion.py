"""Fusion as arithmetic: what does not depend on the scale of a ranking, and what happens where documents tie."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knnex.query.fusion import normalise, rrf, weighted

IDS = [f"d{number}" for number in range(8)]
RANKINGS = st.lists(
    st.dictionaries(st.sampled_from(IDS), st.integers(1, 1000).map(float), max_size=8), min_size=1, max_size=3
)
SEEDED = settings(derandomize=True, max_examples=200, deadline=None)


def test_min_max_brings_the_best_to_one_and_the_worst_to_zero() -> None:
    assert normalise({"a": 5.0, "b": 3.0, "c": 1.0}) == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert normalise({"a": 2.0}) == {"a": 1.0}
    assert normalise({"a": 2.0, "b": 2.0 + 1e-9}) == {"a": 1.0, "b": 1.0}
    assert normalise({}) == {}


def test_weights_are_shares() -> None:
    semantic, lexical = {"a": 0.9, "b": 0.5}, {"b": 11.0, "c": 1.0}
    fused = dict(weighted([semantic, lexical], [0.7, 0.3]))
    assert fused == pytest.approx({"a": 0.7, "b": 0.3, "c": 0.0})
    assert dict(weighted([semantic, lexical], [7, 3])) == pytest.approx(fused)


def test_reciprocal_ranks_are_the_papers() -> None:
    fused = dict(rrf([{"a": 9.0, "b": 8.0}, {"b": 0.2}], [1, 1]))
    assert fused == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 1 / 61})


def test_what_ties_is_ordered_by_id() -> None:
    assert [key for key, _ in weighted([{"z": 1.0, "a": 1.0, "m": 1.0}], [1])] == ["a", "m", "z"]
    assert [key for key, _ in rrf([{"z": 1.0}, {"a": 1.0}], [1, 1])] == ["a", "z"]


@SEEDED
@given(RANKINGS, st.floats(0.1, 10))
def test_a_ranking_on_another_scale_gives_the_same_order(rankings: list[dict[str, float]], scale: float) -> None:
    """OpenSearch's BM25 is Elasticsearch's divided by 2.2; nothing may depend on it."""
    scaled: list[Any] = [{key: score * scale for key, score in ranking.items()} for ranking in rankings]
    weights = [1.0] * len(rankings)
    assert [key for key, _ in weighted(rankings, weights)] == [key for key, _ in weighted(scaled, weights)]
    assert rrf(rankings, weights) == rrf(scaled, weights)


@SEEDED
@given(RANKINGS)
def test_every_document_is_kept_once_and_scores_fall(rankings: list[dict[str, float]]) -> None:
    for fuse in (weighted, rrf):
        fused = fuse(rankings, [1.0] * len(rankings))
        assert sorted(key for key, _ in fused) == sorted({key for ranking in rankings for key in ranking})
        scores = [score for _, score in fused]
        assert all(one >= other - 1e-8 for one, other in pairwise(scores))
