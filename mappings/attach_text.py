"""What the values of a field look like: prose, titles, codes or links. Values in, a verdict with its reason out."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prose", "title", "short", "labels", "codes", "links", "empty"]

_LINK = re.compile(r"(https?://|www\.|ftp://|mailto:)\S+|\S+@\S+\.\w+|(/[\w.+-]+){2,}/?|[A-Za-z]:\\\S*")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
# Scripts written without spaces: a sign is about half a word.
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_TITLES = frozenset({"title", "name", "headline", "heading", "subject", "caption", "titel", "titre", "titulo"})
# Beyond so many words on average a text says something by itself.
_PROSE_WORDS = 4.0
# A field that so few documents have, or whose values repeat so often, tells documents apart badly.
_RARE, _REPEATED = 0.05, 0.2
# Below so many values nothing can be said of how often they repeat.
_FEW = 20
# The share of values that must look alike.
_MOST = 0.5


@dataclass(frozen=True)
class Measured:
    """A field in the documents that were looked at; shares are of 1, `words` a mean over those that have it."""

    path: str
    kind: Kind
    documents: int
    present: float = 0.0
    distinct: float = 0.0
    words: float = 0.0

    @property
    def carries_meaning(self) -> bool:
        """Whether a vector of it finds documents by what they are about."""
        return self.kind in ("prose", "title")

    @property
    def reason(self) -> str:
        """The verdict, and the figures behind it."""
        if self.kind == "empty":
            return f"in {self.present:.0%} of the documents" if self.present else "in none of the documents"
        words = f"{self.words:,.0f} word{'' if round(self.words) == 1 else 's'}"
        return f"{_SAID[self.kind]}: in {self.present:.0%} of the documents, {words}, {self.distinct:.0%} distinct"


_SAID: dict[Kind, str] = {
    "prose": "prose",
    "title": "a title",
    "short": "a word or two",
    "labels": "the same few values again and again",
    "codes": "codes or numbers",
    "links": "links, paths or addresses",
    "empty": "empty",
}


def measure(path: str, values: Sequence[str]) -> Measured:
    """Judge a field by its values, one for each document that was looked at, empty where it has none."""
    filled = [value for value in values if value]
    if not filled or len(filled) < _RARE * len(values):
        return Measured(path, "empty", len(values), len(filled) / len(values) if values else 0.0)
    words = sum(map(count_words, filled)) / len(filled)
    distinct = len({value.casefold() for value in filled}) / len(filled)
    kind = _kind(path, Counter(map(_look, filled)), len(filled), words, distinct)
    return Measured(path, kind, len(values), len(filled) / len(values), distinct, words)


def count_words(text: str) -> float:
    """Words, also of scripts that put no spaces between them."""
    unspaced = len(_UNSPACED.findall(text))
    return len(_WORD.findall(_UNSPACED.sub(" ", text))) + unspaced / 2


def _kind(path: str, looks: Counter[str], count: int, words: float, distinct: float) -> Kind:
    if looks["link"] > _MOST * count:
        return "links"
    if looks["code"] + looks["link"] > _MOST * count:
        return "codes"
    if distinct < _REPEATED and count >= _FEW:
        return "labels"
    if words >= _PROSE_WORDS:
        return "prose"
    return "title" if _is_title(path) else "short"


def _is_title(path: str) -> bool:
    """By its name: a film's title and its director's look alike otherwise."""
    last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", path.rpartition(".")[2]).lower()
    return bool(_TITLES & set(re.split(r"[\W_]+", last)))


def _look(value: str) -> str:
    """Of one value: whether it is a link, a code, or words."""
    parts = value.split()
    if parts and sum(bool(_LINK.fullmatch(part.strip("<>()[]\"',;"))) for part in parts) * 2 > len(parts):
        return "link"
    letters = sum(unicodedata.category(sign)[0] in "LM" for sign in value)
    signs = sum(not sign.isspace() for sign in value)
    spelled = [part for part in parts if _WORD.search(part) and not _is_code(part)]
    if letters < 0.5 * signs or len(spelled) * 2 <= len(parts):
        return "code"
    return "words"


def _is_code(part: str) -> bool:
    """Such as `SKU-1042`, `a81f00c2`, `user_id` or `ORD/2024/7`: a word has no digits and no underscores inside."""
    bare = part.strip(".,;:!?\"'()[]{}«»“”„")
    return bool(re.search(r"[\d_=/\\<>{}]", bare)) and bool(re.search(r"[^\W\d_]", bare))
