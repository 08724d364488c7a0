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
                rows = next(batches).to_pylist()
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                yield Refused(Origin(path, number + 1, "row"), "", f"the file is damaged from here on: {error}")
                return
            for row in rows:
                number += 1
                yield Origin(path, number, "row"), {key: value for key, value in row.items() if value is not None}


def _open(path: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"reading {path} needs pyarrow", hint="pip install 'knnex[parquet]'") from None
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is no Parquet file: {error}", hint="write it again, or convert it to NDJSON"
        ) from None
