"""The query, as people write it: an immutable value whose every method returns a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from ..errors import QueryError
from ..mappings import Spec
from .finishing import Finishing
from .given import all_of, as_filter, examples, floats, named
from .nodes import Filter, HasChild, HasParent, Lookup, Nested
from .parts import Family, FusionName, Lexical, LexicalType, Normaliser, Part, Picture, ScoreMode, Semantic, Text


@dataclass(frozen=True)
class Query(Finishing):
    """A question to an index: ranked parts, strict filters, and what to return.

    The text is used by every part that has none of its own. Filters hold for every part and are applied inside the
    kNN search. Nothing is sent before the query is handed to an index.
    """

    text: str | None = None
    parts: tuple[Part, ...] = ()
    filters: tuple[Filter, ...] = ()
    liked: tuple[str | Text, ...] = ()
    disliked: tuple[str | Text, ...] = ()
    # How far a disliked example pushes away, as a share of its vector.
    dislike: float = 0.5
    fusion: FusionName | None = None
    window: int | None = None
    normaliser: Normaliser = "min_max"
    native: bool = False
    size: int = 10
    start: int = 0
    selected: tuple[str, ...] | None = None
    highlighted: tuple[str, ...] = ()
    passage_limit: int = 3

    @classmethod
    def from_dict(cls, body: Any, spec: Spec | None = None) -> Query:
        """A request body of either engine as a query: a dict, an `elasticsearch.dsl.Search`, `plan.to_dict()`.

        Vectors come back as vectors; with the index's `spec` embeddings are named by where their vectors lie. Filters
        it does not know stay as they are. Raises QueryError for what ranks in a way that a query has no words for.
        """
        from .reading import read

        return read(body, spec)

    def semantic(
        self,
        embedding: str,
        text: str | None = None,
        vector: Sequence[float] | None = None,
        weight: float | None = None,
        k: int | None = None,
        candidates: int | None = None,
        min_similarity: float | None = None,
        *,
        image: Path | bytes | str | None = None,
        exact: bool = False,
        oversample: float | None = None,
    ) -> Self:
        """Rank by an embedding: the `k` documents nearest to the text, or to `vector` (dims floats), or to `image`.

        `image` is a picture's path, its bytes, or a `data:` URI (JPEG, PNG, WebP, GIF), for an embedding of pictures.
        `k` is how many are taken (by default as many as are returned, or the window where several parts are fused),
        `candidates` how many each shard looks at (default twice k, 200 or 100 at least). `min_similarity` leaves out
        what is farther, in the metric's units: cosine or dot product at least, l2 distance at most. `weight` counts in
        `fuse`. `exact` compares with every vector the filter lets through; `oversample` times k are compared again by
        the full vectors, where quantized ones were searched.
        """
        named((embedding,), "semantic")
        picture = None if image is None else Picture(image)
        part = Semantic(
            embedding, text, floats(vector), weight, k, candidates, min_similarity, exact, oversample, picture
        )  # fmt: skip
        return self._with(parts=(*self.parts, part))

    def lexical(
        self,
        *fields: str,
        text: str | None = None,
        weight: float | None = None,
        type: LexicalType = "best_fields",  # noqa: A002
        operator: Literal["or", "and"] = "or",
        fuzziness: int | str | None = None,
        minimum: int | str | None = None,
        slop: int = 0,
    ) -> Self:
        """Rank by words (BM25), in one or more fields; `title^2` counts twice. By default the best field decides.

        `type` is the engines' for several fields: `most_fields` adds them up, `cross_fields` takes them for one,
        `phrase` wants the words together (`slop` apart), `phrase_prefix` and `bool_prefix` take the last word as its
        beginning, `query_string` reads `+ - "..." | *` in the text as people type it and never fails. `operator` "and"
        wants every word, `minimum` so many of them (3, "75%"), `fuzziness` takes misspelt ones (0 to 2, "auto").
        """
        part = Lexical(fields, text, weight, type, operator, fuzziness, minimum, slop)
        return self._with(parts=(*self.parts, part))

    def by_child(self, child: str, by: Query, *, score: ScoreMode = "max", inner: int = 0) -> Self:
        """Rank by children of that name: `by_child("review", Query("moving").semantic("opinion").where(F.stars > 3))`.

        `by` has one part, and filters for the children; a text it lacks is this query's. Of several children's scores
        `score` decides; `inner` of them are returned as `hit.children`. Filters of this query hold inside.
        """
        return self._family("child", child, by, score, inner)

    def by_parent(self, parent: str, by: Query, *, inner: int = 0) -> Self:
        """Rank by the parent of that name, whose score counts; with `inner` 1 it is returned as `hit.parent`."""
        return self._family("parent", parent, by, "max", inner)

    def _family(self, relation: Literal["child", "parent"], name: str, by: Query, score: ScoreMode, inner: int) -> Self:
        if not isinstance(by, Query) or len(by.parts) != 1 or isinstance(by.parts[0], Family):
            raise QueryError(
                f"by_{relation}({name!r}) needs a query of one part",
                hint=f"write .by_{relation}({name!r}, Query('text').semantic('EMBEDDING')), or .lexical('FIELD')",
            )
        if replace(by, text=None, parts=(), filters=(), selected=None, passage_limit=3) != Query():
            raise QueryError(
                f"by_{relation}({name!r}) takes a part, filters, select() and passages() of its query, and no more",
                hint="the rest is asked of the whole query, outside",
            )
        part = by.parts[0]
        given = isinstance(part, Semantic) and not (part.vector is None and part.image is None)
        if part.text is None and by.text is not None and not given:
            part = replace(part, text=by.text)
        made = Family(relation, name, part, all_of(by.filters), score, inner, by.selected, by.passage_limit)
        return self._with(parts=(*self.parts, made))

    def where(self, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents that fulfil every filter: of `F`, or in the engine's DSL (dict, `elasticsearch.dsl`)."""
        return self._with(filters=(*self.filters, *map(as_filter, filters)))

    def raw(self, dsl: Mapping[str, Any] | Any) -> Self:
        """Only documents that the engine's own DSL lets through: a dict, or an `elasticsearch.dsl` query."""
        return self.where(dsl)

    def where_parent(self, parent: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents whose parent of that name fulfils every filter."""
        return self.where(HasParent(parent, all_of(filters)))

    def where_child(self, child: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents with a child of that name that fulfils every filter."""
        return self.where(HasChild(child, all_of(filters)))

    def where_nested(self, name: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents in which one object of the nested join fulfils every filter; its fields are named in it."""
        inner = all_of(filters)
        if inner is None:
            raise QueryError(f"where_nested({name!r}) has no filter", hint="give at least one, such as F.name == 'x'")
        return self.where(Nested(name, inner))

    def where_lookup(self, join: str, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Only documents whose foreign key leads to one that fulfils every filter.

        A first query asks the other index for the keys, at most a million; its fields are on the hit as
        `hit.joined[join]`. Works on every engine, with the join module or without.
        """
        return self.where(Lookup(join, all_of(filters)))

    def like(self, *given: str | Text) -> Self:
        """Rank by nearness to examples: ids of documents, whose stored vectors are used, `Text`s, or `Picture`s.

        The mean of the examples, and of the query's text if it has one, is searched (Rocchio, 1971); documents given
        as examples are not among the hits.
        """
        return self._with(liked=(*self.liked, *examples(given)))

    def unlike(self, *given: str | Text, share: float | None = None) -> Self:
        """Away from examples: `share` (default 0.5) of their mean is subtracted; they are not among the hits."""
        share = self.dislike if share is None else share
        return self._with(disliked=(*self.disliked, *examples(given)), dislike=share)

    def fuse(
        self,
        method: FusionName | None = None,
        *,
        window: int | None = None,
        normalise: Normaliser = "min_max",
        native: bool = False,
    ) -> Self:
        """How several parts become one ranking, from the best `window` of each (default three pages, at least 50).

        "weighted": the sum of each part's scores, brought to one scale, times its weight; the default where a weight is
        given. "rrf": the sum of 1 / (60 + rank); the default where none is (Cormack et al., SIGIR 2009). `normalise` is
        "min_max", "z_score", "l2", or "none" for the plain sum. `native` has the engine fuse, where it can.
        """
        return self._with(fusion=method, window=window, normaliser=normalise, native=native)

    def limit(self, count: int) -> Self:
        """Return at most so many hits (default 10)."""
        return self._with(size=count)

    def offset(self, count: int) -> Self:
        """Leave out the first so many hits."""
        return self._with(start=count)

    def select(self, *fields: str) -> Self:
        """Return only these fields; none of them for no argument. Vectors are never returned."""
        return self._with(selected=named(fields, "select"))

    def highlight(self, *fields: str) -> Self:
        """Mark the words of the text in these fields, as `hit.highlights`."""
        return self._with(highlighted=(*self.highlighted, *named(fields, "highlight")))

    def passages(self, count: int) -> Self:
        """Return at most so many of a document's chunks (default 3, at most 100; 0 for none), best first."""
        return self._with(passage_limit=count)
