"""Which indexes cannot be given vectors in place, why, and what to do instead. Values in, errors out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engines import Dialect
from ..errors import EngineBusy, KnnexError, SpecMismatch, UnsupportedByEngine
from .attach_find import Existing
from .spec import PROVENANCE

Check = Callable[[Existing], KnnexError | None]

_ELSEWHERE = "make an index of its own for the vectors: `knnex create SPEC`, and send the documents there"
_BLOCKS = {"read_only": "read-only", "write": "closed to writes", "metadata": "closed to changes of its mapping"}
#: Modes in which documents cannot be updated, or are not kept as they were sent.
_MODES = ("time_series", "logsdb", "columnar", "lookup")


def check_attachable(existing: Existing) -> None:
    """Raises SpecMismatch, UnsupportedByEngine or EngineBusy where nothing can be added to an index."""
    for check in CHECKS:
        if error := check(existing):
            raise error


def why_not_in_place(existing: Existing, dialect: Dialect) -> str:
    """Why an index that can be read takes no vectors as it is, so that its documents must be copied; else empty."""
    if dialect.product == "opensearch" and existing.setting("knn") != "true":
        return f"{existing.index} was made without index.knn: true, and OpenSearch does not let it be set later"
    if existing.setting("disable_sequence_numbers") == "true":
        return (
            f"{existing.index} was made with index.disable_sequence_numbers: nobody can tell whether a document is "
            "still the one that a vector was made for"
        )
    return ""


def _system(existing: Existing) -> KnnexError | None:
    if existing.index.startswith(".") or "system" in existing.attributes:
        return UnsupportedByEngine(f"{existing.index} is an index of the engine's own", hint=_ELSEWHERE)
    return None


def _closed(existing: Existing) -> KnnexError | None:
    if "closed" in existing.attributes:
        return SpecMismatch(f"{existing.index} is closed", hint=f"open it: POST /{existing.index}/_open")
    return None


def _frozen(existing: Existing) -> KnnexError | None:
    mounted = existing.setting("store.type") in ("snapshot", "remote_snapshot")
    if mounted or "frozen" in existing.attributes or existing.setting("frozen") == "true":
        what = "is mounted from a snapshot" if mounted else "is frozen"
        return UnsupportedByEngine(f"{existing.index} {what} and takes no writes", hint=_ELSEWHERE)
    return None


def _replica(existing: Existing) -> KnnexError | None:
    follows = existing.setting("xpack.ccr.following_index") == "true"
    if follows or any(name.startswith("index.plugins.replication.follower") for name in existing.settings):
        return UnsupportedByEngine(
            f"{existing.index} follows an index of another cluster and takes no writes", hint="attach that one"
        )
    return None


def _blocked(existing: Existing) -> KnnexError | None:
    if existing.setting("blocks.read_only_allow_delete") == "true":
        return EngineBusy(
            f"{existing.index} is blocked since a disk is full (flood stage)",
            hint="make room on the disk; the engine lifts the block by itself",
        )
    for block, what in _BLOCKS.items():
        if existing.setting(f"blocks.{block}") == "true":
            name = f"index.blocks.{block}"
            return SpecMismatch(
                f"{existing.index} is {what} ({name})",
                hint=f'lift the block: PUT /{existing.index}/_settings {{"{name}": null}}',
            )
    return None


def _mode(existing: Existing) -> KnnexError | None:
    mode = existing.setting("mode")
    if mode in _MODES:
        return UnsupportedByEngine(
            f"{existing.index} has index.mode: {mode}, whose documents cannot be updated as they were sent",
            hint=_ELSEWHERE,
        )
    return None


def _source(existing: Existing) -> KnnexError | None:
    """A partial update reads `_source` and writes it back: what is not in it would be lost, vectors first of all."""
    source: dict[str, Any] = existing.mappings.get("_source") or {}
    synthetic = "synthetic" in (existing.setting("mapping.source.mode"), str(source.get("mode", "")).lower())
    if source.get("enabled") in (False, "false") or source.get("mode") == "disabled":
        reason = f"{existing.index} keeps no _source: there is no text to read, and no document can be updated"
    elif kept := [f"{key}: {', '.join(source[key])}" for key in ("excludes", "includes") if source.get(key)]:
        reason = (
            f"{existing.index} leaves fields out of _source ({'; '.join(kept)}): an update writes a document anew from "
            "it, and would lose them"
        )
    elif synthetic or existing.setting("derived_source.enabled") == "true":
        reason = (
            f"{existing.index} puts _source together from its fields: an update would write that, and not what was sent"
        )
    else:
        return None
    return SpecMismatch(reason, hint=f"{_ELSEWHERE} from where they come from")


def _mapping(existing: Existing) -> KnnexError | None:
    if str(existing.mappings.get("subobjects", "true")).lower() == "false":
        return UnsupportedByEngine(
            f"{existing.index} has subobjects: false, and can hold no {PROVENANCE} object beside its fields",
            hint=_ELSEWHERE,
        )
    if PROVENANCE in existing.properties and not existing.ours and not existing.known:
        return SpecMismatch(
            f"{existing.index} has a field {PROVENANCE!r} that is not of knnex",
            hint=f"{_ELSEWHERE}, without that field",
        )
    return None


def _alias(existing: Existing) -> KnnexError | None:
    """The alias of knnex's own must be free, or be what knnex makes of it."""
    held = existing.aliases.get(existing.write_alias)
    if held is not None and held.keys() - {"is_hidden", "is_write_index"}:
        return SpecMismatch(
            f"the alias {existing.write_alias!r}, by which knnex would write, is somebody's own: {dict(held)}",
            hint=f"give that one another name; knnex needs {existing.write_alias!r} without filter and routing",
        )
    return None


#: Asked in this order: the first that has something against an index tells it.
CHECKS: tuple[Check, ...] = (_system, _frozen, _closed, _replica, _blocked, _mode, _source, _mapping, _alias)
