"""From a reference to a picture: a `data:` URI, base64, a URL, or a path; whatever it is, it is nobody's weapon."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import InputError
from ..settings import settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from .fetching import Fetcher

#: Bytes of a picture, and pixels before it is made smaller; the model sees it within a square of `SIDE`.
MOST_BYTES, MOST_PIXELS, SIDE = 20_000_000, 50_000_000, 2048
# Longer than that a picture becomes large again when its short side is brought to the model's.
_MOST_LONG = 40
# Passes over a progressive JPEG: each may cost as much as the picture and take a few bytes.
_MOST_SCANS = 200
# From here on one is decoded at a time: it takes up to four bytes a pixel.
_LARGE = 8_000_000
_decoding = threading.Lock()

_WINDOW, _THREADS = 32, 8
# Seconds after which a URL is asked again that could not be had; failures after which a host is not asked any more.
_PAUSES, _SILENT = (0.5, 2.0), 3
_RETRY = "`knnex buried retry` once it can be had"

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_SAID = "JPEG, PNG, WebP or GIF"
# How the formats begin, by themselves and in base64.
_BEGINNINGS = re.compile(rb"(?P<jpeg>\xff\xd8\xff)|(?P<png>\x89PNG\r\n\x1a\n)|(?P<gif>GIF8[79]a)|(?P<webp>RIFF....WEBP)", re.DOTALL)  # fmt: skip # noqa: E501
_BASE64 = re.compile(r"/9j/|iVBORw0KGg|R0lGOD|UklGR")
_LEAST_BASE64 = 40
_DATA_URI = re.compile(r"data:image/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


def is_data_uri(text: str) -> bool:
    """Whether a text is a picture written out."""
    return text[:11].lower() == "data:image/"


def data_uri(data: bytes) -> str:
    """A picture's bytes as a `data:` URI. Raises InputError for what is none by how it begins; needs no Pillow."""
    return f"data:image/{_format(data)};base64,{base64.b64encode(data).decode()}"


def _format(data: bytes) -> str:
    """The format, whatever a name or a header says. Raises InputError."""
    if len(data) > MOST_BYTES:
        raise InputError(f"it has more than {MOST_BYTES:,} bytes, which is all that is taken", hint="scale it down")
    found = _BEGINNINGS.match(data)
    if not found:
        raise InputError(f"it is no {_SAID}" if data else "it is empty", hint=f"give a picture as {_SAID}")
    return str(found.lastgroup)


def bytes_of(text: str) -> bytes:
    """The bytes of a `data:` URI, or of plain base64. Raises InputError."""
    if is_data_uri(text):
        head = _DATA_URI.match(text)
        if not head:
            raise InputError("its data: URI is not in base64", hint="write data:image/png;base64,...")
        text = text[head.end() :]
    if len(text) > MOST_BYTES * 3 // 2:
        raise InputError(f"it has more than {MOST_BYTES:,} bytes, which is all that is taken")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError("it is not in base64, or cut off") from None


def shown(reference: str) -> str:
    """A reference as messages have it."""
    return repr(reference) if len(reference) <= 120 else f"{reference[:60]!r}… ({len(reference):,} characters)"


class Pictures:
    """Reads references: paths within `folder`, URLs by `fetcher`; several at once."""

    def __init__(
        self, folder: Path | None = None, fetcher: Fetcher | None = None, *, pauses: Sequence[float] = _PAUSES
    ) -> None:
        from .fetching import Fetcher

        self.folder, self.pauses = folder, pauses
        self.fetcher = fetcher or Fetcher(most=MOST_BYTES)

    @classmethod
    def by_settings(cls) -> Pictures:
        """With the folder of KNNEX_IMAGES and the hosts of KNNEX_IMAGE_HOSTS."""
        from .fetching import Fetcher

        hosts = frozenset(host.lower().rstrip(".") for host in settings().image_hosts)
        return cls(settings().images, Fetcher(hosts, MOST_BYTES))

    def windows(self, references: Sequence[str]) -> Iterator[list[Image | InputError]]:
        """The pictures in RGB, or why one cannot be read, in order and some at a time, which bounds the memory.

        A URL that cannot be had for now is asked three times; a host that failed so thrice is left alone until the end.
        """
        silent: Counter[str] = Counter()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures") as threads:
            for start in range(0, len(references), _WINDOW):
                yield list(threads.map(partial(self._read, silent=silent), references[start : start + _WINDOW]))

    def _read(self, reference: str, silent: Counter[str]) -> Image | InputError:
        try:
            return decoded(self._bytes(reference, silent))
        except InputError as error:
            return error

    def _bytes(self, reference: str, silent: Counter[str]) -> bytes:
        if is_data_uri(reference) or (_BASE64.match(reference) and len(reference) >= _LEAST_BASE64):
            return bytes_of(reference)
        scheme = _SCHEME.match(reference)
        if scheme is None:
            return self._file(reference)
        if scheme[1].lower() not in ("http", "https"):
            raise InputError(f"{scheme[1]}: is not read; a reference is a path, an http(s) URL or base64")
        return self._fetched(reference, silent)

    def _fetched(self, url: str, silent: Counter[str]) -> bytes:
        try:
            host = urlsplit(url).netloc
        except ValueError:
            raise InputError("its URL cannot be read") from None
        reason = ""
        for pause in (0.0, *self.pauses):
            if silent[host] >= _SILENT:
                raise InputError(f"{host} does not answer now", hint=_RETRY)
            time.sleep(pause)
            try:
                data = self.fetcher.fetch(url)
            except OSError as error:
                reason = error.strerror or str(error) or type(error).__name__
            else:
                silent[host] = 0
                return data
        silent[host] += 1
        raise InputError(f"it cannot be had now: {reason}", hint=_RETRY)

    def _file(self, reference: str) -> bytes:
        if self.folder is None:
            raise InputError("it is a path, and none are read here", hint="set KNNEX_IMAGES to the folder of pictures")
        path = PurePosixPath(reference)
        if path.is_absolute() or ".." in path.parts or "\0" in reference or "\\" in reference:
            raise InputError("its path leads out of KNNEX_IMAGES", hint="write it as seen from that folder")
        try:
            root = self.folder.resolve(strict=True)
            inside = (root / path).resolve(strict=True).relative_to(root)
            return _opened(root, inside.parts)
        except ValueError:
            raise InputError("its path leads out of KNNEX_IMAGES by a link") from None
        except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError
            reason = getattr(error, "strerror", None) or "links in a circle"
            raise InputError(f"there is no such file in KNNEX_IMAGES, or it cannot be read: {reason}") from None


def _opened(root: Path, parts: Sequence[str]) -> bytes:
    """The file's bytes; where a folder has become a link meanwhile, it is not followed."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, part in enumerate(parts, 1):
            kind = os.O_DIRECTORY if number < len(parts) else os.O_NONBLOCK  # of a pipe nothing is awaited
            deeper = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=at)
            os.close(at)
            at = deeper
        if not stat.S_ISREG(os.fstat(at).st_mode):
            raise InputError("its path is no file")
        with open(at, "rb", closefd=False) as file:
            return file.read(MOST_BYTES + 1)
    finally:
        os.close(at)


def decoded(data: bytes) -> Image:
    """The picture as a person sees it: upright, its first frame, on white where it is transparent; in RGB.

    Scaled down to fit a square of 2048 pixels. Raises InputError for what is none, damaged, or too large.
    """
    import PIL.Image

    if _format(data) == "jpeg" and data.count(b"\xff\xda") > _MOST_SCANS:
        raise InputError(f"it is a JPEG of more than {_MOST_SCANS} passes")
    try:
        with PIL.Image.open(BytesIO(data), formats=_FORMATS) as image:
            pixels = _checked(image)
            with _decoding if pixels >= _LARGE else nullcontext():
                return _upright(_flat(_reduced(image)))
    except InputError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):  # Pillow's limits lie above ours
        raise InputError(f"it has more than {MOST_PIXELS:,} pixels, which are decoded at most") from None
    except Exception as error:  # a damaged file brings about anything, in each format something else
        raise InputError(f"it is damaged: {str(error) or type(error).__name__}") from None


def _checked(image: Image) -> int:
    """The number of pixels. Raises InputError where there are too many, before any is decoded."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(
            f"it has {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are decoded", hint="scale it down"
        )
    if max(image.size) > _MOST_LONG * min(image.size):
        raise InputError(
            f"it has {width:,} x {height:,} pixels: it is more than {_MOST_LONG} times as long as wide",
            hint="cut out what matters",
        )
    return width * height


def _reduced(image: Image) -> Image:
    """No larger than needed; a JPEG is not even decoded larger than twice that."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        import numpy as np
        import PIL.Image

        image = PIL.Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("1", "P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    image.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    image.load()
    return image


def _flat(image: Image) -> Image:
    """In RGB, on white where it is transparent."""
    if "A" not in image.mode.upper():
        return image if image.mode == "RGB" else image.convert("RGB")
    import PIL.Image

    image = image.convert("RGBA")
    white = PIL.Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    white.info.update(image.info)
    return white


def _upright(image: Image) -> Image:
    """As the camera was held."""
    from PIL.ImageOps import exif_transpose

    try:
        turned: Any = exif_transpose(image)
    except Exception:  # what is written beside a picture may be nonsense, and the picture none the worse
        return image
    made: Image = turned
    return made
