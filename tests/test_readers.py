"""Reading files: every format, and what cannot be read of them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from knnex.errors import InputError
from knnex.ingest import Refused, read_files
from knnex.mappings import load_spec

try:
    from compression import zstd
except ImportError:
    from backports import zstd

SPEC = load_spec(
    {
        "index": "films",
        "version": "rev",
        "fields": {
            "title": {"type": "text"},
            "year": {"type": "integer"},
            "score": {"type": "float"},
            "colour": {"type": "boolean"},
            "on": {"type": "date"},
        },
        "joins": {"cast": {"kind": "nested", "fields": {"name": {"type": "text"}}}},
    }
)
FILMS: list[dict[str, Any]] = [
    {"id": "1", "title": "Solaris, the film", "year": 1972},
    {"id": "2", "title": "Stalker", "year": 1979},
]


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}


def documents(*paths: Path) -> list[Any]:
    return [found if isinstance(found, Refused) else found[1] for found in read_files(paths, SPEC)]


def reasons(*paths: Path) -> list[str]:
    return [str(found) for found in read_files(paths, SPEC) if isinstance(found, Refused)]


def lines_of(films: list[dict[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(film).encode() for film in films)


def csv_of(separator: str) -> bytes:
    rows = [["id", "title", "year"], *([film["id"], f'"{film["title"]}"', str(film["year"])] for film in FILMS)]
    return "\n".join(separator.join(row) for row in rows).encode()


FORMATS: dict[str, bytes] = {
    "a.ndjson": b"\xef\xbb\xbf" + lines_of(FILMS) + b"\n\n",
    "a.jsonl": lines_of(FILMS),
    "a.json": json.dumps(FILMS, indent=2).encode(),
    "lines.json": lines_of(FILMS),
    "a.csv": b"\xef\xbb\xbf" + csv_of(","),
    "a.tsv": csv_of("\t"),
    "UPPER.CSV": csv_of(","),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packing", ["", *PACK])
def test_every_text_format_gives_the_same_documents(tmp_path: Path, name: str, packing: str) -> None:
    path = tmp_path / (name + packing)
    path.write_bytes(PACK[packing](FORMATS[name]) if packing else FORMATS[name])
    assert documents(path) == FILMS


@pytest.mark.parametrize("packing", PACK)
def test_what_was_packed_in_pieces_is_one_file(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.ndjson{packing}"
    path.write_bytes(PACK[packing](lines_of(FILMS[:1]) + b"\n") + PACK[packing](lines_of(FILMS[1:])))
    assert documents(path) == FILMS


def test_parquet_gives_the_same_documents_and_knows_their_number(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [*FILMS, {"id": "3", "title": None, "year": None}]
    table = pa.Table.from_pylist([row | {"on": date(1972, 3, 20)} for row in rows])
    pq.write_table(table, path, row_group_size=1)
    assert documents(path) == [
        {key: value for key, value in row.items() if value is not None} | {"on": date(1972, 3, 20)} for row in rows
    ]
    assert read_files([path, path], SPEC).total == 6
    assert read_files([path, "-"], SPEC).total is None


def test_standard_input_is_ndjson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines_of(FILMS) + b"\nnot json\n")))
    found = list(read_files(["-"], SPEC))
    assert [one[1] for one in found if not isinstance(one, Refused)] == FILMS
    assert str(found[-1]).startswith("standard input line 3: not JSON")


def test_one_object_in_a_json_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(FILMS[0], indent=2))
    assert documents(path) == FILMS[:1]


def test_bad_lines_are_named_and_stop_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"id": 1}\n{"id": \n[1]\n{"id": NaN}\n{"id": "\xff"}\n\x00\n{"id": 2}')
    assert [one for one in documents(path) if not isinstance(one, Refused)] == [{"id": 1}, {"id": 2}]
    found = reasons(path)
    assert [one.split(":")[0].removeprefix(f"{path} ") for one in found] == [f"line {n}" for n in (2, 3, 4, 5, 6)]
    assert found[0] == f"{path} line 2: not JSON: unexpected end of data at character 7"
    assert found[1] == f"{path} line 3: it is list, not an object"


def test_bad_rows_of_csv_are_named_and_stop_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [
        b"id,title,year,score,colour,cast,rev",
        b'1,"two\nlines",1972,7.5,TRUE,"[{""name"": ""B""}]",3',
        b"2,,x,,,,",
        b"3,,,y,,,",
        b"4,,,,maybe,,",
        b"5,,,,,{bad,",
        b"6,short",
        b"7,\xff,,,,,",
        b'8,"quoted"x,,,,,',
        b"9,last,1,1,false,plain,1",
    ]
    path.write_bytes(b"\n".join(rows))
    good = [one for one in documents(path) if not isinstance(one, Refused)]
    assert good == [
        {
            "id": "1",
            "title": "two\nlines",
            "year": 1972,
            "score": 7.5,
            "colour": True,
            "cast": [{"name": "B"}],
            "rev": 3,
        },
        {"id": "9", "title": "last", "year": 1, "score": 1.0, "colour": False, "cast": "plain", "rev": 1},
    ]
    found = [one.removeprefix(f"{path} ") for one in reasons(path)]
    assert found[0] == "line 4: column 'year': 'x' is no integer"
    assert found[1] == "line 5: column 'score': 'y' is no number"
    assert found[2] == "line 6: column 'colour': 'maybe' is neither true nor false"
    assert found[3].startswith("line 7: column 'cast': not JSON")
    assert found[4] == "line 8: it has 2 cells, the header 7"
    assert found[5] == "line 9: column 'title' is not UTF-8"
    assert found[6].startswith("line 10: not CSV")
    assert len(found) == 7


def test_a_quote_that_is_never_closed_is_told_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,title\n1,x\n2,"y\n3,z\n')
    (found,) = reasons(path)
    assert found == f"{path} line 3: not CSV: unexpected end of data; a quote is opened here and never closed"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty; the first line must name the columns"),
        (b"id,title,id\n1,2,3", "the header names 'id' more than once"),
        (b"id,,x\n1,2,3", "the header has a column without a name"),
        (b"id;title\n1;x", "the header has no column 'id', the id; it names 'id;title'"),
        ("id,title\n1,x".encode("utf-16"), "the header is not UTF-8: save the file with that encoding"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert reasons(path) == [f"{path} line 1: {reason}"]


@pytest.mark.parametrize(
    ("content", "good", "reason"),
    [
        (b'[{"id": 1}, 3, {"id": 2}]', 2, "element 2: it is int, not an object"),
        (b'[{"id": 1}, {"id": }, {"id": 2}]', 1, "element 2: not JSON: Expecting value; what follows cannot be read"),
        (b'[{"id": 1} {"id": 2}]', 1, "element 2: not JSON: a comma is missing; what follows cannot be read"),
        (b'[{"id": 1}, {"id": 2}', 2, "element 3: not JSON: a comma is missing; what follows cannot be read"),
    ],
)
def test_an_array_is_read_up_to_where_it_is_broken(tmp_path: Path, content: bytes, good: int, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert len([one for one in documents(path) if not isinstance(one, Refused)]) == good
    assert reasons(path) == [f"{path} {reason}"]


def test_an_array_with_elements_longer_than_a_block_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    films = [{"id": n, "title": "é" * 300_000} for n in range(4)]
    path.write_text(json.dumps(films, ensure_ascii=False), encoding="utf-8")
    assert documents(path) == films


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-9], lambda data: data[: len(data) // 2] + b"\0" * 9 + data[len(data) // 2 + 9 :]],
    ids=["cut", "flipped"],
)
def test_a_damaged_packed_file_gives_what_is_good_and_says_where_it_ends(
    tmp_path: Path, damage: Callable[[bytes], bytes], packing: str
) -> None:
    path, whole = tmp_path / f"a.ndjson{packing}", tmp_path / "b.ndjson"
    path.write_bytes(damage(PACK[packing](lines_of([{"id": n, "title": str(n) * 50} for n in range(2000)]))))
    whole.write_bytes(lines_of(FILMS))
    found = documents(path, whole)
    assert found[-2:] == FILMS
    assert isinstance(found[-3], Refused)
    assert "damaged" in found[-3].reason or "not JSON" in found[-3].reason


def test_values_of_parquet_that_python_cannot_hold_are_named_and_stop_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    title = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"x\xffz")]
    )
    table = pa.table(
        {
            "id": ["1", "2", "3"],
            "title": title,
            "far": pa.array([None, None, 1 << 62], pa.timestamp("us")),
            "exact": pa.array([1, None, None], pa.timestamp("ns", "UTC")),
            "cast": pa.array([[("a", 1)], None, None], pa.map_(pa.string(), pa.int64())),
        }
    )
    pq.write_table(table, path)
    good = {"id": "1", "title": "x", "exact": "1970-01-01T00:00:00.000000001Z", "cast": {"a": 1}}
    assert [one for one in documents(path) if not isinstance(one, Refused)] == [good]
    second, third = reasons(path)
    assert second.startswith(f"{path} row 2: a value cannot be read: 'utf-8' codec")
    assert third == f"{path} row 3: a value cannot be read: date value out of range"


def test_a_damaged_row_group_gives_the_rows_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"id": str(n), "title": f"{n} " * 400} for n in range(4000)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2000, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    middle = len(data) * 3 // 4
    data[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(data)
    found = documents(path)
    assert [one["id"] for one in found[:-1]] == [str(n) for n in range(len(found) - 1)]
    assert isinstance(found[-1], Refused)
    assert "the file is damaged from here on" in found[-1].reason


def test_files_that_cannot_be_opened_are_errors_before_anything_is_read(tmp_path: Path) -> None:
    good = tmp_path / "a.ndjson"
    good.write_bytes(lines_of(FILMS))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "c.xlsx").write_bytes(b"x")
    (tmp_path / "d").write_bytes(b"x")
    (tmp_path / "e.csv").mkdir()
    (tmp_path / "e.csv" / "notes.txt").write_bytes(b"x")
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"]), tmp_path / "f.parquet")
    for name, reason in {
        "none.csv": "No such file or directory",
        "b.parquet": "is no Parquet file",
        "c.xlsx": "no reader for '.xlsx'",
        "d": "no reader for 'a name without suffix'",
        "e.csv": "no file of a known kind in this directory",
        "f.parquet": "names 'id' more than once",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            read_files([good, tmp_path / name], SPEC)
        assert name in str(caught.value)
        assert caught.value.hint
