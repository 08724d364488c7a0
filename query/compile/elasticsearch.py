"""What only Elasticsearch writes so: kNN as a clause of the query, or as the top-level section."""

from __future__ import annotations

from typing import cast

import numpy as np

from ..nodes import Knn, Scoring
from ..values import MAX_K
from .base import Body, Compiler, Page

# What an exact search of quantized vectors compares again by the full ones: the server's most.
_MOST_OVERSAMPLE = 10.0
_QUERY_HAS_K = (8, 15)


class ElasticsearchCompiler(Compiler):
    """Elasticsearch from 8.12 on."""

    def search(self, tree: Scoring, page: Page) -> Body:
        """A kNN search alone is a clause, which the engine answers in one phase and an eighth sooner than the section.

        Each shard gives its best k, of which the page keeps the best, the ones that the section gives.
        """
        body = super().search(tree, page)
        if isinstance(tree, Knn) and tree.path is None and self.dialect.version >= _QUERY_HAS_K:
            return {"query": {"knn": body.pop("knn")}} | body
        return body

    def visit_knn(self, node: Knn) -> Body:
        """The top-level section, whose k counts for the whole index.

        A nested path needs no `nested` around it, and filters on other nested objects work here only.
        """
        knn: Body = {
            "field": node.field,
            "query_vector": np.asarray(node.vector, dtype=np.float32),
            "k": node.k,
            "num_candidates": MAX_K if node.exact else max(node.k, node.candidates),
        }
        if node.filter is not None:
            knn["filter"] = self.strictly(node.filter)
        if oversample := self._oversample(node):
            knn["rescore_vector"] = {"oversample": oversample}
        if node.min_similarity is not None:
            knn["similarity"] = node.min_similarity
        if node.path is not None:
            knn |= self.passages(node)
        return {"knn": knn}

    def scored(self, node: Scoring) -> Body:
        """A kNN search inside another clause is the query form, whose k counts per shard; it came with 8.15."""
        body = self.visit(node)
        if "knn" not in body:
            return cast(Body, body["query"])
        knn: Body = dict(body["knn"])
        if self.dialect.version < _QUERY_HAS_K:
            knn["num_candidates"] = knn.pop("k")
        passages = {key: knn.pop(key) for key in ("inner_hits",) if key in knn}
        clause: Body = {"knn": knn}
        if isinstance(node, Knn) and node.path is not None:
            clause = {"nested": {"path": node.path, "score_mode": "max", "query": clause} | passages}
        return clause

    def _oversample(self, node: Knn) -> float | None:
        """What is compared again by the full vectors; a search that is to be exact takes the most."""
        most = MAX_K / node.k
        if node.exact and node.quantized and self.dialect.rescores:
            return min(_MOST_OVERSAMPLE, most)
        if node.oversample is None:
            return None
        since = self.dialect.rescores_since
        self.dialect.require(since, "oversample in a query", "rescore_vector", "ask for more candidates instead")
        return min(float(node.oversample), most)
