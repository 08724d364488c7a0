"""A JSON array of documents, read element by element, so that a large file needs little memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

from .events import Origin, Refused

_BLOCK = 1 << 18
# An element longer than this many characters is taken for a damaged file.
_MAX_ELEMENT = 64_000_000
# Numbers, literals, escapes: what can be cut in two by the end of the window, strings aside.
_LONGEST_TOKEN = 1024
_SPACE = " \t\n\r"


class _Text:
    """A window on the characters of a file, that grows on demand and forgets what is consumed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.buffer, self.position, self.ended = "", 0, False

    def grow(self, by: int = _BLOCK) -> bool:
        """Read on; whether there was anything."""
        block = self._file.read(by)
        self.ended = not block
        self.buffer = self.buffer[self.position :] + self._decoder.decode(block, final=self.ended)
        self.position = 0
        return not self.ended

    def next_character(self) -> str:
        """The next character that is no space, not consumed; empty at the end."""
        while True:
            while self.position < len(self.buffer) and self.buffer[self.position] in _SPACE:
                self.position += 1
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self.grow():
                return ""


def json_documents(file: IO[bytes], name: str) -> Iterator[tuple[Origin, dict[str, Any]] | Refused]:
    """The elements of an array. Behind an element that is not JSON nothing can be told apart, and reading stops."""
    text, decoder = _Text(file), json.JSONDecoder()
    if text.next_character() != "[":
        yield Refused(Origin(name, 1, "element"), "", "the file holds no JSON array")
        return
    text.position += 1
    number = 0
    while (character := text.next_character()) != "]":
        number += 1
        origin = Origin(name, number, "element")
        if number > 1:
            if character != ",":
                yield Refused(origin, "", "not JSON: a comma is missing; what follows cannot be read")
                return
            text.position += 1
            text.next_character()
        try:
            value = _element(text, decoder)
        except ValueError as error:
            yield Refused(origin, "", f"not JSON: {error}; what follows cannot be read")
            return
        yield (origin, value) if isinstance(value, dict) else _no_object(origin, value)


def _no_object(origin: Origin, value: object) -> Refused:
    return Refused(origin, "", f"it is {type(value).__name__}, not an object")


def _element(text: _Text, decoder: json.JSONDecoder) -> Any:
    size = _BLOCK
    while True:
        try:
            value, end = decoder.raw_decode(text.buffer, text.position)
            # A number at the very end of the window may go on behind it.
            if end < len(text.buffer) or text.ended or isinstance(value, (dict, list, str)):
                text.position = end
                return value
        except json.JSONDecodeError as error:
            waiting = len(text.buffer) - text.position
            # At the very end anything may be a piece of something good; a string, wherever it begins.
            cut = error.msg.startswith("Unterminated string") or error.pos > len(text.buffer) - _LONGEST_TOKEN
            if text.ended or waiting > _MAX_ELEMENT or not cut:
                raise ValueError(error.msg) from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        # Twice as much each time, so that a long element is not decoded over and over.
        text.grow(size)
        size *= 2
