"""The spec: what a user declares for one index, as frozen pydantic models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: The object field in which knnex keeps a document's version and where its vectors come from.
PROVENANCE = "_knnex"

Similarity = Literal["cosine", "dot_product", "l2"]
Quantization = Literal["none", "int8", "int4", "binary"]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,200}")


class Model(BaseModel):
    """Frozen, and strict about names, so that a typo is an error and never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceField(BaseModel):
    """One field of the document; options beyond `type` are passed to the mapping as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")
    type: str = Field(min_length=1)

    def mapping(self) -> dict[str, Any]:
        """The field as the engine's mapping has it."""
        return self.model_dump(exclude_none=True)


class Hnsw(Model):
    """The graph: `m` links a node, `ef_construction` candidates while it is built (Malkov and Yashunin, 2016)."""

    m: int = Field(default=16, ge=2, le=512)
    ef_construction: int = Field(default=100, ge=1, le=3200)


class Chunking(Model):
    """How a long text is cut into passages; lengths are in tokens of the encoder."""

    unit: Literal["tokens", "sentence", "paragraph"] = "paragraph"
    max_tokens: int = Field(default=256, ge=8, le=8192)
    overlap: int = Field(default=32, ge=0)

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Chunking:
        if self.overlap * 2 > self.max_tokens:
            raise ValueError(f"overlap {self.overlap} is more than half of max_tokens {self.max_tokens}")
        return self


class Embedding(Model):
    """One vector of the index: from which fields, by which encoder, and how it is searched."""

    source: str | tuple[str, ...]
    encoder: str = Field(min_length=1)
    query_prompt: str | None = None
    document_prompt: str | None = None
    # Absent: one vector for the whole document; its text is cut at the encoder's limit.
    chunk: Chunking | None = None
    similarity: Similarity = "cosine"
    # Absent: asked of the encoder. Given: the encoder must agree.
    dims: int | None = Field(default=None, ge=1, le=16_000)
    hnsw: Hnsw = Hnsw()
    quantization: Quantization = "none"

    @field_validator("source")
    @classmethod
    def _source_names_fields(cls, source: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not (_PLACEHOLDER.findall(source) if isinstance(source, str) else source):
            raise ValueError(f"source {source!r} names no field; write '{{title}}. {{body}}' or [title, body]")
        return source

    @property
    def source_fields(self) -> tuple[str, ...]:
        """The document's fields that determine the vector, in the order they are named."""
        names = _PLACEHOLDER.findall(self.source) if isinstance(self.source, str) else self.source
        return tuple(dict.fromkeys(names))


class ParentJoin(Model):
    """Parent and child documents in one index, on one shard; needs the engine's join module."""

    kind: Literal["parent"]
    children: tuple[str, ...] = Field(min_length=1)
    # The join field, which a document sets to "studio", or to {"name": "movie", "parent": ID}.
    field: str = "relation"


class NestedJoin(Model):
    """Objects inside the document that are searched one by one."""

    kind: Literal["nested"]
    fields: dict[str, SourceField]


class LookupJoin(Model):
    """A foreign key: `field` here holds what `key` holds in `index` (the same index, when absent)."""

    kind: Literal["lookup"]
    field: str
    key: str
    index: str | None = None


Join = Annotated[ParentJoin | NestedJoin | LookupJoin, Field(discriminator="kind")]


class Spec(Model):
    """The declaration of one index: fields, embeddings, joins, settings."""

    index: str
    # The field whose value is a document's id.
    id: str = Field(default="id", min_length=1)
    # The field with the producer's own monotone version (1 to 2^62); absent, the log's order decides.
    version: str | None = None
    fields: dict[str, SourceField]
    embeddings: dict[str, Embedding] = Field(default_factory=dict)
    joins: dict[str, Join] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("index")
    @classmethod
    def _index_is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no index name: lower-case letters, digits, '_', '-' and '.', letter or digit first"
            )
        return name

    @model_validator(mode="after")
    def _names_agree(self) -> Spec:
        self._names_differ()
        for name, embedding in self.embeddings.items():
            for field in embedding.source_fields:
                if field.split(".")[0] not in self.fields and field != self.id:
                    raise ValueError(f"embedding {name!r}: source names {field!r}, which is no field")
        for name, join in self.joins.items():
            if isinstance(join, LookupJoin) and join.field.split(".")[0] not in self.fields:
                raise ValueError(f"join {name!r}: field names {join.field!r}, which is no field")
        return self

    def _names_differ(self) -> None:
        """Each name of the mapping is one thing; a document's own key never gives way to a vector."""
        owner = {PROVENANCE: "what knnex keeps"}
        named = [("field", name) for name in self.fields]
        named += [("embedding", name) for name in self.embeddings]
        named += [("join", name) for name, join in self.joins.items() if join.kind == "nested"]
        fields = {join.field for join in self.parents().values()}
        named += [("join field", name) for name in fields if getattr(self.fields.get(name), "type", "") != "join"]
        for kind, name in named:
            if not name:
                raise ValueError(f"a name is empty; give the {kind} one")
            if kind != "field" and name in (self.id, self.version):
                raise ValueError(f"{kind} {name!r} has the name of the document's id or version")
            if name in owner:
                raise ValueError(f"{kind} {name!r} has the name of {owner[name]}")
            owner[name] = f"{'an' if kind == 'embedding' else 'a'} {kind}"

    def parents(self) -> dict[str, ParentJoin]:
        """The parent/child joins by the name of the parent."""
        return {name: join for name, join in self.joins.items() if isinstance(join, ParentJoin)}

    def vector_path(self, name: str) -> str:
        """Where the vector of embedding `name` lies in the mapping: in its chunks, if it has any."""
        return f"{name}.vector" if self.embeddings[name].chunk else name
