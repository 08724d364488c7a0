"""From a spec's embedding to its encoder, loaded once per process."""

from __future__ import annotations

import threading
from typing import Protocol

from ..errors import ModelMismatch, SpecError
from ..mappings import Embedding, Resolved, Spec, Stored
from ..mappings.embedding import Kind
from ..settings import settings
from .base import Encoder
from .fingerprint import fingerprint


class Makes(Protocol):
    """Makes an encoder."""

    def __call__(self, name: str, *, query_prompt: str | None, document_prompt: str | None) -> Encoder: ...  # noqa: D102


def _text(name: str, *, query_prompt: str | None, document_prompt: str | None) -> Encoder:
    from .text import TextEncoder

    return TextEncoder(name, query_prompt=query_prompt, document_prompt=document_prompt)


def _image(name: str, *, query_prompt: str | None, document_prompt: str | None) -> Encoder:  # noqa: ARG001
    from .image import ImageEncoder

    return ImageEncoder(name, query_prompt=query_prompt)  # nothing is put before a picture


#: The kinds of encoders, as an embedding's `kind` has them.
KINDS: dict[Kind, Makes] = {"text": _text, "image": _image}

_loaded: dict[tuple[str | None, ...], Encoder] = {}
_lock = threading.Lock()


def load_encoder(embedding: Embedding, *, anew: bool = False) -> Encoder:
    """The encoder that an embedding names; embeddings of one model share its weights. May be called from any thread.

    `anew` asks again what it is: a model in another process may have been exchanged. Raises SpecError when dims do
    not fit, and what the kind of encoder raises when it cannot be loaded.
    """
    key = (embedding.kind, settings().encoder_url, embedding.encoder, embedding.query_prompt, embedding.document_prompt)
    encoder = None if anew else _loaded.get(key)
    if encoder is None:
        with _lock:  # once for all who wait for it
            if anew or key not in _loaded:
                _loaded[key] = _made(embedding)
            encoder = _loaded[key]
    if embedding.dims not in (None, encoder.dims):
        raise SpecError(
            f"the spec says dims {embedding.dims}, but {embedding.encoder} gives {encoder.dims}",
            hint=f"leave dims out, or say {encoder.dims}",
        )
    return encoder


def _made(embedding: Embedding) -> Encoder:
    prompts = {"query_prompt": embedding.query_prompt, "document_prompt": embedding.document_prompt}
    if url := settings().encoder_url:
        from .remote import RemoteEncoder

        return RemoteEncoder(url, embedding.encoder, embedding.kind, **prompts)
    return KINDS[embedding.kind](embedding.encoder, **prompts)


def resolve(spec: Spec) -> dict[str, Resolved]:
    """What the encoders of a spec make: width and fingerprint of each embedding. Raises ModelUnavailable, SpecError."""
    encoders = {name: load_encoder(embedding) for name, embedding in spec.embeddings.items()}
    return {
        name: Resolved(encoder.dims, fingerprint(encoder, spec.embeddings[name])) for name, encoder in encoders.items()
    }


def load_matching(stored: Stored, name: str, *, anew: bool = False) -> Encoder:
    """The encoder of an embedding, which must be the one that filled the index. Raises ModelMismatch naming both."""
    embedding = stored.spec.embeddings[name]
    encoder = load_encoder(embedding, anew=anew)
    ours, theirs = fingerprint(encoder, embedding), stored.resolved[name].fingerprint
    if ours == theirs:
        return encoder
    url = settings().encoder_url
    if url and not anew:
        return load_matching(stored, name, anew=True)
    raise ModelMismatch(
        f"{stored.spec.index}.{name} was filled under fingerprint {theirs}; {embedding.encoder} "
        f"{f'at {url}' if url else 'here'} has {ours}",
        hint=f"give {'that server' if url else 'this process'} the model that filled the index (KNNEX_MODELS), "
        "or fill it again with this one",
    )
