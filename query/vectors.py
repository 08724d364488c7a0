"""The vectors a query searches by: its texts encoded once, and examples combined with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import EncoderError, QueryError
from ..mappings import Embedding, Stored
from .check import check_vector
from .parts import Semantic, Text, own
from .query import Query
from .values import LENGTH_COUNTS

#: Texts to the vectors of an embedding's query side: (embedding, texts) -> `(n, dims) float32`.
Encode = Callable[[str, Sequence[str]], "np.ndarray[Any, Any]"]
Vector = tuple[float, ...]
#: embedding -> text -> vector
Encoded = Mapping[str, Mapping[str, Vector]]


def text_of(part: Semantic, query: Query) -> str | None:
    """The text a semantic part searches by, if it does; of a picture its `data:` URI."""
    if part.vector is not None:
        return None
    if part.image is not None:
        return part.image.text
    return query.text if part.text is None else part.text


def example_texts(query: Query) -> list[str]:
    """The examples that are texts."""
    return [one.text for one in (*query.liked, *query.disliked) if isinstance(one, Text)]


def encode_texts(query: Query, stored: Stored, encode: Encode) -> Encoded:
    """Each text once for every encoder, though several embeddings share it. Raises what `encode` raises."""
    wanted: dict[str, list[str]] = {}
    for given in query.parts:
        part = own(given)
        if isinstance(part, Semantic):
            text = text_of(part, query)
            wanted.setdefault(part.embedding, []).extend([*example_texts(query), *([text] if text is not None else [])])
    found: dict[str, dict[str, Vector]] = {}
    rows: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for name, texts in wanted.items():
        embedding = stored.spec.embeddings[name]
        known = rows.setdefault((embedding.kind, embedding.encoder, embedding.query_prompt), {})
        if texts:
            # Asked without new texts too: there it is checked that the model is the one that filled this embedding.
            known |= _rows(name, embedding, list(dict.fromkeys(text for text in texts if text not in known)), encode)
        found[name] = {text: check_vector(known[text], name, embedding, stored.resolved[name]) for text in texts}
    return found


def _rows(name: str, embedding: Embedding, texts: list[str], encode: Encode) -> dict[str, Any]:
    rows = encode(name, texts)
    if len(rows) != len(texts):
        raise EncoderError(
            f"{embedding.encoder} gave {len(rows)} vectors for {len(texts)} texts", hint="the encoder is broken"
        )
    return dict(zip(texts, rows, strict=True))


def searched(query: Query, stored: Stored, encoded: Encoded) -> dict[int, Vector | None]:
    """The vector of each semantic part by its position; None where only examples give one."""
    found: dict[int, Vector | None] = {}
    for position, part in enumerate(map(own, query.parts)):
        if not isinstance(part, Semantic):
            continue
        name, text = part.embedding, text_of(part, query)
        if part.vector is not None:
            found[position] = check_vector(part.vector, name, stored.spec.embeddings[name], stored.resolved[name])
        else:
            found[position] = None if text is None else encoded[name][text]
    return found


def rocchio(
    query: Vector | None,
    liked: Sequence[np.ndarray[Any, Any]],
    disliked: Sequence[np.ndarray[Any, Any]],
    share: float,
    metric: str,
) -> np.ndarray[Any, Any]:
    """The vector between the query's and the liked ones', moved away from the disliked ones' (Rocchio, 1971).

    The query counts as much as all liked examples together. Where the direction alone counts, every vector is brought
    to unit length and `share` of the disliked mean is subtracted; else the vector moves away from it by `share` of
    their distance. Raises QueryError where nothing is left.
    """
    directed = metric not in LENGTH_COUNTS

    def mean(rows: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        return unit(np.mean([unit(row) for row in rows], axis=0)) if directed else np.mean(rows, axis=0)

    towards = [np.asarray(query, dtype=np.float64)] if query is not None else []
    base = mean([*towards, *([mean(liked)] if liked else [])])
    if not disliked:
        return base
    away = mean(disliked)
    made = np.asarray(base - share * away if directed else base + share * (base - away))
    if directed:
        unit(made)  # whether anything is left
    return made


def unit(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The row at length 1. Raises QueryError where it has none."""
    length = float(np.linalg.norm(row))
    if length < 1e-9:
        raise QueryError("the examples cancel each other out", hint="leave one out, or give unlike() a smaller share")
    return np.asarray(row / length)
