"""Parquet, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import InputError
from .events import Origin, Refused

_ROWS = 1024


def parquet_rows(path: str) -> int:
    """How many rows a file has, from its footer. Raises InputError for what is no Parquet."""
    with _open(path) as file:
        return int(file.metadata.num_rows)


def parquet_documents(path: str) -> Iterator[tuple[Origin, dict[str, Any]] | Refused]:
    """A document for each row; a null is an absent field."""
    import pyarrow as pa

    number = 0
    with _open(path) as file:
        batches = file.iter_batches(batch_size=_ROWS)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                yield Refused(Origin(path, number + 1, "row"), "", f"the file is damaged from here on: {error}")
                return
            for row in _rows(batch):
                number += 1
                origin = Origin(path, number, "row")
                if isinstance(row, Exception):
                    yield Refused(origin, "", f"a value cannot be read: {row}")
                else:
                    yield origin, {key: value for key, value in row.items() if value is not None}


def _rows(batch: Any) -> list[dict[str, Any] | Exception]:
    """The rows of a batch; one by one where a value of it has no form in Python, such as a date of the year 90 000."""
    try:
        rows: list[dict[str, Any] | Exception] = _without_nanoseconds(batch).to_pylist(maps_as_pydicts="strict")
    except (ArithmeticError, LookupError, ValueError) as error:
        return [error] if len(batch) == 1 else [row for at in range(len(batch)) for row in _rows(batch.slice(at, 1))]
    return rows


def _without_nanoseconds(batch: Any) -> Any:
    """Times in nanoseconds, which Python's own cannot hold, as ISO 8601, which engines read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for at, field in enumerate(batch.schema):
        if field.type in (pa.time64("ns"), pa.timestamp("ns", getattr(field.type, "tz", None))):
            text = pc.replace_substring(batch.column(at).cast(pa.string()), " ", "T")
            batch = batch.set_column(at, field.name, text)
    return batch


def _open(path: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"reading {path} needs pyarrow", hint="pip install 'knnex[parquet]'") from None
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is no Parquet file: {error}", hint="write it again, or convert it to NDJSON"
        ) from None
    names = file.schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        file.close()
        raise InputError(f"{path} names {', '.join(map(repr, twice))} more than once", hint="rename the columns")
    return file
