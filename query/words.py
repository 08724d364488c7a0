"""Ranking by words: what is wrong with a `lexical()`, found before anything is sent, and the node it becomes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import get_args

from ..errors import QueryError, UnknownField
from .names import KEYWORD, TEXT, Names
from .nodes import Filter, Match, size_of
from .parts import Lexical, LexicalType
from .values import MAX_CLAUSES, check_text, check_whole, is_whole

#: For how many words one may stand, on both engines by themselves.
EXPANSIONS = 50
# With fewer a misspelt word no longer finds the one that was meant.
_FEWEST = 5

TYPES: tuple[str, ...] = get_args(LexicalType)
_PHRASES = ("phrase", "phrase_prefix")
_WORDS = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|\w+")
_BOOST = re.compile(r"(?P<name>[^\^]+)(?:\^(?P<boost>[^\^]*))?")
_COUNT = r"-?(?:\d{1,5}|(?:100|\d\d?)%)"
_MINIMUM = re.compile(rf"{_COUNT}|\d{{1,5}}<{_COUNT}(?: \d{{1,5}}<{_COUNT})*", re.ASCII)
_AUTO = re.compile(r"auto(?::(\d{1,5}),(\d{1,5}))?", re.ASCII | re.IGNORECASE)
_MAX_SLOP = 10_000


def match(part: Lexical, text: str, given: Filter | None, names: Names) -> Match:
    """The node that a part becomes among the documents a filter lets through. Raises QueryError for too many words."""
    fields = tuple(_searched(part, names))
    minimum = part.minimum if part.minimum is None else str(part.minimum)
    return Match(
        fields=fields,
        text=text,
        filter=given,
        type=part.type,
        operator=part.operator,
        fuzziness=_fuzziness(part),
        minimum=minimum,
        slop=int(part.slop),
        expansions=_expansions(part, text, len(fields), 0 if given is None else size_of(given)),
    )


def _searched(part: Lexical, names: Names) -> Iterator[tuple[str, float]]:
    """The fields with their boosts; for words as they are typed those too in which an engine keeps pairs of them."""
    listed = dict(map(boosted, part.fields))
    for name, boost in listed.items():
        yield name, boost
        known = names.field(name)
        if part.type == "bool_prefix" and known.type == "search_as_you_type":
            for size in range(2, 5):
                shingles = f"{name}._{size}gram"
                if names.has(shingles) and shingles not in listed:
                    yield shingles, boost


def check_lexical(part: Lexical, text: str | None, names: Names) -> None:
    """Raises QueryError or UnknownField for the first thing that is wrong."""
    if part.type not in TYPES:
        close = get_close_matches(str(part.type), TYPES, n=1)
        raise QueryError(
            f"lexical() does not know the type {part.type!r:.80}" + (f"; did you mean {close[0]!r}?" if close else ""),
            hint=f"use {', '.join(TYPES)}",
        )
    if not part.fields:
        raise QueryError("lexical() names no field", hint="for example .lexical('title^2', 'plot')")
    for entry in part.fields:
        _check_kind(check_field(names, boosted(entry)[0], "lexical"), boosted(entry)[0], part)
    if text is None:
        raise QueryError("lexical() has no text", hint="give it to the query, Query('...'), or as text=")
    check_text(text, "the text for lexical()")
    _check_words(part)
    _check_slop(part)
    _fuzziness(part)
    _expansions(part, text, len(list(_searched(part, names))), 0)


def check_field(names: Names, name: str, what: str) -> str:
    """The type of a field that has words. Raises QueryError or UnknownField where it has none."""
    if name in names.spec.embeddings:
        raise UnknownField(f"{name!r} is an embedding, it has no words for {what}()", hint=f"use .semantic({name!r})")
    known = names.field(name)
    if known.type not in TEXT and known.type not in KEYWORD:
        raise QueryError(
            f"{name} is of type {known.type}: it has no words for {what}()",
            hint="name a text or keyword field, or use where()",
        )
    if known.nested is not None:
        raise QueryError(f"{name} lies in the nested objects {known.nested!r}", hint="use where_nested()")
    return known.type


def _check_kind(kind: str, name: str, part: Lexical) -> None:
    if kind in TEXT:
        return
    if part.type == "phrase_prefix":
        raise QueryError(
            f"{name} is of type {kind}: engines look for the beginning of a phrase in text fields alone",
            hint=f"use type='bool_prefix', or where(F.{name}.startswith(...))",
        )
    if kind != "keyword" and (part.fuzziness is not None or part.type not in TYPES[:3]):
        asked = "fuzziness" if part.fuzziness is not None else f"type={part.type!r}"
        raise QueryError(f"{name} is of type {kind}: it cannot be searched with {asked}", hint="name a text field")


def _check_words(part: Lexical) -> None:
    """How many of the words must be there."""
    if part.operator not in ("or", "and"):
        raise QueryError(f"lexical() does not know the operator {part.operator!r:.80}", hint="use 'or' or 'and'")
    if part.minimum is None:
        return
    whole = is_whole(part.minimum)
    if not _MINIMUM.fullmatch(str(part.minimum) if whole or isinstance(part.minimum, str) else ""):
        raise QueryError(
            f"lexical(minimum={part.minimum!r:.80}) says no number of words",
            hint="write 3, -1 (all but one), '75%', or '3<75%' (up to 3 words all of them, of more 75%)",
        )
    if part.operator == "and":
        raise QueryError("operator 'and' wants every word, and minimum fewer", hint="leave one of them out")
    if part.type in _PHRASES:
        raise QueryError(f"a {part.type} wants every word: minimum has no meaning", hint="leave it out, or use slop")


def _check_slop(part: Lexical) -> None:
    check_whole(part.slop, "slop", 0, _MAX_SLOP)
    if part.slop and part.type not in _PHRASES:
        raise QueryError(
            f"slop lies between the words of a phrase, and the type is {part.type!r}",
            hint="""write "two words"~3 in the text""" if part.type == "query_string" else "use type='phrase'",
        )


def _fuzziness(part: Lexical) -> str | None:
    """As engines read it: 0, 1, 2, AUTO or AUTO:3,6. Raises QueryError."""
    given = part.fuzziness
    if given is None:
        return None
    if part.type in (*_PHRASES, "cross_fields", "query_string"):
        raise QueryError(
            f"engines take no fuzziness with type={part.type!r}",
            hint="write word~1 in the text" if part.type == "query_string" else "use best_fields or most_fields",
        )
    whole = is_whole(given)
    if str(given) in ("0", "1", "2") and (whole or isinstance(given, str)):
        return str(given)
    found = _AUTO.fullmatch(given) if isinstance(given, str) else None
    if found is None or (found[1] and not 0 < int(found[1]) <= int(found[2])):
        raise QueryError(
            f"fuzziness is {given!r:.80}",
            hint="give 0, 1 or 2 changed letters, 'auto' (none below 3 letters, 2 from 6 on), or 'auto:3,6'",
        )
    return given.upper() if isinstance(given, str) else None


def _expansions(part: Lexical, text: str, fields: int, beside: int) -> int:
    """For how many words one may stand, so that all of them are few enough. Raises QueryError where none are left."""
    words = max(1, len(_WORDS.findall(text)))
    left = MAX_CLAUSES - beside
    if part.type == "phrase":
        each, needed = left, fields
    elif part.type == "phrase_prefix":
        each, needed = left // fields - words, (words + _FEWEST) * fields
    else:
        fuzzy = part.fuzziness is not None or (part.type == "query_string" and "~" in text)
        # A text that people type is never refused for its signs alone.
        fewest = 1 if part.type == "query_string" or not fuzzy else _FEWEST
        # OpenSearch is asked for the whole words twice, to bring them to the scale of what scores 1.
        signs = part.type == "query_string" and scored_by_words(text, part.operator) is not None
        times = 2 if signs or part.type == "bool_prefix" else 1
        each, needed = left // (words * fields * times), words * fields * times * fewest
    if needed > left:
        beside_it = f" beside a filter of {beside:,} clauses" if beside else ""
        misspelt = ", misspelt ones among them," if part.fuzziness is not None else ""
        raise QueryError(
            f"{words:,} words in {fields} fields{misspelt} are more than the {MAX_CLAUSES:,} clauses engines take"
            + beside_it,
            hint="use a shorter text or fewer fields; semantic() takes long texts",
        )
    return max(1, min(EXPANSIONS, each))


def boosted(entry: str) -> tuple[str, float]:
    """`title^2` as ("title", 2.0). Raises QueryError."""
    found = _BOOST.fullmatch(entry) if isinstance(entry, str) else None
    if found is None:
        raise QueryError(f"{entry!r:.80} names no field", hint="write 'title' or 'title^2'")
    try:
        boost = float(found["boost"] if found["boost"] is not None else 1)
    except ValueError:
        boost = math.nan
    if not (math.isfinite(boost) and 0 < boost <= 1e6):
        raise QueryError(f"{entry!r}: {found['boost']!r} is no boost", hint="write a number above 0, as in 'title^2'")
    return found["name"], boost


def before_last(text: str) -> str:
    """The text without its last word, which may be a beginning."""
    return _LAST.sub("", text).strip()


def scored_by_words(text: str, operator: str) -> str | None:
    """Of a text with signs what BM25 scores: beginnings (`wor*`) and what must not be there (`-word`) score 1.

    None where nothing scores 1, and where some of its words are a group of their own: by parentheses, or by `+` beside
    "or", `|` beside "and". Read as engines do (Lucene's `SimpleQueryParser`).
    """
    # A star alone has no words, and is everything where it is the whole text.
    clauses = [found for found in _CLAUSES.finditer(text) if found["clause"] != "*"]
    left = [one["clause"] for one in clauses if len(one["not"]) % 2 == 0 and not _BEGINNING.fullmatch(one["clause"])]
    bare = _QUOTED.sub("", text).lstrip("+| \t\r\n")
    grouped = any(sign in bare for sign in ("()+" if operator == "or" else "()|"))
    if text.strip() == "*":
        return ""
    return None if grouped or len(left) == len(clauses) else " ".join(left)


_ENDED = r'[^ \t\r\n"|+\\]'
# A phrase and how far its words may be apart, or a word; a quotation mark alone is no sign.
_CLAUSES = re.compile(rf'(?P<not>-*+)(?P<clause>"(?:\\.|[^"\\])*"(?:~{_ENDED}*)?|(?:\\.|{_ENDED})+)', re.DOTALL)
_QUOTED = re.compile(r'\\.|"(?:\\.|[^"\\])*"', re.DOTALL)
_BEGINNING = re.compile(r'(?!")(?:\\.|[^\\])(?:\\.|[^\\~])*\*', re.DOTALL)
_LAST = re.compile(r"(?:[぀-ヿ㐀-鿿豈-﫿]|[^\W぀-ヿ㐀-鿿豈-﫿](?:[\w.'’]*\w)?)\W*\Z")
