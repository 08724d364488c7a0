"""The values a filter compares with, checked against the field's type before an engine sees them."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from enum import Enum
from ipaddress import ip_network
from sys import float_info
from typing import Any, TypeGuard
from uuid import UUID

import numpy as np

from ..errors import QueryError
from .names import FLOATS, INTEGERS, KEYWORD, TEXT, Known

#: Metrics under which the length of a vector matters, and not its direction alone.
LENGTH_COUNTS = frozenset({"l2", "max_inner_product"})

#: OpenSearch refuses more than 1,024 clauses in one query, filters included: one for each word in each field, and one
#: for each of the words that a misspelt word, or the beginning of one, may stand for.
MAX_CLAUSES = 1_000
#: The most values one Terms may have, on both engines (`index.max_terms_count`).
MAX_TERMS = 65_536
#: Engines refuse a deeper page, more neighbours, candidates and ids (`index.max_result_window`).
MAX_K = 10_000
#: The most values a list may have; longer ones than the two above are sent as several clauses. A million take seconds.
MAX_VALUES = 1_000_000
MAX_TEXT = 20_000
# Lucene holds no longer term, so no document can have one.
_MAX_TERM_BYTES = 32_766
# What orjson writes as a number.
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def plain(value: Any, known: Known) -> Any:
    """The value as JSON holds it; for dates see `dates`. Raises QueryError where it cannot be one of the field's."""
    value = unwrapped(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise QueryError(f"{known.name} is compared with {value}", hint="give a finite number")
    if isinstance(value, str):
        check_unicode(value, f"the value for {known.name}")
    value = _read(value, known)
    if expected := _unfit(value, known):
        raise QueryError(
            f"{known.name} is of type {known.type}: {value!r:.80} is no value of it", hint=f"give {expected}"
        )
    if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST and known.type not in INTEGERS:
        return float(value) if known.type in FLOATS else str(value)
    return value


def _unfit(value: Any, known: Known) -> str:
    """What is wanted instead of a value that the type cannot hold; nothing where it can."""
    if known.type in INTEGERS or known.type in FLOATS or known.type == "scaled_float":
        return "a number" if isinstance(value, bool) or not isinstance(value, (int, float)) else ""
    if known.type == "boolean":
        return "" if isinstance(value, bool) else "True or False"
    if known.type == "ip":
        return "" if isinstance(value, str) and _is_address(value) else "an address, or a block such as 10.0.0.0/8"
    if known.type in KEYWORD or known.type in TEXT:
        return "" if isinstance(value, (str, int, float)) else "a string"
    return "" if isinstance(value, (str, int, float, bool)) else "a string or a number"


def _is_address(value: str) -> bool:
    try:
        ip_network(value, strict=False)
    except ValueError:
        return False
    return True


def unwrapped(value: Any) -> Any:
    """The value inside an enum, a numpy scalar, a Decimal or a UUID; any other as it is."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    if isinstance(value, Decimal):
        # Whole ones keep every digit.
        whole = value.is_finite() and value.adjusted() < 30 and value == value.to_integral_value()
        return int(value) if whole else float(value)
    return str(value) if isinstance(value, UUID) else value


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


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, of numpy's too."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number that a float can hold, of numpy's too."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= float_info.max
    return isinstance(value, (float, np.integer, np.floating)) and math.isfinite(value)


def check_whole(value: object, what: str, low: int, high: int) -> None:
    """Raises QueryError for what is no whole number from `low` to `high`."""
    if not is_whole(value):
        raise QueryError(f"{what} is {value!r:.80}, no whole number", hint=f"give one from {low:,} to {high:,}")
    if not low <= value <= high:
        raise QueryError(f"{what} is {f'{value:,}':.80}", hint=f"it must be from {low:,} to {high:,}")


def check_number(value: object, what: str, low: float, high: float = math.inf, *, inclusive: bool = True) -> None:
    """Raises QueryError for what is no number from `low` to `high`, or above `low`."""
    if not is_number(value) or not low <= value <= high or (value == low and not inclusive):
        least = f"from {low:g}" if inclusive else f"above {low:g}"
        bounds = f"{least} to {high:g}" if high < math.inf else f"{least} on" if inclusive else least
        raise QueryError(f"{what} is {value!r:.80}", hint=f"give a number {bounds}")


def check_text(text: object, what: str) -> None:
    """Raises QueryError for a text that is empty, too long, or holds what no text holds."""
    if not isinstance(text, str):
        raise QueryError(f"{what} is {type(text).__name__}, no text", hint="give a str")
    check_unicode(text, what)
    if not text.strip():
        raise QueryError(f"{what} is empty", hint="give it words, or leave the text out and use where() alone")
    if len(text) > MAX_TEXT:
        raise QueryError(
            f"{what} has {len(text):,} characters; at most {MAX_TEXT:,} are taken",
            hint="an encoder reads its first few hundred words; ask with a passage of it",
        )
    if found := _CONTROL.search(text):
        raise QueryError(
            f"{what} has the control character U+{ord(found[0]):04X} at position {found.start()}",
            hint="remove it; line breaks and tabs may stay",
        )


def check_unicode(text: str, what: str) -> None:
    """Raises QueryError for half a character (a lone surrogate), which UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"{what} has half a character (U+{ord(text[error.start]):04X}) at position {error.start}",
            hint="it was cut or decoded wrongly: decode it again from its bytes",
        ) from None
