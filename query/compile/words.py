"""The clause that ranks by words: `match`, `multi_match`, or `simple_query_string` for a text with signs in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..nodes import Match
from ..words import EXPANSIONS, before_last, scored_by_words

# With more of them parentheses are no signs: thousands overflow the parser's stack, which ends an OpenSearch server.
_MAX_PARENTHESES = 50
_WITHOUT_PARENTHESES = "AND|OR|NOT|PHRASE|PREFIX|ESCAPE|WHITESPACE|FUZZY|SLOP"


def clause(node: Match, scale: float) -> dict[str, Any]:
    """The clause of a node; `scale` times the engine's BM25 is Elasticsearch's.

    A word's beginning scores 1 on both engines, and so does what must not be there, whatever the scale of the other
    words: all count by 1 / scale, and the other words are asked for once more, for what they lack.
    """
    signs = node.type == "query_string"
    made = _signs(node) if signs else _words(node)
    if scale == 1 or not (signs or node.type == "bool_prefix"):
        return made
    rest = scored_by_words(node.text, node.operator) if signs else before_last(node.text)
    if rest is None:
        return made
    ((name, body),) = made.items()
    body["boost"] = 1 / scale
    if not rest:
        return made
    left = replace(node, text=rest, minimum=None)
    again = _signs(left) if signs else _words(replace(left, type="most_fields", operator="or"))
    again[name]["boost"] = 1 - 1 / scale
    return {"bool": {"must": [made], "should": [again]}}


def marking(fields: Sequence[str], text: str, node: Match | None) -> dict[str, Any]:
    """The clause whose words are marked in fields: read as `node` does, which searches for them; any of them counts."""
    listed = tuple((name, 1.0) for name in fields)
    if node is None:
        return clause(Match(listed, text), 1)
    # Engines look for the beginning of a phrase in text fields alone, and cross_fields was about other ones.
    kind = {"phrase_prefix": "bool_prefix", "cross_fields": "best_fields"}.get(node.type, node.type)
    return clause(replace(node, fields=listed, type=kind, operator="or", minimum=None, slop=0), 1)


def _fields(node: Match) -> list[str]:
    return [f"{name}^{boost:g}" if boost != 1 else name for name, boost in node.fields]


def _words(node: Match) -> dict[str, Any]:
    """`match` for the words of one field, else `multi_match`; the engine's defaults are left out."""
    options: dict[str, Any] = {} if node.operator == "or" else {"operator": node.operator}
    if node.fuzziness is not None:
        options["fuzziness"] = node.fuzziness
    if node.expansions != EXPANSIONS and (node.fuzziness is not None or node.type == "phrase_prefix"):
        options["max_expansions"] = node.expansions
    if node.minimum is not None:
        options["minimum_should_match"] = node.minimum
    if node.slop:
        options["slop"] = node.slop
    if len(node.fields) == 1 and node.type == "best_fields":
        name, boost = node.fields[0]
        return {"match": {name: {"query": node.text} | ({"boost": boost} if boost != 1 else {}) | options}}
    return {"multi_match": {"query": node.text, "type": node.type, "fields": _fields(node)} | options}


def _signs(node: Match) -> dict[str, Any]:
    """A text with + - | * ~ "..." and parentheses, read by the engine's parser that finds no fault with any text."""
    made: dict[str, Any] = {"query": node.text, "fields": _fields(node)}
    if node.operator == "and":
        made["default_operator"] = "and"
    if node.minimum is not None:
        made["minimum_should_match"] = node.minimum
    if node.expansions != EXPANSIONS:
        made["fuzzy_max_expansions"] = node.expansions
    if node.text.count("(") > _MAX_PARENTHESES:
        made["flags"] = _WITHOUT_PARENTHESES
    return {"simple_query_string": made}
