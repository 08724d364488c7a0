"""Long text in passages: cut where a reader would cut, never longer than the encoder reads, with exact offsets.

A chunk is a *core* and, before it, an overlap with what came earlier. The cores follow one another and leave out
nothing but white space; each ends at the widest kind of boundary that fits: paragraph, sentence, line, word, grapheme,
character.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..mappings.spec import Chunking
from .base import Encoder

# A blank line.
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*|\u2029\s*")
# Possessive throughout: no input makes these look at a character more than a few times.
_SENTENCE = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s++|[。！？．]++[」』”’）]*+\s*+")
_LINE = re.compile(r"\n\s*")
_SPACE = re.compile(r"\s++")
# The widest boundary at which each unit cuts.
_LEVELS = {"paragraph": ("paragraphs", "sentences"), "sentence": ("sentences",), "tokens": ()}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage; `text` is exactly the characters `start` to `end` of the whole text."""

    text: str
    start: int
    end: int


def chunk(text: str, chunking: Chunking, encoder: Encoder) -> list[Chunk]:
    """The passages of a text, each of at most `max_tokens` tokens as the encoder counts them; none for blank text.

    Every unit merges what fits; `unit` says where a cut may fall: between paragraphs (a paragraph too long for one
    chunk is cut between its sentences), between sentences, or after any word. What is still too long is cut between
    lines, words, graphemes. Consecutive chunks share up to `overlap` tokens: whole sentences if some fit, else words.
    """
    return list(_Cutter(text, chunking, encoder).chunks())


class _Boundaries:
    """The positions of one text at which it may be cut, by kind; a kind is looked for when first needed."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def paragraphs(self) -> list[int]:
        return [match.end() for match in _PARAGRAPH.finditer(self.text)]

    @cached_property
    def sentences(self) -> list[int]:
        text = self.text
        # "e.g. this": a small letter goes on with the sentence.
        ends = [match.end() for match in _SENTENCE.finditer(text) if not text[match.end() : match.end() + 1].islower()]
        return sorted({*ends, *self.paragraphs})

    @cached_property
    def lines(self) -> list[int]:
        return [match.end() for match in _LINE.finditer(self.text)]

    @cached_property
    def words(self) -> list[int]:
        return [match.end() for match in _SPACE.finditer(self.text)]

    @cached_property
    def graphemes(self) -> list[int]:
        import regex  # type: ignore[import-untyped]

        return [match.end() for match in regex.finditer(r"\X", self.text)]

    @cached_property
    def characters(self) -> range:
        return range(1, len(self.text) + 1)

    def of(self, kind: str) -> list[int] | range:
        positions: list[int] | range = getattr(self, kind)
        return positions


class _Cutter:
    def __init__(self, text: str, chunking: Chunking, encoder: Encoder) -> None:
        self.text = text
        self.encoder = encoder
        self.limit = max(1, min(chunking.max_tokens, encoder.max_tokens))
        self.overlap = min(chunking.overlap, self.limit // 2)
        self.levels = _LEVELS[chunking.unit]
        self.boundaries = _Boundaries(text)

    @cached_property
    def starts(self) -> list[int]:
        """Where each token of the whole text starts."""
        return sorted(start for start, _ in self.encoder.offsets(self.text))

    def chunks(self) -> Iterator[Chunk]:
        start, previous = self._next_text(0), -1
        while start < len(self.text):
            end = self._core_end(start, self.limit - (self.overlap if previous >= 0 else 0))
            first = self._overlap_start(start, end, previous) if previous >= 0 else start
            stop = first + len(self.text[first:end].rstrip())
            yield Chunk(self.text[first:stop], first, stop)
            start, previous = self._next_text(end), first

    def _next_text(self, position: int) -> int:
        """The first character from here that is not white space."""
        match = _SPACE.match(self.text, position)
        return match.end() if match else position

    def _count(self, start: int, end: int) -> int:
        # Alone, a passage may have other tokens than as a part of the whole: cut words, merges across its edge.
        return self.encoder.count_tokens(self.text[start:end].strip())

    def _reach(self, start: int, tokens: int) -> int:
        """How far that many tokens go."""
        after = bisect_left(self.starts, start) + tokens
        return self.starts[after] if after < len(self.starts) else len(self.text)

    def _core_end(self, start: int, budget: int) -> int:
        """Where the core that begins at `start` ends; a unit that leaves no room for an overlap stays whole."""
        limit = self.limit
        end = self._cut(start, budget, limit)
        while (excess := self._count(start, end) - self.limit) > 0 and end > start + 1:
            limit = min(limit, self._tokens(start, end)) - excess
            # Nothing left to go by: alone, these characters have far more tokens than as a part of the text.
            end = self._cut(start, min(budget, limit), limit) if limit > 0 else self._halved(start, end)
        return end

    def _halved(self, start: int, end: int) -> int:
        middle = start + (end - start) // 2
        return self._last("graphemes", start, middle) or middle

    def _tokens(self, start: int, end: int) -> int:
        return bisect_left(self.starts, end) - bisect_left(self.starts, start)

    def _cut(self, start: int, budget: int, limit: int) -> int:
        within, at_most = self._reach(start, budget), self._reach(start, limit)
        if within >= len(self.text):
            return len(self.text)
        for kind in self.levels:
            fitting = self._last(kind, start, within)
            whole = self._first(kind, start)
            if fitting or whole <= at_most:
                return fitting or whole
        # A boundary far back would leave a stump: text without spaces is cut between graphemes instead.
        for kind in ("lines", "words"):
            end = self._last(kind, start, within)
            if end and 2 * self._tokens(start, end) >= budget:
                return end
        grapheme = self._last("graphemes", start, within) or self._first("graphemes", start)
        return grapheme if grapheme <= at_most else self._last("characters", start, within) or start + 1

    def _last(self, kind: str, start: int, within: int) -> int:
        """The last boundary of that kind after `start` and not beyond `within`; 0 when there is none."""
        positions = self.boundaries.of(kind)
        at = bisect_right(positions, within)
        return positions[at - 1] if at and positions[at - 1] > start else 0

    def _first(self, kind: str, start: int) -> int:
        """The first boundary of that kind after `start`; the end of the text is one."""
        positions = self.boundaries.of(kind)
        at = bisect_right(positions, start)
        return positions[at] if at < len(positions) else len(self.text)

    def _overlap_start(self, start: int, end: int, previous: int) -> int:
        """Where the chunk begins so that it repeats the end of the one before, which began at `previous`."""
        room = min(self.overlap, self.limit - self._count(start, end))
        while room > 0:
            first = self._begin(start, room, previous)
            if first == start:
                break
            excess = self._count(first, end) - self.limit
            if excess <= 0:
                return first
            room = min(room, self._tokens(first, start)) - excess
        return start

    def _begin(self, start: int, room: int, previous: int) -> int:
        """The earliest sentence, else word, else grapheme that begins within `room` tokens before `start`."""
        at = bisect_left(self.starts, start) - room
        earliest = max(self.starts[at] if at > 0 else 0, previous + 1)
        for kind in ("sentences", "words", "graphemes") if self.levels else ("words", "graphemes"):
            positions = self.boundaries.of(kind)
            index = bisect_left(positions, earliest)
            if index < len(positions) and positions[index] < start and not self.text[positions[index]].isspace():
                return positions[index]
        return start
