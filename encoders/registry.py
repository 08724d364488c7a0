"""From a spec's embedding to its encoder, loaded once per process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import ModelMismatch, SpecError
from ..mappings import Embedding, Resolved, Spec, Stored
from .base import Encoder
from .fingerprint import fingerprint


def _text(embedding: Embedding) -> Encoder:
    from .text import TextEncoder

    return TextEncoder(
        embedding.encoder, query_prompt=embedding.query_prompt, document_prompt=embedding.document_prompt
    )


#: The kinds of encoders; each turns an embedding's declaration into an encoder.
KINDS: dict[str, Callable[[Embedding], Encoder]] = {"text": _text}

_loaded: dict[tuple[str, str, str | None, str | None], Encoder] = {}
_lock = threading.Lock()


def load_encoder(embedding: Embedding, kind: str = "text") -> Encoder:
    """The encoder that an embedding names; embeddings of one model share its weights. May be called from any thread.

    Raises SpecError when kind or dims do not fit, and what the kind of encoder raises when it cannot be loaded.
    """
    if kind not in KINDS:
        raise SpecError(f"there is no encoder of kind {kind!r}", hint=f"the kinds are {', '.join(sorted(KINDS))}")
    key = (kind, embedding.encoder, embedding.query_prompt, embedding.document_prompt)
    with _lock:
        encoder = _loaded.get(key) or _loaded.setdefault(key, KINDS[kind](embedding))
    if embedding.dims not in (None, encoder.dims):
        raise SpecError(
            f"the spec says dims {embedding.dims}, but {embedding.encoder} gives {encoder.dims}",
            hint=f"leave dims out, or say {encoder.dims}",
        )
    return encoder


def resolve(spec: Spec) -> dict[str, Resolved]:
    """What the encoders of a spec make: width and fingerprint of each embedding. Raises ModelUnavailable, SpecError."""
    encoders = {name: load_encoder(embedding) for name, embedding in spec.embeddings.items()}
    return {
        name: Resolved(encoder.dims, fingerprint(encoder, spec.embeddings[name])) for name, encoder in encoders.items()
    }


def load_matching(stored: Stored, name: str) -> Encoder:
    """The encoder of an embedding, which must be the one that filled the index. Raises ModelMismatch naming both."""
    embedding = stored.spec.embeddings[name]
    encoder = load_encoder(embedding)
    ours, theirs = fingerprint(encoder, embedding), stored.resolved[name].fingerprint
    if ours != theirs:
        raise ModelMismatch(
            f"{stored.spec.index}.{name} was filled under fingerprint {theirs}; {embedding.encoder} here has {ours}",
            hint="give this process the model that filled the index (KNNEX_MODELS), or fill it again with this one",
        )
    return encoder
