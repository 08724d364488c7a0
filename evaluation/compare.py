"""One version of an index beside another, on the same questions, each asked with its own model and by its own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from ..encoders import query_vectors
from ..engines import Engine
from ..errors import QueryError
from ..mappings import Stored
from ..query import Query
from .asking import Matrix, ask, every_embedding, patiently, some_ids
from .exact import MAX_EXACT, graph_recall, vectors_named
from .judgments import Judgments
from .ranking import judged, ndcg, recall, reciprocal_rank

#: What was compared: rankings with judgments, or graphs with exact search.
By = Literal["judgments", "exact search"]

_BOOTSTRAPS = 2_000
# Documents whose vectors are asked with where nobody gave a query.
_PROBES = 100


@dataclass(frozen=True)
class Figures:
    """How good a version is, each a mean over the queries.

    With judgments: `ndcg` and `mrr` of the best k, `recall` of the best `depth`, and `judged`, the share of the best k
    that somebody judged. Without: `recall` of the best k beside exact search, of which `least` is the worst probe's.
    """

    index: str
    recall: float
    ndcg: float | None = None
    mrr: float | None = None
    judged: float | None = None
    least: float | None = None
    took_ms: float | None = None
    # What the recall was compared with: "exact", or "wide" for a search with 10,000 candidates.
    truth: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Both versions' figures. `delta` is new less old; `interval` is the 95 % interval of its nDCG, or recall."""

    by: By
    old: Figures
    new: Figures
    queries: int
    k: int
    depth: int
    delta: Mapping[str, float]
    interval: tuple[float, float]
    # Queries for which the new version is better, and worse.
    better: int = 0
    worse: int = 0
    # The share of the old version's best k that the new one has too.
    overlap: float = 0.0
    # The queries that lost most: text, old, new.
    losers: Sequence[tuple[str, float, float]] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def compare(
    engine: Engine,
    old: Stored,
    new: Stored,
    given: Judgments | Sequence[str] | None = None,
    *,
    k: int = 10,
    depth: int = 100,
    most: int = 1_000,
    embedding: str | None = None,
    query_of: Callable[[str, Stored], Query] = every_embedding,
    max_exact: int = MAX_EXACT,
    seed: int = 0,
    tell: Callable[[str, int], None] | None = None,
) -> Comparison:
    """Ask two versions the same questions, at most `most` of them, and measure both.

    With judgments: nDCG, recall and MRR of the rankings; `query_of` makes the query of a text. Without: recall@k of the
    graph of an `embedding` (the first, unless named) beside exact search, for texts, or where there are none for the
    stored vectors of documents drawn at random. `tell` is called with what is done and how much of it.

    Raises ModelMismatch, QueryError, EngineError.
    """
    pair = _Pair(engine, (old, new), k, tell or _silent)
    if isinstance(given, Judgments):
        return _by_judgments(pair, given.limited(most), max(k, depth), query_of)
    texts = list(given or ())[:most]
    name = embedding or next((one for one in new.spec.embeddings if one in old.spec.embeddings), "")
    if not all(name in stored.spec.embeddings for stored in pair.versions):
        raise QueryError(
            f"{old.index} and {new.index} have no embedding {name or 'in common'}",
            hint="compare them by judgments: these need none",
        )
    labels, probes = _texts(pair, name, texts) if texts else _documents(pair, name, min(most, _PROBES), seed)
    return _by_exact(pair, name, labels, probes, [] if texts else labels, max_exact)


def _silent(what: str, done: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class _Pair:
    """Two versions that are asked the same, the old one first."""

    engine: Engine
    versions: tuple[Stored, Stored]
    k: int
    tell: Callable[[str, int], None]


def _by_judgments(pair: _Pair, given: Judgments, depth: int, query_of: Callable[[str, Stored], Query]) -> Comparison:
    names, k = list(given.queries), pair.k
    texts, figures, gains, best = [given.queries[name] for name in names], [], [], []
    for stored in pair.versions:
        tell = partial(pair.tell, f"asking {stored.index}, of {len(texts):,}")
        asked = ask(pair.engine, stored, texts, depth, query_of, tell=tell)
        held = [(ranked, given.grades[name]) for name, ranked in zip(names, asked.rankings, strict=True)]
        gains.append(np.array([ndcg(ranked, grades, k) for ranked, grades in held]))
        best.append([set(ranked[:k]) for ranked in asked.rankings])
        figures.append(
            Figures(
                stored.index,
                recall=_mean(recall(ranked, grades, depth) for ranked, grades in held),
                ndcg=float(gains[-1].mean()),
                mrr=_mean(reciprocal_rank(ranked, grades, k) for ranked, grades in held),
                judged=_mean(judged(ranked, grades, k) for ranked, grades in held),
                took_ms=asked.took_ms,
            )
        )
    delta = {name: getattr(figures[1], name) - getattr(figures[0], name) for name in ("ndcg", "recall", "mrr")}
    return _compared("judgments", figures, texts, k, depth, delta, gains, _overlap(*best))


def _texts(pair: _Pair, name: str, texts: Sequence[str]) -> tuple[Sequence[str], list[Matrix]]:
    return texts, [query_vectors(stored, name, texts) for stored in pair.versions]


def _documents(pair: _Pair, name: str, size: int, seed: int) -> tuple[Sequence[str], list[Matrix]]:
    """Documents that have a vector in both versions, and their vectors, of chunks the first."""
    ids = patiently(pair.engine, lambda: some_ids(pair.versions[1], name, size, seed))
    held = [vectors_named(pair.engine, stored, name, ids) for stored in pair.versions]
    both = [one for one in ids if all(one in some for some in held)]
    if not both:
        raise QueryError(
            f"no document has a vector {name} in both {' and '.join(one.index for one in pair.versions)}",
            hint="give texts to ask, or judgments",
        )
    return both, [np.stack([some[one][0] for one in both]) for some in held]


def _by_exact(
    pair: _Pair, name: str, labels: Sequence[str], probes: Sequence[Matrix], own: Sequence[str], max_exact: int
) -> Comparison:
    figures, shares, best = [], [], []
    for stored, rows in zip(pair.versions, probes, strict=True):
        tell = partial(pair.tell, f"reading {stored.index}")
        graph = graph_recall(pair.engine, stored, name, rows, pair.k, leave_out=own, most=max_exact, tell=tell)
        figures.append(Figures(stored.index, recall=graph.recall, least=graph.least, truth=graph.truth))
        shares.append(np.array(graph.shares))
        best.append([set(ranked) for ranked in graph.rankings])
    delta = {"recall": figures[1].recall - figures[0].recall}
    return _compared("exact search", figures, labels, pair.k, pair.k, delta, shares, _overlap(*best))


def _compared(
    by: By,
    figures: Sequence[Figures],
    texts: Sequence[str],
    k: int,
    depth: int,
    delta: Mapping[str, float],
    values: Sequence[Matrix],
    overlap: float,
) -> Comparison:
    before, after = values
    change = after - before
    order = [int(place) for place in np.argsort(change, kind="stable")[:10] if change[place] < 0]
    return Comparison(
        by,
        figures[0],
        figures[1],
        queries=len(texts),
        k=k,
        depth=depth,
        delta=delta,
        interval=interval(change),
        better=int((change > 1e-9).sum()),
        worse=int((change < -1e-9).sum()),
        overlap=overlap,
        losers=[(texts[place], float(before[place]), float(after[place])) for place in order],
    )


def interval(change: Matrix, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by the percentile bootstrap (Efron, 1979)."""
    drawn = np.random.default_rng(seed).integers(0, len(change), size=(_BOOTSTRAPS, len(change)))
    low, high = np.percentile(change[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _overlap(one: Sequence[set[str]], other: Sequence[set[str]]) -> float:
    return _mean(len(a & b) / len(a) if a else 1.0 for a, b in zip(one, other, strict=True))
