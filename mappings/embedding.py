"""One embedding of a spec: what makes the vector, and how the engine searches it. Frozen pydantic models."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

Kind = Literal["text", "image"]
Similarity = Literal["cosine", "dot_product", "l2", "max_inner_product"]
Quantization = Literal["none", "fp16", "int8", "int4", "binary"]
ElementType = Literal["float", "bfloat16"]
Structure = Literal["hnsw", "flat", "disk"]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
#: Options of an engine that the spec says in words of its own.
_OWN_OPTIONS = {
    "type": "index and quantization",
    "m": "hnsw",
    "ef_construction": "hnsw",
    "rescore_vector": "oversample",
    "encoder": "quantization",
}
_OF_INTEGERS = {"byte": "int8", "bit": "binary", "binary": "binary"}


class Model(BaseModel):
    """Frozen, and strict about names, so that a typo is an error and never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Misplaced(ValueError):
    """What is wrong with one key, found where several are compared; `path` leads to it."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        self.path = path
        super().__init__(message)


class Hnsw(Model):
    """The graph (Malkov and Yashunin, 2016)."""

    m: int = Field(default=16, ge=2, le=512, description="Links of a node: more find better, and take more memory.")
    ef_construction: int = Field(
        default=100, ge=2, le=3200, description="Candidates looked at for each link while the graph is built."
    )


class Chunking(Model):
    """How a long text is cut into passages; lengths are in tokens of the encoder."""

    unit: Literal["tokens", "sentence", "paragraph"] = Field(
        default="paragraph", description="What is kept whole as far as it fits."
    )
    max_tokens: int = Field(default=256, ge=8, le=8192, description="Tokens of a passage at most.")
    overlap: int = Field(default=32, ge=0, description="Tokens that a passage repeats of the one before it.")

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> Chunking:
        if self.overlap * 2 > self.max_tokens:
            raise ValueError(f"overlap {self.overlap} is more than half of max_tokens {self.max_tokens}")
        return self


class Embedding(Model):
    """One vector of the index: from which fields, by which encoder, and how it is searched."""

    source: str | tuple[str, ...] = Field(
        description="What is encoded: a template, '{title}. {plot}', or a list of fields, [title, plot]."
    )
    kind: Kind = Field(
        default="text",
        description="What the source is: text, or a reference to a picture (a path, a URL, or the picture in base64).",
    )
    encoder: str = Field(min_length=1, description="The model: a name or a directory.")
    query_prompt: str | None = Field(default=None, description="Put before the text of a query.")
    document_prompt: str | None = Field(default=None, description="Put before the text of a document.")
    chunk: Chunking | None = Field(
        default=None,
        description="How the text is cut into passages, each with a vector; absent: one vector for the whole "
        "document, whose text is cut at the encoder's limit.",
    )
    similarity: Similarity = Field(
        default="cosine", description="How two vectors are compared. dot_product makes them of unit length first."
    )
    dims: int | None = Field(
        default=None,
        ge=1,
        le=16_000,
        description="The vector's width. Absent: asked of the encoder. Given: the encoder must agree.",
    )
    element_type: ElementType = Field(
        default="float",
        description="What the engine keeps of each number: float (4 bytes), or bfloat16 (2 bytes, Elasticsearch from "
        "9.3 on), to which it rounds the encoder's floats.",
    )
    index: Structure = Field(
        default="hnsw",
        description="How neighbours are found: hnsw (a graph), flat (all are compared: exact, for small indexes) or "
        "disk (clusters read from disk, Elasticsearch from 9.2 on with an Enterprise licence).",
    )
    hnsw: Hnsw = Field(default=Hnsw(), description="The graph's options.")
    quantization: Quantization = Field(
        default="none", description="To what the engine compresses vectors for searching; docs/spec.md has the table."
    )
    oversample: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="How many times k neighbours are compared again by uncompressed vectors: 1 to 10, or 0 for none. "
        "Absent: 3 for binary on Elasticsearch, else none.",
    )
    engine: Literal["lucene", "faiss"] | None = Field(
        default=None, description="The library that OpenSearch searches with. Absent: lucene."
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="The engine's own further options, passed on as they are: to index_options on Elasticsearch, to "
        "method.parameters on OpenSearch.",
    )

    @field_validator("source")
    @classmethod
    def _source_names_fields(cls, source: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not (_PLACEHOLDER.findall(source) if isinstance(source, str) else source):
            raise ValueError(f"source {source!r} names no field; write '{{title}}. {{body}}' or [title, body]")
        return source

    @field_validator("element_type", mode="before")
    @classmethod
    def _elements_are_what_encoders_make(cls, given: Any) -> Any:
        if isinstance(given, str) and given in _OF_INTEGERS:
            way_out = f"write quantization: {_OF_INTEGERS[given]}"
            raise ValueError(f"{given} is for vectors of integers, and encoders make floats; {way_out}")
        return given

    @field_validator("options")
    @classmethod
    def _options_are_the_engines_own(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in options:
            if name in _OWN_OPTIONS:
                raise ValueError(f"{name} is said by {_OWN_OPTIONS[name]}")
        return options

    @model_validator(mode="after")
    def _options_agree(self) -> Embedding:
        if self.index != "hnsw" and self.hnsw != Hnsw():
            raise Misplaced(("hnsw",), f"index {self.index} has no graph; leave hnsw out")
        if self.index == "disk" and self.quantization != "binary":
            raise Misplaced(("index",), "index disk keeps binary vectors; write quantization: binary")
        if self.oversample is None:
            return self
        if 0 < self.oversample < 1:
            raise Misplaced(("oversample",), f"{self.oversample:g} is less than k itself; write 1 to 10, or 0 for none")
        if self.quantization == "none":
            raise Misplaced(("oversample",), "vectors are not compressed: none needs comparing again; leave it out")
        return self

    @model_validator(mode="after")
    def _a_picture_is_one_field(self) -> Embedding:
        if self.kind != "image":
            return self
        name, *more = self.source_fields
        if more or self.source not in ((name,), f"{{{name}}}"):
            raise Misplaced(("source",), f"a picture is in one field and nothing beside it; write [{name}]")
        if self.chunk is not None:
            raise Misplaced(("chunk",), "a picture has no passages; leave chunk out")
        if self.document_prompt is not None:
            raise Misplaced(("document_prompt",), "nothing is put before a picture; leave document_prompt out")
        return self

    @property
    def source_fields(self) -> tuple[str, ...]:
        """The document's fields that determine the vector, in the order they are named."""
        names = _PLACEHOLDER.findall(self.source) if isinstance(self.source, str) else self.source
        return tuple(dict.fromkeys(names))
