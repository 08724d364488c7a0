"""One version of an index beside another, on the same questions, each asked with its own model and by its own name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from ..encoders import query_vectors
from ..engines import Engine
from ..errors import QueryError
from ..ingest.patience import patiently
from ..ingest.reindex import Quality
from ..mappings import Stored
from ..query import Query
from .asking import Matrix, ask, every_embedding, some_ids
from .exact import MAX_EXACT, graph_recall, vectors_named
from .judgments import Judgments
from .ranking import judged, ndcg, recall, reciprocal_rank

#: What was compared: rankings with judgments, or graphs with exact search.
By = Literal["judgments", "exact search"]

_BOOTSTRAPS = 2_000
_TRUTHS = {"exact": "exact search", "wide": "10,000 candidates"}
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

    def quality(self, k: int, depth: int, queries: int, name: str) -> Quality:
        """What is kept of them with the version; `name` is that of the judgments."""
        figures = {f"nDCG@{k}": self.ndcg, f"recall@{depth}": self.recall, "MRR": self.mrr, "judged": self.judged}
        by = name if self.truth is None else _TRUTHS[self.truth]
        known = {key: value for key, value in figures.items() if value is not None}
        return Quality(known, by, queries, int(time.time() * 1000))


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

    # What the judgments are called.
    name: str = ""

    def quality(self) -> dict[str, Quality]:
        """What is kept of both versions."""
        return {one.index: one.quality(self.k, self.depth, self.queries, self.name) for one in (self.old, self.new)}

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
    asked = _Asked(engine, (old, new), k, tell or _silent)
    if isinstance(given, Judgments):
        given, depth = given.limited(most), max(k, depth)
        pair = [_ranked(asked, stored, given, depth, query_of) for stored in asked.versions]
        return replace(_compared("judgments", pair, list(given.queries.values()), k, depth), name=given.name)
    texts = list(given or ())[:most]
    name = embedding or next((one for one in new.spec.embeddings if one in old.spec.embeddings), "")
    if not all(name in stored.spec.embeddings for stored in asked.versions):
        raise QueryError(
            f"{old.index} and {new.index} have no embedding {name or 'in common'}",
            hint="compare them by judgments: these need none",
        )
    labels, probes = _texts(asked, name, texts) if texts else _documents(asked, name, min(most, _PROBES), seed)
    own = [] if texts else labels
    pair = [_graph(asked, *one, name, own, max_exact) for one in zip(asked.versions, probes, strict=True)]
    return _compared("exact search", pair, labels, k, k)


def measure(
    engine: Engine, stored: Stored, given: Judgments | None = None, *, k: int = 10, depth: int = 100, most: int = 1_000
) -> Quality:
    """How good one version is: by judgments as in `compare`, else the recall of its first embedding's graph.

    Raises ModelMismatch, QueryError, EngineError.
    """
    asked = _Asked(engine, (stored,), k, _silent)
    if given:
        given = given.limited(most)
        return _ranked(asked, stored, given, depth, every_embedding).figures.quality(k, depth, len(given), given.name)
    name = next(iter(stored.spec.embeddings), "")
    labels, (probes,) = _documents(asked, name, min(most, _PROBES), 0)
    return _graph(asked, stored, probes, name, labels, MAX_EXACT).figures.quality(k, k, len(labels), "")


def _silent(what: str, done: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class _Asked:
    """Versions that are asked the same, the old one first."""

    engine: Engine
    versions: Sequence[Stored]
    k: int
    tell: Callable[[str, int], None]


@dataclass(frozen=True)
class _Answers:
    """What one version answered: its figures, and for each question how good and what the best k were."""

    figures: Figures
    values: Matrix
    best: Sequence[set[str]]


def _ranked(
    asked: _Asked, stored: Stored, given: Judgments, depth: int, query_of: Callable[[str, Stored], Query]
) -> _Answers:
    k, texts = asked.k, list(given.queries.values())
    tell = partial(asked.tell, f"asking {stored.index}, of {len(texts):,}")
    answers = ask(asked.engine, stored, texts, depth, query_of, tell=tell)
    held = [(ranked, given.grades[name]) for name, ranked in zip(given.queries, answers.rankings, strict=True)]
    gains = np.array([ndcg(ranked, grades, k) for ranked, grades in held])
    figures = Figures(
        stored.index,
        recall=_mean(recall(ranked, grades, depth) for ranked, grades in held),
        ndcg=float(gains.mean()),
        mrr=_mean(reciprocal_rank(ranked, grades, k) for ranked, grades in held),
        judged=_mean(judged(ranked, grades, k) for ranked, grades in held),
        took_ms=answers.took_ms,
    )
    return _Answers(figures, gains, [set(ranked[:k]) for ranked in answers.rankings])


def _texts(asked: _Asked, name: str, texts: Sequence[str]) -> tuple[Sequence[str], list[Matrix]]:
    return texts, [query_vectors(stored, name, texts) for stored in asked.versions]


def _documents(asked: _Asked, name: str, size: int, seed: int) -> tuple[Sequence[str], list[Matrix]]:
    """Documents that have a vector in every version, and their vectors, of chunks the first."""
    ids = patiently(asked.engine, lambda: some_ids(asked.versions[-1], name, size, seed))
    held = [vectors_named(asked.engine, stored, name, ids) for stored in asked.versions]
    all_have = [one for one in ids if all(one in some for some in held)]
    if not all_have:
        where = " and in ".join(one.index for one in asked.versions)
        raise QueryError(f"no document has a vector {name} in {where}", hint="give texts to ask, or judgments")
    return all_have, [np.stack([some[one][0] for one in all_have]) for some in held]


def _graph(asked: _Asked, stored: Stored, probes: Matrix, name: str, own: Sequence[str], max_exact: int) -> _Answers:
    tell = partial(asked.tell, f"reading {stored.index}")
    graph = graph_recall(asked.engine, stored, name, probes, asked.k, leave_out=own, most=max_exact, tell=tell)
    figures = Figures(stored.index, recall=graph.recall, least=graph.least, truth=graph.truth)
    return _Answers(figures, np.array(graph.shares), [set(ranked) for ranked in graph.rankings])


def _compared(by: By, pair: Sequence[_Answers], texts: Sequence[str], k: int, depth: int) -> Comparison:
    before, after = pair
    old, new = before.figures, after.figures
    change = after.values - before.values
    order = [int(place) for place in np.argsort(change, kind="stable")[:10] if change[place] < 0]
    names = ("ndcg", "recall", "mrr") if by == "judgments" else ("recall",)
    return Comparison(
        by,
        old,
        new,
        queries=len(texts),
        k=k,
        depth=depth,
        delta={name: getattr(new, name) - getattr(old, name) for name in names},
        interval=interval(change),
        better=int((change > 1e-9).sum()),
        worse=int((change < -1e-9).sum()),
        overlap=_overlap(before.best, after.best),
        losers=[(texts[place], float(before.values[place]), float(after.values[place])) for place in order],
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
