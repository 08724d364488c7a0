"""The dialect of Elasticsearch 8.12 and later."""

from __future__ import annotations

from typing import Any, ClassVar

from .dialect import Dialect, Product, VectorField

_SIMILARITY = {"cosine": "cosine", "dot_product": "dot_product", "l2": "l2_norm"}
# quantization -> (index_options.type, first version that has it)
_GRAPHS: dict[str, tuple[str, tuple[int, ...]]] = {
    "none": ("hnsw", (8, 0)),
    "int8": ("int8_hnsw", (8, 12)),
    "int4": ("int4_hnsw", (8, 15)),
    "binary": ("bbq_hnsw", (8, 16)),
}


class Elasticsearch(Dialect):
    """Elasticsearch, from 8.12 on, with any licence."""

    product: ClassVar[Product] = "elasticsearch"
    title: ClassVar[str] = "Elasticsearch"
    max_dims: ClassVar[int] = 4096
    # 8.x and 9.x servers both answer to 8; 9 is refused by 8.x.
    media_type: ClassVar[str] = "application/vnd.elasticsearch+{}; compatible-with=8"

    def vector_field(self, vector: VectorField) -> dict[str, Any]:
        """A `dense_vector` with explicit `index_options`: their defaults changed in 8.14 and in 9.1."""
        self.check_dims(vector)
        graph, since = _GRAPHS[vector.quantization]
        if self.version < since:
            raise self.decline(
                f"quantization {vector.quantization}",
                f"{graph} came with {'.'.join(map(str, since))}",
                "use quantization: int8 or none",
            )
        return {
            "type": "dense_vector",
            "element_type": "float",
            "dims": vector.dims,
            "index": True,
            "similarity": _SIMILARITY[vector.similarity],
            "index_options": {"type": graph, "m": vector.m, "ef_construction": vector.ef_construction},
        }

    def index_settings(self) -> dict[str, Any]:
        """None: `dense_vector` needs no setting."""
        return {}

    def source_with_vectors(self, includes: list[str]) -> dict[str, Any]:
        """From 9.2 on vectors are left out of `_source` unless asked for."""
        clause: dict[str, Any] = {"includes": includes}
        return clause | {"exclude_vectors": False} if self.version >= (9, 2) else clause
