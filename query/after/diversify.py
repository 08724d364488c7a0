"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each hit is relevant, and unlike the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...engines import Flow, Request, Work
from ..again import by_ids
from ..answers import Missing, answered
from ..examples import of_document
from ..hits import Hit
from ..parts import Diversify
from .rerank import first_embedding

if TYPE_CHECKING:
    from ..plan import Plan

Matrix = NDArray[np.float64]

# Gains that differ by less are equal, and the better hit is taken.
_DECIMALS = 6


def diversify(plan: Plan, given: Diversify, hits: Sequence[Hit], missing: Missing) -> Flow[list[Hit]]:
    """The hits with the best `top` in a new order, as far as the page goes. Raises EngineError."""
    top, rest = list(hits[: given.top]), hits[given.top :]
    if len(top) < 2 or given.balance == 1:
        return list(hits)
    name = str(given.embedding or first_embedding(plan.query, plan.stored))
    response = yield request(plan, name, [hit.id for hit in top])
    found = {hit["_id"]: hit.get("_source") or {} for hit in answered(response, missing)["hits"]["hits"]}
    embedding = plan.stored.spec.embeddings[name]
    count = plan.query.start + plan.query.size
    work = partial(_order, top, name, found, embedding.similarity, given.balance, count)
    order = (yield Work(work)).body
    return [*(top[position] for position in order), *rest]


def request(plan: Plan, name: str, ids: Sequence[str]) -> Request:
    """The search for the vectors of these documents."""
    return by_ids(plan, ids, plan.dialect.source_with_vectors([plan.stored.spec.vector_path(name)]))


def _order(
    top: Sequence[Hit],
    name: str,
    sources: Mapping[str, Mapping[str, Any]],
    metric: str,
    balance: float,
    count: int,
) -> list[int]:
    rows = [of_document(sources.get(hit.id, {}).get(name), metric) for hit in top]
    return mmr(relevance(top), rows, metric, balance, count)


def relevance(hits: Sequence[Hit]) -> Matrix:
    """Scores brought to 0 to 1, `(n,)`; where hits were reranked, those of that, and 0 for those not scored."""
    reranked = any("rerank" in hit.parts for hit in hits)
    scores = np.array([hit.parts.get("rerank", np.nan) if reranked else hit.score for hit in hits])
    low, high = np.nanmin(scores), np.nanmax(scores)
    if high - low <= 10**-_DECIMALS * abs(high):
        return np.where(np.isnan(scores), 0.0, 1.0)
    return np.asarray(np.nan_to_num((scores - low) / (high - low), nan=0.0))


def mmr(scores: Matrix, rows: Sequence[Matrix | None], metric: str, balance: float, count: int) -> list[int]:
    """Positions in the order in which they are chosen, the first `count` of them; the others follow as they were.

    Each time the one with the most of `balance * score - (1 - balance) * (likeness to the most like one chosen)` is
    taken, of equals the first. Likeness is 0 to 1: the cosine where that is positive, under l2 1 / (1 + distance²); a
    row that is None is like no other.
    """
    matrix, there = _matrix(rows)
    if metric != "l2":
        matrix = _unit(matrix)
    nearest = np.zeros(len(scores))
    left = np.ones(len(scores), dtype=bool)
    order: list[int] = []
    for _ in range(min(count, len(scores))):
        gain = np.round(balance * scores - (1 - balance) * nearest, _DECIMALS)
        chosen = int(np.argmax(np.where(left, gain, -np.inf)))
        order.append(chosen)
        left[chosen] = False
        if there[chosen]:
            nearest = np.maximum(nearest, _likeness(matrix, chosen, metric) * there)
    return [*order, *np.flatnonzero(left).tolist()]


def _matrix(rows: Sequence[Matrix | None]) -> tuple[Matrix, NDArray[np.bool_]]:
    """`(n, dims)`, zeros for a row that is None, and which rows are there."""
    dims = next((len(row) for row in rows if row is not None), 1)
    matrix = np.array([np.zeros(dims) if row is None else row for row in rows])
    return matrix, np.array([row is not None for row in rows])


def _likeness(matrix: Matrix, chosen: int, metric: str) -> Matrix:
    if metric == "l2":
        return np.asarray(1 / (1 + ((matrix - matrix[chosen]) ** 2).sum(axis=1)))
    return np.asarray(np.clip(matrix @ matrix[chosen], 0, 1))


def _unit(matrix: Matrix) -> Matrix:
    """Rows of length 1; one that has no direction stays zero, and is like none."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 1e-9))
