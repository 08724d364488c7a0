"""References to pictures: every way to refer to one gives the same, and what strangers send harms nobody."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import trustme
from gallery import Web, drawn, plain, saved, uri, web
from PIL import Image

from knnex.encoders.fetching import Fetcher, is_public
from knnex.encoders.pictures import MOST_BYTES, Pictures, decoded
from knnex.errors import InputError

PNG = saved(drawn(1))
JPEG = saved(drawn(1), "JPEG")


@pytest.fixture(scope="module")
def site() -> Iterator[Web]:
    with web(PNG) as started:
        yield started


@pytest.fixture
def asked(site: Web) -> list[str]:
    """What the site is asked in this test."""
    site.asked.clear()
    return site.asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures beside what is nobody's business."""
    root = tmp_path_factory.mktemp("pictures")
    outside, inside = root / "outside", root / "inside"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.png").write_bytes(PNG)
    (inside / "deep" / "one.png").write_bytes(PNG)
    (inside / "named like.a:scheme.png").write_bytes(PNG)
    (inside / "link.png").symlink_to("deep/one.png")
    (inside / "out.png").symlink_to(outside / "secret.png")
    (inside / "away").symlink_to(outside)
    (inside / "round.png").symlink_to("round.png")
    (inside / "text.png").write_text("no picture")
    os.mkfifo(inside / "pipe.png")
    with (inside / "large.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    return inside


def read(reference: str, pictures: Pictures) -> Image.Image:
    """The picture. Raises InputError."""
    [[found]] = pictures.windows([reference])
    if isinstance(found, InputError):
        raise found
    return found


def same(one: Image.Image, other: Image.Image, apart: int = 0) -> bool:
    ours, theirs = (np.asarray(each).astype(int) for each in (one, other))
    return ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() <= apart)


# ---- what is read, and how it is seen ----


def test_every_way_to_refer_to_a_picture_gives_the_same(site: Web, folder: Path) -> None:
    pictures = Pictures(folder, Fetcher(frozenset({"127.0.0.1"})))
    lines = "\n".join(plain(PNG)[at : at + 76] for at in range(0, len(plain(PNG)), 76))
    ways = [uri(PNG), uri(PNG, "png;name=a.png").replace("data", "DATA"), uri(PNG, "jpeg"), plain(PNG), lines,
            "deep/one.png", "./deep/one.png", "link.png", f"{site.url}/picture", f"{site.url}/picture?größe=1#top",
            f"{site.url}/to?url=/picture"]  # fmt: skip
    for found in (found for window in pictures.windows(ways * 4) for found in window):
        assert isinstance(found, Image.Image)
        assert same(found, drawn(1))


def _grey16() -> bytes:
    grey = np.asarray(drawn(1).convert("L")).astype(np.uint16) << 8
    return saved(Image.fromarray(grey))


def _turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return saved(drawn(1).transpose(Image.Transpose.ROTATE_90), kind, exif=exif, **LOSSLESS.get(kind, {}))


def _clear(kind: str) -> bytes:
    """A picture whose left half is transparent, and black beneath."""
    image = drawn(1).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    return saved(image, kind, **LOSSLESS.get(kind, {}))


LOSSLESS: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
HALF = drawn(1)
HALF.paste("white", (0, 0, 32, 48))
GREY = drawn(1).convert("L").convert("RGB")
SEEN: dict[str, tuple[bytes, Image.Image, int]] = {
    "png": (PNG, drawn(1), 0),
    "webp": (saved(drawn(1), "WEBP", lossless=True), drawn(1), 0),
    "jpeg": (saved(drawn(1), "JPEG", quality=95, subsampling=0), drawn(1), 16),
    "gif": (saved(drawn(1), "GIF"), drawn(1), 8),
    "the first of many frames": (
        saved(drawn(1), "GIF", save_all=True, append_images=[drawn(2), drawn(3)]),
        drawn(1),
        8,
    ),
    "the first frame of a webp": (
        saved(drawn(1), "WEBP", lossless=True, save_all=True, append_images=[drawn(2)]),
        drawn(1),
        0,
    ),
    "grey": (saved(drawn(1).convert("L")), GREY, 0),
    "grey of 16 bits": (_grey16(), GREY, 1),
    "black and white": (saved(drawn(1).convert("1")), drawn(1).convert("1").convert("RGB"), 0),
    "a palette": (saved(drawn(1).quantize(16)), drawn(1), 8),
    "cmyk": (saved(drawn(1).convert("CMYK"), "JPEG", quality=95, subsampling=0), drawn(1), 24),
    "transparent": (_clear("PNG"), HALF, 0),
    "a transparent webp": (_clear("WEBP"), HALF, 0),
    "a transparent gif": (_clear("GIF"), HALF, 16),
    "a jpeg upright": (_turned("JPEG"), drawn(1), 16),
    "a png upright": (_turned("PNG"), drawn(1), 0),
    "a webp upright": (_turned("WEBP"), drawn(1), 0),
    "nonsense beside it": (saved(drawn(1), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), drawn(1), 0),
    "large": (saved(drawn(1, (4096, 3072))), drawn(1, (2048, 1536)), 2),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning", "ignore:Image uses:UserWarning")
@pytest.mark.parametrize("case", SEEN)
def test_a_picture_is_seen_as_a_person_sees_it(case: str) -> None:
    data, expected, apart = SEEN[case]
    found = decoded(data)
    assert found.mode == "RGB"
    if case == "large":  # only the edges of patches are not as sharp
        assert found.size == expected.size
        assert np.mean(np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max(axis=2) > apart) < 0.02
    else:
        assert same(found, expected, apart)


# ---- what is refused ----


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claims(width: int, height: int) -> bytes:
    """A PNG of that size, with next to nothing in it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def text_bomb() -> bytes:
    packed = b"a\0\0" + zlib.compress(b"\0" * 300_000_000, 9)
    return PNG[:33] + chunk(b"zTXt", packed) + PNG[33:]


def scans() -> bytes:
    """A progressive JPEG that passes over its picture again and again."""
    made = saved(drawn(1, (2000, 2000)), "JPEG", progressive=True)
    first = made.index(b"\xff\xda")
    last = made.rindex(b"\xff\xda")
    return made[:first] + made[first:-2] + made[last:-2] * 400 + b"\xff\xd9"


DATA = "data:image/png;base64,"
# What a document may hold instead of a picture, and what is said of it.
HOSTILE: dict[str, tuple[Callable[[], str] | str, str]] = {
    "nothing in it": (DATA, "empty"),
    "a text": ("a red dress", "no such file"),
    "not base64": (DATA + "!!!!", "not in base64"),
    "base64 cut off": (uri(PNG)[:-3], "not in base64"),
    "in percents": ("data:image/svg+xml,%3Csvg/%3E", "not in base64"),
    "a text as data": ("data:text/html;base64,PGh0bWw+", "data: is not read"),
    "svg": (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"), "no JPEG, PNG"),
    "pdf": (uri(b"%PDF-1.7\n" + b"x" * 99), "no JPEG, PNG"),
    "eps": (uri(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no JPEG, PNG"),
    "bmp": (lambda: uri(saved(drawn(1), "BMP")), "no JPEG, PNG"),
    "tiff": (lambda: uri(saved(drawn(1), "TIFF")), "no JPEG, PNG"),
    "ppm": (lambda: uri(saved(drawn(1), "PPM")), "no JPEG, PNG"),
    "ico": (lambda: uri(saved(drawn(1, (32, 32)), "ICO")), "no JPEG, PNG"),
    "fits": (uri(b"SIMPLE  =                    T".ljust(2880)), "no JPEG, PNG"),
    "a zip": (uri(b"PK\x03\x04" + b"\0" * 99), "no JPEG, PNG"),
    "html that says png": (lambda: uri(b"<html>"), "no JPEG, PNG"),
    "a png cut off": (lambda: uri(PNG[: len(PNG) // 2]), "damaged"),
    "a jpeg cut off": (lambda: uri(saved(drawn(1, (640, 480)), "JPEG")[:-900]), "damaged"),
    "a webp cut off": (lambda: uri(saved(drawn(1), "WEBP", lossless=True)[:-20]), "damaged"),
    "a gif cut off": (lambda: uri(saved(drawn(1), "GIF")[:-300]), "damaged"),
    "a beginning alone": (uri(b"\xff\xd8\xff" + b"\0" * 40, "jpeg"), "damaged"),
    "a png of noise": (lambda: uri(PNG[:60] + os.urandom(400)), "damaged"),
    "a bomb": (lambda: uri(claims(40_000, 40_000)), "more than 50,000,000 pixels"),
    "a bomb that Pillow warns of": (lambda: uri(claims(10_000, 10_000)), "more than 50,000,000 pixels"),
    "a bomb that Pillow takes": (lambda: uri(claims(9_000, 9_000)), "9,000 x 9,000 pixels"),
    "a bomb without rows": (lambda: uri(claims(2**31 - 1, 1)), "pixels"),
    "a real bomb": (lambda: uri(saved(Image.new("1", (30_000, 30_000)))), "more than 50,000,000 pixels"),
    "a bomb of a gif": (lambda: uri(b"GIF89a\xff\xff\xff\xff\x80\0\0" + saved(drawn(1), "GIF")[13:]), "pixels"),
    "a long thread": (lambda: uri(saved(Image.new("RGB", (20_000, 2)))), "times as long as wide"),
    "a bomb in its text": (lambda: uri(text_bomb()), "damaged"),
    "a jpeg of many passes": (lambda: uri(scans()), "passes"),
    "too many bytes": (lambda: uri(b"\xff\xd8\xff" + b"\0" * MOST_BYTES), "more than 20,000,000 bytes"),
    "too many characters": (lambda: DATA + "A" * (MOST_BYTES * 2), "more than 20,000,000 bytes"),
    "a password file": ("/etc/passwd", "leads out of"),
    "up and away": ("../outside/secret.png", "leads out of"),
    "up from below": ("deep/../../outside/secret.png", "leads out of"),
    "a link out": ("out.png", "leads out of KNNEX_IMAGES by a link"),
    "a linked folder": ("away/secret.png", "leads out of KNNEX_IMAGES by a link"),
    "a link in a circle": ("round.png", "cannot be read"),
    "backslashes": ("..\\outside\\secret.png", "leads out of"),
    "a zero byte": ("deep/one.png\0.txt", "leads out of"),
    "a folder": ("deep", "no file"),
    "a pipe": ("pipe.png", "no file"),
    "a text file": ("text.png", "no JPEG, PNG"),
    "a large file": ("large.png", "more than 20,000,000 bytes"),
    "no such file": ("deep/two.png", "no such file"),
    "a very long path": ("x" * 5000, "cannot be read"),
    "a file URL": ("file:///etc/passwd", "file: is not read"),
    "ftp": ("ftp://127.0.0.1/a.png", "ftp: is not read"),
    "gopher": ("gopher://127.0.0.1:6379/_FLUSHALL", "gopher: is not read"),
    "a script": ("javascript:alert(1)", "javascript: is not read"),
}  # fmt: skip
# URLs by which a stranger would have this machine ask itself, or its neighbours; PORT is that of a server here.
REACHING: dict[str, tuple[str, str]] = {
    "this machine": ("http://127.0.0.1:PORT/picture", "no public address"),
    "its name": ("http://localhost:PORT/picture", "no public address"),
    "its name with a dot": ("http://localhost.:PORT/picture", "no public address"),
    "its other address": ("http://127.9.9.9:PORT/picture", "no public address"),
    "any address": ("http://0.0.0.0:PORT/picture", "no public address"),
    "IPv6": ("http://[::1]:PORT/picture", "no public address"),
    "IPv4 in IPv6": ("http://[::ffff:127.0.0.1]:PORT/picture", "no public address"),
    "IPv4 in IPv6, in hex": ("http://[::ffff:7f00:1]:PORT/picture", "no public address"),
    "IPv4 in IPv6, the old way": ("http://[::127.0.0.1]:PORT/picture", "no public address"),
    "NAT64": ("http://[64:ff9b::127.0.0.1]:PORT/picture", "no public address"),
    "6to4": ("http://[2002:7f00:1::]:PORT/picture", "no public address"),
    "a decimal": ("http://2130706433:PORT/picture", "no public address"),
    "hex": ("http://0x7f000001:PORT/picture", "no public address"),
    "octal": ("http://0177.0.0.1:PORT/picture", "no public address"),
    "short": ("http://127.1:PORT/picture", "no public address"),
    "full-width digits": ("http://１２７.0.0.1:PORT/picture", "no public address"),
    "metadata": ("http://169.254.169.254/latest/meta-data/", "no public address"),
    "metadata in IPv6": ("http://[fd00:ec2::254]/latest/meta-data/", "no public address"),
    "Azure": ("http://168.63.129.16/machine?comp=goalstate", "no public address"),
    "a neighbour": ("http://10.0.0.1/a.png", "no public address"),
    "a carrier's": ("http://100.100.100.200/latest/", "no public address"),
    "many": ("http://224.0.0.1/a.png", "no public address"),
    "link-local": ("http://[fe80::1]/a.png", "no public address"),
    "a zone": ("http://[fe80::1%25lo]/a.png", "names no host"),
    "a name before it": ("http://example.com@127.0.0.1:PORT/picture", "a name or a password"),
    "a password": ("http://user:secret@127.0.0.1:PORT/picture", "a name or a password"),
    "a backslash": ("http://127.0.0.1:PORT\\@example.com/", "backslashes"),
    "a new line": ("http://127.0.0.1:PORT/\r\nHost: x", "control characters"),
    "a space": ("http://127.0.0.1:PORT /", "spaces"),
    "no host": ("http:///picture", "names no host"),
    "no slashes": ("http:127.0.0.1", "names no host"),
    "a port beyond": ("http://127.0.0.1:99999/", "cannot be read"),
    "brackets": ("http://[127.0.0.1/", "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_picture_is_refused_with_a_reason(folder: Path, case: str) -> None:
    given, reason = HOSTILE[case]
    reference = given() if callable(given) else given
    started = time.process_time()
    with pytest.raises(InputError, match=reason):
        read(reference, Pictures(folder))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("case", REACHING)
def test_nobody_reaches_what_only_this_machine_can_reach(site: Web, asked: list[str], case: str) -> None:
    url, reason = REACHING[case]
    with pytest.raises(InputError, match=reason):
        read(url.replace("PORT", str(site.port)), Pictures(pauses=()))
    assert asked == []


def test_there_are_more_than_forty_of_them() -> None:
    assert len(HOSTILE) + len(REACHING) >= 80


def test_bombs_take_little_memory(folder: Path, tmp_path: Path) -> None:
    given = [one() if callable(one) else one for one, _ in HOSTILE.values()]
    (tmp_path / "references.json").write_text(json.dumps(given))
    code = f"""if True:
        import json, resource, sys
        from pathlib import Path
        import numpy, PIL.Image
        from knnex.encoders.pictures import Pictures
        given = json.loads(Path({str(tmp_path / "references.json")!r}).read_text())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = [one for window in Pictures(Path({str(folder)!r})).windows(given) for one in window]
        assert all(isinstance(one, Exception) for one in found)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300  # MB


def test_without_a_folder_no_path_is_read(folder: Path) -> None:
    with pytest.raises(InputError, match="none are read here"):
        read("deep/one.png", Pictures())
    with pytest.raises(InputError, match="cannot be read"):
        read("deep/one.png", Pictures(folder / "gone"))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:4700::1111", True), ("::ffff:93.184.215.14", True), ("64:ff9b::5db8:d70e", True),
        ("2002:5db8:d70e::1", True), ("64:ff9b:1::7f00:1", False), ("2001::1", False), ("ff0e::1", False), ("fec0::1", False),
        ("3fff::1", False), ("5f00::1", False), ("2606:4700::5efe:10.0.0.1", False), ("2606:4700::200:5efe:10.0.0.1", False),
        ("192.88.99.1", False), ("198.18.0.1", False), ("240.0.0.1", False), ("255.255.255.255", False), ("fe80::1%lo", False),
        ("nonsense", False),
    ],
)  # fmt: skip
def test_addresses_of_the_open_internet(address: str, public: bool) -> None:
    assert is_public(address) is public


# ---- the web ----


def test_a_redirect_is_looked_at_again(site: Web, asked: list[str]) -> None:
    """The first host is allowed; where it leads is not, and is not asked."""
    fetcher = Fetcher(
        frozenset({"images.test"}), resolve=lambda host, _: ["127.0.0.1"] if host == "images.test" else [host]
    )
    for hidden in (f"http://127.0.0.1:{site.port}/hidden", f"//localhost:{site.port}/hidden", "file:///etc/passwd",
                   "http://169.254.169.254/", f"http://a@images.test:{site.port}/hidden"):  # fmt: skip
        with pytest.raises(InputError):
            fetcher.fetch(f"http://images.test:{site.port}/to?url={hidden}")
    assert len(asked) == 5
    assert not any(path.startswith("/hidden") for path in asked)


def test_a_name_is_resolved_once_and_all_its_addresses_are_looked_at(site: Web, asked: list[str]) -> None:
    answers = iter([["93.184.215.14", "127.0.0.1"], ["127.0.0.1"]])
    with pytest.raises(InputError, match="no public address"):
        Fetcher(resolve=lambda *_: next(answers)).fetch(f"http://rebound.test:{site.port}/picture")
    assert next(answers) == ["127.0.0.1"]
    assert asked == []
    named: list[str] = []
    fetcher = Fetcher(frozenset({"images.test"}), resolve=lambda host, _: named.append(host) or ["127.0.0.1"])  # type: ignore[func-returns-value]
    assert fetcher.fetch(f"http://IMAGES.test.:{site.port}/picture") == PNG
    assert named == ["images.test"]


@pytest.mark.parametrize(
    ("path", "reason", "later"),
    [
        ("/status/404", "answers 404", False), ("/status/403", "answers 403", False), ("/status/410", "410", False),
        ("/status/500", "answers 500", True), ("/status/429", "answers 429", True), ("/round", "more than 3", False),
        ("/nowhere", "to nowhere", False), ("/claims", "999,999,999 bytes", False), ("/short", "broke off", True),
        ("/endless", "more than 1,000,000 bytes", False), ("/drip", "longer than 1 s", True),
    ],
)  # fmt: skip
def test_what_is_not_to_be_had(site: Web, path: str, reason: str, later: bool) -> None:
    fetcher = Fetcher(frozenset({"127.0.0.1"}), most=1_000_000, seconds=1.0)
    started = time.monotonic()
    with pytest.raises(OSError if later else InputError, match=reason):
        fetcher.fetch(site.url + path)
    assert time.monotonic() - started < 10


def test_a_server_that_says_nothing_or_nonsense() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fetcher = Fetcher(frozenset({"127.0.0.1"}), seconds=0.4)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            fetcher.fetch(url)
        silent.accept()[0].close()

        def talk() -> None:
            opened, _ = silent.accept()
            with opened:
                opened.sendall(b"220 smtp ready\r\n")
                opened.recv(1000)

        talker = Thread(target=talk, daemon=True)
        talker.start()
        with pytest.raises(OSError, match="does not speak HTTP"):
            Fetcher(frozenset({"127.0.0.1"})).fetch(url)
        talker.join()
    with pytest.raises(OSError, match="refused"):
        fetcher.fetch(url)
    with pytest.raises(InputError, match="no host"):
        Fetcher().fetch("http://nobody.invalid/")


def test_a_name_is_proven_over_tls(tmp_path: Path, fresh_settings: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    fresh_settings.setenv("KNNEX_CA_CERTS", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("images.test").configure_cert(context)
    fetcher = Fetcher(frozenset({"images.test", "other.test"}), resolve=lambda *_: ["127.0.0.1"])
    with web(PNG) as secured:
        secured.server.socket = context.wrap_socket(secured.server.socket, server_side=True)
        assert fetcher.fetch(f"https://images.test:{secured.port}/picture") == PNG
        with pytest.raises(InputError, match="does not prove its name"):
            fetcher.fetch(f"https://other.test:{secured.port}/picture")
        assert secured.asked == ["/picture"]


def test_what_may_be_had_later_is_asked_again_and_a_silent_host_is_left_alone(site: Web, asked: list[str]) -> None:
    pictures = Pictures(None, Fetcher(frozenset({"127.0.0.1"})), pauses=(0.01, 0.01))
    assert same(read(f"{site.url}/flaky", pictures), drawn(1))
    assert asked == ["/flaky"] * 3
    asked.clear()
    away = [f"{site.url}/status/503?{number}" for number in range(100)]
    found = [one for window in pictures.windows([*away, uri(PNG)]) for one in window]
    assert isinstance(found.pop(), Image.Image)
    assert all(isinstance(one, InputError) and one.hint and "buried retry" in one.hint for one in found)
    assert "answers 503" in str(found[0])
    assert "does not answer now" in str(found[99])
    assert len(asked) <= 3 * 12  # three failures, and what was under way meanwhile
