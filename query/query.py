"""The query, as people write it: an immutable value whose every method returns a new one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from ..errors import QueryError
from .nodes import Filter, HasChild, HasParent, Lookup, Nested, RawDsl, both

FusionName = Literal["rrf", "weighted"]


@dataclass(frozen=True)
class Text:
    """A text as an example: `.like(Text("a lonely robot"))`; a plain string is a document's id."""

    text: str


@dataclass(frozen=True)
class Semantic:
    """The part of a query that ranks by one embedding."""

    embedding: str
    text: str | None = None
    vector: tuple[float, ...] | None = None
    weight: float | None = None
    k: int | None = None
    candidates: int | None = None
    min_similarity: float | None = None


@dataclass(frozen=True)
class Lexical:
    """The part of a query that ranks by words (BM25), in fields written as `title` or `title^2`."""

    fields: tuple[str, ...]
    text: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Query:
    """A question to an index: ranked parts, strict filters, and what to return.

    The text is used by every part that has none of its own. Filters hold for every part and are applied inside the
    kNN search. Nothing is sent before the query is handed to an index.
    """

    text: str | None = None
    parts: tuple[Semantic | Lexical, ...] = ()
    filters: tuple[Filter, ...] = ()
    liked: tuple[str | Text, ...] = ()
    disliked: tuple[str | Text, ...] = ()
    # How far a disliked example pushes away, as a share of its vector.
    dislike: float = 0.5
    fusion: FusionName | None = None
    window: int | None = None
    size: int = 10
    start: int = 0
    selected: tuple[str, ...] | None = None
    highlighted: tuple[str, ...] = ()
    passage_limit: int = 3

    def semantic(
        self,
        embedding: str,
        text: str | None = None,
        vector: Sequence[float] | None = None,
        weight: float | None = None,
        k: int | None = None,
        candidates: int | None = None,
        min_similarity: float | None = None,
    ) -> Self:
        """Rank by an embedding: the `k` documents nearest to the text, or to `vector` (dims floats).

        `k` is how many are taken (by default as many as are returned, or the window where several parts are fused),
        `candidates` how many each shard looks at (default 100, or twice k). `min_similarity` leaves out what is
        farther, in the metric's units: cosine or dot product at least, l2 distance at most. `weight` counts in `fuse`.
        """
        _named((embedding,), "semantic")
        part = Semantic(embedding, text, _floats(vector), weight, k, candidates, min_similarity)
        return replace(self, parts=(*self.parts, part))

    def lexical(self, *fields: str, text: str | None = None, weight: float | None = None) -> Self:
        """Rank by words (BM25), in one or more fields; `title^2` counts twice. The best field decides."""
        return replace(self, parts=(*self.parts, Lexical(fields, text, weight)))

    def where(self, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents that fulfil every filter: of `F`, or in the engine's DSL (dict, `elasticsearch.dsl`)."""
        return replace(self, filters=(*self.filters, *map(_as_filter, filters)))

    def raw(self, dsl: Mapping[str, Any] | Any) -> Self:
        """Only documents that the engine's own DSL lets through: a dict, or an `elasticsearch.dsl` query."""
        return self.where(dsl)

    def where_parent(self, parent: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents whose parent of that name fulfils every filter."""
        return self.where(HasParent(parent, _all(filters)))

    def where_child(self, child: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents with a child of that name that fulfils every filter."""
        return self.where(HasChild(child, _all(filters)))

    def where_nested(self, name: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents in which one object of the nested join fulfils every filter; its fields are named in it."""
        inner = _all(filters)
        if inner is None:
            raise QueryError(f"where_nested({name!r}) has no filter", hint="give at least one, such as F.name == 'x'")
        return self.where(Nested(name, inner))

    def where_lookup(self, join: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents whose foreign key leads to one that fulfils every filter.

        A first query asks the other index for the keys, at most 65,536; its fields are on the hit as
        `hit.joined[join]`. Works on every engine, with the join module or without.
        """
        return self.where(Lookup(join, _all(filters)))

    def like(self, *examples: str | Text) -> Self:
        """Rank by nearness to examples: ids of documents, whose stored vectors are used, or `Text`s.

        The mean of the examples, and of the query's text if it has one, is searched (Rocchio, 1971); documents given
        as examples are not among the hits.
        """
        return replace(self, liked=(*self.liked, *_examples(examples)))

    def unlike(self, *examples: str | Text, share: float | None = None) -> Self:
        """Away from examples: `share` (default 0.5) of their mean is subtracted; they are not among the hits."""
        share = self.dislike if share is None else share
        return replace(self, disliked=(*self.disliked, *_examples(examples)), dislike=share)

    def fuse(self, method: FusionName | None = None, *, window: int | None = None) -> Self:
        """How several parts become one ranking, from the best `window` of each (default three pages, at least 50).

        "weighted": the sum of each part's scores, min-max normalised, times its weight; the default where a weight is
        given. "rrf": the sum of 1 / (60 + rank); the default where none is (Cormack et al., SIGIR 2009).
        """
        return replace(self, fusion=method, window=window)

    def limit(self, count: int) -> Self:
        """Return at most so many hits (default 10)."""
        return replace(self, size=count)

    def offset(self, count: int) -> Self:
        """Leave out the first so many hits."""
        return replace(self, start=count)

    def select(self, *fields: str) -> Self:
        """Return only these fields; none of them for no argument. Vectors are never returned."""
        return replace(self, selected=_named(fields, "select"))

    def highlight(self, *fields: str) -> Self:
        """Mark the words of the text in these fields, as `hit.highlights`."""
        return replace(self, highlighted=(*self.highlighted, *_named(fields, "highlight")))

    def passages(self, count: int) -> Self:
        """Return at most so many of a document's chunks (default 3, at most 100; 0 for none), best first."""
        return replace(self, passage_limit=count)


def _floats(vector: Sequence[float] | None) -> tuple[float, ...] | None:
    if vector is None:
        return None
    try:
        return tuple(float(value) for value in vector)
    except (TypeError, ValueError):
        raise QueryError(f"vector is no list of numbers: {vector!r:.80}", hint="give dims floats") from None


def _named(names: tuple[str, ...], method: str) -> tuple[str, ...]:
    for one in names:
        if not isinstance(one, str):
            raise QueryError(f"{one!r:.80} is no name for {method}()", hint=f"write .{method}('title')")
    return names


def _as_filter(given: Any) -> Filter:
    if isinstance(given, Filter):
        return given
    body = given.to_dict() if callable(getattr(given, "to_dict", None)) else given
    if isinstance(body, Mapping) and len(body) == 1:
        return RawDsl(copy.deepcopy(dict(body)))
    if isinstance(body, Mapping):
        raise QueryError(
            f"a raw clause has one key, its query's name, not {sorted(body)}",
            hint="for example {'term': {'year': 1980}}",
        )
    raise QueryError(
        f"{given!r:.120} is no filter", hint="compare a field: F.year > 1980; or give the engine's DSL as a dict"
    )


def _all(filters: Iterable[Any]) -> Filter | None:
    made = tuple(map(_as_filter, filters))
    return both(made) if made else None


def _examples(examples: tuple[str | Text, ...]) -> tuple[str | Text, ...]:
    for one in examples:
        if not isinstance(one, (str, Text)):
            raise QueryError(f"{one!r:.80} is no example", hint="give a document's id, or Text('...')")
    return examples
