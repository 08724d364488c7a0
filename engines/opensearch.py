"""The dialect of OpenSearch 2.x and 3.x with the k-NN plugin."""

from __future__ import annotations

from typing import Any, ClassVar

from .dialect import Dialect, Product, VectorField

# Vectors for dot_product are of unit length, where cosine gives the same order and the same scores as Elasticsearch;
# Lucene's innerproduct scores them on another scale.
_SPACES = {"cosine": "cosinesimil", "dot_product": "cosinesimil", "l2": "l2"}


class OpenSearch(Dialect):
    """OpenSearch with k-NN on the lucene engine, which filters inside the graph search."""

    product: ClassVar[Product] = "opensearch"
    title: ClassVar[str] = "OpenSearch"
    max_dims: ClassVar[int] = 16_000
    media_type: ClassVar[str] = "application/{}"

    def vector_field(self, vector: VectorField) -> dict[str, Any]:
        """A `knn_vector` with method `hnsw` on `lucene`; the server's defaults are faiss and l2."""
        self.check_dims(vector)
        parameters: dict[str, Any] = {"m": vector.m, "ef_construction": vector.ef_construction}
        if vector.quantization != "none":
            parameters["encoder"] = self._encoder(vector.quantization)
        return {
            "type": "knn_vector",
            "data_type": "float",
            "dimension": vector.dims,
            "method": {
                "name": "hnsw",
                "engine": "lucene",
                "space_type": _SPACES[vector.similarity],
                "parameters": parameters,
            },
        }

    def _encoder(self, quantization: str) -> dict[str, Any]:
        if quantization != "int8":
            raise self.decline(
                f"quantization {quantization}",
                "the lucene engine quantizes to 7 bits",
                "use quantization: int8 or none",
            )
        if self.version < (2, 16):
            raise self.decline("quantization int8", "lucene's sq encoder came with 2.16", "use quantization: none")
        # From 3.6 on `bits` is mandatory; before, 7 is the only width and must be the default.
        return {"name": "sq", "parameters": {"bits": 7}} if self.version >= (3, 6) else {"name": "sq"}

    def index_settings(self) -> dict[str, Any]:
        """`index.knn`, without which no vector method is accepted; it cannot be added later."""
        return {"index.knn": True}
