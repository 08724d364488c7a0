"""Parquet, row group by row group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Any

from ..errors import InputError
from .events import Origin, Refused
from .read_packed import MAX_RATIO, MAX_UNPACKED_BYTES, RATIO_FROM

_ROWS = 1024
_SIZES = ("uncompressed", "compressed")
# A row has an id of its own, so that a file with more rows than this for each of its bytes is made to burst.
_ROWS_PER_BYTE = 100
_ROWS_FREE = 1_000_000


def parquet_rows(file: IO[bytes], name: str) -> int:
    """How many rows a file has, from its footer. Raises InputError for what is no Parquet."""
    return int(_open(file, name).metadata.num_rows)


def parquet_documents(file: IO[bytes], name: str) -> Iterator[tuple[Origin, dict[str, Any]] | Refused]:
    """A document for each row; a null is an absent field. Raises InputError for what is no Parquet."""
    number = 0
    for batch in _batches(_open(file, name)):
        if isinstance(batch, str):
            yield Refused(Origin(name, number + 1, "row"), "", f"the file is damaged from here on: {batch}")
        else:
            for row in _rows(batch):
                number += 1
                origin = Origin(name, number, "row")
                if isinstance(row, Exception):
                    yield Refused(origin, "", f"a value cannot be read: {row}")
                else:
                    yield origin, {key: value for key, value in row.items() if value is not None}


def _batches(file: Any) -> Iterator[Any]:
    """The rows of each row group in batches; where the file is damaged, the reason, and no more."""
    import pyarrow as pa

    for group in range(file.metadata.num_row_groups):
        try:
            _check_size(file.metadata.row_group(group))
            yield from file.iter_batches(batch_size=_ROWS, row_groups=[group])
        except (pa.ArrowException, OSError) as error:
            yield str(error)
            return


def _check_size(group: Any) -> None:
    columns = [group.column(at) for at in range(group.num_columns)]
    unpacked, packed = (sum(getattr(one, f"total_{kind}_size") for one in columns) for kind in _SIZES)
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > RATIO_FROM and unpacked > MAX_RATIO * packed):
        raise OSError(f"{packed:,} bytes of it unpack to {unpacked:,}")


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


def _open(file: IO[bytes], name: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"reading {name} needs pyarrow", hint="pip install 'knnex[parquet]'") from None
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{name} is no Parquet file: {error}", hint="write it again, or convert it to NDJSON"
        ) from None
    names = opened.schema_arrow.names
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise InputError(f"{name} names {', '.join(map(repr, twice))} more than once", hint="rename the columns")
    size, rows = os.fstat(file.fileno()).st_size, opened.metadata.num_rows
    if rows > _ROWS_FREE and rows > _ROWS_PER_BYTE * size:
        raise InputError(f"{name} has {rows:,} rows in {size:,} bytes", hint="such rows have no ids; write them again")
    return opened
