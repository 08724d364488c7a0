"""What only OpenSearch writes so: `knn` as a query, whose k counts per shard, and its `ef_search` for candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

import numpy as np

from ...engines import Dialect
from ...engines.opensearch import OpenSearch
from ..nodes import And, Filter, Knn, Lookup, Nested, Not, Or, RawDsl, Scoring
from ..values import MAX_K
from .base import Body, Compiler, Page

# Since then a filter is evaluated on the document and not on its chunks (k-NN pull request 2990).
_FILTERS_ON_ROOT = (3, 5)
_EXPANDS_CHUNKS = (2, 19)
# Before, an index alone said how wide its graph is searched, and more only came with a larger k.
_WIDTH_SINCE = (2, 16)
# Before, the script scored a cosine as 1 + cos (k-NN pull request 2357).
_SCORES = (2, 19)


class OpenSearchCompiler(Compiler):
    """OpenSearch from 2.4 on, vectors by the lucene engine."""

    @property
    def word_scale(self) -> float:
        """From 3.0 on Lucene's BM25 is used as it is, without the constant factor k1 + 1."""
        return 2.2 if self.dialect.version >= (3,) else 1.0

    def visit_knn(self, node: Knn) -> Body:
        """`num_candidates` is called `ef_search`; or so many neighbours are asked of each shard, and the best kept."""
        if node.exact:
            return {"query": self._exact(node)}
        self._check_filter(node)
        width = max(node.k, node.candidates)
        knn: Body = {"vector": np.asarray(node.vector, dtype=np.float32), "k": width}
        if tells_width(self.dialect, node):
            knn |= {"k": node.k, "method_parameters": {"ef_search": width}}
        if node.filter is not None:
            knn["filter"] = self.strictly(node.filter)
        if node.oversample is not None:
            since = self.dialect.rescores_since
            self.dialect.require(since, "oversample in a query", "rescore", "ask for more candidates instead")
            if node.path is None:
                knn["rescore"] = {"oversample_factor": float(node.oversample)}
        # Without it only the best chunk of a document is returned.
        if node.passages > 1 and self.dialect.version >= _EXPANDS_CHUNKS:
            knn["expand_nested_docs"] = True
        clause: Body = {"knn": {node.field: knn}}
        if node.path is not None:
            clause = {"nested": {"path": node.path, "score_mode": "max", "query": clause} | self.passages(node)}
        if node.min_similarity is not None:
            # In the clause itself `min_score` and k exclude each other.
            clause = {"function_score": {"query": clause, "min_score": score_of(node.min_similarity, node.similarity)}}
        return {"query": clause}

    def search(self, tree: Scoring, page: Page) -> Body:
        """Chunks are compared again by the request's rescore: k-NN (3.6) takes one in the clause and does nothing."""
        if not _again(tree) or self.dialect.version < _SCORES:
            return super().search(tree, page)
        window = min(MAX_K, max(tree.candidates, round(tree.k * (tree.oversample or 1))))
        query = {"rescore_query": self._by_script(tree), "query_weight": 0, "rescore_query_weight": 1}
        found = super().search(replace(tree, candidates=window), page)
        return found | {"rescore": {"window_size": window, "query": query}}

    def scored(self, node: Scoring) -> Body:
        """What stands inside another clause is not what the request's rescore is about. Raises UnsupportedByEngine."""
        if _again(node):
            raise self.dialect.decline(
                "oversample of chunks inside by_child(), by_parent() or native fusion",
                "k-NN compares chunks again in a search of their own only",
                "leave oversample out, ask for more candidates instead, or leave native out",
            )
        return super().scored(node)

    def _by_script(self, node: Knn, *filters: Body) -> Body:
        """Vectors scored by k-NN's own script, which needs no other module and reads them in full."""
        script = {
            "lang": "knn",
            "source": "knn_score",
            "params": {
                "field": node.field,
                "query_value": np.asarray(node.vector, dtype=np.float32),
                "space_type": OpenSearch.space_of(node.similarity),
            },
        }
        there = {"exists": {"field": node.field}}
        if node.path is None:
            return {"script_score": {"query": {"bool": {"filter": [there, *filters]}}, "script": script}}
        inner = {"script_score": {"query": there, "script": script}}
        return {"nested": {"path": node.path, "score_mode": "max", "query": inner}}

    def _exact(self, node: Knn) -> Body:
        """Every vector that the filter lets through."""
        self.dialect.require(_SCORES, "exact search", "the script that scores as the index does", "leave exact out")
        scored = self._by_script(node, *self.clauses(node.filter))
        if node.path is not None:
            scored["nested"] |= self.passages(node)
            if node.filter is not None:
                scored = {"bool": {"must": [scored], "filter": self.clauses(node.filter)}}
        if node.min_similarity is not None:
            least = score_of(node.min_similarity, node.similarity)
            scored = {"function_score": {"query": scored, "min_score": least}}
        return scored

    def _check_filter(self, node: Knn) -> None:
        if node.path is None or self.dialect.version >= _FILTERS_ON_ROOT or node.filter is None:
            return
        if _reaches_chunks(node.filter):
            raise self.dialect.decline(
                "this filter beside a kNN search of chunks",
                "before 3.5 negations and nested filters are evaluated on the chunks and not on their document",
                "update to 3.5, or filter by plain comparisons, or embed without chunks",
            )


def tells_width(dialect: Dialect, node: Knn) -> bool:
    """Whether candidates are told apart from k; what is compared again by full vectors is k of the first search."""
    return dialect.version >= _WIDTH_SINCE and node.oversample is None and not node.quantized


def score_of(similarity: float, metric: str) -> float:
    """The score that OpenSearch gives to a similarity: (1 + cos) / 2, 1 / (1 + d²), or p + 1 of a product p above 0."""
    if metric == "max_inner_product":
        return similarity + 1 if similarity >= 0 else 1 / (1 - similarity)
    return 1 / (1 + similarity**2) if metric == "l2" else (1 + similarity) / 2


def _again(node: Scoring) -> TypeGuard[Knn]:
    """Whether chunks are to be compared again by their full vectors."""
    return isinstance(node, Knn) and node.path is not None and node.oversample is not None and not node.exact


def _reaches_chunks(one: Filter) -> bool:
    if isinstance(one, (And, Or)):
        return any(map(_reaches_chunks, one.filters))
    return isinstance(one, (Not, Nested, RawDsl, Lookup))
