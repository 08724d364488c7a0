"""The steps after retrieval, in their order, and what they need of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ...engines import Flow
from ..hits import Hit
from ..query import Query
from ..values import MAX_K
from . import boosts, values
from .collapse import collapsed
from .diversify import diversify
from .rerank import reading, rerank

if TYPE_CHECKING:
    from ..plan import Plan

# How many candidates are fetched for each one that is wanted, where some of them will be left out.
_SPARE = 4
# The window where the query names none: what is low in the ranking may be raised.
_WINDOW, _PAGES = 50, 3


@dataclass(frozen=True)
class Finished:
    """All candidates that are left, in their last order, and what there was no time for."""

    hits: tuple[Hit, ...]
    missing: tuple[str, ...] = ()


def wanted(query: Query) -> bool:
    """Whether there is anything to do."""
    return bool(query.boosts or query.kept or query.collapsed or query.reranked or query.diversified)


def least(query: Query) -> int:
    """How many candidates are needed at least, for a page to be full and the best of them to be looked at."""
    page = query.start + query.size
    if not wanted(query):
        return page
    tops = [one.top for one in (query.reranked, query.diversified) if one is not None]
    spare = _SPARE if query.collapsed or query.kept else 1
    usual = [] if query.window else [_WINDOW, _PAGES * page]
    return min(MAX_K, max(max([page, *tops, *usual]) * spare, query.window or 0))


def fields(plan: Plan) -> tuple[str, ...]:
    """The fields of `_source` that are read here and that the query does not select."""
    chosen = plan.query.selected
    if chosen is None or plan.query.reranked is None:
        return ()
    return tuple(one for one in reading(plan.query, plan.stored) if not _covered(one, chosen))


def _covered(name: str, chosen: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in chosen)


def finish(plan: Plan, hits: Sequence[Hit]) -> Flow[Finished]:
    """The candidates, best first, as the query wants them.

    Scores are raised, what `keep` refuses is left out, groups are collapsed, the best are scored again, and chosen to
    differ. `score` is the one after boosts; what reranks and diversifies changes the order alone. Raises QueryError,
    EncoderError, EngineError, and what functions of the user's raise.
    """
    query, left = plan.query, list(hits)
    if not wanted(query):
        return Finished(tuple(hits))
    lacking: list[str] = []
    # None: an answer that is not whole is an error.
    allowed = lacking if query.partial else None
    held = yield from values.fetch(plan, [hit.id for hit in left], allowed)
    if query.boosts:
        left = boosts.boosted(left, boosts.labelled(plan), held, datetime.now(UTC))
    left = [hit for hit in left if all(keep(hit) for keep in query.kept)]
    if query.collapsed is not None:
        left = collapsed(left, query.collapsed, held[query.collapsed.field])
    if query.reranked is not None:
        left = yield from rerank(plan, query.reranked, left, lacking)
    if query.diversified is not None:
        left = yield from diversify(plan, query.diversified, left, allowed)
    return Finished(tuple(left), tuple(lacking))
