"""Clauses that rank by words, read into `lexical()`."""

from __future__ import annotations

from typing import Any

from ...errors import QueryError
from ...mappings import Spec
from ..parts import Lexical
from ..words import TYPES, boosted
from .filters import Clause, one_field
from .legs import Leg, Ranking, Reader, boost_of, cannot, only, reads

#: Options that the plan of a query decides by itself, and one that forgives values no text has.
_OURS = ("max_expansions", "fuzzy_max_expansions", "lenient")
_OPTIONS = ("query", "operator", "fuzziness", "minimum_should_match", *_OURS)
_ONE_FIELD = {
    "match": "best_fields",
    "match_phrase": "phrase",
    "match_phrase_prefix": "phrase_prefix",
    "match_bool_prefix": "bool_prefix",
}


def _of_one_field(name: str) -> Reader:
    def read(body: Clause, spec: Spec | None) -> Ranking:  # noqa: ARG001
        found = one_field(body)
        if found is None:
            raise QueryError(f"{name} names no field, or several: {sorted(body)}", hint="multi_match takes several")
        field, said = found
        options = said if isinstance(said, dict) else {"query": said}
        only(options, name, *_OPTIONS, *(("slop",) if "phrase" in name else ()))
        return _lexical((field,), options, _ONE_FIELD[name])

    return read


for _name in _ONE_FIELD:
    reads(_name)(_of_one_field(_name))


@reads("multi_match")
def _multi_match(body: Clause, spec: Spec | None) -> Ranking:  # noqa: ARG001
    only(body, "multi_match", *_OPTIONS, "type", "fields", "slop")
    kind = body.get("type", "best_fields")
    if kind not in TYPES or not body.get("fields"):
        what = f"multi_match of type {kind}" if body.get("fields") else "multi_match without fields"
        raise cannot(what, f"name the fields, and one of {', '.join(TYPES)}")
    return _lexical(tuple(body["fields"]), body, kind)


@reads("simple_query_string")
def _simple_query_string(body: Clause, spec: Spec | None) -> Ranking:  # noqa: ARG001
    only(body, "simple_query_string", *_OPTIONS, "fields", "default_operator", "flags", "analyze_wildcard")
    flags = str(body.get("flags", "ALL"))
    # Those without the parentheses are what a plan writes for a text full of them.
    if not body.get("fields") or not ("ALL" in flags or ("PHRASE" in flags and "PRECEDENCE" not in flags)):
        what = (
            f"simple_query_string with the flags {flags}"
            if body.get("fields")
            else "simple_query_string without fields"
        )
        raise cannot(what, "name the fields, and leave the flags out")
    operator = body.get("default_operator", "or")
    return _lexical(tuple(body["fields"]), {**body, "operator": operator}, "query_string")


def _lexical(fields: tuple[str, ...], options: Clause, kind: Any) -> Ranking:
    boost = boost_of(options)
    # That of a plan for OpenSearch, whose scale differs, is no wish of anybody's.
    if boost != 1 and not (kind in ("bool_prefix", "query_string") and abs(boost * 2.2 - 1) < 1e-3):
        fields = tuple(f"{name}^{own * boost:g}" for name, own in map(boosted, fields))
    part = Lexical(
        fields,
        str(options.get("query", "")),
        type=kind,
        operator="and" if str(options.get("operator", "or")).lower() == "and" else "or",
        fuzziness=options.get("fuzziness"),
        minimum=options.get("minimum_should_match"),
        slop=options.get("slop", 0),
    )
    return Ranking((Leg(part),))
