"""Wildcards and regular expressions, checked before an engine sees them: some it refuses, some end it."""

from __future__ import annotations

import re

from ..errors import QueryError
from .values import check_unicode

#: Engines refuse a longer regular expression or prefix (`index.max_regex_length`).
MAX_PATTERN = 1_000
# A regular expression repeated more often grows too large: a{99999999} ends an OpenSearch server.
_MAX_REPEATS = 1_000
# Lucene gives up an automaton after about so much work (`Operations.DEFAULT_DETERMINIZE_WORK_LIMIT`; measured).
_MAX_WORK = 60_000

_CLASS = r"\[\^?\]?(?:\\.|[^\]\\\[])*\]"
_TOKENS = re.compile(rf"\\(?P<escaped>.)|(?P<set>{_CLASS})|(?P<count>\{{\d+(?:,\d*)?\}})|(?P<plain>[^\\\[])", re.DOTALL)


def check_pattern(pattern: str, what: str) -> None:
    """Raises QueryError for a pattern with more characters than engines take, or with half ones."""
    check_unicode(pattern, what)
    if len(pattern) > MAX_PATTERN:
        raise QueryError(
            f"{what} has {len(pattern):,} characters; engines take {MAX_PATTERN:,}",
            hint="a shorter one finds these documents too",
        )


def check_wildcard(pattern: str, field: str) -> None:
    """Raises QueryError for a wildcard that engines refuse: too long, or with too many `?` after a `*`."""
    check_pattern(pattern, f"the pattern for {field}")
    if _work(_steps(pattern)) > _MAX_WORK:
        raise QueryError(
            f"the pattern for {field} may match in more ways than engines follow: {pattern!r:.80}",
            hint="use fewer ? after a *, and fewer *",
        )


def _steps(pattern: str) -> list[str]:
    """The pattern's characters; `*` and `?` alone are wild, an escaped one is itself."""
    steps: list[str] = []
    characters = iter(pattern)
    for one in characters:
        if one == "\\":
            steps.append("=" + next(characters, "\\"))
        elif one != "*" or steps[-1:] != ["*"]:
            steps.append(one if one in "*?" else "=" + one)
    return steps


def _work(steps: list[str]) -> int:
    """How much there is to do for a deterministic automaton: the sizes of the sets of places one can be at."""
    stars = sum(1 << at for at, step in enumerate(steps) if step == "*")
    wild = sum(1 << at for at, step in enumerate(steps) if step == "?")
    literal: dict[str, int] = {}
    for at, step in enumerate(steps):
        if step[0] == "=":
            literal[step] = literal.get(step, 0) | 1 << at

    def settled(places: int) -> int:
        return places | (places & stars) << 1

    waiting = [settled(1)]
    seen = set(waiting)
    work = 0
    while waiting and work <= _MAX_WORK:
        places = waiting.pop()
        work += places.bit_count()
        letters = [mask for mask in literal.values() if mask & places] if len(literal) < 64 else _met(steps, places)
        for mask in {0, *letters}:
            reached = settled((places & (wild | mask)) << 1 | places & stars)
            if reached and reached not in seen:
                seen.add(reached)
                waiting.append(reached)
    return work


def _met(steps: list[str], places: int) -> list[int]:
    """The letters that lead on from these places, each as the places where it stands."""
    found: dict[str, int] = {}
    while places:
        at = places.bit_length() - 1
        places ^= 1 << at
        if at < len(steps) and steps[at][0] == "=":
            found[steps[at]] = found.get(steps[at], 0) | 1 << at
    return list(found.values())


def regular(pattern: str, field: str) -> str:
    """A regular expression as both engines read it, where Python means the same by it. Raises QueryError.

    The whole value is matched. Known are `. | ( ) [ ] ? * +`, `{2,3}`, `\\d`, `\\s`, `\\w` and escaped signs.
    """
    check_pattern(pattern, f"the pattern for {field}")
    made, position, repeats = "", 0, 1
    while position < len(pattern):
        found = _TOKENS.match(pattern, position)
        if found is None:
            raise _irregular(pattern, field, f"what stands at {position}, {pattern[position]!r}, has no end")
        made += _token(found, pattern, field)
        repeats *= max((int(number) for number in re.findall(r"\d+", found["count"] or "")), default=1) or 1
        if repeats > _MAX_REPEATS:
            raise _irregular(pattern, field, f"it repeats more than {_MAX_REPEATS:,} times, all counts multiplied")
        position = found.end()
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise _irregular(pattern, field, str(error)) from None
    return made


def _token(found: re.Match[str], pattern: str, field: str) -> str:
    escaped, plain, members = found["escaped"], found["plain"], found["set"]
    if escaped and escaped.isalnum() and escaped not in "dDsSwW":
        raise _irregular(pattern, field, f"\\{escaped} is not known to the engines")
    if members and re.search(r"\\[a-zA-Z0-9]|&&|\|\||~~|--|(?<!\\)-\]$", members):
        raise _irregular(pattern, field, f"{members} is not known to the engines")
    if plain in ("^", "$"):
        raise _irregular(pattern, field, f"{plain} stands for itself: the whole value is matched anyway")
    if plain == "{":
        raise _irregular(pattern, field, "{ stands alone")
    if plain == "(" and found.string[found.end() :].startswith("?"):
        raise _irregular(pattern, field, "(? is not known to the engines")
    # A quotation mark begins a literal text there.
    return '\\"' if plain == '"' else found[0]


def _irregular(pattern: str, field: str, why: str) -> QueryError:
    return QueryError(
        f"{pattern!r:.80} is no regular expression for {field}: {why}",
        hint="escape a sign that stands for itself by a backslash",
    )
