"""What is wrong with a query, found before anything is sent; filters are checked in `resolve`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import QueryError, UnknownField
from ..mappings import Embedding, Resolved, Stored
from .names import Names
from .parts import Picture, Semantic, Text, own
from .query import Query
from .values import LENGTH_COUNTS, MAX_K, check_number, check_text, check_whole
from .words import check_field, check_lexical

#: Engines return no more passages of one document, or relatives (`index.max_inner_result_window`).
MAX_INNER = 100
MAX_EXAMPLES = 1_000
# The least similarity there is and the most, by metric, where it is no cosine.
_SIMILARITIES = {"l2": (0.0, math.inf), "max_inner_product": (-math.inf, math.inf)}


def check(query: Query, stored: Stored) -> None:
    """Raises QueryError or UnknownField for the first thing that is wrong."""
    names = Names.of(stored.spec)
    _check_page(query)
    for part in query.parts:
        by = own(part)
        if isinstance(by, Semantic):
            _check_semantic(by, query, names)
        else:
            check_lexical(by, by.text if by.text is not None else query.text, names)
        if part.weight is not None:
            check_number(part.weight, "weight", 0)
    _check_weights(query)
    _check_examples(query, names)
    for name in query.highlighted:
        check_field(names, name, "highlight")
    if query.highlighted and words_of(query) is None:
        raise QueryError("highlight() has no words to mark", hint="give the query a text: Query('...')")
    check_selected(query.selected or (), names)


def check_selected(selected: Sequence[str], names: Names) -> None:
    """Raises QueryError or UnknownField for a name that no hit carries."""
    for name in selected:
        if name in names.spec.embeddings:
            raise QueryError(f"{name} is an embedding: hits do not carry vectors", hint="leave it out of select()")
        if name != names.spec.id and not names.is_nested(name) and not names.has(name):
            names.anywhere(name)


def words_of(query: Query) -> str | None:
    """The text whose words are marked: the query's, else that of its first part that has one."""
    return next((text for text in (query.text, *(part.text for part in query.parts)) if text is not None), None)


def _check_page(query: Query) -> None:
    check_whole(query.size, "limit", 1, MAX_K)
    check_whole(query.start, "offset", 0, MAX_K)
    if query.size + query.start > MAX_K:
        raise QueryError(
            f"offset {query.start:,} + limit {query.size:,} is more than {MAX_K:,}, which engines refuse",
            hint="narrow the query by where()",
        )
    if query.window is not None:
        check_whole(query.window, "window", 1, MAX_K)
    check_whole(query.passage_limit, "passages", 0, MAX_INNER)
    if query.fusion not in (None, "rrf", "weighted"):
        raise QueryError(f"fuse() does not know {query.fusion!r}", hint="use 'rrf' or 'weighted'")
    if query.text is not None:
        check_text(query.text, "the query's text")


def _check_weights(query: Query) -> None:
    if query.parts and all(part.weight == 0 for part in query.parts):
        raise QueryError("every part of the query has weight 0", hint="give one of them a weight above 0")


def _check_semantic(part: Semantic, query: Query, names: Names) -> None:
    spec = names.spec
    if part.embedding not in spec.embeddings and names.has(part.embedding):
        raise UnknownField(
            f"{part.embedding!r} is a {names.field(part.embedding).type} field, no embedding",
            hint=f".lexical({part.embedding!r}) searches its words; embeddings: {', '.join(spec.embeddings) or 'none'}",
        )
    names.embedding(part.embedding)
    if part.text is not None:
        check_text(part.text, f"the text for {part.embedding}")
    given = [name for name in ("text", "vector", "image") if getattr(part, name) is not None]
    if not given and query.text is None and not query.liked:
        raise QueryError(
            f"there is nothing to compare {part.embedding} with",
            hint="give a text, Query('...'), a vector, an image, or an example, .like('ID')",
        )
    if len(given) > 1:
        raise QueryError(f"{part.embedding} is given a {' and a '.join(given)}", hint="give one of them")
    if part.image is not None:
        check_reads_pictures(part.embedding, spec.embeddings[part.embedding])
    if part.k is not None:
        check_whole(part.k, "k", 1, MAX_K)
    if part.candidates is not None:
        check_whole(part.candidates, "candidates", part.k or 1, MAX_K)
    metric = spec.embeddings[part.embedding].similarity
    if part.min_similarity is not None:
        check_number(part.min_similarity, "min_similarity", *_SIMILARITIES.get(metric, (-1, 1)))


def _check_examples(query: Query, names: Names) -> None:
    check_number(query.dislike, "share", 0)
    examples = (*query.liked, *query.disliked)
    if len(examples) > MAX_EXAMPLES:
        raise QueryError(
            f"{len(examples):,} examples; at most {MAX_EXAMPLES:,} are taken", hint="take the best of them"
        )
    for example in examples:
        if isinstance(example, Picture):
            for part in query.parts:
                if isinstance(part, Semantic):
                    check_reads_pictures(part.embedding, names.spec.embeddings[part.embedding])
        else:
            check_text(example.text if isinstance(example, Text) else example, "an example")
    if examples and not any(isinstance(part, Semantic) for part in query.parts):
        raise QueryError("like() and unlike() compare vectors, and no part does", hint="add .semantic('EMBEDDING')")
    given = query.text is not None or any(
        isinstance(part, Semantic) and (part.vector or part.image) for part in query.parts
    )
    if query.disliked and not query.liked and not given:
        raise QueryError("unlike() alone has no direction", hint="give a text, or what is liked: .like('ID')")


def check_reads_pictures(name: str, embedding: Embedding) -> None:
    """Raises QueryError for an embedding of texts."""
    if embedding.kind != "image":
        raise QueryError(
            f"{name} is an embedding of texts, and is given a picture",
            hint="ask an embedding of kind image, or give it a text",
        )


def check_vector(vector: Sequence[float], name: str, embedding: Embedding, resolved: Resolved) -> tuple[float, ...]:
    """The vector as it is sent: of unit length where only its direction counts. Raises QueryError."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        array = np.asarray(vector, dtype=np.float64).astype(np.float32)
    if array.shape != (resolved.dims,):
        raise QueryError(
            f"{name} holds vectors of {resolved.dims} dims, this one has {array.size}",
            hint="give a vector of the model that filled the index",
        )
    finite = np.isfinite(array)
    if not finite.all():
        wrong = int(np.flatnonzero(~finite)[0])
        raise QueryError(f"the vector for {name} holds {vector[wrong]} at position {wrong}", hint="give finite numbers")
    if embedding.similarity in LENGTH_COUNTS:
        return tuple(array.tolist())
    precise = array.astype(np.float64)
    length = float(np.linalg.norm(precise))
    if length == 0:
        raise QueryError(
            f"the vector for {name} is zero: it has no direction to compare", hint="give a text that says something"
        )
    return tuple((precise / length).astype(np.float32).tolist())
