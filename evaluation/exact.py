"""The recall of a graph: what an index finds beside what comparing with every single vector finds.

The vectors are read once for all queries, a page at a time, and compared here in float32: that counts what quantization
loses too, which an exact search of the engine over quantized vectors would hide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..engines import Engine, Flow, Request, path_of
from ..ingest.patience import patiently
from ..mappings import ALIVE, PROVENANCE, Stored
from ..mappings.look import count
from ..query import Query, plan, search
from ..query.answers import answered
from .asking import Matrix, concrete

Truth = Literal["exact", "wide"]

#: Above so many documents the truth is a search with 10,000 candidates: reading all vectors would take hours.
MAX_EXACT = 1_000_000
_WIDE = 10_000
_PAGE = 500
# Two documents as near as this, as a share of the score, are equally right (Aumüller et al., ANN-Benchmarks, 2020).
_TIE = 1e-4


@dataclass(frozen=True)
class Graph:
    """The recall of a version: mean over the probes, the least, and what it was compared with."""

    recall: float
    least: float
    truth: Truth
    rankings: Sequence[Sequence[str]]
    # Of each probe.
    shares: Sequence[float]


def graph_recall(
    engine: Engine,
    stored: Stored,
    name: str,
    probes: Matrix,
    k: int,
    *,
    leave_out: Sequence[str | None] = (),
    most: int = MAX_EXACT,
    tell: Callable[[int], None] | None = None,
) -> Graph:
    """Recall@k of a version for probes `(n, dims) float32`, of which `leave_out` names the document each is of.

    A document found counts as right where its score reaches that of the k-th of the exact ranking, so that equal
    documents cannot count as lost. Raises EngineError.
    """
    own = list(leave_out) or [None] * len(probes)
    found = [_near(engine, stored, name, row, k, one) for row, one in zip(probes, own, strict=True)]
    if patiently(engine, lambda: count(stored.index, ALIVE)) > most:
        wide = [_near(engine, stored, name, row, k, one, _WIDE) for row, one in zip(probes, own, strict=True)]
        shares = [len(set(a) & set(b)) / max(1, len(b)) for a, b in zip(found, wide, strict=True)]
        return Graph(float(np.mean(shares)), min(shares), "wide", found, shares)
    best = _Best(probes, k, own, found, stored.spec.embeddings[name].similarity)
    for ids, rows in vectors(engine, stored, name):
        best.add(ids, rows)
        if tell:
            tell(len(ids))
    shares = best.shares()
    return Graph(float(np.mean(shares)), min(shares), "exact", found, shares)


def _near(
    engine: Engine, stored: Stored, name: str, row: Matrix, k: int, own: str | None, candidates: int | None = None
) -> list[str]:
    """The ids of the k nearest, without the document that is asked for."""
    version, wanted = concrete(stored), k + (own is not None)
    query = Query().semantic(name, vector=row.tolist(), k=wanted, candidates=candidates).limit(wanted)
    planned = plan(query.select().passages(0), version, engine.dialect, _no_text)
    hits = patiently(engine, lambda: search(planned))
    return [hit.id for hit in hits if hit.id != own][:k]


def _no_text(name: str, texts: Sequence[str]) -> Matrix:  # noqa: ARG001
    return np.empty((len(texts), 0), dtype=np.float32)


class _Best:
    """The exact ranking of each probe, and the exact scores of what the graph found."""

    def __init__(
        self, probes: Matrix, k: int, own: Sequence[str | None], found: Sequence[Sequence[str]], metric: str
    ) -> None:
        self.metric, self.k, self.own = metric, k, own
        self.directed = metric in ("cosine", "dot_product")
        self.probes = _unit(probes) if self.directed else probes.astype(np.float32)
        self.scores = np.full((len(probes), k), -np.inf, dtype=np.float32)
        self.wanted: dict[str, list[int]] = {}
        for number, ids in enumerate(found):
            for one in ids:
                self.wanted.setdefault(one, []).append(number)
        self.found = [dict.fromkeys(ids, -np.inf) for ids in found]

    def add(self, ids: Sequence[str], rows: Sequence[Matrix]) -> None:
        """Look at documents; each has one vector, or one for each chunk, of which the best counts."""
        flat = np.concatenate(rows).astype(np.float32)
        starts = np.cumsum([0, *(len(one) for one in rows)])[:-1]
        scores = np.maximum.reduceat(self._score(flat), starts, axis=1)
        places = {one: place for place, one in enumerate(ids)}
        for one in places.keys() & self.wanted.keys():
            for number in self.wanted[one]:
                self.found[number][one] = float(scores[number, places[one]])
        for number, itself in enumerate(self.own):
            if itself in places:
                scores[number, places[itself]] = -np.inf
        both = np.concatenate([self.scores, scores], axis=1)
        self.scores = np.partition(both, -self.k, axis=1)[:, -self.k :]

    def _score(self, rows: Matrix) -> Matrix:
        if self.metric != "l2":
            return np.asarray(self.probes @ (_unit(rows) if self.directed else rows).T)
        # |a - b|² = |a|² - 2ab + |b|², nearest highest.
        squares = np.einsum("ij,ij->i", rows, rows)
        return np.asarray(2 * self.probes @ rows.T - squares - np.einsum("ij,ij->i", self.probes, self.probes)[:, None])

    def shares(self) -> list[float]:
        """The share of each probe's best k that the graph found."""
        made = []
        for scores, found in zip(self.scores, self.found, strict=True):
            there = scores[np.isfinite(scores)]
            least = float(there.min()) if there.size else 0.0
            right = sum(score >= least - _TIE * max(abs(least), 1e-9) for score in found.values())
            made.append(min(1.0, right / there.size) if there.size else 1.0)
        return made


def _unit(rows: Matrix) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)


def vectors(engine: Engine, stored: Stored, name: str) -> Iterator[tuple[list[str], list[Matrix]]]:
    """All vectors of an embedding in pages: ids, and for each `(1, dims)`, or `(chunks, dims)`."""
    page = patiently(engine, lambda: _first(engine, stored, name))
    try:
        while hits := page["hits"]["hits"]:
            held = [(hit["_id"], rows_of(stored, name, hit.get("_source"))) for hit in hits]
            some = [(id_, rows) for id_, rows in held if rows is not None]
            if some:
                yield [id_ for id_, _ in some], [rows for _, rows in some]
            scroll = {"scroll": "5m", "scroll_id": page["_scroll_id"]}
            page = engine.run(_ask(Request("POST", "/_search/scroll", body=scroll)))
    finally:
        gone = Request("DELETE", "/_search/scroll", body={"scroll_id": [page["_scroll_id"]]}, allow=frozenset({404}))
        engine.run(_sent(gone))


def vectors_named(engine: Engine, stored: Stored, name: str, ids: Sequence[str]) -> dict[str, Matrix]:
    """The vectors of documents by id, those of chunks as rows; documents without are left out."""
    found: dict[str, Matrix] = {}
    for start in range(0, len(ids), _PAGE):
        part = list(ids[start : start + _PAGE])
        source = engine.dialect.source_with_vectors([stored.spec.vector_path(name)])
        body = {"size": len(part), "query": {"ids": {"values": part}}, "_source": source}
        page = patiently(engine, lambda body=body: _ask(Request("POST", path_of(stored.index, "_search"), {}, body)))  # type: ignore[misc]
        for hit in page["hits"]["hits"]:
            if (rows := rows_of(stored, name, hit.get("_source"))) is not None:
                found[hit["_id"]] = rows
    return found


def _first(engine: Engine, stored: Stored, name: str) -> Flow[Mapping[str, Any]]:
    source = engine.dialect.source_with_vectors([stored.spec.vector_path(name)])
    alive = {"bool": {"must_not": [{"term": {f"{PROVENANCE}.deleted": True}}]}}
    body = {"size": _PAGE, "query": alive, "_source": source, "sort": ["_doc"]}
    yield Request("POST", path_of(stored.index, "_refresh"))
    return (yield from _ask(Request("POST", path_of(stored.index, "_search"), {"scroll": "5m"}, body)))


def _ask(request: Request) -> Flow[Mapping[str, Any]]:
    return answered((yield request))


def _sent(request: Request) -> Flow[None]:
    yield request


def rows_of(stored: Stored, name: str, source: Mapping[str, Any] | None) -> Matrix | None:
    """The vectors of a document from its `_source`; None where there are none."""
    value = (source or {}).get(name)
    if not value:
        return None
    if stored.spec.embeddings[name].chunk:
        chunks = value if isinstance(value, list) else [value]
        value = [one["vector"] for one in chunks if one.get("vector")]
        return np.asarray(value, dtype=np.float32) if value else None
    return np.asarray([value], dtype=np.float32)
