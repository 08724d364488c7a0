"""What differs between engines and versions, below the query: names, mappings, what may be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..errors import UnsupportedByEngine
from .wire import Request

Product = Literal["elasticsearch", "opensearch"]


@dataclass(frozen=True, slots=True)
class VectorField:
    """A vector of the mapping, every option of the spec decided; `m` and `ef_construction` count for a graph only."""

    dims: int
    similarity: str
    m: int
    ef_construction: int
    quantization: str
    element_type: str = "float"
    # hnsw: a graph; flat: compared one by one; disk: clusters that are read from disk.
    index: str = "hnsw"
    # How many times k are compared again by the vectors as they were; 0 is none, absent is the engine's default.
    oversample: float | None = None
    # OpenSearch has a choice of them; absent is lucene.
    library: str | None = None
    # The engine's own options, by their own names.
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dialect(ABC):
    """One engine at one version; subclasses say how it writes things down."""

    version: tuple[int, ...]
    # Started by knnex from the package registries, where some parts of a distribution are not to be had.
    embedded: bool = False

    product: ClassVar[Product]
    title: ClassVar[str]
    max_dims: ClassVar[int]
    # Media types are versioned on Elasticsearch only: its 8.x refuses what its 9.x client sends by itself.
    media_type: ClassVar[str]
    #: Candidates of each shard below which too many of the nearest are missed (`make bench-search`).
    least_candidates: ClassVar[int]
    #: The version from which a query may have quantized vectors compared again by the full ones.
    rescores_since: ClassVar[tuple[int, ...]]

    @property
    def rescores(self) -> bool:
        """Whether a query may have quantized vectors compared again by the full ones."""
        return self.version >= self.rescores_since

    def __str__(self) -> str:
        return f"{self.title} {'.'.join(map(str, self.version))}"

    @abstractmethod
    def vector_field(self, vector: VectorField) -> dict[str, Any]:
        """The mapping of a vector, every option written out. Raises UnsupportedByEngine."""

    @abstractmethod
    def index_settings(self) -> dict[str, Any]:
        """Settings of an index with vectors, unless its spec says otherwise."""

    def source_with_vectors(self, includes: list[str]) -> dict[str, Any]:
        """The `_source` clause that returns `includes`, vectors among them."""
        return {"includes": includes}

    def whole_source(self, excludes: list[str]) -> dict[str, Any]:
        """The `_source` clause that returns all but `excludes`, vectors among it."""
        return {"excludes": excludes}

    def get_with_vectors(self) -> dict[str, str]:
        """The parameters of a get that returns vectors too."""
        return {}

    @abstractmethod
    def open_pit(self, index: str, keep: str) -> Request:
        """The request that opens a point in time, at which an index is read as it is now."""

    @abstractmethod
    def pit_of(self, opened: Mapping[str, Any]) -> str:
        """The id of a point in time from the answer."""

    @abstractmethod
    def close_pit(self, pit: str) -> Request:
        """The request that closes a point in time."""

    @abstractmethod
    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raises UnsupportedByEngine for index settings under which knnex cannot work; names are `index.knn`, flat."""

    @abstractmethod
    def check_mapping(self, mapping: Mapping[str, Any]) -> None:
        """Raises UnsupportedByEngine for what the engine's mapping, beside its properties, does not have."""

    def check_dims(self, vector: VectorField) -> None:
        """Raises UnsupportedByEngine for more dims than the engine takes."""
        if vector.dims > self.max_dims:
            raise UnsupportedByEngine(
                f"{self} takes at most {self.max_dims} dims, not {vector.dims}",
                hint="choose an encoder of fewer dims",
            )

    def require(self, since: tuple[int, ...], what: str, name: str, way_out: str) -> None:
        """Raises UnsupportedByEngine before version `since`, with which the engine got `name`."""
        if self.version < since:
            raise self.decline(what, f"{name} came with {'.'.join(map(str, since))}", way_out)

    def decline(self, what: str, reason: str, way_out: str) -> UnsupportedByEngine:
        """The error that says what cannot be done here, why, and what to do instead."""
        return UnsupportedByEngine(f"{self} cannot run {what}: {reason}", hint=way_out)
