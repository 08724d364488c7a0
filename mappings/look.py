"""Looking at an index without touching it: all that planning needs, by GET, `_search` and `_count` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engines import Flow, Request, path_of
from ..errors import AccessDenied, RequestRejected, SpecMismatch
from .apply import Stored, check_name, find, version_number
from .compare import flat, with_defaults
from .compile import META
from .spec import PROVENANCE, Spec

#: Documents that are looked at to tell what the others are like.
SAMPLE = 500

_MISSING = frozenset({404})
_GONE: dict[str, Any] = {"term": {f"{PROVENANCE}.deleted": True}}
_OURS: dict[str, Any] = {"exists": {"field": f"{PROVENANCE}.version"}}


@dataclass(frozen=True)
class Live:
    """An index as it is, at the moment of looking."""

    alias: str
    stored: Stored
    # The mapping as the engine echoes it, its fields with all options that the engine leaves out by default.
    mapping: Mapping[str, Any]
    properties: Mapping[str, Any]
    # By dotted name, without the leading `index.`.
    settings: Mapping[str, Any]
    # The aliases of the index, each with its options.
    aliases: Mapping[str, Any] = field(default_factory=dict)
    # Every version index there is under this name, the newest last.
    versions: tuple[str, ...] = ()
    # Documents a search sees; those that are kept as deleted; those that were not written through knnex.
    documents: int = 0
    deleted: int = 0
    foreign: int = 0
    # Bytes of the primary shards, and bytes free on all data nodes (None: not allowed to ask).
    store_bytes: int = 0
    free_bytes: int | None = None
    sample: tuple[Mapping[str, Any], ...] = ()

    @property
    def index(self) -> str:
        """The concrete index."""
        return self.stored.index

    @property
    def is_version(self) -> bool:
        """Whether an alias stands before the index, so that another can take its place."""
        return self.index != self.alias

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that are set on the index: `write`, `read_only`, `read_only_allow_delete`, `metadata`."""
        names = ("read_only", "read_only_allow_delete", "write", "metadata")
        return tuple(name for name in names if str(self.settings.get(f"blocks.{name}", "")).lower() == "true")


def look(alias: str, spec: Spec | None = None, *, sample: int = SAMPLE) -> Flow[Live | None]:
    """What is under an alias, or None; `spec` is the wanted one, whose fields the sampled documents are to have.

    Raises SpecMismatch for an alias on several indexes, a closed index, and one that knnex does not keep.
    """
    check_name(alias)
    response = yield Request("GET", path_of(alias, "_mapping"), allow=_MISSING)
    if response.status == 404:
        return None
    mapping = _one(alias, response.body)
    stored = yield from find(alias)
    if stored is None:  # it was deleted between two requests
        return None
    index = stored.index
    answer = yield Request("GET", path_of(index, "_settings"), {"flat_settings": "true"})
    settings = flat(answer.body[index]["settings"])
    if str(settings.get("verified_before_close", "")).lower() == "true":
        raise SpecMismatch(f"the index {index!r} behind {alias!r} is closed", hint=f"open it with POST /{index}/_open")
    defaults = yield from _defaults(index)
    aliases = yield Request("GET", path_of(index, "_alias"))
    stats = yield Request("GET", path_of(index, "_stats", "store"), {"filter_path": "_all.primaries.store"})
    alive = {"bool": {"must_not": [_GONE]}}
    return Live(
        alias=alias,
        stored=stored,
        mapping=mapping,
        properties=with_defaults(mapping.get("properties", {}), defaults),
        settings=settings,
        aliases=aliases.body[index]["aliases"],
        versions=(yield from _versions(alias)),
        documents=(yield from count(index, alive)),
        deleted=(yield from count(index, _GONE)),
        foreign=(yield from count(index, {"bool": {"must_not": [_OURS]}})),
        store_bytes=int(stats.body.get("_all", {}).get("primaries", {}).get("store", {}).get("size_in_bytes", 0)),
        free_bytes=(yield from _free()),
        sample=(yield from _sample(index, _read(stored.spec, spec), sample)) if sample else (),
    )


def _one(alias: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping of the one index, if knnex keeps it."""
    if len(body) > 1:
        raise SpecMismatch(
            f"alias {alias!r} points at {', '.join(sorted(body))}",
            hint="it must point at one index: take it off the others with POST /_aliases",
        )
    index, holder = next(iter(body.items()))
    mapping: Mapping[str, Any] = holder["mappings"]
    if META not in mapping.get("_meta", {}):
        what = "a concrete index" if index == alias else f"an alias of {index!r}"
        raise SpecMismatch(
            f"{alias!r} is {what} that knnex did not make",
            hint=f"`knnex attach {alias}` proposes a spec for it, or choose another name for `index` in the spec",
        )
    return mapping


def _defaults(index: str) -> Flow[dict[str, Mapping[str, Any]]]:
    """Every field that holds values, by its path, with all its options."""
    response = yield Request("GET", path_of(index, "_mapping", "field", "*"), {"include_defaults": "true"})
    found = response.body.get(index, {}).get("mappings", {})
    return {path: next(iter(one["mapping"].values())) for path, one in found.items() if one["mapping"]}


def _versions(alias: str) -> Flow[tuple[str, ...]]:
    response = yield Request("GET", path_of(f"{alias}-*", "_alias"), allow=_MISSING)
    return tuple(sorted(name for name in response.body if version_number(alias, name)))


def count(index: str, query: Mapping[str, Any] | None = None) -> Flow[int]:
    """How many documents of an index, by its own name or not, a query finds, else all; it must have been refreshed."""
    response = yield Request("POST", path_of(index, "_count"), body={"query": query or {"match_all": {}}})
    return int(response.body["count"])


def _free() -> Flow[int | None]:
    params = {"filter_path": "nodes.*.fs.total.available_in_bytes"}
    try:
        response = yield Request("GET", "/_nodes/stats/fs", params)
    except (AccessDenied, RequestRejected):  # a managed cluster may keep it to itself
        return None
    nodes = response.body.get("nodes", {}).values()
    return sum(int(node["fs"]["total"]["available_in_bytes"]) for node in nodes) if nodes else None


def _read(stored: Spec, wanted: Spec | None) -> list[str]:
    """The fields that a sampled document is read for: what vectors are made of, and what the wanted spec adds."""
    specs = [stored] + ([wanted] if wanted else [])
    sources = {name for spec in specs for one in spec.embeddings.values() for name in one.source_fields}
    added = wanted.fields.keys() - stored.fields.keys() if wanted else set()
    return sorted({*sources, *added})


def _sample(index: str, includes: Sequence[str], size: int) -> Flow[tuple[Mapping[str, Any], ...]]:
    """Documents drawn at random, the same ones each time as long as the index does not change."""
    chance = {"random_score": {"seed": 17, "field": "_seq_no"}, "boost_mode": "replace"}
    body = {
        "size": size,
        "query": {"function_score": {"query": {"bool": {"must_not": [_GONE]}}, **chance}},
        "_source": {"includes": list(includes) or ["_none_"]},
        "track_total_hits": False,
    }
    response = yield Request("POST", path_of(index, "_search"), body=body)
    return tuple(hit.get("_source") or {} for hit in response.body["hits"]["hits"])
