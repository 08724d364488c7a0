"""What both engines write alike; a compiler must compile or decline every node, or its class cannot be made."""

# What a visit_ method writes is what its node's docstring says.
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from ...engines import Dialect
from ...mappings import PROVENANCE
from ..nodes import (
    NODES,
    And,
    ByChild,
    ByParent,
    Everything,
    Exists,
    Filter,
    HasChild,
    HasParent,
    Ids,
    Knn,
    Lookup,
    Match,
    Near,
    Nested,
    Node,
    Not,
    Nothing,
    Or,
    Prefix,
    Range,
    RawDsl,
    Regexp,
    Scoring,
    Term,
    Terms,
    Wildcard,
    WithinBox,
)
from .words import clause, marking

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
    # Applied to the hits and not to the aggregations.
    post: Filter | None = None
    aggregations: Mapping[str, Any] = field(default_factory=dict)
    # (field, descending)
    order: tuple[tuple[str, bool], ...] = ()
    # Seconds after which a shard returns what it has.
    timeout: float | None = None
    profile: bool = False


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

    @property
    def word_scale(self) -> float:
        """By what a score of BM25 is multiplied to be one of Elasticsearch's."""
        return 1.0

    def search(self, tree: Scoring, page: Page) -> Body:
        """The body of a `_search`. Raises UnsupportedByEngine."""
        marked = tree if isinstance(tree, Match) and tree.text == page.words else None
        return self.visit(tree) | self.page(page, marked)

    def page(self, page: Page, marked: Match | None = None) -> Body:
        """What is said beside the ranking: what of the hits is returned, and what else is asked of them.

        `marked` says how the words were searched that are marked in the hits.
        """
        body: Body = {"size": page.size, "_source": page.source}
        if page.start:
            body["from"] = page.start
        if not page.count:
            body["track_total_hits"] = False
        body |= self._with(page)
        if page.highlighted:
            body["highlight"] = {
                "highlight_query": marking(page.highlighted, page.words, marked),
                "fields": {name: {} for name in page.highlighted},
            }
        return body

    def _with(self, page: Page) -> Body:
        """What is asked of the hits beside the ranking."""
        made: Body = {}
        if page.post is not None:
            made["post_filter"] = self.visit(page.post)
        if page.aggregations:
            made["aggs"] = dict(page.aggregations)
        if page.order:
            # `missing` is the default, and has to be said: else OpenSearch 3.6 loses the documents without the field
            # from one page to the next, where totals are not tracked.
            made["sort"] = [
                {name: {"order": "desc" if down else "asc", "missing": "_last"}} for name, down in page.order
            ]
        if page.timeout is not None:
            made["timeout"] = f"{max(1, round(page.timeout * 1000))}ms"
        return made | ({"profile": True} if page.profile else {})

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
        form = {"format": node.format} if node.format is not None else {}
        return {"range": {node.field: node.bounds() | form}}

    def visit_exists(self, node: Exists) -> Body:
        return {"exists": {"field": node.field}}

    def visit_prefix(self, node: Prefix) -> Body:
        if node.case_sensitive:
            return {"prefix": {node.field: node.value}}
        return {"prefix": {node.field: {"value": node.value, "case_insensitive": True}}}

    def visit_wildcard(self, node: Wildcard) -> Body:
        case = {} if node.case_sensitive else {"case_insensitive": True}
        return {"wildcard": {node.field: {"value": node.pattern} | case}}

    def visit_regexp(self, node: Regexp) -> Body:
        case = {} if node.case_sensitive else {"case_insensitive": True}
        # Without the signs that Lucene alone knows: ~ & # @ < > and the empty language.
        return {"regexp": {node.field: {"value": node.pattern, "flags": "NONE"} | case}}

    def visit_near(self, node: Near) -> Body:
        place = {"lat": node.lat, "lon": node.lon}
        return {"geo_distance": {"distance": f"{node.metres:.12g}m", node.field: place}}

    def visit_within_box(self, node: WithinBox) -> Body:
        corners = {
            "top_left": {"lat": node.top, "lon": node.left},
            "bottom_right": {"lat": node.bottom, "lon": node.right},
        }
        return {"geo_bounding_box": {node.field: corners}}

    def visit_ids(self, node: Ids) -> Body:
        return {"ids": {"values": list(node.values)}}

    def visit_nothing(self, node: Nothing) -> Body:  # noqa: ARG002
        return {"match_none": {}}

    def visit_and(self, node: And) -> Body:
        return {"bool": {"filter": self.clauses(node)}}

    def visit_or(self, node: Or) -> Body:
        return {"bool": {"should": [self.visit(one) for one in node.filters], "minimum_should_match": 1}}

    def visit_not(self, node: Not) -> Body:
        if isinstance(node.filter, Nothing):
            return {"match_all": {}}
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

    def visit_by_child(self, node: ByChild) -> Body:
        family: Body = {"type": node.child, "score_mode": node.score, "query": self.scored(node.by)}
        return self._beside("has_child", family | self._relatives("child", node.child, node), node.filter)

    def visit_by_parent(self, node: ByParent) -> Body:
        family: Body = {"parent_type": node.parent, "score": True, "query": self.scored(node.by)}
        return self._beside("has_parent", family | self._relatives("parent", node.parent, node), node.filter)

    def _beside(self, name: str, family: Body, one: Filter | None) -> Body:
        clause = {name: family}
        return {"query": clause if one is None else {"bool": {"must": [clause], "filter": self.clauses(one)}}}

    def _relatives(self, relation: str, name: str, node: ByChild | ByParent) -> Body:
        """The inner hits that carry the relatives; their name says what they are."""
        if not node.inner:
            return {}
        source = False if node.source is None else node.source
        return {"inner_hits": {"name": f"{relation}:{name}", "size": node.inner, "_source": source}}

    def scored(self, node: Scoring) -> Body:
        """A scoring node as a clause that stands inside another."""
        return cast(Body, self.visit(node)["query"])

    def words(self, node: Match) -> Body:
        """The BM25 clause: `match` for a field, `multi_match` for several, `simple_query_string` for signs."""
        return clause(node, self.word_scale)

    def passages(self, node: Knn) -> Body:
        """The inner hits that carry a document's best chunks: text and offsets, no vectors."""
        source = [f"{node.path}.{key}" for key in ("text", "start", "end")]
        return {"inner_hits": {"size": node.passages, "_source": source}} if node.passages else {}
