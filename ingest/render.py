"""The text of an embedding, from the fields of a document that its source names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import InputError

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def text_of(source: str | Sequence[str], document: Mapping[str, Any]) -> str | None:
    """The text a source makes of a document, or None where all its fields are empty.

    A template such as `"{title}. {plot}"` is filled in, a list of fields joined by newlines. A path may lead through
    objects (`cast.name`) and through lists of them; strings of a list are joined by ", ". Raises InputError for a
    field that holds an object.
    """
    if isinstance(source, str):
        filled = list(_cut(source))
        filled[1::2] = values = [value_of(name, document) for name in filled[1::2]]
        return "".join(filled).strip() if any(values) else None
    return "\n".join(value for value in (value_of(name, document) for name in source) if value) or None


@lru_cache(maxsize=256)
def _cut(template: str) -> tuple[str, ...]:
    """What stands around and in its braces, in turn."""
    return tuple(_PLACEHOLDER.split(template))


def value_of(path: str, document: Mapping[str, Any]) -> str:
    """A field as text; empty where it is missing, null or blank."""
    if type(plain := document.get(path)) is str:
        return plain.strip()
    found = _walk(document, path)
    return ", ".join(text for text in (_scalar(value, path) for value in found) if text)


def _walk(value: Any, path: str) -> list[Any]:
    """All values at a path; engines read the key "a.b" and the object {"a": {"b": ...}} alike."""
    if isinstance(value, (list, tuple)):
        return [found for inner in value for found in _walk(inner, path)]
    if not path:
        return [value]
    if not isinstance(value, Mapping):
        return []
    if path in value:
        return _walk(value[path], "")
    head, _, rest = path.partition(".")
    return _walk(value[head], rest) if rest and head in value else []


def _scalar(value: Any, path: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    raise InputError(f"field {path!r}, a source of an embedding, holds an object: name a field inside it")
