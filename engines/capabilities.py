"""What a server can do, learnt by asking it to: a licence wall or a missing module shows only on use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..errors import KnnexError
from .dialect import Dialect
from .wire import Flow, Request

# An index that does not exist: a query for it is parsed, allowed or refused, and finds nothing.
_NOWHERE = "/knnex-capability-probe-*/_search"


@dataclass(frozen=True)
class Capabilities:
    """Questions to a server, and its answers."""

    # Under which licence does it run? "none" where it does not know of licences.
    licence: str
    # Does it have parent and child documents (the join module)?
    parent_join: bool
    # Can it fuse result lists by reciprocal rank itself, under this licence?
    native_rrf: bool
    # Can it fuse result lists by weighted, normalised scores itself, under this licence?
    native_linear: bool
    # Can it run scripts in queries (painless)?
    scripts: bool
    # Does it have `_reindex`?
    reindex: bool

    def rows(self) -> list[tuple[str, str]]:
        """(name, answer) for people."""
        return [(entry.name.replace("_", " "), _word(getattr(self, entry.name))) for entry in fields(self)]


def _word(answer: object) -> str:
    return {True: "yes", False: "no"}.get(answer, str(answer)) if isinstance(answer, bool) else str(answer)


def ask(dialect: Dialect) -> Flow[Capabilities]:
    """Probe a server, a request for each question."""
    elasticsearch = dialect.product == "elasticsearch"
    rrf: dict[str, Any]
    linear: dict[str, Any]
    if elasticsearch:
        inner: list[dict[str, Any]] = [{"standard": {"query": {"match_all": {}}}}] * 2
        rrf = {"retriever": {"rrf": {"retrievers": inner}}}
        linear = {"retriever": {"linear": {"retrievers": [{"retriever": one, "weight": 1} for one in inner]}}}
    else:
        rrf = linear = {"query": {"hybrid": {"queries": [{"match_all": {}}]}}}
    has_parent = {"query": {"has_parent": {"parent_type": "p", "query": {"match_all": {}}, "ignore_unmapped": True}}}
    return Capabilities(
        licence=(yield from _licence()) if elasticsearch else "Apache-2.0",
        parent_join=(yield from _accepts(has_parent)),
        native_rrf=(yield from _accepts(rrf)) and (elasticsearch or dialect.version >= (2, 19)),
        native_linear=(yield from _accepts(linear)),
        scripts=(yield from _answers(Request("POST", "/_scripts/painless/_execute", body={"script": {"source": "1"}}))),
        # An empty body is refused for what it lacks where the module is there.
        reindex=(yield from _known(Request("POST", "/_reindex", body={}))),
    )


def _licence() -> Flow[str]:
    try:
        response = yield Request("GET", "/_license", allow=frozenset({400, 404, 405}))
    except KnnexError:
        return "unknown"
    licence = response.body.get("license", {}) if isinstance(response.body, dict) else {}
    return str(licence.get("type") or "none")


def _accepts(body: dict[str, Any]) -> Flow[bool]:
    params = {"allow_no_indices": "true", "ignore_unavailable": "true"}
    return (yield from _answers(Request("POST", _NOWHERE, params, body)))


def _answers(request: Request) -> Flow[bool]:
    try:
        yield request
    except KnnexError:
        return False
    return True


def _known(request: Request) -> Flow[bool]:
    try:
        yield request
    except KnnexError as error:
        return "no handler found" not in str(error) and "405" not in str(error)
    return True
