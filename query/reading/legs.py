"""Scoring clauses of a request body, read into parts of a query, each with the filters that stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import QueryError
from ...mappings import Spec
from ..nodes import Filter, RawDsl
from ..parts import Family, Part
from .filters import Clause, occurring, read_filters

#: What scores in a way of its own, and what to use instead.
_WAYS_OUT = {
    "script_score": "popularity() and freshness() move scores after fusion, semantic(exact=True) compares every vector",
    "function_score": "popularity() and freshness() move scores after fusion",
    "rank_feature": "popularity() moves scores after fusion",
    "distance_feature": "freshness() moves scores after fusion",
    "more_like_this": "like('ID') ranks by nearness to documents",
    "boosting": "unlike() moves away from examples",
    "dis_max": "name the fields in one lexical(): by default the best of them decides",
    "combined_fields": "lexical(type='cross_fields') takes several fields for one",
    "query_string": "lexical(type='query_string') reads what people type, or give the clause to where() as a filter",
    "fuzzy": "lexical(fuzziness='auto') takes misspelt words",
    "sparse_vector": "embed the texts, and rank by semantic()",
    "text_expansion": "embed the texts, and rank by semantic()",
    "neural_sparse": "embed the texts, and rank by semantic()",
}
#: Clauses that let through and do not rank; all the documents they let through are alike to them.
_FILTERS = {
    "term", "terms", "range", "exists", "prefix", "wildcard", "regexp", "ids", "geo_distance", "geo_bounding_box",
    "geo_shape", "geo_polygon", "match_all", "match_none", "constant_score", "script", "parent_id", "terms_set",
}  # fmt: skip


@dataclass(frozen=True)
class Leg:
    """A part that ranks, and the filters that hold for it."""

    part: Part
    filters: tuple[Filter, ...] = ()
    #: How many chunks of a document are returned; None where it has none.
    passages: int | None = None

    def times(self, boost: float) -> Leg:
        """With its score counted so many times."""
        if boost == 1:
            return self
        return self.weighing(boost * (1.0 if self.part.weight is None else self.part.weight))

    def weighing(self, weight: float) -> Leg:
        """With that weight."""
        if isinstance(self.part, Family):
            return replace(self, part=replace(self.part, part=replace(self.part.part, weight=weight)))
        return replace(self, part=replace(self.part, weight=weight))

    def among(self, filters: Iterable[Filter]) -> Leg:
        """With more filters."""
        return replace(self, filters=(*self.filters, *filters))


@dataclass(frozen=True)
class Ranking:
    """What a clause says: legs whose scores are added, and filters for all."""

    legs: tuple[Leg, ...] = ()
    filters: tuple[Filter, ...] = ()


Reader = Callable[[Clause, Spec | None], Ranking]
#: A scoring clause's name to what reads it.
READERS: dict[str, Reader] = {}


def reads(*names: str) -> Callable[[Reader], Reader]:
    """Enter a reader for the clauses of these names."""

    def entered(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(names, reader))
        return reader

    return entered


def cannot(what: str, way_out: str) -> QueryError:
    """The error for what a Query has no words for."""
    return QueryError(f"{what} cannot be read into a Query", hint=way_out)


def named(clause: Clause) -> tuple[str, Clause]:
    """The name of a clause and what it says. Raises QueryError."""
    if not isinstance(clause, Mapping) or len(clause) != 1:
        raise QueryError(f"{clause!r:.200} is no clause of a query", hint="it has one key: {'match': {...}}")
    ((name, body),) = clause.items()
    if not isinstance(body, Mapping):
        raise QueryError(f"{name} says {body!r:.200}", hint=f"write {{{name!r}: {{...}}}}")
    return name, body


def read_query(clause: Clause, spec: Spec | None) -> Ranking:
    """A clause of a query. Raises QueryError for one that ranks as no part can."""
    name, body = named(clause)
    if not ranks(clause):
        return Ranking(filters=read_filters(clause))
    if name not in READERS:
        raise cannot(
            f"the scoring clause {name}",
            _WAYS_OUT.get(name, "under `filter` it is kept as it is; or ask the engine itself through its client"),
        )
    return READERS[name](body, spec)


def ranks(clause: Clause) -> bool:
    """Whether documents that pass a clause differ by it."""
    name, body = named(clause)
    if name == "bool":
        return any(ranks(one) for occur in ("must", "should") for one in occurring(body, occur))
    if name == "nested":
        return bool(body.get("score_mode") != "none" and ranks(body["query"]))
    if name == "has_parent":
        return bool(body.get("score"))
    if name == "has_child":
        return bool(body.get("score_mode", "none") != "none")
    return name not in _FILTERS


def boost_of(body: Clause) -> float:
    """What its score is multiplied by."""
    return float(body.get("boost", 1.0))


def only(body: Clause, what: str, *known: str, way_out: str = "leave it out") -> None:
    """Raises QueryError for an option that changes the ranking in a way a Query does not know."""
    strange = sorted(body.keys() - {*known, "boost", "_name"})
    if strange:
        raise cannot(f"{what}.{strange[0]}", way_out)


@reads("bool")
def _bool(body: Clause, spec: Spec | None) -> Ranking:
    """Clauses under `must` rank and filter, those under `should` rank; what passes without a score is not a hit."""
    if (scaled := _scaled(body)) is not None:
        return read_query(scaled, spec)
    only(body, "bool", "must", "should", "filter", "must_not", "minimum_should_match", "adjust_pure_negative")
    must, should = occurring(body, "must"), occurring(body, "should")
    beside = {key: body[key] for key in ("filter", "must_not") if key in body}
    filters = [
        *read_filters([one for one in must if not ranks(one)]),
        *read_filters({"bool": beside} if beside else []),
    ]
    ranked = [one for one in must if ranks(one)]
    if any(map(ranks, should)):
        strange = next((one for one in should if not ranks(one)), None)
        if strange is not None:
            raise cannot(f"{named(strange)[0]} under bool.should, beside clauses that rank,", "move it to `filter`")
        if body.get("minimum_should_match", 0) not in (0, 1) or (ranked and body.get("minimum_should_match")):
            raise cannot("bool.minimum_should_match of clauses that rank", "move what is needed to `must`")
    elif should:
        filters += _alternatives(body, should)
    if len(ranked) + (len(should) if any(map(ranks, should)) else 0) > 1:
        filters += [RawDsl(dict(one)) for one in ranked]
    inner = [read_query(one, spec) for one in (*ranked, *(one for one in should if ranks(one)))]
    legs = [leg.among(one.filters).times(boost_of(body)) for one in inner for leg in one.legs]
    return Ranking(tuple(legs), tuple(filters))


def _scaled(body: Clause) -> Clause | None:
    """The clause for words of the pair that a plan writes for OpenSearch, whose scale differs; None for any other."""
    must, should = occurring(body, "must"), occurring(body, "should")
    if len(must) != 1 or len(should) != 1 or len(must[0]) != 1 or must[0].keys() != should[0].keys():
        return None
    (name, whole), (_, rest) = named(must[0]), named(should[0])
    types = name, whole.get("type"), rest.get("type")
    ours = types in (("multi_match", "bool_prefix", "most_fields"), ("simple_query_string", None, None))
    if not ours or abs(boost_of(whole) + boost_of(rest) - 1) > 1e-6 or whole.get("fields") != rest.get("fields"):
        return None
    return {name: {key: value for key, value in whole.items() if key != "boost"}}


def _alternatives(body: Clause, should: Sequence[Clause]) -> tuple[Filter, ...]:
    """Clauses under `should` none of which ranks: a filter, where one of them is needed."""
    alone = not any(occurring(body, occur) for occur in ("must", "filter"))
    needed = body.get("minimum_should_match", 1 if alone else 0)
    if not needed:
        raise cannot(
            f"bool.should with {named(should[0])[0]}, of which none is needed,",
            "it only moves scores: popularity() and freshness() do, after fusion; or set minimum_should_match: 1",
        )
    return read_filters({"bool": {"should": list(should), "minimum_should_match": needed}})


@reads("match_all")
def _all(body: Clause, spec: Spec | None) -> Ranking:  # noqa: ARG001
    return Ranking()
