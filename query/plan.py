"""From a query to the requests that answer it, all of them visible before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import orjson

from ..engines import Dialect, Request
from ..engines import encode as to_json
from ..errors import QueryError
from ..mappings import PROVENANCE, Embedding, LookupJoin, Stored
from . import after, console, exact, examples, explain, family, lookup, native, words
from .answers import asking
from .check import words_of
from .compile import Body, Page, compiler_for
from .names import Names
from .nodes import Everything, Filter, Knn, Lookup, Nothing, Scoring, both
from .parts import Family, Lexical, Part
from .query import Query
from .values import MAX_K
from .vectors import Encoded, Vector

_MIN_WINDOW = 50
# `make bench-search`: recall@10 of 0.976 becomes 0.996 on Elasticsearch, and of 0.872 0.998 on OpenSearch.
_FEW_BITS, _OVERSAMPLE = ("int8", "int4"), 2.0


@dataclass(frozen=True)
class Leg:
    """One search of a plan: a name, what it ranks by, how many hits it may give, and its weight."""

    name: str
    tree: Scoring
    size: int
    weight: float

    @property
    def by(self) -> Scoring:
        """What ranks: of a family, what ranks the relatives."""
        return getattr(self.tree, "by", self.tree)


@dataclass(frozen=True)
class Plan:
    """How a query is answered on one engine.

    `requests` are sent in order; where `ready` is false they are the first ones only, for lookups and examples, whose
    answers complete the rest (`prepare`).
    """

    query: Query
    stored: Stored
    dialect: Dialect
    filter: Filter | None
    #: The query side's vector of each semantic part, by its position; None where only examples give it.
    vectors: Mapping[int, Vector | None]
    #: The vectors of examples given as texts: embedding -> text -> vector.
    texts: Encoded = field(default_factory=dict)
    #: Whether lookups and examples have been answered.
    ready: bool = True
    #: Which of the filter's lookups lead where.
    lookups: tuple[tuple[Lookup, LookupJoin], ...] = ()
    encoded: tuple[str, ...] = ()
    #: What an exact search is cut into, by the leg's name; known when the plan is ready.
    pieces: exact.Pieces = field(default_factory=dict)
    #: Those of the query's `post_filter`.
    post: Filter | None = None
    #: Those that hold for the relatives a part ranks by, by its position.
    within: Mapping[int, Filter] = field(default_factory=dict)
    profiled: bool = False

    @property
    def alias(self) -> str:
        """The name that is searched."""
        return self.stored.spec.index

    @property
    def examples(self) -> tuple[str, ...]:
        """The ids of documents given as examples."""
        given = (*self.query.liked, *self.query.disliked)
        return tuple(dict.fromkeys(one for one in given if isinstance(one, str)))

    @property
    def wanted(self) -> int:
        """How many hits the page, and what is done after retrieval, need."""
        return min(MAX_K, max(self.query.start + self.query.size, after.least(self.query)))

    @property
    def window(self) -> int:
        """How many hits each of several legs gives."""
        usual = min(MAX_K, max(_MIN_WINDOW, 3 * (self.query.start + self.query.size)))
        return max(self.wanted, self.query.window or usual)

    @property
    def alone(self) -> bool:
        """Whether one search gives the ranking."""
        return len(self.query.parts) <= 1

    @property
    def native(self) -> bool:
        """Whether the engine fuses."""
        return self.query.native and not self.alone

    @cached_property
    def paged(self) -> bool:
        """Whether the engine leaves out the hits before the page; else they are needed here."""
        return self.alone and not self.pieces and not after.wanted(self.query)

    @cached_property
    def counted(self) -> bool:
        """Whether the engine's own post_filter and aggregations see all that matches, and not its candidates."""
        return self.alone and not any(isinstance(leg.by, Knn) for leg in self.legs)

    @property
    def hopeless(self) -> bool:
        """Whether it is known before anything is sent that no document can match."""
        return self.ready and isinstance(self.filter, Nothing) and not self.query.aggregations

    @property
    def fusion(self) -> str:
        """`weighted` where a weight was given and nothing else is asked for, else `rrf`."""
        given = any(part.weight is not None for part in self.query.parts)
        return self.query.fusion or ("weighted" if given else "rrf")

    @cached_property
    def legs(self) -> tuple[Leg, ...]:
        """The searches. The vector of one that waits for examples is empty until the plan is ready."""
        if not self.query.parts:
            size = self.query.size if self.paged else self.wanted
            return (Leg("filter", Everything(self.filter), size, 1.0),)
        names: list[str] = []
        legs = []
        for position, part in enumerate(self.query.parts):
            tree, size = self._tree(position, part)
            name = family.label(part)
            names.append(name)
            label = name if names.count(name) == 1 else f"{name}_{names.count(name)}"
            legs.append(Leg(label, tree, size, 1.0 if part.weight is None else float(part.weight)))
        return tuple(legs)

    def _tree(self, position: int, part: Part, *, inside: bool = False) -> tuple[Scoring, int]:
        wanted = self.wanted if self.alone else self.window
        if isinstance(part, Family):
            by, _ = self._tree(position, part.part, inside=True)
            return family.tree(self, position, part, by, wanted), self.query.size if self.paged else wanted
        if isinstance(part, Lexical):
            text = self.query.text if part.text is None else part.text
            tree = words.match(part, text or "", self.filter, Names.of(self.stored.spec))
            return tree, self.query.size if self.paged else wanted
        k = part.k or wanted
        embedding = self.stored.spec.embeddings[part.embedding]
        knn = Knn(
            field=self.stored.spec.vector_path(part.embedding),
            vector=self.vectors[position] or (),
            k=k,
            candidates=part.candidates or min(MAX_K, max(self.dialect.least_candidates, 2 * k)),
            similarity=embedding.similarity,
            filter=self.filter,
            path=part.embedding if embedding.chunk else None,
            passages=self.query.passage_limit if embedding.chunk else 0,
            min_similarity=part.min_similarity,
            exact=part.exact,
            oversample=part.oversample or self._oversample(embedding, inside=inside or self.native),
            quantized=embedding.quantization != "none",
        )
        return knn, max(0, min(k, wanted) - self.query.start) if self.paged else min(k, wanted)

    def _oversample(self, embedding: Embedding, *, inside: bool) -> float | None:
        """What nobody asked for: numbers of few bits miss too much by themselves; mappings rescore 1 bit."""
        few = embedding.quantization in _FEW_BITS and embedding.oversample is None and embedding.engine != "faiss"
        # OpenSearch compares chunks again in a search of their own only.
        alone = not (inside and embedding.chunk and self.dialect.product == "opensearch")
        return _OVERSAMPLE if few and alone and self.dialect.rescores else None

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """What is sent, in order."""
        if not self.ready:
            return self._first_requests()
        return (asking(self.alias, *self.bodies),)

    @cached_property
    def searches(self) -> tuple[tuple[Leg, Scoring], ...]:
        """What is searched for each leg: its tree, or each of the pieces of an exact one."""
        found: list[tuple[Leg, Scoring]] = []
        for leg in self.legs:
            given = () if leg.tree.filter is None else (leg.tree.filter,)
            pieces = [replace(leg.tree, filter=both((*given, one))) for one in self.pieces.get(leg.name, ())]  # type: ignore[type-var]
            found += [(leg, tree) for tree in pieces or [leg.tree]]
        return tuple(found)

    @cached_property
    def bodies(self) -> list[Body]:
        """The body of each search, in their order."""
        if self.native:
            return [native.body(self, self._page(Leg("fused", Everything(), self.wanted, 1.0)))]
        return [compiler_for(self.dialect).search(tree, self._page(leg)) for leg, tree in self.searches]

    def _first_requests(self) -> tuple[Request, ...]:
        wanted = [examples.request(self)] if self.examples else []
        wanted += [exact.counting(self, tree) for tree in exact.trees(self).values()]
        return (*wanted, *(lookup.first_request(self, one, join) for one, join in self.lookups))

    def _page(self, leg: Leg) -> Page:
        return Page(
            size=leg.size,
            start=self.query.start if self.paged else 0,
            source=self._source(),
            highlighted=self.query.highlighted,
            words=words_of(self.query) or "",
            count=self.alone or self.native,
            post=self.post if self.counted else None,
            aggregations=self.query.aggregations if self.counted else {},
            order=tuple((one.field, one.descending) for one in self.query.sorted_by),
            timeout=self.query.deadline,
            profile=self.profiled,
        )

    def _source(self) -> dict[str, Any] | bool:
        excludes = [*self.stored.spec.embeddings, PROVENANCE]
        if self.query.selected is None:
            return {"excludes": excludes}
        includes = sorted({*self.query.selected, *self.keys, *after.fields(self)})
        return {"includes": includes} if includes else False

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The fields with foreign keys that hits need for their joined documents."""
        return tuple(dict.fromkeys(join.field for _, join in self.lookups))

    @cached_property
    def hidden(self) -> tuple[str, ...]:
        """The fields that are asked for to join by them, and were not selected."""
        chosen = self.query.selected
        needed = (*self.keys, *after.fields(self))
        return () if chosen is None else tuple(name for name in dict.fromkeys(needed) if name not in chosen)

    def completed(self, keys: Sequence[Filter], vectors: Mapping[int, Vector | None]) -> Plan:
        """The plan once lookups and examples have been answered; `keys` are the lookups' filters, in their order."""
        lookups = [one for one, _ in self.lookups]
        given = None if self.filter is None else lookup.replaced(self.filter, lookups, keys)
        within = {position: lookup.replaced(one, lookups, keys) for position, one in self.within.items()}
        return replace(self, filter=given, within=within, vectors=vectors, ready=True)

    def to_dict(self) -> dict[str, Any]:
        """The request as plain data: method, path, body (a list of lines for `_msearch`).

        Where lookups or examples must be asked first, their answers are marked `<...>`; `prepare` fills them in.
        """
        shown = replace(self, ready=True).requests[-1]
        body = [_plain(line) for line in shown.body] if isinstance(shown.body, tuple) else _plain(shown.body)
        return {"method": shown.method, "path": shown.path, "body": body}

    def to_console(self) -> str:
        """The request for Dev Tools, to be pasted as it is. Raises QueryError while the plan is not ready."""
        if not self.ready:
            raise QueryError(
                "the request depends on what lookups or examples answer", hint="run prepare(plan) on the engine first"
            )
        return "\n".join(map(console.text, self.requests))

    def explain(self) -> list[str]:
        """What is sent, what is done on the client, and why; a line for each step."""
        return explain.steps(self)


def _plain(value: Any) -> Any:
    return orjson.loads(to_json(value))
