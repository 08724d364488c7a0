"""Asking one index version, whatever the alias points at, with the vectors of its own model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..encoders import query_vectors
from ..engines import Engine, Flow, Request, path_of
from ..ingest.patience import patiently
from ..mappings import PROVENANCE, Stored
from ..query import Query, plan, search
from ..query.answers import answered
from ..query.vectors import Encode

Matrix = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Asked:
    """What a version answered to each text: ids best first, and the engine's time for one, milliseconds."""

    rankings: Sequence[Sequence[str]]
    took_ms: float


def concrete(stored: Stored) -> Stored:
    """The version, named by its own name and not by the alias."""
    return replace(stored, spec=stored.spec.model_copy(update={"index": stored.index}))


def every_embedding(text: str, stored: Stored) -> Query:  # noqa: ARG001
    """A text asks every embedding, as it does where somebody searches by a text alone."""
    return Query(text)


def ask(
    engine: Engine,
    stored: Stored,
    texts: Sequence[str],
    depth: int,
    query_of: Callable[[str, Stored], Query] = every_embedding,
    *,
    tell: Callable[[int], None] | None = None,
) -> Asked:
    """The best `depth` of one version for each text. Raises ModelMismatch, QueryError, EngineError."""
    version, encode = concrete(stored), encoded(stored, texts)
    found: list[list[str]] = []
    took = 0
    for number, text in enumerate(texts, 1):
        query = query_of(text, version).limit(depth).select().passages(0)
        planned = plan(query, version, engine.dialect, encode)
        hits = patiently(engine, lambda planned=planned: search(planned))  # type: ignore[misc]
        found.append([hit.id for hit in hits])
        took += hits.took_ms
        if tell:
            tell(number)
    return Asked(found, took / max(1, len(texts)))


def encoded(stored: Stored, texts: Sequence[str]) -> Encode:
    """The query side of each embedding's model, every text encoded once and many at a time."""
    known: dict[str, Mapping[str, Matrix]] = {}

    def encode(name: str, wanted: Sequence[str]) -> Matrix:
        if name not in known:
            distinct = list(dict.fromkeys(texts))
            known[name] = dict(zip(distinct, query_vectors(stored, name, distinct), strict=True))
        return np.stack([known[name][text] for text in wanted]) if wanted else np.empty((0, 0), dtype=np.float32)

    return encode


def some_ids(stored: Stored, name: str, size: int, seed: int) -> Flow[list[str]]:
    """The ids of documents with a vector, at random, the same ones each time as far as the engine allows it."""
    path = f"{PROVENANCE}.vectors.{name}.fingerprint"
    chosen = {"query": {"exists": {"field": path}}, "random_score": {"seed": seed, "field": "_seq_no"}}
    body = {"size": size, "query": {"function_score": chosen | {"boost_mode": "replace"}}, "_source": False}
    response = yield Request("POST", path_of(stored.index, "_search"), body=body)
    return [hit["_id"] for hit in answered(response)["hits"]["hits"]]
