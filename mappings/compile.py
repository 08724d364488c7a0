"""From a spec to the body that creates its index. No I/O: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engines import Dialect, VectorField
from ..errors import SpecMismatch, UnsupportedByEngine
from .spec import PROVENANCE, Embedding, NestedJoin, Spec

#: The key of the mapping's `_meta` under which knnex keeps spec and fingerprints.
META = "knnex"
_FORMAT = 1

#: The filter of the alias: a deleted document stays as a tombstone, so that a late older write cannot revive it.
ALIVE: dict[str, Any] = {"bool": {"must_not": [{"term": {f"{PROVENANCE}.deleted": True}}]}}

#: What the alias of an index is like, by which it is searched and written to.
SEARCHED: dict[str, Any] = {"filter": ALIVE, "is_write_index": True}


@dataclass(frozen=True)
class Resolved:
    """What only the encoder knows of an embedding: its width, and the fingerprint of all that makes a vector."""

    dims: int
    fingerprint: str


def index_body(spec: Spec, dialect: Dialect, resolved: Mapping[str, Resolved]) -> dict[str, Any]:
    """Settings and mapping of a new index version. Raises SpecMismatch, UnsupportedByEngine."""
    properties = {name: field.mapping() for name, field in spec.fields.items()}
    for name, join in spec.joins.items():
        if isinstance(join, NestedJoin):
            inner = {key: field.mapping() for key, field in join.fields.items()}
            properties[name] = {"type": "nested", "properties": inner}
    properties |= _join_fields(spec)
    for name, embedding in spec.embeddings.items():
        properties[name] = _embedding(name, embedding, dialect, resolved[name])
    properties[PROVENANCE] = _provenance(spec)
    settings = spec.index_settings()
    dialect.check_settings(settings)
    dialect.check_mapping(spec.mapping)
    return {
        "settings": dialect.index_settings() | settings,
        "mappings": {
            "dynamic": False,
            **spec.mapping,
            "_meta": {META: meta(spec, resolved)},
            "properties": properties,
        },
    }


def meta(spec: Spec, resolved: Mapping[str, Resolved]) -> dict[str, Any]:
    """What `_meta` keeps: the spec as it was written, and what each vector is made by."""
    return {
        "format": _FORMAT,
        "spec": spec.model_dump(mode="json", exclude_defaults=True) | {"index": spec.index},
        # Engines keep the keys of an object in an order of their own.
        "order": [*spec.fields, *spec.embeddings, *spec.joins],
        "embeddings": {name: {"dims": one.dims, "fingerprint": one.fingerprint} for name, one in resolved.items()},
    }


def vector_of(embedding: Embedding, dims: int) -> VectorField:
    """The vector of an embedding as a dialect takes it, by its encoder's width."""
    return VectorField(
        dims=dims,
        similarity=embedding.similarity,
        m=embedding.hnsw.m,
        ef_construction=embedding.hnsw.ef_construction,
        quantization=embedding.quantization,
        element_type=embedding.element_type,
        index=embedding.index,
        oversample=embedding.oversample,
        library=embedding.engine,
        options=embedding.options,
    )


def _embedding(name: str, embedding: Embedding, dialect: Dialect, resolved: Resolved) -> dict[str, Any]:
    if embedding.dims not in (None, resolved.dims):
        raise SpecMismatch(
            f"embedding {name!r} declares dims {embedding.dims}, but {embedding.encoder} makes {resolved.dims}",
            hint=f"write dims: {resolved.dims}, or leave it out",
        )
    try:
        vector = dialect.vector_field(vector_of(embedding, resolved.dims))
    except UnsupportedByEngine as error:
        raise UnsupportedByEngine(f"embedding {name!r}: {error}", hint=error.hint) from None
    if not embedding.chunk:
        return vector
    offset = {"type": "integer", "index": False}
    text = {"type": "text", "index": False}
    return {"type": "nested", "properties": {"text": text, "start": offset, "end": offset, "vector": vector}}


def _join_fields(spec: Spec) -> dict[str, Any]:
    """One join field holds every parent/child relation of the index: engines allow no second one."""
    joins = spec.parents()
    fields = {join.field for join in joins.values()}
    if len(fields) > 1:
        raise SpecMismatch(
            f"the joins of {spec.index!r} name {len(fields)} join fields; an index can have one",
            hint="give all of them the same `field`",
        )
    relations = {parent: list(join.children) for parent, join in joins.items()}
    return {fields.pop(): {"type": "join", "relations": relations}} if fields else {}


def _provenance(spec: Spec) -> dict[str, Any]:
    keyword = {"type": "keyword"}
    made_by = {"properties": {"fingerprint": keyword, "input_hash": keyword}}
    vectors = {"properties": dict.fromkeys(spec.embeddings, made_by)}
    return {
        "dynamic": False,
        "properties": {"version": {"type": "long"}, "deleted": {"type": "boolean"}, "vectors": vectors},
    }
