"""What stands beside the ranking in a request body: the page, its order, and what else is asked of the hits."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..parts import Lexical
from ..query import Query
from .filters import read_filters
from .legs import cannot, read_query

_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ORDER = {"order", "missing", "unmapped_type", "format"}


def _source(query: Query, given: Any) -> Query:
    if isinstance(given, Mapping):
        given = given.get("includes", given.get("include", True))
    if given is True or given in ("*", ["*"]):
        return query
    if given is False:
        return query.select()
    return query.select(*([given] if isinstance(given, str) else given))


def _highlight(query: Query, given: Mapping[str, Any]) -> Query:
    """The fields; the words that are marked are the text's, which a search by vectors alone takes from here."""
    strange = sorted(given.keys() - {"fields", "highlight_query"})
    fields = given.get("fields") or {}
    named = fields if isinstance(fields, Mapping) else {key: one for part in fields for key, one in part.items()}
    strange += [f"fields.{name}" for name, options in named.items() if options]
    if strange:
        raise cannot(f"highlight.{strange[0]}", "highlight() marks words as the engine does by default")
    if clause := given.get("highlight_query"):
        legs = read_query(clause, None).legs
        text = legs[0].part.text if len(legs) == 1 and isinstance(legs[0].part, Lexical) else None
        if text is None or query.text not in (None, text):
            raise cannot("a highlight_query of its own", "highlight() marks the words of the query's text")
        query = replace(query, text=text)
    return query.highlight(*named)


def _sort(query: Query, given: Any) -> Query:
    fields = [_sorted(one) for one in ([given] if isinstance(given, (str, Mapping)) else given)]
    if fields == ["-_score"] or not fields:
        return query
    if any(name.endswith("_score") for name in fields):
        raise cannot("a sort by _score beside fields", "sort() orders by fields alone; popularity() moves scores")
    return query.sort(*fields)


def _sorted(one: Any) -> str:
    """`title`, or `-title` where it is descending; scores are by themselves."""
    if isinstance(one, str):
        name, _, order = one.partition(":")
        descending = order == "desc" or (not order and name == "_score")
        return f"-{name}" if descending else name
    ((name, said),) = one.items() if len(one) == 1 else [("", None)]
    options = said if isinstance(said, Mapping) else {"order": said}
    descending = options.get("order", "desc" if name == "_score" else "asc") == "desc"
    if not name or name.startswith("_geo") or name == "_script" or options.keys() - _ORDER:
        raise cannot(f"the sort {one!r:.120}", "sort() orders by fields")
    if options.get("missing", "_last") != "_last":
        raise cannot(f"sort.missing {options['missing']!r}", "documents without the field come last")
    return f"-{name}" if descending else name


def _collapse(query: Query, given: Mapping[str, Any]) -> Query:
    inner = given.get("inner_hits")
    if isinstance(inner, Sequence) or given.keys() - {"field", "inner_hits", "max_concurrent_group_searches"}:
        raise cannot("a collapse with several inner_hits", "collapse(FIELD, inner=N) returns the best N")
    return query.collapse(given["field"], inner=0 if inner is None else int(inner.get("size", 3)))


def _timeout(query: Query, given: Any) -> Query:
    found = _TIME.fullmatch(str(given))
    if found is None:
        raise cannot(f"the timeout {given!r:.40}", "write 500ms or 2s")
    return query.within(float(found[1]) * _SECONDS[found[2]], partial=True)


def _aggregations(query: Query, given: Mapping[str, Any]) -> Query:
    return query.aggregate(**copy.deepcopy(dict(given)))


def _post_filter(query: Query, given: Any) -> Query:
    return query.post_filter(*read_filters(given))


#: A key of a body to what reads it.
BESIDE: dict[str, Callable[[Query, Any], Query]] = {
    # None are asked for beside aggregations; a query returns one at least.
    "size": lambda query, given: query.limit(given or 1),
    "from": lambda query, given: query.offset(given),
    "_source": _source,
    "highlight": _highlight,
    "sort": _sort,
    "collapse": _collapse,
    "timeout": _timeout,
    "aggs": _aggregations,
    "aggregations": _aggregations,
    "post_filter": _post_filter,
}
