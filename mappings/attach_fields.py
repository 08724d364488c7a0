"""The fields of a mapping that knnex did not make: which of them may hold text, and all of them as a spec has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..errors import SpecMismatch
from .attach_find import Existing
from .spec import PROVENANCE

TEXTS = frozenset({"text", "match_only_text", "search_as_you_type", "annotated_text"})
VECTORS = frozenset({"dense_vector", "knn_vector", "sparse_vector", "rank_vectors", "semantic_text", "semantic"})
# What has no value of its own in a document, or none that is text.
_NO_SOURCE = VECTORS | {"object", "nested", "join", "percolator", "binary"}
# No template can name a field of such a name.
_ODD = frozenset("{}")
# Settings that an index of the same documents needs too.
_TAKEN = (
    "number_of_shards",
    "number_of_replicas",
    "refresh_interval",
    "max_result_window",
    "analysis",
    "similarity",
    "mapping",
)
# Parts of the mapping of which the same is true.
_BESIDE = (
    "dynamic",
    "dynamic_templates",
    "dynamic_date_formats",
    "date_detection",
    "numeric_detection",
    "runtime",
    "_routing",
)


@dataclass(frozen=True)
class Leaf:
    """A field of the mapping by its dotted path; `nested` is the nested object it lies in, if any."""

    path: str
    type: str
    mapping: Mapping[str, Any]
    nested: str = ""

    @property
    def is_text(self) -> bool:
        """Whether words are looked up in it: it, or one of its multi-fields, is analyzed."""
        kinds = {self.type, *(str(one.get("type")) for one in (self.mapping.get("fields") or {}).values())}
        return bool(kinds & TEXTS) and self.type in TEXTS | {"keyword", "wildcard"}


def leaves(existing: Existing) -> list[Leaf]:
    """The fields of the documents, deep ones too; what knnex has added earlier is not among them."""
    return [
        leaf
        for name, mapping in existing.properties.items()
        if name != PROVENANCE and name not in existing.ours
        for leaf in _walk(name, mapping, "")
    ]


def _walk(path: str, mapping: Mapping[str, Any], nested: str) -> Iterator[Leaf]:
    kind = _type(mapping)
    nested = path if kind == "nested" else nested
    yield Leaf(path, kind, mapping, nested)
    if mapping.get("enabled") not in (False, "false"):
        for name, inner in (mapping.get("properties") or {}).items():
            yield from _walk(f"{path}.{name}", inner, nested)


def _type(mapping: Mapping[str, Any]) -> str:
    return str(mapping.get("type", "object"))


def texts(existing: Existing) -> list[Leaf]:
    """The fields that a vector may be made of; those of nested objects are left to whoever names them."""
    return [leaf for leaf in leaves(existing) if leaf.is_text and not leaf.nested and not _ODD & set(leaf.path)]


def named(existing: Existing, names: tuple[str, ...]) -> list[Leaf]:
    """The fields of these names, those that an alias stands for or a multi-field belongs to. Raises SpecMismatch."""
    known = {leaf.path: leaf for leaf in leaves(existing)}
    found: dict[str, Leaf] = {}
    for name in names:
        leaf = known.get(name) or known.get(name.rpartition(".")[0])
        if leaf and leaf.type == "alias":
            leaf = known.get(str(leaf.mapping.get("path")))
        if leaf is None or (leaf.path != name and known.get(name) is None and not _is_multi(leaf, name)):
            close = get_close_matches(name, known, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            listed = [leaf.path for leaf in known.values() if leaf.is_text]
            raise SpecMismatch(
                f"the mapping of {existing.index} has no field {name!r}{meant}",
                hint=f"its text fields are {', '.join(listed[:20]) or 'none'}",
            )
        if leaf.type in _NO_SOURCE:
            inside = [one.path for one in known.values() if one.path.startswith(f"{leaf.path}.")]
            raise SpecMismatch(
                f"{name!r} is of type {leaf.type}: no text can be read there",
                hint=f"name a field inside it: {', '.join(inside[:10])}" if inside else "name a text field",
            )
        found[leaf.path] = leaf
    return list(found.values())


def _is_multi(leaf: Leaf, name: str) -> bool:
    return name.rpartition(".")[2] in (leaf.mapping.get("fields") or {})


def taken_over(existing: Existing, sources: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec's `fields` and `joins`: every field with all its options.

    A nested object is a join, unless a source of the embedding lies in it: sources are fields.
    """
    fields: dict[str, Any] = {}
    joins: dict[str, Any] = {}
    for name, mapping in existing.properties.items():
        kind = _type(mapping)
        if name == PROVENANCE or name in existing.ours:
            continue
        if kind == "join":
            for parent, children in (mapping.get("relations") or {}).items():
                some = [children] if isinstance(children, str) else list(children)
                joins[parent] = {"kind": "parent", "children": some, "field": name}
        elif kind == "nested" and not any(one.startswith(f"{name}.") for one in sources):
            joins[name] = {"kind": "nested", "fields": _typed(mapping).get("properties", {})}
        else:
            fields[name] = _typed(mapping)
    return fields, joins


def _typed(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with the type written out everywhere: engines leave it out of objects."""
    made: dict[str, Any] = {"type": _type(mapping), **mapping}
    if inner := mapping.get("properties"):
        made["properties"] = {name: _typed(one) for name, one in inner.items()}
    return made


def settings_taken_over(existing: Existing) -> dict[str, Any]:
    """The settings without which another index could not hold these documents, as a tree."""
    tree: dict[str, Any] = {}
    for name, value in existing.settings.items():
        path = name.removeprefix("index.").split(".")
        if path[0] not in _TAKEN:
            continue
        inner = tree
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return tree


def mapping_taken_over(existing: Existing) -> dict[str, Any]:
    """What the mapping has beside its properties: templates for new fields, how dates are found, routing."""
    return {name: value for name, value in existing.mappings.items() if name in _BESIDE}


def free_name(existing: Existing, source: str) -> str:
    """A name for the embedding of a source: that of an earlier attach, or one that no field has."""
    base = f"{source.replace('.', '_')}_vector"
    taken = {leaf.path for leaf in leaves(existing)}
    names = (base, *(f"{base}_{number}" for number in range(2, 1000)))
    return next(name for name in names if name not in taken)
