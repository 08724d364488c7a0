"""By example: the stored vectors of documents, fetched by id and combined, without any encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines import Flow, Request
from ..errors import QueryError
from .again import by_ids
from .answers import answered
from .check import check_vector
from .parts import Semantic, Text
from .values import LENGTH_COUNTS
from .vectors import Vector, rocchio, unit

if TYPE_CHECKING:
    from .plan import Plan

Sources = Mapping[str, Mapping[str, Any]]


def request(plan: Plan) -> Request:
    """The search that fetches the examples' vectors."""
    names = dict.fromkeys(part.embedding for part in plan.query.parts if isinstance(part, Semantic))
    includes = [plan.stored.spec.vector_path(name) for name in names]
    return by_ids(plan, plan.examples, plan.dialect.source_with_vectors(includes))


def fetch(plan: Plan) -> Flow[Sources]:
    """The examples' sources by id. Raises QueryError for an id that no document has."""
    if not plan.examples:
        return {}
    response = yield request(plan)
    found = {hit["_id"]: hit.get("_source") or {} for hit in answered(response)["hits"]["hits"]}
    missing = [one for one in plan.examples if one not in found]
    if missing:
        raise QueryError(
            f"index {plan.alias!r} has no document {', '.join(map(repr, missing[:5]))} to take as an example",
            hint="give ids of documents that a search finds, or Text('...')",
        )
    return found


def combined(plan: Plan, sources: Sources) -> dict[int, Vector | None]:
    """The vectors of the semantic parts, examples brought in. Raises QueryError."""
    if not (plan.query.liked or plan.query.disliked):
        return dict(plan.vectors)
    found = dict(plan.vectors)
    for position, part in enumerate(plan.query.parts):
        if isinstance(part, Semantic):
            embedding = plan.stored.spec.embeddings[part.embedding]
            liked = [_vector(plan, part.embedding, one, sources) for one in plan.query.liked]
            disliked = [_vector(plan, part.embedding, one, sources) for one in plan.query.disliked]
            made = rocchio(plan.vectors[position], liked, disliked, plan.query.dislike, embedding.similarity)
            resolved = plan.stored.resolved[part.embedding]
            found[position] = check_vector(made.tolist(), part.embedding, embedding, resolved)
    return found


def _vector(plan: Plan, name: str, example: str | Text, sources: Sources) -> np.ndarray[Any, Any]:
    """The vector of an example."""
    if isinstance(example, Text):
        return np.asarray(plan.texts[name][example.text], dtype=np.float64)
    found = of_document(sources[example].get(name), plan.stored.spec.embeddings[name].similarity)
    if found is None:
        raise QueryError(f"document {example!r} has no {name}", hint="give one that is embedded, or Text('...')")
    return found


def of_document(stored: Any, metric: str) -> np.ndarray[Any, Any] | None:
    """A document's vector from its `_source`, of one in chunks the mean of theirs; None where it has none."""
    if not stored:
        return None
    if isinstance(stored, list) and not isinstance(stored[0], Mapping):
        return np.asarray(stored, dtype=np.float64)
    chunks = stored if isinstance(stored, list) else [stored]
    rows = [np.asarray(chunk["vector"], dtype=np.float64) for chunk in chunks]
    return np.asarray(np.mean(rows if metric in LENGTH_COUNTS else [unit(row) for row in rows], axis=0))
