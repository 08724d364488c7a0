"""The face every encoder shows, whatever it encodes, and the check that every vector passes."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol, runtime_checkable

import numpy as np
import orjson
from numpy.typing import NDArray

from ..errors import BadVector

Vectors = NDArray[np.float32]

# Beyond these lengths one engine or the other refuses a vector, or loses it in float32 arithmetic.
MIN_NORM, MAX_NORM = 1e-6, 1e6

#: What every encoder reads, for finding out whether it does: to one of pictures a picture, to the others a text.
PROBE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
    "Jggg=="
)


class Encoder(Protocol):
    """Turns texts, or references to pictures, into vectors of one width, with a side for queries and one for documents.

    `revision` is a hash of the model's content; `identity` hashes everything that determines a document's vector except
    the text: revision, document prompt, precision, dims. `max_tokens` is how many tokens of a document fit beside the
    prompt and the special tokens.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def identity(self) -> str: ...  # noqa: D102
    @property
    def dims(self) -> int: ...  # noqa: D102
    @property
    def max_tokens(self) -> int: ...  # noqa: D102

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """The vectors of documents, `(n, dims) float32`; BadVector for one that no engine may hold."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of queries, `(n, dims) float32`."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token of `text`: all of them, special ones not among them."""
        ...

    def count_tokens(self, text: str) -> int:
        """The number of tokens of `text`, special ones not counted."""
        ...


@runtime_checkable
class Reads(Protocol):
    """An encoder whose documents are references, of which some may lead to nothing that can be read."""

    def encode_readable(self, texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
        """The vectors, `(n, dims) float32`, and by row why there is none, where it is all NaN."""
        ...


def encode_readable(encoder: Encoder, texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
    """The vectors of documents, checked, and by row why one has none, where it is all NaN. Raises as the encoder does.

    Texts can all be read: these raise where one fails.
    """
    unread: dict[int, str] = {}
    if isinstance(encoder, Reads):
        vectors, unread = encoder.encode_readable(texts)
    else:
        vectors = encoder.encode_documents(texts)
    if not unread:
        return check_vectors(vectors, len(texts), encoder.dims, encoder.name), unread
    kept = [row for row in range(len(texts)) if row not in unread]
    return spread(check_vectors(vectors[kept], len(kept), encoder.dims, encoder.name), kept, len(texts)), unread


def spread(vectors: Vectors, rows: Sequence[int], count: int) -> Vectors:
    """The vectors as those rows of `count`; the others are NaN."""
    whole = np.full((count, vectors.shape[1]), np.nan, dtype=np.float32)
    whole[list(rows)] = vectors
    return whole


def digest(*parts: Any) -> str:
    """Any JSON values as one hash: BLAKE2b of 128 bits, 32 hex characters."""
    return blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def check_vectors(vectors: Any, rows: int, dims: int, name: str) -> Vectors:
    """The matrix as contiguous `(rows, dims) float32`, when every row is finite and 1e-6 <= length <= 1e6.

    Raises BadVector, which names the first wrong row.
    """
    matrix: Vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.shape != (rows, dims):
        raise BadVector(
            f"{name} returned an array of shape {matrix.shape} for {rows} inputs of {dims} dims",
            hint="the encoder is broken: every input must give one vector of its width",
        )
    # In float64: the square of a finite float32 may overflow.
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    wrong = np.flatnonzero(~((norms >= MIN_NORM) & (norms <= MAX_NORM)))
    if wrong.size:
        row = int(wrong[0])
        what = f"has length {norms[row]:g}" if np.isfinite(norms[row]) else "is not finite"
        raise BadVector(
            f"{name}: the vector of row {row} (of {rows}) {what}",
            hint=f"no engine may hold it; {wrong.size} of {rows} rows are such: look at their texts, or at the model",
        )
    return matrix
