"""What can be wrong with a document and its vectors, told from the document alone. No I/O: values in, faults out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..encoders import input_hash
from ..encoders.base import MAX_NORM, MIN_NORM
from ..errors import InputError
from ..mappings import Embedding, Resolved, Stored
from .audit_read import Looked
from .events import mended
from .render import text_of

Kind = Literal[
    "missing",
    "lost",
    "unmarked",
    "stale",
    "mixed",
    "leftover",
    "orphan",
    "dims",
    "norm",
    "chunks",
    "foreign",
    "unreadable",
    "zombie",
    "duplicate",
    "mapping",
    "count",
]

#: What each kind of fault is.
KINDS: dict[Kind, str] = {
    "missing": "a text, and no vector of it",
    "lost": "the vector is gone, and the note where it came from is still there",
    "unmarked": "a vector, and no note where it came from",
    "stale": "the vector of a former text",
    "mixed": "the vector of another model than the index is filled by",
    "leftover": "a vector, or a note of one, where there is no text",
    "orphan": "a vector, or a note of one, of an embedding that the spec does not have",
    "dims": "a vector of the wrong width",
    "norm": "a vector of a length that the engine cannot rank",
    "chunks": "chunks that are not those of the text",
    "foreign": "a vector that the model does not make of this text",
    "unreadable": "a vector of a picture that cannot be read any more",
    "zombie": "a deleted document that still has text or vectors",
    "duplicate": "an older copy of the same id under another routing",
    "mapping": "a vector field that is not as the spec has it",
    "count": "a search sees another number of documents than there are",
}
# A unit vector as an engine keeps it, in numbers of 16 bits at least.
_UNIT = 1e-2


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: with an embedding of a document, with a document, or with the index (no id)."""

    kind: Kind
    id: str = ""
    embedding: str = ""
    detail: str = ""
    routing: str | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        """The document's name."""
        return self.id, self.routing

    def __str__(self) -> str:
        where = " ".join(part for part in (self.id, self.embedding) if part)
        return f"{self.kind}: {where}{': ' if where else ''}{self.detail or KINDS[self.kind]}"


@dataclass(frozen=True, slots=True)
class Passages:
    """The texts of one embedding of a document, and the vectors that are held for them, `(n, dims)` floats."""

    texts: Sequence[str]
    vectors: NDArray[np.float64]


def text_in(embedding: Embedding, document: Mapping[str, Any]) -> tuple[str | None, str]:
    """The text that an embedding reads of a document, and why there is none where a field cannot be read."""
    try:
        return text_of(embedding.source, mended(document)), ""
    except InputError as error:
        return None, str(error)


def faults_of(stored: Stored, looked: Looked) -> Iterator[Fault]:
    """What is wrong with a document: one fault at most for each of its embeddings."""
    if looked.deleted:
        if looked.remains:
            yield _fault(looked, "zombie", "", f"it still has {', '.join(looked.remains)}")
        return
    for name in sorted(looked.noted | looked.strays):
        yield _fault(looked, "orphan", name, "")
    for name, embedding in stored.spec.embeddings.items():
        text, reason = text_in(embedding, looked.change.document)
        if found := _kind(looked, name, embedding, stored.resolved[name], text, reason):
            yield _fault(looked, found[0], name, found[1])


def _fault(looked: Looked, kind: Kind, name: str, detail: str) -> Fault:
    return Fault(kind, looked.change.id, name, detail, looked.change.routing)


def _kind(
    looked: Looked, name: str, embedding: Embedding, resolved: Resolved, text: str | None, reason: str
) -> tuple[Kind, str] | None:
    made, there = looked.change.made.get(name), name in looked.change.vectors
    if text is None:
        if made or there:
            return "leftover", reason
        return ("missing", reason) if reason else None
    if not there:
        return ("lost" if made else "missing"), ""
    if not made:
        return "unmarked", ""
    if made.get("fingerprint") != resolved.fingerprint:
        return "mixed", f"its fingerprint is {made.get('fingerprint')}"
    if made.get("input_hash") != input_hash(text):
        return "stale", ""
    if embedding.chunk and (wrong := _chunks(looked.values.get(name), text)):
        return "chunks", wrong
    return _vectors(looked.values.get(name), embedding, resolved)


def _vectors(value: Any, embedding: Embedding, resolved: Resolved) -> tuple[Kind, str] | None:
    if value is None:  # an index whose `_source` leaves vectors out
        return None
    try:
        matrix = _matrix(value, embedding)
    except (TypeError, ValueError):
        return "dims", "its numbers do not make vectors of one width"
    if matrix.shape[1:] != (resolved.dims,):
        return "dims", f"it has {matrix.shape[-1]}, not {resolved.dims}"
    for norm in np.sqrt(np.einsum("ij,ij->i", matrix, matrix)):
        unit = embedding.similarity == "dot_product"
        if not MIN_NORM <= norm <= MAX_NORM or (unit and abs(norm - 1) > _UNIT):
            length = f"{norm:.6g}" if math.isfinite(norm) else "no number"
            return "norm", f"its length is {length}" + (", not 1" if unit else "")
    return None


def _matrix(value: Any, embedding: Embedding) -> NDArray[np.float64]:
    """The vectors of a document as rows. Raises TypeError, ValueError."""
    rows = [one["vector"] for one in _chunk_list(value)] if embedding.chunk else [value]
    return np.array(rows, dtype=np.float64)


def _chunk_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _chunks(value: Any, text: str) -> str:
    """What is wrong with chunks: each must be the characters it says, and all but white space must be in one."""
    if value is None:
        return ""
    end = 0
    for number, one in enumerate(_chunk_list(value)):
        if not isinstance(one, Mapping) or one.get("vector") is None:
            return f"chunk {number} has no vector"
        first, last = one.get("start"), one.get("end")
        if not (isinstance(first, int) and isinstance(last, int)) or text[first:last] != one.get("text"):
            return f"chunk {number} is not what the text has there"
        if text[end:first].strip():
            return f"the text before chunk {number} is in none"
        end = max(end, last)
    return "the end of the text is in none" if text[end:].strip() else ""


def passages_of(stored: Stored, looked: Looked, name: str) -> Passages | None:
    """The texts and vectors of one embedding; None where there are none, or `_source` does not show them."""
    embedding, value = stored.spec.embeddings[name], looked.values.get(name)
    text, _ = text_in(embedding, looked.change.document)
    if text is None or value is None:
        return None
    texts = [one["text"] for one in _chunk_list(value)] if embedding.chunk else [text]
    return Passages(texts, _matrix(value, embedding))


def older_copies(copies: Sequence[Looked]) -> Iterator[Fault]:
    """Of the copies of one id: those that live although there is another, under another routing, that is newer."""
    newest = newest_of(copies)
    for one in copies:
        if one is not newest and not one.deleted:
            state = "deleted" if newest.deleted else "there"
            detail = f"version {newest.version} is {state} under routing {newest.change.routing!r}"
            detail += "" if is_older(one, newest) else "; only you can know which one is right"
            yield _fault(one, "duplicate", "", detail)


def newest_of(copies: Iterable[Looked]) -> Looked:
    """The one of the highest version; a tombstone that a repair put in the place of a copy has that of the other."""
    return max(copies, key=lambda one: (one.version or 0, not one.deleted))


def is_older(one: Looked, newest: Looked) -> bool:
    """Whether the versions say so; what others wrote has none."""
    return one.version is not None and newest.version is not None and one.version < newest.version
