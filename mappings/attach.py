"""Attaching knnex to an index that others made and fill, and detaching it: mapping updates, and nothing else of theirs.

What is added: the fields of the embeddings, `_knnex`, a key `knnex` in the mapping's `_meta` beside those of others,
and a hidden alias by which vectors are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..engines import Dialect, Flow, Request, path_of
from ..errors import EngineBusy, RequestRejected, SpecMismatch
from .apply import Stored, differing, find, load
from .attach_fields import leaves
from .attach_find import Existing, look
from .attach_refuse import check_attachable, why_not_in_place
from .compile import META, Resolved, index_body, meta
from .spec import PROVENANCE, Spec

_MISSING = frozenset({404})
# Times that somebody else may have replaced `_meta` between our reading and writing it.
_ATTEMPTS = 3


def check_own_writes(stored: Stored) -> None:
    """Raises SpecMismatch where others own the documents of an index: knnex adds vectors to them, and writes none.

    A delete by knnex leaves a tombstone, which an alias of knnex's hides; here everybody else would see it.
    """
    if stored.attached:
        name = stored.spec.index
        raise SpecMismatch(
            f"{name!r} is an index that others write, and knnex only adds vectors to their documents",
            hint=f"write to it as before, and let `knnex follow {name}` find it; to write through knnex, make an index "
            "behind an alias of its own (`knnex create SPEC`) and copy the documents there",
        )


def attached(name: str) -> Flow[Stored | None]:
    """What an earlier attach has left under a name, or None. Raises SpecMismatch for an index that knnex made."""
    existing = yield from look(name)
    if not existing.known:
        return None
    stored = yield from find(name)
    if stored and not stored.attached:
        raise SpecMismatch(
            f"{name!r} is an index that knnex made: it has vectors already",
            hint=f"`knnex follow {name}` gives them to what others write there; `knnex apply SPEC` changes it",
        )
    return stored


def check_fits(existing: Existing, spec: Spec) -> None:
    """Raises SpecMismatch where a spec is not one for this index as it is."""
    problems = [] if spec.index == existing.name else [f"index is {spec.index!r}, and not {existing.name!r}"]
    known = {leaf.path: leaf for leaf in leaves(existing)}
    for name, one in spec.fields.items():
        held = known.get(name)
        if held is None:
            problems.append(f"field {name!r} is not in the mapping, and attaching adds none but vectors")
        elif held.type != one.type:
            problems.append(f"field {name!r} is of type {held.type}, and not {one.type}")
    problems += [f"embedding {name!r} has the name of a field" for name in spec.embeddings if name in known]
    problems += [] if spec.embeddings else ["it has no embedding"]
    if problems:
        raise SpecMismatch(
            f"the spec does not fit {existing.index}: {'; '.join(problems)}",
            hint=f"`knnex attach {existing.name} --dry-run` proposes one that does",
        )


def requests(existing: Existing, spec: Spec, resolved: Mapping[str, Resolved], dialect: Dialect) -> list[Request]:
    """What is sent to attach: an alias to write by, unless it is there, and an update of the mapping."""
    made = index_body(spec, dialect, resolved)["mappings"]["properties"]
    added = {name: made[name] for name in (*spec.embeddings, PROVENANCE)}
    ours = meta(spec, resolved) | {"attached": True}
    mapping = {"_meta": {**existing.meta, META: ours}, "properties": added}
    alias = {"index": existing.index, "alias": existing.write_alias, "is_hidden": True}
    found = [] if existing.write_alias in existing.aliases else [_aliases({"add": alias})]
    return [*found, Request("PUT", path_of(existing.index, "_mapping"), body=mapping)]


def _aliases(*actions: Mapping[str, Any]) -> Request:
    return Request("POST", "/_aliases", body={"actions": list(actions)})


def attach(name: str, spec: Spec, resolved: Mapping[str, Resolved], dialect: Dialect) -> Flow[tuple[Stored, bool]]:
    """Add the fields of a spec's embeddings to an index that others made; (what is stored, whether it was new).

    Once more with the same spec changes nothing. Raises SpecMismatch, UnsupportedByEngine, EngineBusy, IndexMissing.
    """
    before = yield from attached(name)
    existing = yield from look(name)
    wanted = Stored(existing.index, spec, resolved, attached=True)
    check_attachable(existing)
    if before:
        check_same(wanted, before)
        yield from _write_alias(existing)
        return before, False
    check_fits(existing, spec)
    if reason := why_not_in_place(existing, dialect):
        raise dialect.decline(f"`knnex attach {name}`", reason, f"copy it: `knnex attach {name} --dry-run` says how")
    yield from _check_alias_free(existing)
    for _ in range(_ATTEMPTS):
        for request in requests(existing, spec, resolved, dialect):
            yield from _send(existing, request)
        existing = yield from look(name)
        if existing.known:
            return wanted, True
    raise EngineBusy(
        f"somebody else keeps changing the mapping of {existing.index}", hint="try again when they are done"
    )


def check_same(wanted: Stored, before: Stored) -> None:
    """Raises SpecMismatch where an index is attached with another spec."""
    if differences := differing(wanted, before):
        name = before.spec.index
        raise SpecMismatch(
            f"{name!r} is attached with another spec: {'; '.join(differences)}",
            hint=f"`knnex detach {name}` first, or leave out what is to stay as it is",
        )


def _send(existing: Existing, request: Request) -> Flow[None]:
    try:
        yield request
    except RequestRejected as error:
        if "total fields" in str(error) or "total_fields" in str(error):
            hint = f"raise index.mapping.total_fields.limit: PUT /{existing.index}/_settings"
        else:
            hint = (
                "if an earlier attach has left the field with other options, name the embedding otherwise in the spec"
            )
        raise SpecMismatch(f"{existing.index} does not take the fields of the vectors: {error}", hint=hint) from error


def _write_alias(existing: Existing) -> Flow[None]:
    """Put the alias back where it is gone."""
    if existing.write_alias not in existing.aliases:
        yield from _check_alias_free(existing)
        yield _aliases({"add": {"index": existing.index, "alias": existing.write_alias, "is_hidden": True}})


def _check_alias_free(existing: Existing) -> Flow[None]:
    """No index, and no alias of another one, may have the name."""
    name = existing.write_alias
    if name in existing.aliases:
        return
    params = {"filter_path": "*.aliases", "expand_wildcards": "all"}
    response = yield Request("GET", path_of(name), params, allow=_MISSING)
    if response.status != 404 and response.body:
        raise SpecMismatch(
            f"the name {name!r}, by which knnex would write, is taken in this cluster",
            hint=f"it must be free, or an alias of {existing.index} alone",
        )


def detach(name: str) -> Flow[Stored]:
    """Take knnex's notes and its alias off an index that others made; the added fields stay, no engine removes one.

    Raises IndexMissing, and SpecMismatch for an index that knnex is not attached to.
    """
    stored = yield from load(name)
    if not stored.attached:
        raise SpecMismatch(f"{name!r} is an index that knnex made", hint=f"`knnex drop {name}` deletes it")
    existing = yield from look(name)
    if existing.write_alias in existing.aliases:
        yield _aliases({"remove": {"index": existing.index, "alias": existing.write_alias}})
    others = {key: value for key, value in existing.meta.items() if key != META}
    yield Request("PUT", path_of(existing.index, "_mapping"), body={"_meta": others})
    return replace(stored, attached=False)
