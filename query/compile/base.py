"""What both engines write alike; a compiler must compile or decline every node, or its class cannot be made."""

# What a visit_ method writes is what its node's docstring says.
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ...engines import Dialect
from ...mappings import PROVENANCE
from ..nodes import (
    NODES,
    And,
    Everything,
    Exists,
    Filter,
    HasChild,
    HasParent,
    Ids,
    Knn,
    Lookup,
    Match,
    Nested,
    Node,
    Not,
    Nothing,
    Or,
    Prefix,
    Range,
    RawDsl,
    Scoring,
    Term,
    Terms,
)

Body = dict[str, Any]

_DELETED: Body = {"term": {f"{PROVENANCE}.deleted": True}}


@dataclass(frozen=True)
class Decline:
    """Why a dialect cannot express a node, and what to use instead."""

    reason: str
    way_out: str


@dataclass(frozen=True)
class Page:
    """What of the hits is returned: how many, from where, and which of their fields."""

    size: int
    start: int = 0
    source: Mapping[str, Any] | bool = True
    # Field names, and the text whose words are marked in them.
    highlighted: tuple[str, ...] = ()
    words: str = ""
    count: bool = True


@dataclass(frozen=True)
class Compiler:
    """Writes the nodes of a query in one dialect: `visit_NODE` gives a clause, or a body's part for a scoring node."""

    dialect: Dialect
    #: Nodes this dialect has no way to express.
    declines: ClassVar[Mapping[type[Node], Decline]] = {}

    def __init_subclass__(cls) -> None:
        known = [one for one in NODES if one in cls.declines or hasattr(cls, f"visit_{one.verb}")]
        silent = [one.__name__ for one in NODES if one not in known]
        if silent:
            raise TypeError(f"{cls.__name__} neither compiles nor declines {', '.join(silent)}")

    def search(self, tree: Scoring, page: Page) -> Body:
        """The body of a `_search`. Raises UnsupportedByEngine."""
        body = self.visit(tree) | {"size": page.size, "_source": page.source}
        if page.start:
            body["from"] = page.start
        if not page.count:
            body["track_total_hits"] = False
        if page.highlighted:
            fields = tuple((name, 1.0) for name in page.highlighted)
            body["highlight"] = {
                "highlight_query": self.words(Match(fields, page.words)),
                "fields": {name: {} for name in page.highlighted},
            }
        return body

    def visit(self, node: Node) -> Body:
        """The node in this dialect. Raises UnsupportedByEngine where it is declined."""
        if declined := self.declines.get(type(node)):
            raise self.dialect.decline(type(node).__name__, declined.reason, declined.way_out)
        return cast(Body, getattr(self, f"visit_{node.verb}")(node))

    def clauses(self, one: Filter | None) -> list[Body]:
        """A filter as the list of a bool's `filter`, without a level of its own for a conjunction."""
        if one is None:
            return []
        return [self.visit(part) for part in (one.filters if isinstance(one, And) else (one,))]

    def strictly(self, one: Filter) -> Body:
        """A filter for inside a kNN clause: always a bool, for a bare nested clause would be read as one on chunks."""
        return {"bool": {"filter": self.clauses(one)}}

    def visit_term(self, node: Term) -> Body:
        return {"term": {node.field: node.value}}

    def visit_terms(self, node: Terms) -> Body:
        return {"terms": {node.field: list(node.values)}}

    def visit_range(self, node: Range) -> Body:
        return {"range": {node.field: node.bounds()}}

    def visit_exists(self, node: Exists) -> Body:
        return {"exists": {"field": node.field}}

    def visit_prefix(self, node: Prefix) -> Body:
        return {"prefix": {node.field: node.value}}

    def visit_ids(self, node: Ids) -> Body:
        return {"ids": {"values": list(node.values)}}

    def visit_nothing(self, node: Nothing) -> Body:  # noqa: ARG002
        return {"match_none": {}}

    def visit_and(self, node: And) -> Body:
        return {"bool": {"filter": self.clauses(node)}}

    def visit_or(self, node: Or) -> Body:
        return {"bool": {"should": [self.visit(one) for one in node.filters], "minimum_should_match": 1}}

    def visit_not(self, node: Not) -> Body:
        return {"bool": {"must_not": [self.visit(node.filter)]}}

    def visit_nested(self, node: Nested) -> Body:
        return {"nested": {"path": node.path, "query": self.visit(node.filter)}}

    def visit_has_parent(self, node: HasParent) -> Body:
        return {"has_parent": {"parent_type": node.parent, "query": self._alive(node.filter)}}

    def visit_has_child(self, node: HasChild) -> Body:
        return {"has_child": {"type": node.child, "query": self._alive(node.filter)}}

    def _alive(self, one: Filter | None) -> Body:
        """The filter of a joined document, which the alias' own filter does not reach: tombstones must be kept out."""
        return {"bool": {"filter": self.clauses(one), "must_not": [_DELETED]}}

    def visit_lookup(self, node: Lookup) -> Body:
        """What stands in a body that is shown before the keys have been looked up."""
        return {"terms": {node.field: [f"<keys of {node.join}>"]}}

    def visit_raw_dsl(self, node: RawDsl) -> Body:
        return dict(node.body)

    def visit_everything(self, node: Everything) -> Body:
        if node.filter is None:
            return {"query": {"match_all": {}}}
        return {"query": {"constant_score": {"filter": self.strictly(node.filter)}}}

    def visit_match(self, node: Match) -> Body:
        words = self.words(node)
        if node.filter is None:
            return {"query": words}
        return {"query": {"bool": {"must": [words], "filter": self.clauses(node.filter)}}}

    def words(self, node: Match) -> Body:
        """The BM25 clause: `match` for a field, `multi_match` by the best of several."""
        if len(node.fields) == 1:
            name, boost = node.fields[0]
            return {"match": {name: {"query": node.text} | ({"boost": boost} if boost != 1 else {})}}
        fields = [f"{name}^{boost:g}" if boost != 1 else name for name, boost in node.fields]
        return {"multi_match": {"query": node.text, "type": "best_fields", "fields": fields}}

    def passages(self, node: Knn) -> Body:
        """The inner hits that carry a document's best chunks: text and offsets, no vectors."""
        source = [f"{node.path}.{key}" for key in ("text", "start", "end")]
        return {"inner_hits": {"size": node.passages, "_source": source}} if node.passages else {}
