"""What people hand to a query's methods, read into data."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..encoders.pictures import MOST_BYTES, bytes_of, data_uri, is_data_uri, shown
from ..errors import InputError, QueryError
from .nodes import Filter, RawDsl, both
from .parts import Text


def floats(vector: Sequence[float] | None) -> tuple[float, ...] | None:
    """A vector as a tuple. Raises QueryError."""
    if vector is None:
        return None
    try:
        # An array as a list first: each of its numbers is an object of numpy's own.
        return tuple(map(float, vector.tolist() if hasattr(vector, "tolist") else vector))
    except (TypeError, ValueError):
        raise QueryError(f"vector is no list of numbers: {vector!r:.80}", hint="give dims floats") from None


def uri_of(given: Path | bytes | str) -> str:
    """A picture as a `data:` URI, the same for each way to give it. Raises QueryError."""
    what = "the picture"
    try:
        if isinstance(given, os.PathLike):
            what = f"the picture {str(given)!r:.200}"
            with Path(given).open("rb") as file:
                return data_uri(file.read(MOST_BYTES + 1))
        if isinstance(given, str):
            what = f"the picture {shown(given)}"
            if not is_data_uri(given):
                raise InputError("a str is taken for a data: URI", hint="give Path('FILE'), bytes, or 'data:image/...'")
            return data_uri(bytes_of(given))
        if isinstance(given, (bytes, bytearray, memoryview)):
            return data_uri(bytes(given))
        raise InputError(f"it is {type(given).__name__}", hint="give Path('FILE'), bytes, or 'data:image/...'")
    except InputError as error:
        raise QueryError(f"{what} cannot be used: {error}", hint=error.hint) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise QueryError(f"{what} cannot be used: {reason}", hint="correct the path") from None


def named(names: tuple[str, ...], method: str) -> tuple[str, ...]:
    """The names, when they are strings. Raises QueryError."""
    for one in names:
        if not isinstance(one, str):
            raise QueryError(f"{one!r:.80} is no name for {method}()", hint=f"write .{method}('title')")
    return names


def plain(given: Any) -> Any:
    """What an object of `elasticsearch.dsl` stands for, or the value itself."""
    return given.to_dict() if callable(getattr(given, "to_dict", None)) else given


def as_filter(given: Any) -> Filter:
    """A filter, or the engine's DSL as one. Raises QueryError."""
    if isinstance(given, Filter):
        return given
    body = plain(given)
    if isinstance(body, Mapping) and len(body) == 1:
        return RawDsl(copy.deepcopy(dict(body)))
    if isinstance(body, Mapping):
        raise QueryError(
            f"a raw clause has one key, its query's name, not {sorted(body)}",
            hint="for example {'term': {'year': 1980}}",
        )
    raise QueryError(
        f"{given!r:.120} is no filter", hint="compare a field: F.year > 1980; or give the engine's DSL as a dict"
    )


def all_of(filters: Iterable[Any]) -> Filter | None:
    """The conjunction of filters, if there are any."""
    made = tuple(map(as_filter, filters))
    return both(made) if made else None


def examples(given: tuple[str | Text, ...]) -> tuple[str | Text, ...]:
    """Examples, when each is an id or a Text. Raises QueryError."""
    for one in given:
        if not isinstance(one, (str, Text)):
            raise QueryError(
                f"{one!r:.80} is no example", hint="give a document's id, Text('...'), or Picture(Path('FILE'))"
            )
    return given
