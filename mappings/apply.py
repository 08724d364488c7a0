"""Creating an index version behind its alias, and reading back what the cluster holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..engines import Dialect, Flow, Request, path_of
from ..errors import IndexMissing, RequestRejected, SpecMismatch, UnsupportedByEngine
from .compile import META, SEARCHED, Resolved, index_body
from .spec import Spec

_MISSING = frozenset({404})
# Of one index: engines take a list, a pattern, an exclusion and a date for the names of several.
_ONE_NAME = re.compile(r"[^\s*,?<>|\"\\/#_+-][^\s*,?<>|\"\\/#]*")


@dataclass(frozen=True)
class Stored:
    """What the cluster holds under an alias: the index version, its spec, and what made its vectors."""

    index: str
    spec: Spec
    resolved: Mapping[str, Resolved]
    # Version indexes that are being built beside this one: whoever writes here writes there too.
    also: tuple[str, ...] = ()
    # An index that others made and fill: its documents are given vectors, and never written whole.
    attached: bool = False


def version_name(alias: str, number: int) -> str:
    """`movies`, 3 -> `movies-000003`."""
    return f"{alias}-{number:06d}"


def version_number(alias: str, index: str) -> int:
    """`movies`, `movies-000003` -> 3; 0 for an index that has not the name of a version."""
    found = re.fullmatch(re.escape(alias) + r"-(\d{6})", index)
    return int(found[1]) if found else 0


def next_version(alias: str, names: Iterable[str]) -> str:
    """The name of the version after these."""
    return version_name(alias, max((version_number(alias, name) for name in names), default=0) + 1)


def write_alias(index: str) -> str:
    """The alias by which one index version is written to: a bulk that requires it cannot make a deleted index anew."""
    return f"{index}-w"


def create(spec: Spec, dialect: Dialect, resolved: Mapping[str, Resolved]) -> Flow[tuple[Stored, bool]]:
    """Make the index unless it is there; (what is stored, whether it was made now).

    Raises SpecMismatch where the alias holds another spec, or the name is a concrete index of somebody else's.
    """
    wanted = Stored(version_name(spec.index, 1), spec, resolved)
    body = index_body(spec, dialect, resolved)
    stored = yield from find(spec.index)
    if stored is None:
        body["aliases"] = aliases(spec.index, wanted.index)
        made = yield from _put(wanted.index, body, dialect)
        if made:
            return wanted, True
        stored = yield from load(spec.index)  # another process made it between our two requests
    _check_same(wanted, stored)
    return stored, False


def aliases(alias: str, index: str) -> dict[str, Any]:
    """Those of a version index: the one it is searched by, and the one that means it alone, whatever the other does."""
    return {alias: SEARCHED, write_alias(index): {}}


def _put(index: str, body: Mapping[str, Any], dialect: Dialect) -> Flow[bool]:
    try:
        yield Request("PUT", path_of(index), body=body)
    except UnsupportedByEngine as error:
        if "join" in str(error):
            raise dialect.decline(
                "parent/child joins", "this distribution lacks the join module", "use a lookup or a nested join"
            ) from error
        raise
    except RequestRejected as error:
        if "resource_already_exists_exception" not in str(error):
            raise
        return False
    return True


def check_name(name: object) -> str:
    """The name, if it can be that of one index: a pattern would mean others too. Raises IndexMissing."""
    if not isinstance(name, str) or not _ONE_NAME.fullmatch(name):
        raise IndexMissing(f"{name!r:.80} is no name of an index", hint="name one index, as its spec does")
    return name


def find(alias: str) -> Flow[Stored | None]:
    """What the cluster holds under `alias`, or None.

    Raises IndexMissing for what is no name, and SpecMismatch for an index that is not ours, or cannot be read.
    """
    check_name(alias)
    response = yield Request("GET", path_of(alias, "_mapping"), allow=_MISSING)
    if response.status == 404:
        return None
    if len(response.body) > 1:
        raise SpecMismatch(
            f"alias {alias!r} points at {', '.join(sorted(response.body))}", hint="it must point at one index"
        )
    index, holder = next(iter(response.body.items()))
    meta = holder["mappings"].get("_meta", {}).get(META)
    if meta is None:
        raise SpecMismatch(
            f"{alias!r} is an index that knnex did not make",
            hint=f"choose another name for `index` in the spec, or `knnex attach {alias}` to add vectors to it",
        )
    try:
        resolved = {name: Resolved(one["dims"], one["fingerprint"]) for name, one in meta["embeddings"].items()}
        spec = Spec.model_validate(_in_order(meta["spec"], meta.get("order", ())))
        return Stored(index, spec, resolved, tuple(meta.get("also", ())), bool(meta.get("attached")))
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise SpecMismatch(
            f"the spec that {index!r} holds cannot be read: {reason}",
            hint=f"use the version of knnex that made it, or delete it (DELETE /{index}) and fill it again",
        ) from None


def _in_order(spec: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The spec with its fields, embeddings and joins in the order in which they were written."""
    rank = {name: place for place, name in enumerate(names)}
    return {
        key: dict(sorted(value.items(), key=lambda one: rank.get(one[0], len(rank))))
        if isinstance(value, dict)
        else value
        for key, value in spec.items()
    }


def load(alias: str) -> Flow[Stored]:
    """What the cluster holds under `alias`. Raises IndexMissing, SpecMismatch."""
    stored = yield from find(alias)
    if stored is None:
        raise IndexMissing(f"there is no index {alias!r}", hint="create it with `knnex create SPEC`")
    return stored


def drop(alias: str) -> Flow[str]:
    """Delete the index version behind `alias`, the alias, and all other versions; only what knnex made.

    Returns the name of the one that was searched.
    """
    stored = yield from load(alias)
    if stored.attached:
        raise SpecMismatch(f"{alias!r} holds documents of others", hint=f"`knnex detach {alias}` leaves them alone")
    others = yield Request("GET", f"{path_of(alias)}-*/_mapping", {"expand_wildcards": "all"})
    for name, holder in others.body.items():
        ours = holder["mappings"].get("_meta", {}).get(META, {}).get("spec", {}).get("index") == alias
        if ours and version_number(alias, name) and name != stored.index:
            yield Request("DELETE", path_of(name), allow=_MISSING)
    yield Request("DELETE", path_of(stored.index))
    return stored.index


def _check_same(wanted: Stored, stored: Stored) -> None:
    differences = differing(wanted, stored)
    if differences:
        raise SpecMismatch(
            f"index {wanted.spec.index!r} exists with another spec: {'; '.join(differences)}",
            hint="choose another name for `index`, or delete the index with `knnex drop` and fill it again",
        )


def differing(wanted: Stored, stored: Stored) -> list[str]:
    """What differs between a spec with its encoders and what is stored, a line each."""
    lines = []
    ours, theirs = wanted.spec.model_dump(mode="json"), stored.spec.model_dump(mode="json")
    for key in ours:
        if isinstance(ours[key], dict):
            names = sorted(ours[key].keys() | theirs[key].keys())
            changed = [f"{key}.{name}" for name in names if ours[key].get(name) != theirs[key].get(name)]
            lines += changed
        elif ours[key] != theirs[key]:
            lines.append(f"{key}: {theirs[key]!r} is now {ours[key]!r}")
    for name, one in wanted.resolved.items():
        other = stored.resolved.get(name)
        if other and f"embeddings.{name}" not in lines and other.fingerprint != one.fingerprint:
            lines.append(f"embedding {name}: the model's fingerprint {other.fingerprint} is now {one.fingerprint}")
    return lines
