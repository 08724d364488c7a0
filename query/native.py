"""Fusion by the engine itself: OpenSearch's `hybrid` with its pipeline in the request, Elasticsearch's retrievers.

Its order is that of `fusion.py` where the window holds all that a part finds, but for documents that tie and for the
worst of each part, which OpenSearch's min-max gives 0.001 instead of 0. With several shards each gives its own best
`window`. Retrievers need an Enterprise licence: a server without it refuses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import AccessDenied, UnsupportedByEngine
from .compile import Body, Page, compiler_for
from .fusion import RANK_CONSTANT
from .nodes import Knn
from .parts import Normaliser

if TYPE_CHECKING:
    from .plan import Plan

_OURS = "leave native out: knnex fuses the parts itself"
_MOST_PARTS = 5
_SINCE = {"opensearch": ((3, 1), "weights of reciprocal ranks"), "elasticsearch": ((8, 18), "the linear retriever")}
_WEIGHTED_RANKS = (9, 2)
# How OpenSearch brings scores to one scale; and what Elasticsearch calls it, and since when.
_HYBRID = ("min_max", "l2")
_LINEAR: dict[Normaliser, tuple[str, tuple[int, ...]]] = {
    "min_max": ("minmax", (8, 18)),
    "none": ("none", (8, 18)),
    "l2": ("l2_norm", (9, 1)),
}


def check(plan: Plan) -> None:
    """Raises UnsupportedByEngine where the engine cannot fuse these parts so."""
    what, dialect = "native fusion", plan.dialect
    since, name = _SINCE[dialect.product]
    dialect.require(since, what, name, _OURS)
    scale = plan.query.normaliser if plan.fusion == "weighted" else None
    if dialect.product == "opensearch":
        if len(plan.legs) > _MOST_PARTS:
            raise dialect.decline(f"{what} of {len(plan.legs)} parts", f"it takes {_MOST_PARTS}", _OURS)
        if scale is not None and scale not in _HYBRID:
            raise dialect.decline(f"{what} by {scale}", "it has no plain sum, and z-scores of its own", _OURS)
        return
    if scale is not None:
        if scale not in _LINEAR:
            raise dialect.decline(f"{what} by {scale}", "its linear retriever has no z-scores", _OURS)
        dialect.require(_LINEAR[scale][1], f"{what} by {scale}", f"the normalizer {_LINEAR[scale][0]}", _OURS)
    elif len({leg.weight for leg in plan.legs}) > 1:
        dialect.require(_WEIGHTED_RANKS, f"{what} of weighted ranks", "weights of the rrf retriever", _OURS)
    chunked = [leg.by.path for leg in plan.legs if isinstance(leg.by, Knn) and leg.by.passages]
    if len(chunked) > len(set(chunked)):
        raise dialect.decline(f"{what} of two parts by the same chunks", "their inner hits would have one name", _OURS)


def body(plan: Plan, page: Page) -> Body:
    """One search that asks for all parts and fuses them."""
    compiler = compiler_for(plan.dialect)
    clauses = [compiler.scored(leg.tree) for leg in plan.legs]
    if plan.dialect.product == "elasticsearch":
        return {"retriever": _retriever(plan, clauses)} | compiler.page(page)
    made = {"query": {"hybrid": {"queries": clauses, "pagination_depth": plan.window}}} | compiler.page(page)
    return made | {"search_pipeline": {"phase_results_processors": [_processor(plan)]}}


def declined(plan: Plan, error: AccessDenied | UnsupportedByEngine) -> UnsupportedByEngine | None:
    """What an engine's refusal says to people, where it is one of native fusion."""
    marks = ("[hybrid]", "[rrf]", "[linear]", "license is non-compliant")
    if plan.native and any(mark in str(error) for mark in marks):
        lacks = {"opensearch": "the plugin opensearch-neural-search", "elasticsearch": "an Enterprise licence"}
        return plan.dialect.decline("native fusion", f"it lacks {lacks[plan.dialect.product]}", _OURS)
    return None


def _weights(plan: Plan) -> list[float]:
    """Shares of 1, as here, where scores are brought to 0 to 1; OpenSearch takes no others."""
    weights = [leg.weight for leg in plan.legs]
    shared = plan.dialect.product == "opensearch" or (plan.fusion == "weighted" and plan.query.normaliser == "min_max")
    return [one / sum(weights) for one in weights] if shared else weights


def _retriever(plan: Plan, clauses: list[Body]) -> Body:
    inner = [{"standard": {"query": clause}} for clause in clauses]
    weighed = [{"retriever": one, "weight": weight} for one, weight in zip(inner, _weights(plan), strict=True)]
    if plan.fusion == "weighted":
        scale, _ = _LINEAR[plan.query.normaliser]
        return {
            "linear": {
                "retrievers": [one | {"normalizer": scale} for one in weighed],
                "rank_window_size": plan.window,
            }
        }
    # Before weights came a retriever stood there by itself.
    given = weighed if plan.dialect.version >= _WEIGHTED_RANKS else inner
    return {"rrf": {"retrievers": given, "rank_constant": RANK_CONSTANT, "rank_window_size": plan.window}}


def _processor(plan: Plan) -> Body:
    weights: dict[str, Any] = {"parameters": {"weights": _weights(plan)}}
    if plan.fusion == "rrf":
        combination = {"technique": "rrf", "rank_constant": RANK_CONSTANT} | weights
        return {"score-ranker-processor": {"combination": combination}}
    normalisation = {"technique": plan.query.normaliser}
    combination = {"technique": "arithmetic_mean"} | weights
    return {"normalization-processor": {"normalization": normalisation, "combination": combination}}
