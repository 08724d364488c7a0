"""What differs between engines and versions, below the query: names, mappings, what may be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..errors import UnsupportedByEngine

Product = Literal["elasticsearch", "opensearch"]


@dataclass(frozen=True, slots=True)
class VectorField:
    """A vector of the mapping: `dims` floats, searched by an HNSW graph."""

    dims: int
    similarity: str
    m: int
    ef_construction: int
    quantization: str


@dataclass(frozen=True)
class Dialect(ABC):
    """One engine at one version; subclasses say how it writes things down."""

    version: tuple[int, ...]

    product: ClassVar[Product]
    title: ClassVar[str]
    max_dims: ClassVar[int]
    # Media types are versioned on Elasticsearch only: its 8.x refuses what its 9.x client sends by itself.
    media_type: ClassVar[str]

    def __str__(self) -> str:
        return f"{self.title} {'.'.join(map(str, self.version))}"

    @abstractmethod
    def vector_field(self, vector: VectorField) -> dict[str, Any]:
        """The mapping of a vector, every option written out. Raises UnsupportedByEngine."""

    @abstractmethod
    def index_settings(self) -> dict[str, Any]:
        """Settings an index with vectors must have."""

    def source_with_vectors(self, includes: list[str]) -> dict[str, Any]:
        """The `_source` clause that returns `includes`, vectors among them."""
        return {"includes": includes}

    def check_dims(self, vector: VectorField) -> None:
        """Raises UnsupportedByEngine for more dims than the engine takes."""
        if vector.dims > self.max_dims:
            raise UnsupportedByEngine(
                f"{self} takes at most {self.max_dims} dims, not {vector.dims}",
                hint="choose an encoder of fewer dims",
            )

    def decline(self, what: str, reason: str, way_out: str) -> UnsupportedByEngine:
        """The error that says what cannot be done here, why, and what to do instead."""
        return UnsupportedByEngine(f"{self} cannot run {what}: {reason}", hint=way_out)
