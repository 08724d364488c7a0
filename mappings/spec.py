"""The spec: what a user declares for one index, as frozen pydantic models."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from .embedding import Chunking, Embedding, Hnsw, Misplaced, Model, Quantization, Similarity

__all__ = [
    "PROVENANCE",
    "Chunking",
    "Embedding",
    "Hnsw",
    "Join",
    "LookupJoin",
    "Misplaced",
    "Model",
    "NestedJoin",
    "ParentJoin",
    "Quantization",
    "Similarity",
    "SourceField",
    "Spec",
    "close",
]

#: The object field in which knnex keeps a document's version and where its vectors come from.
PROVENANCE = "_knnex"

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,200}")
_DYNAMIC = ("true", "false", "strict", "runtime", "strict_allow_templates", "false_allow_templates")
#: What a mapping has beside its properties; names with an underscore are the engine's metadata fields.
_MAPPING = (
    "dynamic",
    "dynamic_templates",
    "dynamic_date_formats",
    "date_detection",
    "numeric_detection",
    "runtime",
    "subobjects",
    "_routing",
    "_source",
)
_OWN_PARTS = {"properties": "`fields`, `embeddings` and `joins` say them", "_meta": "knnex keeps the spec there"}


class SourceField(BaseModel):
    """One field of the document; options beyond `type` are passed to the mapping as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)
    type: str = Field(min_length=1, description="The engine's type: text, keyword, integer, date, ...")

    def mapping(self) -> dict[str, Any]:
        """The field as the engine's mapping has it."""
        return self.model_dump(exclude_none=True)


class ParentJoin(Model):
    """Parent and child documents in one index, on one shard; needs the engine's join module."""

    kind: Literal["parent"]
    children: tuple[str, ...] = Field(min_length=1, description="What the documents below it are called.")
    field: str = Field(
        default="relation",
        description='The join field, which a document sets to "studio", or to {"name": "movie", "parent": ID}.',
    )


class NestedJoin(Model):
    """Objects inside the document that are searched one by one."""

    kind: Literal["nested"]
    fields: dict[str, SourceField] = Field(description="The fields of such an object.")


class LookupJoin(Model):
    """A foreign key: `field` here holds what `key` holds in `index`."""

    kind: Literal["lookup"]
    field: str = Field(description="The field here that names the other document.")
    key: str = Field(description="The field there that is named.")
    index: str | None = Field(default=None, description="The other index. Absent: the same one.")


Join = Annotated[ParentJoin | NestedJoin | LookupJoin, Field(discriminator="kind")]


class Spec(Model):
    """The declaration of one index: fields, embeddings, joins, settings."""

    index: str = Field(description="The name that people search: an alias, behind which are the index versions.")
    id: str = Field(default="id", min_length=1, description="The field whose value is a document's id.")
    version: str | None = Field(
        default=None,
        description="The field with the producer's own monotone version (1 to 2^62); absent, the log's order decides.",
    )
    fields: dict[str, SourceField] = Field(description="The fields that are searched, filtered or highlighted.")
    embeddings: dict[str, Embedding] = Field(default_factory=dict, description="The vectors, by their names.")
    joins: dict[str, Join] = Field(default_factory=dict, description="How documents join, by the names of the joins.")
    settings: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Index settings, passed on: number_of_shards, number_of_replicas, refresh_interval, analysis, ...",
    )
    mapping: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="What the mapping has beside its properties, passed on: dynamic, dynamic_templates, _routing, ...",
    )

    @field_validator("index")
    @classmethod
    def _index_is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no index name: lower-case letters, digits, '_', '-' and '.', letter or digit first"
            )
        return name

    @field_validator("settings", "mapping")
    @classmethod
    def _is_finite(cls, given: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if any(isinstance(value, float) and not math.isfinite(value) for _, value in _leaves(given)):
            raise ValueError("JSON has no nan and no infinity; write a finite number")
        return given

    @model_validator(mode="after")
    def _names_agree(self) -> Spec:
        self._names_differ()
        for name, embedding in self.embeddings.items():
            for field in embedding.source_fields:
                if field.split(".")[0] not in self.fields and field != self.id:
                    message = (
                        f"embedding {name!r}: source names {field!r}, which is no field{close(field, self.fields)}"
                    )
                    raise Misplaced(("embeddings", name, "source"), message)
        for name, join in self.joins.items():
            if isinstance(join, LookupJoin) and join.field.split(".")[0] not in self.fields:
                message = (
                    f"join {name!r}: field names {join.field!r}, which is no field{close(join.field, self.fields)}"
                )
                raise Misplaced(("joins", name, "field"), message)
        return self

    @model_validator(mode="after")
    def _engine_parts_are_the_engines(self) -> Spec:
        self.index_settings()
        for name, value in self.mapping.items():
            if name in _OWN_PARTS:
                raise Misplaced(("mapping", name), f"{name} is not yours to write: {_OWN_PARTS[name]}")
            if name not in _MAPPING and not name.startswith("_"):
                raise Misplaced(("mapping", name), f"a mapping has no {name!r}{close(name, _MAPPING)}")
            if name == "_source" and value not in ({}, {"enabled": True}):
                message = "what _source leaves out is lost when a document is updated or copied; leave _source out"
                raise Misplaced(("mapping", name), message)
        self._dynamic_is_one()
        return self

    def _dynamic_is_one(self) -> None:
        dynamic = str(self.mapping.get("dynamic", False)).lower()
        if dynamic not in _DYNAMIC:
            message = f"{dynamic!r} is not one of {', '.join(_DYNAMIC)}{close(dynamic, _DYNAMIC)}"
            raise Misplaced(("mapping", "dynamic"), message)
        missing = [name for name in (self.id, self.version) if name and name not in self.fields and name != "_id"]
        if dynamic == "strict" and missing:
            message = (
                f"under dynamic: strict {missing[0]!r} must be declared under `fields`, or every document is refused"
            )
            raise Misplaced(("mapping", "dynamic"), message)

    def _names_differ(self) -> None:
        """Each name of the mapping is one thing; a document's own key never gives way to a vector."""
        owner = {PROVENANCE: "what knnex keeps"}
        named = [("field", name) for name in self.fields]
        named += [("embedding", name) for name in self.embeddings]
        named += [("join", name) for name, join in self.joins.items() if join.kind == "nested"]
        fields = {join.field: name for name, join in self.parents().items()}
        named += [("join field", name) for name in fields if getattr(self.fields.get(name), "type", "") != "join"]
        for kind, name in named:
            path = ("joins", fields[name], "field") if kind == "join field" else (f"{kind}s", name)
            if not name:
                raise Misplaced(path, f"a name is empty; give the {kind} one")
            if kind != "field" and name in (self.id, self.version):
                raise Misplaced(path, f"{kind} {name!r} has the name of the document's id or version")
            if name in owner:
                raise Misplaced(path, f"{kind} {name!r} has the name of {owner[name]}")
            owner[name] = f"{'an' if kind == 'embedding' else 'a'} {kind}"

    def parents(self) -> dict[str, ParentJoin]:
        """The parent/child joins by the name of the parent."""
        return {name: join for name, join in self.joins.items() if isinstance(join, ParentJoin)}

    def vector_path(self, name: str) -> str:
        """Where the vector of embedding `name` lies in the mapping: in its chunks, if it has any."""
        return f"{name}.vector" if self.embeddings[name].chunk else name

    def index_settings(self) -> dict[str, Any]:
        """The settings by their full names, `index.number_of_shards`, as engines tell them with `flat_settings`."""
        found: dict[str, Any] = {}
        for path, value in _leaves(self.settings):
            name = path if path.startswith("index.") else f"index.{path}"
            if name in found:
                raise Misplaced(("settings",), f"{name} is there twice, in two ways of writing it")
            found[name] = value
        return found


def _leaves(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def close(name: str, known: Any) -> str:
    """`, did you mean 'title'?`, or nothing."""
    found = get_close_matches(str(name), [str(one) for one in known], n=1)
    return f", did you mean {found[0]!r}?" if found else ""
