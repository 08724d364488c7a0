"""What the cluster holds under a name that knnex did not make: mapping, settings and aliases, read and not judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engines import Flow, Request, path_of
from ..errors import IndexMissing, SpecMismatch, UnsupportedByEngine
from .apply import check_name, write_alias
from .compile import META
from .spec import PROVENANCE

_MISSING = frozenset({404})


@dataclass(frozen=True)
class Existing:
    """One concrete index, and the name by which it was asked for: its own, or that of an alias."""

    name: str
    index: str
    mappings: Mapping[str, Any]
    # By their flat names: `index.blocks.write`.
    settings: Mapping[str, Any]
    aliases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Such as open, closed, hidden, system, frozen.
    attributes: frozenset[str] = frozenset()

    @property
    def properties(self) -> Mapping[str, Any]:
        """The fields at the top of the mapping."""
        found: Mapping[str, Any] = self.mappings.get("properties") or {}
        return found

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the mapping's `_meta` holds, whoever put it there."""
        found: Mapping[str, Any] = self.mappings.get("_meta") or {}
        return found

    @property
    def ours(self) -> frozenset[str]:
        """The embeddings whose fields an earlier attach has added: fields cannot be taken out of a mapping."""
        noted = self.properties.get(PROVENANCE, {}).get("properties", {}).get("vectors", {})
        return frozenset(noted.get("properties", {}))

    @property
    def known(self) -> bool:
        """Whether knnex made the index, or is attached to it."""
        return META in self.meta

    @property
    def write_alias(self) -> str:
        """The alias by which vectors are written: a bulk that requires it cannot make a deleted index anew."""
        return write_alias(self.index)

    def setting(self, name: str) -> str:
        """A setting as text, lower-case; empty where it is not set. `name` lacks the `index.` in front."""
        return str(self.settings.get(f"index.{name}", "")).lower()


def look(name: str) -> Flow[Existing]:
    """What lies under a name.

    Raises IndexMissing, SpecMismatch for an alias of several indexes, and UnsupportedByEngine for what is no index at
    all: a pattern, a data stream, an index of another cluster.
    """
    _check_one(name)
    index, attributes = yield from _resolve(name)
    response = yield Request("GET", path_of(index), {"flat_settings": "true"}, allow=_MISSING)
    if response.status == 404:
        raise IndexMissing(f"there is no index {name!r}", hint="GET _cat/indices names those there are")
    held = response.body[index]
    aliases = held.get("aliases", {})
    return Existing(name, index, held.get("mappings", {}), held.get("settings", {}), aliases, attributes)


def _check_one(name: str) -> None:
    if isinstance(name, str) and (set(name) & set("*?,") or name in ("_all", "")):
        raise UnsupportedByEngine(
            f"{name!r} means several indexes: vectors are added to one", hint="attach each of them by its own name"
        )
    if isinstance(name, str) and ":" in name:
        raise UnsupportedByEngine(
            f"{name!r} is an index of another cluster, where nothing can be written from here",
            hint="connect to that cluster (--url) and attach the index there",
        )
    if not (isinstance(name, str) and name.startswith(".")):
        check_name(name)


def _resolve(name: str) -> Flow[tuple[str, frozenset[str]]]:
    """The concrete index, and its attributes."""
    response = yield Request("GET", f"/_resolve/index{path_of(name)}", {"expand_wildcards": "all"}, allow=_MISSING)
    found = response.body if response.status != 404 else {}
    if streams := [one["name"] for one in found.get("data_streams", ())]:
        _refuse_stream(name, streams[0])
    for one in found.get("aliases", ()):
        if len(one["indices"]) != 1:
            listed = ", ".join(sorted(one["indices"])[:5])
            raise SpecMismatch(
                f"alias {name!r} points at {len(one['indices'])} indexes ({listed}): vectors are added to one",
                hint="attach each of them by its own name",
            )
        return (yield from _resolve(one["indices"][0]))
    for one in found.get("indices", ()):
        if stream := one.get("data_stream"):
            _refuse_stream(name, stream)
        return str(one["name"]), frozenset(one.get("attributes", ()))
    raise IndexMissing(f"there is no index {name!r}", hint="GET _cat/indices names those there are")


def _refuse_stream(name: str, stream: str) -> None:
    what = f"{name!r} is a data stream" if name == stream else f"{name!r} belongs to the data stream {stream!r}"
    raise UnsupportedByEngine(
        f"{what}: its documents are appended and roll over into new indexes, which an added field does not reach",
        hint="put the vectors into an index of their own: `knnex create SPEC`, and send the documents there",
    )
