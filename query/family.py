"""Parts that rank by relatives: documents by their children, or by their parent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from ..errors import QueryError
from ..mappings import PROVENANCE, ParentJoin, Spec
from .check import MAX_INNER, check_selected
from .names import Names
from .nodes import ByChild, ByParent, Filter, HasChild, HasParent, Knn, Or, Scoring, Term, both, size_of
from .parts import Family, Part, ScoreMode, Semantic, own
from .query import Query
from .resolve import Resolver
from .simplify import ALIVE
from .values import MAX_CLAUSES, MAX_K, check_whole

if TYPE_CHECKING:
    from .plan import Plan

# Children looked for in each shard for each document wanted: several of the nearest may have the same parent.
_PER_DOCUMENT = 5
_LEAST = 100
# Elasticsearch refuses 30 levels of clauses; the way from a family's clause to the filter inside it takes a dozen.
_MAX_DEPTH = 18


def label(part: Part) -> str:
    """What a part's scores are called: `opinion`, `lexical`; of a family `review.opinion`."""
    by = own(part)
    name = by.embedding if isinstance(by, Semantic) else "lexical"
    return f"{part.name}.{name}" if isinstance(part, Family) else name


def within(query: Query, names: Names, given: Filter | None) -> dict[int, Filter]:
    """The filters for the relatives, resolved, by their part's position. Raises QueryError, UnknownField.

    `given` is the query's own filter, which stands inside every family as well.
    """
    made: dict[int, Filter] = {}
    for position, part in enumerate(query.parts):
        if isinstance(part, Family):
            _check(part, query, names)
            if part.where is not None:
                made[position] = Resolver(names).resolve(part.where)
            _check_filters(part, given, made.get(position))
    return made


def _check(part: Family, query: Query, names: Names) -> None:
    what = f"by_{part.relation}({part.name!r})"
    (names.child if part.relation == "child" else names.parent)(part.name)
    check_whole(part.inner, f"inner of {what}", 0, MAX_INNER)
    check_whole(part.passages, f"passages of {what}", 0, MAX_INNER)
    check_selected(part.selected or (), names)
    if part.score not in get_args(ScoreMode):
        raise QueryError(f"{what} does not know the score {part.score!r:.80}", hint="use max, avg, sum or min")
    by = part.part
    if isinstance(by, Semantic) and query.text is None and by.text is None and by.vector is None and by.image is None:
        raise QueryError(
            f"there is nothing to compare {by.embedding} of {what} with",
            hint="give its query a text or a vector; examples of like() are compared with the documents themselves",
        )


def _check_filters(part: Family, given: Filter | None, inner: Filter | None) -> None:
    """What engines refuse of filters that stand inside a family; the query's own stand beside it too."""
    beside, inside = [0 if one is None else size_of(one) for one in (given, inner)]
    if max(0 if one is None else _depth(one) for one in (given, inner)) > _MAX_DEPTH:
        raise QueryError(
            f"a filter is nested more than {_MAX_DEPTH} levels deep inside by_{part.relation}({part.name!r})",
            hint="flatten it: (a | b) | c is one level, F.x.isin([...]) replaces many |",
        )
    if 2 * beside + inside > MAX_CLAUSES:
        raise QueryError(
            f"the filters inside and beside by_{part.relation}({part.name!r}) have {2 * beside + inside:,} clauses; "
            f"engines take {MAX_CLAUSES:,}",
            hint="F.x.isin([...]) takes many values in one clause",
        )


def tree(plan: Plan, position: int, part: Family, by: Scoring, wanted: int) -> Scoring:
    """The node that ranks by relatives, `by` being the one that ranks those; `wanted` documents are to be found.

    A search by vectors ends with its k nearest, so all that decides about the document must hold inside it.
    """
    parent, join = _relation(plan.stored.spec, part)
    given = plan.within.get(position)
    held: list[Filter] = [ALIVE, *([] if given is None else [given])]
    if isinstance(by, Knn):
        held += [Term(join.field, part.name), _document(part, parent, join, plan.filter)]
        k = _neighbours(part.part, wanted) if isinstance(part.part, Semantic) else by.k
        chunks = part.passages if by.path is not None and part.inner else 0
        by = replace(by, k=k, candidates=max(k, by.candidates), passages=chunks)
    by = replace(by, filter=both(tuple(held)))  # type: ignore[type-var]
    source = _source(plan, part)
    if part.relation == "child":
        return ByChild(part.name, by, part.score, part.inner, source, plan.filter)
    return ByParent(part.name, by, part.inner, source, plan.filter)


def _neighbours(by: Semantic, wanted: int) -> int:
    """How many relatives are looked for in each shard."""
    if by.k is not None:
        return by.k
    return MAX_K if by.exact else min(MAX_K, max(_LEAST, _PER_DOCUMENT * wanted))


def _document(part: Family, parent: str, join: ParentJoin, given: Filter | None) -> Filter:
    """What a relative must have: a document, alive, that the query's own filter lets through."""
    if part.relation == "child":
        return HasParent(parent, given)
    children = tuple(HasChild(child, given) for child in join.children)
    return children[0] if len(children) == 1 else Or(children)


def _relation(spec: Spec, part: Family) -> tuple[str, ParentJoin]:
    """The parent's name and the join between it and its children."""
    named = (
        (name, join)
        for name, join in spec.parents().items()
        if (part.name in join.children if part.relation == "child" else part.name == name)
    )
    return next(named)


def _source(plan: Plan, part: Family) -> dict[str, Any] | None:
    if part.selected is None:
        return {"excludes": [*plan.stored.spec.embeddings, PROVENANCE]}
    return {"includes": sorted(part.selected)} if part.selected else None


def _depth(one: Filter) -> int:
    return 1 + max(map(_depth, _below(one)), default=0)


def _below(one: Filter) -> Iterator[Filter]:
    yield from getattr(one, "filters", ())
    inner = getattr(one, "filter", None)
    if inner is not None:
        yield inner
