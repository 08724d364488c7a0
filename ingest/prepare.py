"""From events to the documents to be stored: coalesced, rendered, cut into chunks, encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoders import Cache, Chunk, Encoder, chunk, encode_cached, input_hash
from ..errors import EncoderError, InputError
from ..mappings import PROVENANCE, Embedding, Spec, Stored, write_alias
from .bulk import Item
from .events import Event
from .render import text_of

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """An index as it is written to: what the cluster holds under the alias, the encoders, the cache of vectors."""

    alias: str
    stored: Stored
    encoders: Mapping[str, Encoder]
    cache: Cache | None = None
    # The version indexes announced beside it, which are written to as well; and why others of them cannot be opened.
    beside: tuple[Target, ...] = ()
    shut: Mapping[str, str] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether nothing is announced beside it."""
        return not (self.beside or self.shut)

    @property
    def address(self) -> str:
        """The alias it is written by: one that means this very index where the other may move while a batch is made."""
        return self.alias if self.alone else write_alias(self.stored.index)

    @property
    def spec(self) -> Spec:
        """The spec, as the cluster holds it."""
        return self.stored.spec


@dataclass(frozen=True, slots=True)
class Casualty:
    """An event that did not get all it came for, and why."""

    event: Event
    reason: str


@dataclass(frozen=True)
class Prepared:
    """Documents to be stored, one for each id; `covered` has the older events of the same ids."""

    items: Sequence[Item] = ()
    events: Mapping[str, Event] = field(default_factory=dict)
    covered: Sequence[Event] = ()
    without_vector: Sequence[Casualty] = ()
    refused: Sequence[Casualty] = ()
    encoded: int = 0
    cached: int = 0
    # The same batch for each target beside, in their order; why nothing could be prepared.
    beside: Sequence[Prepared] = ()
    unready: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """What one embedding reads of one document: its whole text, and the chunks that are encoded one by one."""

    text: str
    chunks: Sequence[Chunk] | None

    @property
    def texts(self) -> list[str]:
        """The texts to be encoded."""
        return [self.text] if self.chunks is None else [one.text for one in self.chunks]


def prepare(target: Target, events: Sequence[Event]) -> Prepared:
    """Build the documents of a batch, with one call to the encoder for each embedding.

    Raises EncoderError, with its cause, when a model fails; apply.py finds out on which document.
    """
    winners = coalesce(events)
    refused: list[Casualty] = []
    without: list[Casualty] = []
    passages: dict[str, dict[str, Passage]] = {name: {} for name in target.spec.embeddings}
    for event in winners.values():
        if event.op == "upsert":
            try:
                found, missing = _read(target, event)
            except InputError as error:
                refused.append(Casualty(event, str(error)))
                continue
            without += [Casualty(event, missing)] if missing else []
            for name, passage in found.items():
                passages[name][event.id] = passage
    vectors, encoded, cached, unread = _encode(target, passages)
    refused += [Casualty(winners[id_], reason) for id_, reason in unread.items()]
    lost = {casualty.event.id for casualty in refused}
    kept = {id_: event for id_, event in winners.items() if id_ not in lost}
    return Prepared(
        items=[_item(target, event, passages, vectors) for event in kept.values()],
        events=kept,
        covered=[event for event in events if winners[event.id] is not event],
        without_vector=[one for one in without if one.event.id not in lost],
        refused=refused,
        encoded=encoded,
        cached=cached,
    )


def coalesce(events: Sequence[Event]) -> dict[str, Event]:
    """The newest event of each id; of equal versions the first, as the engine would keep it."""
    winners: dict[str, Event] = {}
    for event in events:
        holder = winners.get(event.id)
        if holder is None or event.order > holder.order:
            winners[event.id] = event
    return winners


def _read(target: Target, event: Event) -> tuple[dict[str, Passage], str]:
    """What each embedding reads of the document, and why there is nothing to read, if there is not."""
    found: dict[str, Passage] = {}
    empty: list[str] = []
    for name, embedding in target.spec.embeddings.items():
        text = text_of(embedding.source, event.document)
        chunks = None
        if text is not None and embedding.chunk:
            with _guarded(embedding):
                chunks = chunk(text, embedding.chunk, target.encoders[name])
        if text is None or chunks == []:
            empty.append(nothing_to_encode(name, embedding))
        else:
            found[name] = Passage(text, chunks)
    return found, "; ".join(empty)


def nothing_to_encode(name: str, embedding: Embedding) -> str:
    """Why a document has no vector of this embedding."""
    return (
        f"no {name}: {', '.join(embedding.source_fields)} {'is' if len(embedding.source_fields) == 1 else 'are'} empty"
    )


def _encode(
    target: Target, passages: Mapping[str, Mapping[str, Passage]]
) -> tuple[dict[str, dict[str, Matrix]], int, int, dict[str, str]]:
    """The rows of each document by embedding and id; how many texts were encoded, and how many found in the cache;
    and, by id, why a document's picture could not be read."""
    rows: dict[str, dict[str, Matrix]] = {}
    lost: dict[str, str] = {}
    encoded = cached = 0
    for name, read in passages.items():
        texts = [text for passage in read.values() for text in passage.texts]
        if not texts:
            continue
        matrix, fresh, unread = _matrix(target, name, texts)
        encoded, cached = encoded + fresh, cached + len(texts) - fresh - sum(text in unread for text in texts)
        rows[name], start = {}, 0
        for id_, passage in read.items():
            end = start + len(passage.texts)
            rows[name][id_], start = matrix[start:end], end
            lost |= {id_: f"{name}: {reason}" for text in passage.texts if (reason := unread.get(text))}  # noqa: B035
    return rows, encoded, cached, lost


def _matrix(target: Target, name: str, texts: Sequence[str]) -> tuple[Matrix, int, Mapping[str, str]]:
    """The rows, NaN for a picture that cannot be read; how many were encoded; and those pictures, with reasons."""
    encoder, embedding = target.encoders[name], target.spec.embeddings[name]
    with _guarded(embedding):
        found = encode_cached(encoder, target.cache, texts)
    matrix = found.vectors
    if matrix.shape != (len(texts), target.stored.resolved[name].dims):
        raise EncoderError(f"{embedding.encoder} gave an array of shape {matrix.shape} for {len(texts)} texts")
    if embedding.similarity == "dot_product":  # which both engines define for unit length only
        matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.ascontiguousarray(matrix, dtype=np.float32), found.encoded, found.unread


@contextmanager
def _guarded(embedding: Embedding) -> Iterator[None]:
    """Whatever a model raises, out of memory included, is a failure of this batch, and not of the worker."""
    try:
        yield
    except EncoderError:
        raise
    except Exception as error:
        raise EncoderError(f"{embedding.encoder} failed: {type(error).__name__}: {error}") from error


def _item(
    target: Target,
    event: Event,
    passages: Mapping[str, Mapping[str, Passage]],
    vectors: Mapping[str, Mapping[str, Matrix]],
) -> Item:
    provenance: dict[str, Any] = {"version": event.order, "deleted": event.op == "delete"}
    body: dict[str, Any] = {**event.document}
    made: dict[str, Any] = {}
    for name, read in passages.items():
        passage = read.get(event.id)
        if passage is None or event.op == "delete":
            continue
        rows = vectors[name][event.id]
        if passage.chunks is None:
            body[name] = rows[0]
        else:
            body[name] = [
                {"text": one.text, "start": one.start, "end": one.end, "vector": row}
                for one, row in zip(passage.chunks, rows, strict=True)
            ]
        made[name] = {
            "fingerprint": target.stored.resolved[name].fingerprint,
            "input_hash": input_hash(passage.text),
        }
    body[PROVENANCE] = provenance | ({"vectors": made} if made else {})
    return Item(event.id, event.order, body, event.routing)
