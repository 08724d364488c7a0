"""The values a filter compares with, checked against the field's type before an engine sees them."""

from __future__ import annotations

import math
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np

from ..errors import QueryError
from .names import DATE, FLOATS, INTEGERS, KEYWORD, TEXT, Known

#: Metrics under which the length of a vector matters, and not its direction alone.
LENGTH_COUNTS = frozenset({"l2", "max_inner_product"})

#: The most values one Terms may have, on both engines (`index.max_terms_count`).
MAX_TERMS = 65_536
#: The most ids one Ids may have, on Elasticsearch (`index.max_result_window`).
MAX_IDS = 10_000
# Lucene holds no longer term, so no document can have one.
_MAX_TERM_BYTES = 32_766


def plain(value: Any, known: Known) -> Any:
    """The value as JSON holds it. Raises QueryError where it cannot be one of the field's."""
    value = _unwrapped(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise QueryError(f"{known.name} is compared with {value}", hint="give a finite number")
    if isinstance(value, str):
        check_unicode(value, f"the value for {known.name}")
    value = _read(value, known)
    if known.type in INTEGERS or known.type in FLOATS:
        wrong = isinstance(value, bool) or not isinstance(value, (int, float))
        expected = "a number"
    elif known.type in DATE:
        wrong, expected = (
            isinstance(value, bool) or not isinstance(value, (str, int)),
            "a date, or a string such as 1999-12-31",
        )
    elif known.type == "boolean":
        wrong, expected = not isinstance(value, bool), "True or False"
    elif known.type in KEYWORD or known.type in TEXT:
        wrong, expected = not isinstance(value, (str, int, float)), "a string"
    else:
        wrong, expected = False, ""
    if wrong:
        raise QueryError(
            f"{known.name} is of type {known.type}: {value!r:.80} is no value of it", hint=f"give {expected}"
        )
    return value


def _unwrapped(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, (datetime, date)) else value


def _read(value: Any, known: Known) -> Any:
    """A number or a truth written as a string, as engines read it too."""
    if not isinstance(value, str):
        return value
    if known.type == "boolean":
        return {"true": True, "false": False}.get(value.lower(), value)
    if known.type in INTEGERS or known.type in FLOATS:
        for kind in (int, float):
            try:
                number = kind(value)
            except ValueError:
                continue
            return number if math.isfinite(number) else value
    return value


def reachable(value: Any, known: Known) -> bool:
    """Whether the field's type can hold such a value at all."""
    limit = INTEGERS.get(known.type) or FLOATS.get(known.type)
    if limit is not None:
        whole = known.type in FLOATS or float(value).is_integer()
        return whole and _lowest(known) <= value <= limit
    return not (isinstance(value, str) and len(value.encode()) > _MAX_TERM_BYTES)


def beyond(value: Any, known: Known) -> int:
    """Where a bound lies: 0 within what the type can hold, 1 above it, -1 below."""
    limit = INTEGERS.get(known.type) or FLOATS.get(known.type)
    if limit is None or _lowest(known) <= value <= limit:
        return 0
    return 1 if value > 0 else -1


def _lowest(known: Known) -> float:
    if known.type == "unsigned_long":
        return 0
    return -INTEGERS[known.type] - 1 if known.type in INTEGERS else -FLOATS[known.type]


def check_unicode(text: str, what: str) -> None:
    """Raises QueryError for half a character (a lone surrogate), which UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"{what} has half a character (U+{ord(text[error.start]):04X}) at position {error.start}",
            hint="it was cut or decoded wrongly: decode it again from its bytes",
        ) from None
