"""The dialect of OpenSearch 2.x and 3.x with the k-NN plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .dialect import Dialect, Product, VectorField
from .wire import Request, path_of

# Vectors for dot_product are of unit length, where cosine gives the same order and the same scores as Elasticsearch;
# Lucene's innerproduct scores them on another scale.
_SPACES = {"cosine": "cosinesimil", "dot_product": "cosinesimil", "l2": "l2", "max_inner_product": "innerproduct"}
# faiss, by quantization: (mode, compression_level). On disk, k-NN compares the best again by the vectors as they were.
_COMPRESSED = {"fp16": ("in_memory", "2x"), "int4": ("on_disk", "8x"), "binary": ("on_disk", "32x")}
_NO_LIBRARY = "the embedded distribution has no native library, and its node ends at the first write or search"


class OpenSearch(Dialect):
    """OpenSearch with k-NN: on its lucene engine, which filters inside the graph search, unless faiss is asked for."""

    product: ClassVar[Product] = "opensearch"
    title: ClassVar[str] = "OpenSearch"
    max_dims: ClassVar[int] = 16_000
    least_candidates: ClassVar[int] = 100
    rescores_since: ClassVar[tuple[int, ...]] = (2, 17)
    media_type: ClassVar[str] = "application/{}"

    @staticmethod
    def space_of(similarity: str) -> str:
        """What k-NN calls a metric."""
        return _SPACES[similarity]

    def vector_field(self, vector: VectorField) -> dict[str, Any]:
        """A `knn_vector` with an explicit `method`; the server's defaults are faiss and l2."""
        self._check(vector)
        parameters: dict[str, Any] = {"m": vector.m, "ef_construction": vector.ef_construction}
        faiss = vector.library == "faiss"
        if vector.quantization != "none" and not faiss:
            parameters["encoder"] = self._encoder(vector.quantization)
        field = {
            "type": "knn_vector",
            "data_type": "float",
            "dimension": vector.dims,
            "method": {
                "name": "hnsw",
                "engine": "faiss" if faiss else "lucene",
                "space_type": _SPACES[vector.similarity],
                "parameters": parameters | dict(vector.options),
            },
        }
        return field | self._faiss(vector) if faiss else field

    def _check(self, vector: VectorField) -> None:
        """What neither of its libraries can do."""
        self.check_dims(vector)
        if vector.library != "faiss" and vector.dims > 1024:
            self.require((2, 12), f"{vector.dims} dims", "lucene with more than 1024", "choose fewer dims")
        if vector.similarity == "max_inner_product" and vector.library != "faiss":
            self.require((2, 13), "similarity max_inner_product", "lucene's innerproduct", "use dot_product or cosine")
        if vector.element_type != "float":
            raise self.decline(
                f"element_type {vector.element_type}",
                "knn_vector has float, and integers that no encoder makes",
                "use element_type: float, and quantization to save memory",
            )
        if vector.index == "flat":
            raise self.decline(
                "index flat",
                "its method flat (3.6) compares vectors of 1 bit and is not exact",
                "use index: hnsw; on few documents it finds nearly the same",
            )
        if vector.index == "disk":
            raise self.decline(
                "index disk", "that is Elasticsearch's", "use index: hnsw with engine: faiss and quantization: binary"
            )
        if vector.oversample is not None:
            raise self.decline(
                "oversample in a mapping", "its mapping keeps none; each query names its own", "leave `oversample` out"
            )

    def _faiss(self, vector: VectorField) -> dict[str, Any]:
        """What a faiss field has beside its method."""
        if self.embedded:
            raise self.decline("engine faiss", _NO_LIBRARY, "leave `engine` out, which is lucene")
        if _SPACES[vector.similarity] == "cosinesimil":
            self.require((2, 19), f"similarity {vector.similarity} on faiss", "it", "use engine: lucene")
        if vector.quantization == "none":
            return {}
        if vector.quantization not in _COMPRESSED:
            raise self.decline(
                f"quantization {vector.quantization} on faiss",
                "faiss compresses floats to 16, 4 or 1 bits",
                "use quantization: fp16, int4 or binary, or engine: lucene",
            )
        self.require((2, 17), f"quantization {vector.quantization} on faiss", "compression_level", "use engine: lucene")
        mode, level = _COMPRESSED[vector.quantization]
        return {"mode": mode, "compression_level": level}

    def _encoder(self, quantization: str) -> dict[str, Any]:
        """Lucene's scalar quantizer: 7 bits, or 1."""
        what = f"quantization {quantization}"
        if quantization in ("fp16", "int4"):
            way_out = "use quantization: int8 or none" + ("" if self.embedded else ", or engine: faiss")
            raise self.decline(what, "the lucene engine quantizes to 7 bits or to 1", way_out)
        if quantization == "binary":
            self.require((3, 6), what, "lucene's 1 bit", "use quantization: int8, or engine: faiss")
            if self.embedded:
                raise self.decline(what, _NO_LIBRARY, "use quantization: int8")
            return {"name": "sq", "parameters": {"bits": 1}}
        self.require((2, 16), what, "lucene's sq encoder", "use quantization: none")
        # From 3.6 on `bits` is mandatory; before, 7 is the only width and must be the default.
        return {"name": "sq", "parameters": {"bits": 7}} if self.version >= (3, 6) else {"name": "sq"}

    def index_settings(self) -> dict[str, Any]:
        """`index.knn`, without which no vector method is accepted; it cannot be added later. And no merging while what
        was written is made visible, which waits for new graphs, seconds sometimes: they are merged in the background.
        """
        return {"index.knn": True} | ({"index.merge_on_flush.enabled": False} if self.version >= (2, 1) else {})

    def open_pit(self, index: str, keep: str) -> Request:
        """The same."""
        return Request("POST", path_of(index, "_search", "point_in_time"), {"keep_alive": keep})

    def pit_of(self, opened: Mapping[str, Any]) -> str:
        """The same."""
        return str(opened["pit_id"])

    def close_pit(self, pit: str) -> Request:
        """The same; closed already is closed."""
        return Request("DELETE", "/_search/point_in_time", body={"pit_id": [pit]}, allow=frozenset({404}))

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Declines an index without k-NN."""
        if str(settings.get("index.knn", True)).lower() != "true":
            raise self.decline("an index with index.knn off", "no vector method is accepted there", "leave it out")

    def check_mapping(self, mapping: Mapping[str, Any]) -> None:
        """Declines runtime fields, which Elasticsearch alone has."""
        if "runtime" in mapping or mapping.get("dynamic") == "runtime":
            raise self.decline("runtime fields", "Elasticsearch alone has them", "declare the fields, or dynamic: true")
