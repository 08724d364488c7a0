"""Asking the index what it holds: the last word on what went in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engines import Flow, Request, path_of
from ..errors import EngineBusy
from ..mappings import PROVENANCE, Spec, load

_VERSION = f"{PROVENANCE}.version"
# A shard that is not there, such as just after a restart, must not pass for documents that are not.
_WHOLE = {"allow_partial_search_results": "false"}


def documents(
    index: str, wanted: Sequence[Mapping[str, str]], params: Mapping[str, str]
) -> Flow[list[Mapping[str, Any]]]:
    """Those of the `wanted` (`_id` and perhaps `routing`) that there are, as they are now, searchable yet or not.

    Raises EngineBusy where one could not be read, which is another thing than not being there.
    """
    response = yield Request("POST", path_of(index, "_mget"), params, {"docs": wanted})
    if failed := next((one["error"] for one in response.body["docs"] if "error" in one), None):
        raise EngineBusy(f"not all documents of {index} could be read: {failed.get('reason') or failed}")
    return [one for one in response.body["docs"] if one.get("found")]


def lacking(alias: str, windows: Sequence[Mapping[str, int]]) -> Flow[list[set[str]]]:
    """For each window of id -> version: the ids of which the index holds nothing, or something older.

    Asks the index itself, not the alias: that hides deleted documents, whose tombstones count as theirs.
    """
    stored = yield from load(alias)
    yield Request("POST", path_of(stored.index, "_refresh"))
    found = []
    for wanted in windows:
        held = yield from _versions(stored.index, list(wanted))
        found.append({id_ for id_, version in wanted.items() if held.get(id_, 0) < version})
    return found


def _versions(index: str, ids: Sequence[str]) -> Flow[dict[str, int]]:
    body: dict[str, Any] = {
        "size": len(ids),
        "query": {"bool": {"filter": [{"ids": {"values": list(ids)}}]}},
        "_source": False,
        "docvalue_fields": [_VERSION],
        "track_total_hits": False,
    }
    params = {"filter_path": "hits.hits._id,hits.hits.fields"} | _WHOLE
    response = yield Request("POST", path_of(index, "_search"), params, body)
    hits = response.body.get("hits", {}).get("hits", [])
    # An id may lie in two shards under two routings; the newer one counts.
    versions: dict[str, int] = {}
    for hit in hits:
        version = int(hit.get("fields", {}).get(_VERSION, [0])[0])
        versions[hit["_id"]] = max(version, versions.get(hit["_id"], 0))
    return versions


def relations(spec: Spec, ids: Sequence[str]) -> Flow[dict[str, dict[str, Any]]]:
    """The join field and the routing of documents, as a document has them: a tombstone must lie where they lie."""
    fields = sorted({join.field for join in spec.parents().values()})
    body: dict[str, Any] = {"size": len(ids), "query": {"ids": {"values": list(ids)}}, "_source": fields}
    params = {"filter_path": "hits.hits._id,hits.hits._routing,hits.hits._source"} | _WHOLE
    stored = yield from load(spec.index)
    yield Request("POST", path_of(stored.index, "_refresh"))
    response = yield Request("POST", path_of(stored.index, "_search"), params, body)
    found: dict[str, dict[str, Any]] = {}
    for hit in response.body.get("hits", {}).get("hits", []):
        routing = {"_routing": hit["_routing"]} if "_routing" in hit else {}
        found[hit["_id"]] = hit.get("_source", {}) | routing
    return found
