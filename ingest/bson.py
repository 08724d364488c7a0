"""Extended JSON of MongoDB as plain JSON: https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_TYPES: dict[str, Callable[[Any], Any]] = {
    "$oid": str,
    "$uuid": str,
    "$symbol": str,
    "$numberInt": int,
    "$numberLong": int,
    "$numberDouble": float,
    "$numberDecimal": float,
}


def plain_bson(value: Any) -> Any:
    """`{"$oid": "5f..."}` becomes `"5f..."`, a number a number, a date milliseconds or its text; the rest stays."""
    if isinstance(value, list):
        return [plain_bson(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        name, inner = next(iter(value.items()))
        if name == "$date":
            return plain_bson(inner)
        if name in _TYPES and isinstance(inner, (str, int, float)):
            try:
                return _TYPES[name](inner)
            except ValueError:
                return value
    return {name: plain_bson(inner) for name, inner in value.items()}
