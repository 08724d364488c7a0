"""The hashes that tell where a vector comes from, and under which key it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from ..mappings.spec import Embedding
from .base import Encoder, digest


def fingerprint(encoder: Encoder, embedding: Embedding) -> str:
    """Everything that determines the vectors of an embedding except the documents, as 32 hex characters.

    Model content, document prompt, precision and dims (the encoder's `identity`), chunker and source template. Not the
    model's name or path, and not the query prompt: changing that one leaves every stored vector what it is.
    """
    source = embedding.source if isinstance(embedding.source, str) else list(embedding.source)
    chunker = embedding.chunk.model_dump(mode="json") if embedding.chunk else None
    return digest("fingerprint", encoder.identity, source, chunker)


def input_hash(rendered: str) -> str:
    """The hash of a rendered input: BLAKE2b-128 of its UTF-8, 32 hex characters."""
    return blake2b(_utf8(rendered), digest_size=16).hexdigest()


def cache_key(encoder: Encoder, text: str) -> bytes:
    """The key of one document text's vector, 16 bytes: the same for every index, field and chunker with this text."""
    return blake2b(_utf8(text), digest_size=16, key=encoder.identity.encode()).digest()


def query_keys(encoder: Encoder, prompt: str | None, texts: Sequence[str]) -> list[bytes]:
    """The keys of query texts' vectors, 16 bytes each; `prompt` is the query prompt, None the model's own."""
    made_by = digest("query", encoder.identity, prompt).encode()
    return [blake2b(_utf8(text), digest_size=16, key=made_by).digest() for text in texts]


def _utf8(text: str) -> bytes:
    # Lone surrogates are no text, but must not stop us from naming one.
    return text.encode("utf-8", "surrogatepass")
