"""What vectors cost on disk and in memory, on paper: for each way of keeping them that an engine has.

Both engines keep vectors in Lucene's files, and the formulas are those of its formats (Lucene's docs of
`Lucene99HnswVectorsFormat` and of the scalar and binary quantized formats), which Elastic's page "Tune approximate kNN
search" and OpenSearch's "k-NN index" give in a coarser form:

    raw        .vec       element bytes * dims; kept whatever the quantization, to merge and to compare again
    quantized  .veq .veb  int8: dims + c, int4: dims / 2 + c, binary: dims / 8 + 14; c is 4 bytes of correction, 16
                          with the optimized quantizer of Elasticsearch 9.3 and later
               .clivf     index disk: twice dims / 8 + 16, for a vector near a border is in two clusters; and for
               .cenivf    each 384 vectors a centroid of 5 * dims + 14
    graph      .vex       for each vector its neighbours as differences of ascending numbers, a vint each, and where
                          the list begins. Of 2m neighbours Lucene's diversity check leaves 13 to 17 with embeddings of
                          texts, whether m is 8 or 32, and nearly all of 32 with synthetic clusters
    source     .fdt       the vector once more as text in `_source`, before Elasticsearch 9.2 and OpenSearch 3.0

`benchmarks/sizes.py` measures all of them on real servers; the constants below are from its runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..engines import Dialect, VectorField
from ..errors import UnsupportedByEngine

_SEGMENT = 5 << 30
_ELEMENT = {"float": 4, "bfloat16": 2}
# Neighbours that are left of 2m: between what embeddings of texts keep and what synthetic clusters do.
_KEPT, _MOST = 0.85, 22.0
# `_source` as JSON: a number of float32 takes 12.2 characters, of which LZ4 leaves 8.5 bytes.
_TEXT = 8.5
# What knnex notes of a vector: fingerprint, and a hash of the text that no two documents share.
PROVENANCE_BYTES = 105
# Structure and quantization, in the order in which they are told.
_LEVELS = [(index, level) for index in ("hnsw", "flat", "disk") for level in ("none", "fp16", "int8", "int4", "binary")]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that `vectors` vectors take, replicas not among them."""

    index: str
    quantization: str
    vectors: int
    raw: int
    quantized: int
    graph: int
    source: int
    provenance: int

    @property
    def name(self) -> str:
        """`int8`, or `binary flat`."""
        return self.quantization if self.index == "hnsw" else f"{self.quantization} {self.index}"

    @property
    def disk(self) -> int:
        """All of it."""
        return self.raw + self.quantized + self.graph + self.source + self.provenance

    @property
    def memory(self) -> int:
        """What every search walks, and what should therefore be in the page cache: graph and quantized vectors.

        The vectors as they were are read for the few that are compared again. Of an index on disk Elastic's page finds
        1 to 5 % enough; these are 5.
        """
        walked = self.quantized or self.raw
        return walked // 20 if self.index == "disk" else walked + self.graph

    def times(self, copies: int) -> Footprint:
        """The same for a primary with its replicas."""
        sizes = ("raw", "quantized", "graph", "source", "provenance")
        return replace(self, **{name: getattr(self, name) * copies for name in sizes})

    def row(self) -> dict[str, Any]:
        """For scripts."""
        return {"level": self.name, **asdict(self), "disk": self.disk, "memory": self.memory}


def footprint(vectors: int, field: VectorField, dialect: Dialect, *, shards: int = 1) -> Footprint:
    """What `vectors` vectors of one field take once they are merged; engines merge to segments of 5 GiB at most."""
    faiss = field.library == "faiss"
    raw = _ELEMENT[field.element_type] * field.dims
    graph = 0.0
    if field.index == "hnsw":
        # faiss: the formula of OpenSearch's page; it keeps the links uncompressed.
        segments = max(shards, math.ceil(vectors * raw / _SEGMENT))
        graph = 1.1 * 8 * field.m if faiss else links(max(1, vectors // segments), field.m)
    quantized = _faiss(field) if faiss else _quantized(field, dialect)
    return Footprint(
        index=field.index,
        quantization=field.quantization,
        vectors=vectors,
        raw=vectors * raw,
        quantized=round(vectors * quantized),
        graph=round(vectors * graph),
        source=round(vectors * _TEXT * field.dims) if vectors_in_source(dialect) else 0,
        provenance=vectors * PROVENANCE_BYTES,
    )


def links(vectors: int, m: int) -> float:
    """Bytes of the graph for each vector of a segment.

    The gap between two neighbours of a node is exponentially distributed with mean vectors / neighbours; a vint takes a
    byte for each 7 bits of it. A share of 1 / m of the nodes is on the level above, with m links at most, and so on.
    """
    neighbours = min(2 * m * _KEPT, _MOST, vectors - 1)
    if neighbours <= 0:
        return 0.0
    gap = vectors / neighbours
    each = 1 + sum(math.exp(-(1 << bits) / gap) for bits in (7, 14, 21, 28))
    upper = 1 / (m - 1) * (min(m * _KEPT, _MOST) * each + 4)
    offset = max(1.0, math.log2(max(2.0, neighbours * each)) / 2) / 2
    return neighbours * each + 1 + upper + offset


def _quantized(field: VectorField, dialect: Dialect) -> float:
    if field.quantization == "none":
        return 0
    if field.index == "disk":
        return 2 * (field.dims / 8 + 16) + (5 * field.dims + 14) / 384
    if field.quantization == "binary":
        return field.dims / 8 + 14
    corrections = 16 if dialect.product == "elasticsearch" and dialect.version >= (9, 3) else 4
    return corrections + (field.dims if field.quantization == "int8" else math.ceil(field.dims / 2))


def _faiss(field: VectorField) -> float:
    """faiss keeps vectors of its own beside Lucene's; from OpenSearch's page, not measured here."""
    return 1.1 * field.dims * {"none": 4, "fp16": 2, "int4": 1 / 2, "binary": 1 / 8}[field.quantization]


def vectors_in_source(dialect: Dialect) -> bool:
    """Whether `_source` holds the vector once more."""
    since = {"elasticsearch": (9, 2), "opensearch": (3, 0)}
    return dialect.version < since[dialect.product]


def levels(vectors: int, field: VectorField, dialect: Dialect, *, shards: int = 1) -> Iterator[Footprint]:
    """The same vectors in every way that the engine can keep them."""
    for index, quantization in _LEVELS:
        one = replace(field, index=index, quantization=quantization, oversample=None, options={})
        try:
            dialect.vector_field(one)
        except UnsupportedByEngine:
            continue
        yield footprint(vectors, one, dialect, shards=shards)
