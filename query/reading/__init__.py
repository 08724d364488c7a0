"""A request body of either engine, read back into a Query, so that existing queries can be moved over.

What concerns the wire alone is left out: what is counted, tracked or explained. `_source.excludes` is too, for vectors
are never returned. Filters beside a kNN clause become strict: they hold inside it. Clauses whose scores an engine adds
up become parts that are fused by the plain sum; documents that only pass the filters beside them, without a score, are
not among the hits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import QueryError
from ...mappings import Spec
from ..given import plain
from ..parts import Family, Lexical, own
from ..query import Query
from . import families, vectors, words  # noqa: F401  # their readers are entered
from .beside import BESIDE
from .filters import together
from .fused import FUSED, Fused
from .legs import Leg, Ranking, cannot, read_query

_IDLE = {
    "track_total_hits", "track_scores", "version", "seq_no_primary_term", "explain", "profile", "stats",
}  # fmt: skip
_RANKED = {"query", "knn", "retriever"}
_OF_HYBRID = "search_pipeline"
_AGAIN = "rescore"
_WORD_SCALE = 2.2


def read(given: Any, spec: Spec | None = None) -> Query:
    """The Query of a request body: a dict, an `elasticsearch.dsl.Search`, or what `plan.to_dict()` gives.

    `spec` names the embeddings by the paths of their vectors, and is needed where a least score is to be a similarity.
    Raises QueryError for what a Query has no words for, and for what is no body.
    """
    body = _body(given)
    try:
        return _read(body, spec)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise QueryError(
            f"the body is not one that an engine takes: {type(error).__name__} {str(error)[:200]}",
            hint="send it to the engine, which says where it is wrong",
        ) from error


def _read(body: Mapping[str, Any], spec: Spec | None) -> Query:
    fused = _fused(body, spec)
    query = _ranked(fused)
    for key, value in body.items():
        if key in _RANKED or key in _IDLE or (key == _OF_HYBRID and "hybrid" in body.get("query", ())):
            continue
        if key == _AGAIN:
            query = vectors.rescored(query, value, spec)
            continue
        if key not in BESIDE:
            raise cannot(f"{key!r} of a body", _WAYS_OUT.get(key, "leave it out"))
        query = BESIDE[key](query, value)
    return query


_WAYS_OUT = {
    "min_score": "use semantic(min_similarity=...), which does not depend on an engine's scores",
    "search_after": "index.scan() goes through all hits",
    "pit": "index.scan() goes through all hits",
    "slice": "index.scan() goes through all hits",
    "suggest": "ask the engine itself through its client",
    "script_fields": "compute it from the hits",
    "runtime_mappings": "declare the field in the spec",
    "indices_boost": "ask the indexes one by one",
    "rank": "it was replaced by retrievers: fuse('rrf')",
    "terminate_after": "use within(), which says what is missing",
    "fields": "use select()",
    "docvalue_fields": "use select()",
}


def _body(given: Any) -> Mapping[str, Any]:
    body = plain(given)
    if isinstance(body, Mapping) and {"method", "path", "body"} <= body.keys():
        body = body["body"]
    if isinstance(body, Sequence) and not isinstance(body, (str, bytes)):
        raise QueryError("these are several searches", hint="read the body of each, and fuse() their parts")
    if not isinstance(body, Mapping):
        raise QueryError(f"{given!r:.80} is no body of a search", hint="give a dict, or an elasticsearch.dsl.Search")
    return body


def _fused(body: Mapping[str, Any], spec: Spec | None) -> Fused:
    """What ranks, wherever it stands: `retriever`, or `query` and `knn`, whose scores are added."""
    if retriever := body.get("retriever"):
        return FUSED["retriever"](retriever, body, spec)
    clause = body.get("query")
    if isinstance(clause, Mapping) and "hybrid" in clause:
        return FUSED["hybrid"](clause["hybrid"], body, spec)
    found = read_query(clause, spec) if clause else Ranking()
    sections = body.get("knn") or []
    nearest = [vectors.section(one, spec) for one in ([sections] if isinstance(sections, Mapping) else sections)]
    if nearest and clause and not found.legs:
        raise cannot("a query that only filters, beside knn,", "put it into the filter of knn; or leave it out")
    worded = [_on_one_scale(leg) for leg in found.legs] if _of_opensearch(clause) else found.legs
    ranking = Ranking((*nearest, *(leg.among(found.filters) for leg in worded)), () if found.legs else found.filters)
    return Fused(ranking, "weighted" if len(ranking.legs) > 1 else None, normaliser="none")


def _of_opensearch(clause: Any) -> bool:
    """Whether a kNN clause stands in it as OpenSearch has it, under the name of its field."""
    if isinstance(clause, Mapping):
        knn = clause.get("knn")
        return (isinstance(knn, Mapping) and "field" not in knn) or any(map(_of_opensearch, clause.values()))
    return isinstance(clause, Sequence) and not isinstance(clause, str) and any(map(_of_opensearch, clause))


def _on_one_scale(leg: Leg) -> Leg:
    """OpenSearch 3 adds a BM25 that is divided by 2.2, and a plan brings both engines' to Elasticsearch's."""
    by = own(leg.part)
    return leg.times(1 / _WORD_SCALE) if isinstance(by, Lexical) else leg


def _ranked(fused: Fused) -> Query:
    """The parts of a query, and the filters that hold for all of them."""
    legs = fused.ranking.legs
    filters = list(legs[0].filters) if legs else []
    if any(list(leg.filters) != filters for leg in legs):
        raise cannot("parts with different filters", "give all of them the same: a filter holds for every part here")
    filters += fused.ranking.filters
    outer = together(filters)
    parts = [families.bare(leg.part, outer) if isinstance(leg.part, Family) else leg.part for leg in legs]
    passages = [leg.passages for leg in legs if leg.passages is not None and not isinstance(leg.part, Family)]
    said = {part.text for part in parts if isinstance(part, Lexical)}
    text = said.pop() if len(said) == 1 else None
    query = Query(
        text,
        tuple(replace(part, text=None) if isinstance(part, Lexical) and text is not None else part for part in parts),
        tuple(filters),
        passage_limit=max(passages, default=3),
    )
    if fused.method is None:
        return query
    return replace(query, fusion=fused.method, window=fused.window, normaliser=fused.normaliser, native=fused.native)
