"""The dialect of Elasticsearch 8.12 and later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .dialect import Dialect, Product, VectorField
from .wire import Request, path_of

_SIMILARITY = {
    "cosine": "cosine",
    "dot_product": "dot_product",
    "l2": "l2_norm",
    "max_inner_product": "max_inner_product",
}
# (index, quantization) -> (index_options.type, first version that has it)
_TYPES: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {
    ("hnsw", "none"): ("hnsw", (8, 0)),
    ("hnsw", "int8"): ("int8_hnsw", (8, 12)),
    ("hnsw", "int4"): ("int4_hnsw", (8, 15)),
    ("hnsw", "binary"): ("bbq_hnsw", (8, 16)),
    ("flat", "none"): ("flat", (8, 13)),
    ("flat", "int8"): ("int8_flat", (8, 13)),
    ("flat", "int4"): ("int4_flat", (8, 15)),
    ("flat", "binary"): ("bbq_flat", (8, 16)),
    ("disk", "binary"): ("bbq_disk", (9, 2)),
}
# The server's own, written out because it came with 8.19 and 9.1.
_OVERSAMPLE_OF_BINARY = 3.0
_LEAST_DIMS_OF_BINARY = 64
# Without sequence numbers nothing can be written under a condition, and no change can be found.
_MODES_WITHOUT_NUMBERS = ("time_series", "columnar")


class Elasticsearch(Dialect):
    """Elasticsearch, from 8.12 on, with any licence."""

    product: ClassVar[Product] = "elasticsearch"
    title: ClassVar[str] = "Elasticsearch"
    max_dims: ClassVar[int] = 4096
    least_candidates: ClassVar[int] = 200
    rescores_since: ClassVar[tuple[int, ...]] = (8, 18)
    # 8.x and 9.x servers both answer to 8; 9 is refused by 8.x.
    media_type: ClassVar[str] = "application/vnd.elasticsearch+{}; compatible-with=8"

    def vector_field(self, vector: VectorField) -> dict[str, Any]:
        """A `dense_vector` with explicit `index_options`: their defaults changed in 8.14 and in 9.1."""
        self.check_dims(vector)
        if vector.library not in (None, "lucene"):
            raise self.decline(f"engine {vector.library}", "it has Lucene and no other", "leave `engine` out")
        if vector.element_type == "bfloat16":
            self.require((9, 3), "element_type bfloat16", "it", "use element_type: float, and quantization: int8")
        return {
            "type": "dense_vector",
            "element_type": vector.element_type,
            "dims": vector.dims,
            "index": True,
            "similarity": _SIMILARITY[vector.similarity],
            "index_options": self._index_options(vector),
        }

    def _index_options(self, vector: VectorField) -> dict[str, Any]:
        options: dict[str, Any] = {"type": self._type(vector)}
        if vector.index == "hnsw":
            options |= {"m": vector.m, "ef_construction": vector.ef_construction}
        elif vector.index == "disk":
            options |= {"cluster_size": 384, "default_visit_percentage": 0.0}
        rescored = self.version >= (9, 1) or (8, 19) <= self.version < (9, 0)
        if vector.oversample is not None and not rescored:
            raise self.decline(
                "oversample in a mapping", "rescore_vector came with 8.19 and 9.1", "leave `oversample` out"
            )
        oversample = vector.oversample
        if oversample is None and vector.quantization == "binary" and rescored:
            oversample = _OVERSAMPLE_OF_BINARY
        if oversample is not None:
            options["rescore_vector"] = {"oversample": float(oversample)}
        return options | dict(vector.options)

    def _type(self, vector: VectorField) -> str:
        """The `index_options.type`. Raises UnsupportedByEngine where there is none for this version or these dims."""
        what = f"quantization {vector.quantization}" if vector.index == "hnsw" else f"index {vector.index}"
        if vector.quantization == "fp16":
            way_out = "use element_type: bfloat16" if self.version >= (9, 3) else "use quantization: int8"
            raise self.decline("quantization fp16", "it has no such type", way_out)
        if (vector.index, vector.quantization) not in _TYPES:
            raise self.decline(
                f"index disk with quantization {vector.quantization}", "bbq_disk is binary", "use quantization: binary"
            )
        name, since = _TYPES[vector.index, vector.quantization]
        way_out = "use quantization: int8 or none" if vector.index == "hnsw" else "use index: hnsw"
        self.require(since, what, name, way_out)
        if vector.quantization == "int4" and vector.dims % 2:
            raise self.decline(f"{name} of {vector.dims} dims", "it packs dims in pairs", "use quantization: int8")
        if vector.quantization == "binary" and vector.index != "disk" and vector.dims < _LEAST_DIMS_OF_BINARY:
            raise self.decline(
                f"{name} of {vector.dims} dims", f"it takes {_LEAST_DIMS_OF_BINARY} or more", "use quantization: int8"
            )
        return name

    def index_settings(self) -> dict[str, Any]:
        """None: `dense_vector` needs no setting."""
        return {}

    def open_pit(self, index: str, keep: str) -> Request:
        """The same."""
        return Request("POST", path_of(index, "_pit"), {"keep_alive": keep})

    def pit_of(self, opened: Mapping[str, Any]) -> str:
        """The same."""
        return str(opened["id"])

    def close_pit(self, pit: str) -> Request:
        """The same; closed already is closed."""
        return Request("DELETE", "/_pit", body={"id": pit}, allow=frozenset({404}))

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Declines modes without sequence numbers: writes and the change feed rest on them."""
        mode = settings.get("index.mode")
        without = str(settings.get("index.disable_sequence_numbers", False)).lower() == "true"
        if mode in _MODES_WITHOUT_NUMBERS or without:
            raise self.decline(
                f"index.mode {mode}" if mode in _MODES_WITHOUT_NUMBERS else "index.disable_sequence_numbers",
                "such an index has no sequence numbers, by which changes are found and updates are safe",
                "leave the setting out",
            )

    def check_mapping(self, mapping: Mapping[str, Any]) -> None:
        """Declines the values of `dynamic` that OpenSearch alone has."""
        if str(mapping.get("dynamic", "")).endswith("_allow_templates"):
            raise self.decline(f"dynamic {mapping['dynamic']}", "OpenSearch alone has it", "use dynamic: strict")

    def source_with_vectors(self, includes: list[str]) -> dict[str, Any]:
        """From 9.2 on vectors are left out of `_source` unless asked for."""
        clause: dict[str, Any] = {"includes": includes}
        return clause | {"exclude_vectors": False} if self.version >= (9, 2) else clause

    def whole_source(self, excludes: list[str]) -> dict[str, Any]:
        """The same."""
        clause: dict[str, Any] = {"excludes": excludes}
        return clause | {"exclude_vectors": False} if self.version >= (9, 2) else clause

    def get_with_vectors(self) -> dict[str, str]:
        """The same."""
        return {"_source_exclude_vectors": "false"} if self.version >= (9, 2) else {}
