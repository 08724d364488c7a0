"""Clauses that rank by vectors, read into `semantic()`; vectors come back as vectors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import QueryError
from ...mappings import Spec
from ..given import floats
from ..nodes import Exists
from ..parts import Semantic
from ..query import Query
from .filters import Clause, one_field, read_filters
from .legs import Leg, Ranking, boost_of, cannot, named, only, read_query, reads

_SECTION = (
    "field", "query_vector", "query_vector_builder", "k", "num_candidates", "filter", "similarity", "rescore_vector",
    "inner_hits",
)  # fmt: skip
_CLAUSE = (
    "vector", "k", "filter", "min_score", "max_distance", "method_parameters", "rescore", "expand_nested_docs",
    "ignore_unmapped",
)  # fmt: skip
_SCRIPT = re.compile(r"\b(?:cosineSimilarity|dotProduct|l2norm)\(\s*params\.(\w+)\s*,\s*(?:doc\[)?['\"]([^'\"]+)['\"]")
_CHUNKED = ".vector"
# `index.knn.algo_param.ef_search`, unless an index says otherwise.
_EF_SEARCH = 100


def embedding(path: str, spec: Spec | None) -> str:
    """The embedding whose vector lies at that path: `c` for `c.vector`. Raises QueryError where the spec has none."""
    if spec is None:
        return path.removesuffix(_CHUNKED)
    for name in spec.embeddings:
        if spec.vector_path(name) == path:
            return name
    raise QueryError(
        f"index {spec.index!r} has no embedding at {path!r}",
        hint=f"its vectors lie at {', '.join(map(spec.vector_path, spec.embeddings)) or 'no path'}",
    )


def section(body: Clause, spec: Spec | None) -> Leg:
    """Elasticsearch's `knn`, at the top of a body or as a query."""
    only(body, "knn", *_SECTION, way_out="leave it out: a plan chooses how a graph is searched")
    rescored = body.get("rescore_vector") or {}
    part = Semantic(
        embedding(body["field"], spec),
        k=body.get("k"),
        candidates=body.get("num_candidates"),
        min_similarity=body.get("similarity"),
        oversample=rescored.get("oversample"),
    )
    if "query_vector" in body:
        part = replace(part, vector=_vector(body["query_vector"]))
    else:
        part = replace(part, text=_built(body.get("query_vector_builder") or {}))
    inner = body.get("inner_hits")
    return Leg(part, read_filters(body.get("filter") or []), _chunks(body["field"], inner)).times(boost_of(body))


def _vector(given: Any) -> tuple[float, ...] | None:
    if isinstance(given, str):
        raise cannot("a vector written as text", "give it as a list of numbers")
    return floats(given)


def _built(builder: Clause) -> str:
    """The text that the server was to encode; the embedding's own encoder does it here."""
    text = (builder.get("text_embedding") or {}).get("model_text")
    if not isinstance(text, str):
        raise cannot(
            f"a knn without query_vector ({', '.join(builder) or 'nothing'})", "give a vector, or use .like('ID')"
        )
    return text


def _chunks(path: str, inner: Any) -> int | None:
    """How many chunks are returned: none where nothing asks for them."""
    if not path.endswith(_CHUNKED):
        return None
    return int(inner.get("size", 3)) if isinstance(inner, Mapping) else 0


@reads("knn")
def _knn(body: Clause, spec: Spec | None) -> Ranking:
    if isinstance(body.get("field"), str):
        return Ranking((section(body, spec),))
    found = one_field(body)
    if found is None or not isinstance(found[1], Mapping):
        raise QueryError(f"knn names no field, or several: {sorted(body)}", hint="ask for each in a clause of its own")
    path, said = found
    only(said, "knn", *_CLAUSE, way_out="leave it out: a plan chooses how a graph is searched")
    name, k = embedding(path, spec), said.get("k")
    width = (said.get("method_parameters") or {}).get("ef_search") or _width(k)
    part = Semantic(name, vector=_vector(said.get("vector")), k=k, candidates=width)
    if (rescored := said.get("rescore")) and isinstance(rescored, Mapping):
        part = replace(part, oversample=rescored.get("oversample_factor"), candidates=k)
    if "min_score" in said:
        part = replace(part, min_similarity=_similarity(float(said["min_score"]), name, spec))
    if "max_distance" in said:
        part = replace(part, min_similarity=_within(float(said["max_distance"]), name, spec))
    return Ranking((Leg(part, read_filters(said.get("filter") or []), _chunks(path, None)).times(boost_of(said)),))


def _width(k: Any) -> Any:
    """How wide OpenSearch searches where the clause does not say it, nor the index."""
    return max(k, _EF_SEARCH) if isinstance(k, int) else k


def _metric(name: str, spec: Spec | None) -> str:
    """The metric of an embedding, without which a score says nothing of a similarity."""
    if spec is None or name not in spec.embeddings:
        raise cannot("a least score", "give the spec, Query.from_dict(body, spec=index.spec), or use min_similarity")
    return spec.embeddings[name].similarity


def _similarity(score: float, name: str, spec: Spec | None) -> float:
    """The similarity that has such a score on OpenSearch (its documentation, "Spaces")."""
    metric = _metric(name, spec)
    if metric == "max_inner_product":
        return score - 1 if score >= 1 else 1 - 1 / score
    return math.sqrt(1 / score - 1) if metric == "l2" else 2 * score - 1


def _within(distance: float, name: str, spec: Spec | None) -> float:
    """The similarity at a distance of OpenSearch's: d² under l2, 1 - cos, the negative inner product."""
    metric = _metric(name, spec)
    if metric == "max_inner_product":
        return -distance
    return math.sqrt(distance) if metric == "l2" else 1 - distance


@reads("neural")
def _neural(body: Clause, spec: Spec | None) -> Ranking:
    """A text that the server was to encode; the embedding's own encoder does it here."""
    found = one_field(body)
    if found is None or not isinstance(found[1], Mapping) or "query_text" not in found[1]:
        raise cannot("a neural clause without query_text", "embed the images, and rank by semantic(vector=...)")
    only(found[1], "neural", "query_text", "model_id", "k", "filter")
    k = found[1].get("k")
    part = Semantic(embedding(found[0], spec), found[1]["query_text"], k=k, candidates=_width(k))
    return Ranking((Leg(part, read_filters(found[1].get("filter") or [])).times(boost_of(found[1])),))


@reads("semantic")
def _semantic(body: Clause, spec: Spec | None) -> Ranking:
    only(body, "semantic", "field", "query")
    return Ranking((Leg(Semantic(embedding(body["field"], spec), body["query"])).times(boost_of(body)),))


@reads("nested")
def _nested(body: Clause, spec: Spec | None) -> Ranking:
    """Around a vector in chunks; its best chunk counts on both engines, whatever the score mode."""
    name, inner = named(body["query"])
    if name not in ("knn", "neural", "script_score"):
        raise cannot(
            f"{name} that ranks inside nested", "where_nested() filters by it; embed the texts in chunks to rank"
        )
    only(body, "nested", "path", "query", "score_mode", "inner_hits", "ignore_unmapped")
    (leg,) = read_query(body["query"], spec).legs
    expanded = any(isinstance(said, Mapping) and said.get("expand_nested_docs") for said in inner.values())
    if expanded and body.get("score_mode", "avg") != "max":
        raise cannot(f"the score_mode {body.get('score_mode', 'avg')} of chunks", "its best chunk counts: use max")
    shown = body.get("inner_hits")
    chunks = int(shown.get("size", 3)) if isinstance(shown, Mapping) else 0
    return Ranking((replace(leg, passages=chunks).times(boost_of(body)),))


@reads("function_score")
def _function_score(body: Clause, spec: Spec | None) -> Ranking:
    """A least score around one search by vectors, as plans write it for OpenSearch; no functions."""
    only(body, "function_score", "query", "min_score", way_out="popularity() and freshness() move scores after fusion")
    found = read_query(body["query"], spec)
    part = found.legs[0].part if len(found.legs) == 1 else None
    if not isinstance(part, Semantic) or "min_score" not in body:
        raise cannot("a function_score that is not around one search by vectors", "leave it out, or use min_similarity")
    least = _similarity(float(body["min_score"]), part.embedding, spec)
    return Ranking((replace(found.legs[0], part=replace(part, min_similarity=least)),), found.filters)


def rescored(query: Query, given: Any, spec: Spec | None) -> Query:
    """A request's rescore by every chunk's full vector, as plans write it for OpenSearch: all that was found again."""
    again = given.get("query") if isinstance(given, Mapping) else None
    if not again or (again.get("query_weight"), again.get("rescore_query_weight")) != (0, 1):
        raise cannot("a rescore that adds up scores", "rerank() scores the best hits again; fuse() adds up scores")
    searched, compared = query.parts, read_query(again["rescore_query"], spec).legs
    part, by = (searched[0], compared[0].part) if len(searched) == len(compared) == 1 else (None, None)
    if not isinstance(part, Semantic) or by != Semantic(part.embedding, vector=part.vector, exact=True):
        raise cannot("a rescore by something else than the full vectors of what was searched", "use rerank()")
    if given.get("window_size", 10) < (part.k or 0):
        raise cannot("a rescore of fewer than the k that were found", "make its window as large")
    return replace(query, parts=(replace(part, oversample=1.0, candidates=part.k),))


@reads("script_score")
def _script_score(body: Clause, spec: Spec | None) -> Ranking:
    """A script that compares every vector: k-NN's own, or a similarity of Painless."""
    script = body.get("script") or {}
    params = script.get("params") or {}
    found = _SCRIPT.search(str(script.get("source", "")))
    if script.get("lang") == "knn":
        path, vector = params.get("field"), params.get("query_value")
    elif found:
        path, vector = found[2], params.get(found[1])
    else:
        path = vector = None
    if path is None or vector is None:
        raise cannot(
            "a script_score", "popularity() and freshness() move scores; semantic(exact=True) compares vectors"
        )
    only(body, "script_score", "query", "script", way_out="use min_similarity")
    beside = read_query(body.get("query") or {"match_all": {}}, spec)
    if beside.legs:
        raise cannot("a script_score around a clause that ranks", "rank by both parts, and fuse() them")
    filters = tuple(one for one in beside.filters if one != Exists(path))
    return Ranking(
        (Leg(Semantic(embedding(path, spec), vector=_vector(vector), exact=True), filters, _chunks(path, None)),)
    )
