"""What a mapping or a setting is asked to be, beside what an engine says that it is.

Engines echo a mapping in words of their own: they leave out what is their default, add what nobody asked for, write
numbers and truth values as text. So nobody asks whether two are equal, but whether what was asked for is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Echoed in capitals by OpenSearch.
_CASELESS = {"data_type"}


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was asked for and is not so; `actual` is None where it is not there at all."""

    path: str
    wanted: Any
    actual: Any

    def __str__(self) -> str:
        return f"{self.path} is {told(self.actual)}, not {told(self.wanted)}"


def told(value: Any) -> str:
    """A value in a line for people."""
    if isinstance(value, Mapping):
        parts = ", ".join(f"{key} {told(one)}" for key, one in value.items() if one is not None)
        return str(value["type"]) if value.keys() == {"type"} else f"({parts})"
    return "absent" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def change(path: str, actual: Any, wanted: Any) -> str:
    """`m 16 -> 8`; of objects only the keys that differ, by their dotted names."""
    if not (isinstance(wanted, Mapping) and isinstance(actual, Mapping)):
        return f"{path} {told(actual)} -> {told(wanted)}"
    keys = [*actual, *(key for key in wanted if key not in actual)]
    pairs = [(key, actual.get(key), wanted.get(key)) for key in keys]
    return ", ".join(change(f"{path}.{key}", old, new) for key, old, new in pairs if not same(new, old, key))


def same(wanted: Any, actual: Any, key: str = "") -> bool:
    """Whether a value is there as it was asked for: `true` is "true", 1 is "1", a lone value a list of one."""
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(same(one, actual.get(name), name) for name, one in wanted.items())
    if isinstance(wanted, (list, tuple)) or isinstance(actual, (list, tuple)):
        left, right = many(wanted), many(actual)
        return len(left) == len(right) and all(map(same, left, right))
    if key in _CASELESS:
        return str(wanted).lower() == str(actual).lower()
    return bool(wanted == actual) or _plain(wanted) == _plain(actual)


def many(value: Any) -> list[Any]:
    """A list as it is, a lone value as a list of one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _plain(value: Any) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names, without the leading `index.` that engines take and leave."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.")
        else:
            found[path.removeprefix("index.")] = value
    return found


def with_defaults(
    properties: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]], path: str = ""
) -> dict[str, Any]:
    """The fields of a live mapping, each with the options the engine left out of it because they are its defaults."""
    found: dict[str, Any] = {}
    for name, field in properties.items():
        inner = f"{path}{name}"
        whole = {**defaults.get(inner, {}), **field}
        for below in ("properties", "fields"):
            if below in field:
                whole[below] = with_defaults(field[below], defaults, f"{inner}.")
        found[name] = {"type": "object"} | whole
    return found


def differences(wanted: Mapping[str, Any], actual: Mapping[str, Any], path: str = "") -> Iterator[Difference]:
    """The fields and options of `wanted` properties that `actual` lacks, or has otherwise; fields of neither count."""
    for name, field in wanted.items():
        inner = f"{path}{name}"
        if name not in actual:
            yield Difference(inner, field.get("type", "object"), None)
            continue
        for option, value in field.items():
            if option == "properties":
                yield from differences(value, actual[name].get("properties", {}), f"{inner}.")
            elif not same(value, actual[name].get(option, value), option):
                yield Difference(f"{inner}.{option}", value, actual[name].get(option))
