"""What only Elasticsearch writes so: the top-level `knn` section, whose k counts for the whole index."""

from __future__ import annotations

import numpy as np

from ..nodes import Knn
from .base import Body, Compiler


class ElasticsearchCompiler(Compiler):
    """Elasticsearch from 8.12 on."""

    def visit_knn(self, node: Knn) -> Body:
        """The top-level section: the query form would count k per shard.

        A nested path needs no `nested` around it, and filters on other nested objects work here only.
        """
        knn: Body = {
            "field": node.field,
            "query_vector": np.asarray(node.vector, dtype=np.float32),
            "k": node.k,
            "num_candidates": max(node.k, node.candidates),
        }
        if node.filter is not None:
            knn["filter"] = self.strictly(node.filter)
        if node.min_similarity is not None:
            knn["similarity"] = node.min_similarity
        if node.path is not None:
            knn |= self.passages(node)
        return {"knn": knn}
