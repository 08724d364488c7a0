"""Files of strangers: what bursts, what leads out of its directory, what keeps one waiting."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

SPEC = load_spec({"index": "films", "fields": {"title": {"type": "text"}}})
FILMS: list[dict[str, Any]] = [{"id": "1", "title": "Solaris"}, {"id": "2", "title": "Stalker"}]
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


@pytest.mark.parametrize("packing", PACK)
def test_a_file_that_bursts_is_read_up_to_there_and_others_go_on(tmp_path: Path, packing: str) -> None:
    """Some megabytes that stand for a thousand times as many."""
    path, whole = tmp_path / f"bomb.ndjson{packing}", tmp_path / "good.ndjson"
    line = b'{"id": "%d", "title": "' + b" " * 1_000_000 + b'"}\n'
    path.write_bytes(PACK[packing](b"".join(line % n for n in range(120))))
    whole.write_bytes(lines_of(FILMS))
    tracemalloc.start()
    found = [one if isinstance(one, Refused) else one[1]["id"] for one in read_files([path, whole], SPEC)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[-2:] == ["1", "2"]
    assert 60 <= len(found[:-3]) <= 70, "about 64 MB pass whatever the ratio"
    assert found[:-3] == [str(n) for n in range(len(found) - 3)]
    assert str(found[-3]).endswith("the file is damaged from here on: it unpacks to more than 250 times its size")
    assert peak < 64_000_000


def test_no_file_unpacks_to_more_than_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knnex.ingest.read_packed.MAX_UNPACKED_BYTES", 1000)
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(gzip.compress(lines_of([{"id": n, "title": os.urandom(20).hex()} for n in range(100)])))
    assert reasons(path)[-1].endswith("the file is damaged from here on: it unpacks to more than 1,000 bytes")


def test_a_parquet_file_that_bursts_is_refused(tmp_path: Path) -> None:
    wide, long = tmp_path / "wide.parquet", tmp_path / "long.parquet"
    blank = pa.array(["x" * 1_000_000 + str(n) for n in range(100)])
    table = pa.table({"id": pa.array([str(n) for n in range(100)]), "title": blank})
    pq.write_table(table, wide, compression="zstd", use_dictionary=False, row_group_size=100)
    pq.write_table(pa.table({"id": pa.nulls(3_000_000, pa.string())}), long, compression="zstd")
    (told,) = reasons(wide)
    assert "row 1: the file is damaged from here on: " in told
    assert "bytes of it unpack to 1" in told
    with pytest.raises(InputError, match=r"long.parquet has 3,000,000 rows in \d,\d\d\d bytes"):
        read_files([long], SPEC)


def test_a_directory_is_read_in_order_and_what_is_left_out_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, id_ in {
        "b.ndjson": 2,
        "a/z.json.gz": 1,
        "c/d/e.ndjson": 3,
        ".hidden/x.ndjson": 8,
        ".x.ndjson": 9,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"id": id_}).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "c/notes.txt").write_text("x")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "a/\x1b[31mred\udcff.md").write_text("x")
    with caplog.at_level(logging.WARNING):
        files = read_files([tmp_path], SPEC)
    assert [found[1]["id"] for found in files if not isinstance(found, Refused)] == [1, 2, 3]
    assert [found[1]["id"] for found in files if not isinstance(found, Refused)] == [1, 2, 3], "as often as one likes"
    (told,) = [one.getMessage() for one in caplog.records]
    assert told.replace(f"{tmp_path}/", "") == (
        "Left out, of no known kind: _SUCCESS, a/\\x1b[31mred\\udcff.md, c/notes.txt"
    )


def test_nothing_leads_out_of_a_directory_or_keeps_waiting_in_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.ndjson").write_text('{"id": "secret"}')
    (inside / "good.ndjson").write_text('{"id": "good"}')
    (inside / "again.ndjson").symlink_to("good.ndjson")
    (inside / "away.ndjson").symlink_to(outside / "secret.ndjson")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to("loop")
    (inside / "nothing.ndjson").symlink_to("nowhere")
    (inside / "up").symlink_to("..")
    (inside / "around").symlink_to("sub")
    os.mkfifo(inside / "pipe.ndjson")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(inside / "socket.ndjson"))
        found = list(read_files([inside], SPEC))
    assert [one[1] for one in found if not isinstance(one, Refused)] == [{"id": "good"}]
    told = {str(one).split(": ")[0].removeprefix(f"{inside}/"): one.reason for one in found if isinstance(one, Refused)}
    assert told.pop("loop").startswith("is a symbolic link that leads to")
    assert told == {
        "away.ndjson": "is a symbolic link that leads out of the directory",
        "folder": "is a symbolic link that leads out of the directory",
        "nothing.ndjson": "is a symbolic link that leads to nothing",
        "pipe.ndjson": "is no file: a pipe, a socket or a device",
        "socket.ndjson": "is no file: a pipe, a socket or a device",
        "up": "is a symbolic link that leads out of the directory",
    }


@pytest.mark.parametrize("swap", ["link", "folder", "pipe", "gone"])
def test_a_file_that_is_exchanged_after_it_was_found_is_not_followed(tmp_path: Path, swap: str) -> None:
    inside, secret = tmp_path / "in", tmp_path / "secret"
    (inside / "sub").mkdir(parents=True)
    secret.mkdir()
    for folder in (secret, inside / "sub"):
        (folder / "a.ndjson").write_text(json.dumps({"id": folder.name}))
    files = read_files([inside], SPEC)
    (inside / "sub" / "a.ndjson").unlink()
    if swap == "link":
        (inside / "sub" / "a.ndjson").symlink_to(secret / "a.ndjson")
    elif swap == "pipe":
        os.mkfifo(inside / "sub" / "a.ndjson")
    elif swap == "folder":
        (inside / "sub").rmdir()
        (inside / "sub").symlink_to(secret)
    (found,) = files
    assert str(found).startswith(f"{inside}/sub/a.ndjson: cannot be read: ")


def test_a_link_that_is_named_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(lines_of(FILMS))
    (tmp_path / "b.ndjson").symlink_to("a.ndjson")
    assert documents(tmp_path / "b.ndjson") == FILMS


def test_a_file_of_a_directory_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "b.ndjson").write_bytes(lines_of(FILMS))
    first, *rest = documents(tmp_path)
    assert "is no Parquet file" in first.reason
    assert rest == FILMS
