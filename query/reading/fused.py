"""Fusion as engines are asked for it, read back: Elasticsearch's retrievers, OpenSearch's hybrid with its pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...mappings import Spec
from ..fusion import RANK_CONSTANT
from ..parts import FusionName, Normaliser
from . import vectors
from .filters import Clause, read_filters
from .legs import Leg, Ranking, cannot, named, read_query

_NORMALISERS: dict[str, Normaliser] = {
    "minmax": "min_max", "min_max": "min_max", "l2_norm": "l2", "l2": "l2", "z_score": "z_score", "none": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Fused:
    """Legs, and how they become one ranking; by nothing where there is one leg."""

    ranking: Ranking
    method: FusionName | None = None
    window: int | None = None
    normaliser: Normaliser = "min_max"
    native: bool = False


Reader = Callable[[Any, Mapping[str, Any], Spec | None], Fused]


def _retriever(given: Clause, body: Clause, spec: Spec | None) -> Fused:  # noqa: ARG001
    name, said = named(given)
    if name not in ("rrf", "linear"):
        if name == "standard" and not said.get("query"):
            return Fused(Ranking(filters=read_filters(said.get("filter") or [])))
        return Fused(Ranking((_leg(given, spec),)))
    legs = []
    normalisers = set()
    for one in said.get("retrievers") or ():
        inner = one.get("retriever", one)
        leg = _leg(inner, spec)
        weight = one.get("weight", 1.0) if "retriever" in one else 1.0
        if "retriever" in one and ("weight" in one or name == "linear"):
            leg = leg.weighing(float(weight))
        legs.append(leg)
        normalisers.add(one.get("normalizer", said.get("normalizer", "none")))
    if not legs:
        raise cannot(f"a retriever {name} without retrievers", "name them: fields and a query alone say too little")
    filters = read_filters(said.get("filter") or [])
    window = said.get("rank_window_size")
    ranking = Ranking(tuple(leg.among(filters) for leg in legs))
    if name == "rrf":
        _check_constant(said.get("rank_constant", RANK_CONSTANT))
        return Fused(ranking, "rrf", window)
    return Fused(ranking, "weighted", window, _normaliser(normalisers))


def _leg(given: Clause, spec: Spec | None) -> Leg:
    """One retriever that ranks by itself."""
    name, said = named(given)
    if name == "knn":
        return vectors.section(said, spec)
    if name != "standard" or said.keys() - {"query", "filter", "_name"}:
        what = name if name != "standard" else f"standard.{sorted(said.keys() - {'query', 'filter', '_name'})[0]}"
        raise cannot(f"the retriever {what}", "rerank(), collapse(), sort() and diversify() do it for the whole query")
    found = read_query(said.get("query") or {"match_all": {}}, spec)
    if len(found.legs) != 1:
        raise cannot(f"a standard retriever that ranks by {len(found.legs)} parts", "give each part a retriever")
    return found.legs[0].among((*found.filters, *read_filters(said.get("filter") or [])))


def _hybrid(given: Clause, body: Clause, spec: Spec | None) -> Fused:
    """The pipeline is read from the body; where it is another one, equal weights of min-max are assumed."""
    legs = []
    for clause in given.get("queries") or ():
        found = read_query(clause, spec)
        if len(found.legs) != 1:
            raise cannot(f"a query of hybrid that ranks by {len(found.legs)} parts", "give each part a query")
        legs.append(found.legs[0].among(found.filters))
    filters = read_filters(given.get("filter") or [])
    pipeline = body.get("search_pipeline")
    written = isinstance(pipeline, Mapping)
    processors = pipeline.get("phase_results_processors", ()) if isinstance(pipeline, Mapping) else ()
    if isinstance(pipeline, Mapping) and pipeline.keys() - {"phase_results_processors", "description"}:
        raise cannot("a search_pipeline that does more than fuse", "rerank() and keep() work on the hits")
    method, normaliser, weights = _processor(processors)
    if weights and len(weights) != len(legs):
        raise cannot(f"{len(weights)} weights for {len(legs)} queries", "give one for each")
    weighed = [
        leg if weights is None else leg.weighing(weight)
        for leg, weight in zip(legs, weights or [1.0] * len(legs), strict=True)
    ]
    ranking = Ranking(tuple(leg.among(filters) for leg in weighed))
    return Fused(ranking, method, given.get("pagination_depth"), normaliser, written)


def _processor(processors: Sequence[Clause]) -> tuple[FusionName, Normaliser, list[float] | None]:
    """How they are fused, by what scale, and the weights."""
    for one in processors:
        name, said = named(one)
        combination = said.get("combination") or {}
        weights = (combination.get("parameters") or {}).get("weights")
        if name == "score-ranker-processor":
            _check_constant(combination.get("rank_constant", RANK_CONSTANT))
            return "rrf", "min_max", weights
        if name == "normalization-processor":
            technique = combination.get("technique", "arithmetic_mean")
            if technique != "arithmetic_mean":
                raise cannot(f"the combination {technique}", "fuse('weighted') is the arithmetic mean; or fuse('rrf')")
            return "weighted", _normaliser({(said.get("normalization") or {}).get("technique", "min_max")}), weights
    return "weighted", "min_max", None


def _normaliser(names: set[str]) -> Normaliser:
    if len(names) != 1 or not names <= _NORMALISERS.keys():
        raise cannot(f"the normalizers {', '.join(sorted(names))}", "give all parts one: min_max, z_score, l2 or none")
    return _NORMALISERS[names.pop()]


def _check_constant(constant: Any) -> None:
    if constant != RANK_CONSTANT:
        raise cannot(f"a rank_constant of {constant}", f"fuse('rrf') takes {RANK_CONSTANT}, as its authors do")


#: What fuses to what reads it.
FUSED: dict[str, Reader] = {"retriever": _retriever, "hybrid": _hybrid}
