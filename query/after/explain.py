"""The steps after retrieval in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import values
from .rerank import first_embedding, reading

if TYPE_CHECKING:
    from ..parts import Boost, Rerank
    from ..plan import Plan


def steps(plan: Plan) -> Iterator[str]:
    """A line for each step, in their order."""
    query = plan.query
    if names := values.names(query):
        yield f"POST /{plan.alias}/_search: the candidates' values of {', '.join(names)}, by their ids"
    yield from map(_boost, query.boosts)
    if query.kept:
        yield f"leave out what {_functions(len(query.kept))} of yours refuse, on the client: the engine cannot run them"
    if query.collapsed is not None:
        inner = f", {query.collapsed.inner} more of it on hit.group" if query.collapsed.inner else ""
        yield (
            f"keep the best of each {query.collapsed.field}{inner}, on the client: what is above may move a document, "
            "and engines collapse before that"
        )
    if query.reranked is not None:
        yield _rerank(plan, query.reranked)
    if query.diversified is not None:
        name = query.diversified.embedding or first_embedding(query, plan.stored)
        yield (
            f"POST /{plan.alias}/_search: the vectors ({name}) of the best {query.diversified.top}; order them by "
            f"maximal marginal relevance (balance {query.diversified.balance:g}), on the client"
        )


def _functions(count: int) -> str:
    return "a function" if count == 1 else f"{count} functions"


def _boost(boost: Boost) -> str:
    if boost.kind == "popularity":
        half = "the median of the candidates' above 0" if boost.half is None else f"{boost.half:g}"
        factor = f"1 + {boost.weight:g} * {boost.field} / ({boost.field} + {half})"
    else:
        factor = f"1 + {boost.weight:g} * 0.5 ** (days since {boost.field} / {boost.half:g})"
    return f"multiply each score by {factor}, on the client: inside a part it would count by that part's scale"


def _rerank(plan: Plan, given: Rerank) -> str:
    by = f"the cross-encoder {given.by}" if isinstance(given.by, str) else "a function of yours"
    fields = " and ".join(reading(plan.query, plan.stored))
    what = fields if given.fields else f"the best passage, or {fields}"
    limit = f", for {given.deadline:g} s at most" if given.deadline is not None else ""
    return f"score the best {given.top} again by {by}, which reads {what}{limit} (on the client)"
