"""From what differs to operations, part by part: fields, settings, the mapping as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..engines import Dialect
from ..errors import SpecMismatch
from .apply import Stored
from .compare import Difference, change, flat, many, same
from .in_place import MAPPING_OPTIONS, field_option_is_dynamic, setting_is_dynamic
from .look import Live
from .operations import (
    AddField,
    ChangeField,
    ChangeMapping,
    ChangeSetting,
    Kind,
    Operation,
    RemoveField,
)
from .spec import PROVENANCE

NO_REMOVAL = "engines take no field out of a mapping"
_FIXED = "fixed when the index is made"


@dataclass(frozen=True)
class Sides:
    """An index as it is wanted, and as it is; bodies are what each spec compiles to on this engine."""

    dialect: Dialect
    wanted: Stored
    body: Mapping[str, Any]
    before: Mapping[str, Any]
    live: Live

    @property
    def properties(self) -> Mapping[str, Any]:
        """The fields of the mapping, as they are wanted."""
        found: Mapping[str, Any] = self.body["mappings"]["properties"]
        return found

    @property
    def former(self) -> Mapping[str, Any]:
        """The fields of the mapping, as the stored spec has them."""
        found: Mapping[str, Any] = self.before["mappings"]["properties"]
        return found


def fields(sides: Sides) -> Iterator[Operation]:
    """Fields and joins."""
    apart = {*sides.wanted.spec.embeddings, *sides.live.stored.spec.embeddings, PROVENANCE}
    wanted = {name: one for name, one in sides.properties.items() if name not in apart}
    former = {name: one for name, one in sides.former.items() if name not in apart}
    yield from _fields(sides, wanted, sides.live.properties, former)
    provenance = {PROVENANCE: sides.properties[PROVENANCE]}
    added = sides.wanted.spec.embeddings.keys() - sides.live.stored.spec.embeddings.keys()
    if not added and PROVENANCE not in sides.live.properties:
        yield AddField(
            index=sides.live.index, kind="in place", reason="new fields may be added", properties=provenance,
            path=PROVENANCE, type="object",
        )  # fmt: skip


def check_theirs(sides: Sides) -> None:
    """Raises SpecMismatch for a field that an index which others made does not have, or has as another type."""
    spec, index = sides.wanted.spec, sides.live.index
    for name, field in spec.fields.items():
        held = _at(sides.live.properties, name)
        if held is None or held.get("type") != field.type:
            what = "is not in the mapping" if held is None else f"is of type {held.get('type')}, not {field.type}"
            raise SpecMismatch(
                f"field {name!r} {what} of {index}, which others made",
                hint="knnex adds only vectors there; declare the fields as they are",
            )


def _at(properties: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The field of a dotted path, a sub-field of another among them."""
    if path in properties:
        found: Mapping[str, Any] = properties[path]
        return found
    head, _, rest = path.partition(".")
    if not rest or head not in properties:
        return None
    above = properties[head]
    return _at(above.get("properties") or above.get("fields") or {}, rest)


def _fields(
    sides: Sides,
    wanted: Mapping[str, Any],
    live: Mapping[str, Any],
    former: Mapping[str, Any],
    path: tuple[str, ...] = (),
) -> Iterator[Operation]:
    for name, field in wanted.items():
        here = (*path, name)
        if name not in live:
            yield _added(sides, here, field)
            continue
        yield from _changed(sides, here, field, live[name], former.get(name, {}))
        inner = (
            field.get("properties", {}),
            live[name].get("properties", {}),
            former.get(name, {}).get("properties", {}),
        )
        yield from _fields(sides, *inner, here)
        gone = former.get(name, {}).get("fields", {}).keys() - field.get("fields", {}).keys()
        for sub in sorted(gone & live[name].get("fields", {}).keys()):
            yield _removed(sides, (*here, sub))
    for name in sorted((former.keys() - wanted.keys()) & live.keys()):
        yield _removed(sides, (*path, name))


def _removed(sides: Sides, path: tuple[str, ...]) -> RemoveField:
    return RemoveField(index=sides.live.index, kind="new version", reason=NO_REMOVAL, path=".".join(path))


def _added(sides: Sides, path: tuple[str, ...], field: Mapping[str, Any]) -> AddField:
    sample = sides.live.sample
    filled = any(_holds(document, path) for document in sample)
    reason = "new fields may be added"
    if filled:
        reason = "documents hold it, and are written again so that it is found in them"
    elif len(sample) < sides.live.documents:
        reason += f"; none of {len(sample):,} documents looked at holds it, others are found by it once written again"
    return AddField(
        index=sides.live.index,
        kind="backfill" if filled else "in place",
        reason=reason,
        path=".".join(path),
        type=field.get("type", "object"),
        properties=_nested(sides.properties, path, field),
    )


def _holds(document: Any, path: tuple[str, ...]) -> bool:
    if isinstance(document, list):
        return any(_holds(one, path) for one in document)
    if not path:
        return document is not None
    return isinstance(document, Mapping) and path[0] in document and _holds(document[path[0]], path[1:])


def _nested(properties: Mapping[str, Any], path: tuple[str, ...], field: Mapping[str, Any]) -> dict[str, Any]:
    """The update of a mapping that reaches one field: of the objects above it only what an update must repeat."""
    if len(path) == 1:
        return {path[0]: dict(field)}
    above = properties[path[0]]
    repeated = {"type": "nested"} if above.get("type") == "nested" else {}
    return {path[0]: repeated | {"properties": _nested(above["properties"], path[1:], field)}}


def _changed(
    sides: Sides, path: tuple[str, ...], field: Mapping[str, Any], live: Mapping[str, Any], former: Mapping[str, Any]
) -> Iterator[ChangeField]:
    """One operation for all options of a field that differ."""
    found = list(options(field, live, former, _set(sides.live.mapping, path)))
    if not found:
        return
    kinds = {one.path: _kind(one.path, one.wanted, one.actual) for one in found}
    fixed = [option for option, kind in kinds.items() if kind == "new version"]
    kind: Kind = "new version" if fixed else "backfill" if "backfill" in kinds.values() else "in place"
    reasons: dict[Kind, str] = {
        "new version": f"{', '.join(fixed)} of a live field cannot change",
        "backfill": "documents are written again so that the new sub-field is found in them",
        "in place": "what is in the index already stays as it was indexed",
    }
    yield ChangeField(
        index=sides.live.index,
        kind=kind,
        reason=reasons[kind],
        path=".".join(path),
        changes=tuple(change(one.path, one.actual, one.wanted) for one in found),
        properties=None if fixed else _nested(sides.properties, path, _shallow(field)),
    )


def _kind(option: str, wanted: Any, actual: Any) -> Kind:
    """How an option of a live field is changed."""
    if option == "fields":
        kinds = {_kind_of_sub_field(one, (actual or {}).get(name)) for name, one in wanted.items()}
        return "new version" if "new version" in kinds else "backfill" if "backfill" in kinds else "in place"
    grown = option == "relations" and all(_grows(wanted.get(name), held) for name, held in (actual or {}).items())
    without_norms = option == "norms" and wanted is False
    return "in place" if grown or without_norms or field_option_is_dynamic(option) else "new version"


def _kind_of_sub_field(wanted: Mapping[str, Any], actual: Mapping[str, Any] | None) -> Kind:
    if actual is None:
        return "backfill"
    changed = [option for option, value in wanted.items() if not same(value, actual.get(option, value), option)]
    return "in place" if all(map(field_option_is_dynamic, changed)) else "new version"


def _grows(wanted: Any, held: Any) -> bool:
    """Whether a parent keeps all the children that it has."""
    return set(many(held)) <= set(many(wanted)) if wanted is not None else False


def _shallow(field: Mapping[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in field.items() if option != "properties"}


def _set(mapping: Mapping[str, Any], path: tuple[str, ...]) -> frozenset[str]:
    """The options of a live field that are not the engine's defaults: those that it echoes without being asked."""
    field: Mapping[str, Any] = mapping
    for name in path:
        field = field.get("properties", {}).get(name, {})
    return frozenset(field)


def options(
    field: Mapping[str, Any], live: Mapping[str, Any], former: Mapping[str, Any], set_: frozenset[str]
) -> Iterator[Difference]:
    """Options that are asked for and otherwise, and those that were asked for and no longer are."""
    for option, value in field.items():
        # What the engine does not show at all is as it was asked for when the field was made.
        actual = live.get(option, former.get(option))
        if option != "properties" and not same(value, actual, option):
            yield Difference(option, value, actual)
    for option in sorted((former.keys() & set_) - field.keys() - {"properties", "fields"}):
        yield Difference(option, None, live[option])


def settings(sides: Sides) -> Iterator[ChangeSetting]:
    """Settings that are asked for, and those that no longer are; what others set is theirs."""
    wanted, former, live = flat(sides.body["settings"]), flat(sides.before["settings"]), sides.live.settings
    changed = {name: value for name, value in wanted.items() if not same(value, setting_of(live, name))}
    changed |= dict.fromkeys(name for name in former.keys() - wanted.keys() if name in live)
    for name, value in changed.items():
        dynamic = setting_is_dynamic(name)
        yield ChangeSetting(
            index=sides.live.index,
            kind="in place" if dynamic else "new version",
            reason="a setting of live indexes" if dynamic else _FIXED,
            name=name,
            value=value,
            was=setting_of(live, name),
        )


def setting_of(live: Mapping[str, Any], name: str) -> Any:
    """A live setting; a list comes as `name.0`, `name.1` where the engine spreads it."""
    spread = [
        value
        for key, value in sorted(live.items())
        if key.rpartition(".")[0] == name and key.rpartition(".")[2].isdigit()
    ]
    return live.get(name, spread or None)


def whole(sides: Sides) -> Iterator[ChangeMapping]:
    """What holds for the mapping as a whole."""
    wanted, former, live = sides.body["mappings"], sides.before["mappings"], sides.live.mapping
    changed = {name: value for name, value in wanted.items() if not same(value, live.get(name, former.get(name)))}
    empty = {"dynamic": "true", "dynamic_templates": [], "runtime": {}}
    changed |= {name: empty.get(name) for name in former.keys() - wanted.keys() if name in live}
    for name, value in changed.items():
        if name in ("properties", "_meta"):
            continue
        may = name in MAPPING_OPTIONS and value is not None
        yield ChangeMapping(
            index=sides.live.index,
            kind="in place" if may else "new version",
            reason="holds for documents that come in from now on" if may else _FIXED,
            name=name,
            value=value,
            was=live.get(name),
        )
