"""Comparing a spec with the index in the cluster: which operations lead from one to the other. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..engines import Dialect
from ..errors import SpecMismatch, UnsupportedByEngine
from . import changes
from .apply import Stored, differing, next_version, version_name
from .change_embeddings import embeddings, reusable
from .changes import Sides
from .compare import Difference, differences, flat, same
from .compile import ALIVE, META, Resolved, index_body, meta
from .look import Live
from .operations import (
    AddEmbedding,
    ChangeIndexOptions,
    CreateIndex,
    NewVersion,
    Operation,
    RestoreAlias,
    UpdateMeta,
)
from .spec import PROVENANCE, Spec


@dataclass(frozen=True)
class ChangePlan:
    """What has to be done, in this order, and where the cluster is not what it should be already."""

    alias: str
    operations: tuple[Operation, ...] = ()
    # The live mapping and settings beside what the spec that the cluster keeps asks for.
    drift: tuple[Difference, ...] = ()
    # What to know before it starts.
    notes: tuple[str, ...] = ()
    # Set where something cannot be done in place: then everything comes with the new version.
    new_version: NewVersion | None = None

    def __bool__(self) -> bool:
        return bool(self.operations)

    @property
    def in_place(self) -> tuple[Operation, ...]:
        """The operations to be sent to the live index; none where a new version is built."""
        return () if self.new_version else self.operations

    @property
    def rewrite(self) -> bool:
        """Whether documents have to be written again as they are, so that a field they hold is indexed."""
        return any(one.kind == "backfill" and not isinstance(one, AddEmbedding) for one in self.in_place)

    @property
    def backfill(self) -> tuple[str, ...]:
        """The embeddings for which every document gets a vector in place."""
        return tuple(one.name for one in self.in_place if isinstance(one, AddEmbedding))

    @property
    def encode(self) -> tuple[str, ...]:
        """The embeddings whose vectors are made for every document, in place or in the new version."""
        return self.new_version.encode if self.new_version else self.backfill

    def rows(self, dialect: Dialect) -> dict[str, Any]:
        """The plan for scripts."""
        version = self.new_version
        return {
            "alias": self.alias,
            "operations": [one.row(dialect) for one in self.operations],
            "drift": [{"path": one.path, "wanted": one.wanted, "actual": one.actual} for one in self.drift],
            "notes": list(self.notes),
            "new_version": version
            and {
                "source": version.source,
                "target": version.target,
                "reasons": list(version.reasons),
                "encode": list(version.encode),
                "reuse": list(version.reuse),
            },
        }


def plan(spec: Spec, resolved: Mapping[str, Resolved], live: Live | None, dialect: Dialect) -> ChangePlan:
    """The operations that make the index what the spec says; `live` is None where there is no index yet.

    Raises SpecMismatch for what neither an operation nor a new version can reach, UnsupportedByEngine for what the
    engine does not have.
    """
    body = index_body(spec, dialect, resolved)
    if live is None:
        first = CreateIndex(
            index=version_name(spec.index, 1),
            kind="in place",
            reason="there is no index yet",
            alias=spec.index,
            body=body,
        )
        return ChangePlan(spec.index, (first,))
    _check_identity(spec, live)
    wanted = Stored(live.index, spec, resolved)
    try:
        before, notes = index_body(live.stored.spec, dialect, live.stored.resolved), []
    except UnsupportedByEngine as error:  # made by an older engine, or an older knnex
        before, notes = body, [f"drift cannot be told: {error}"]
    sides = Sides(dialect, wanted, body, before, live)
    operations = tuple(_operations(sides))
    version = _new_version(operations, wanted, live)
    if operations and not live.stored.also:
        _check_reachable(live, version)
    notes += _notes(live, operations, version)
    return ChangePlan(spec.index, operations, tuple(drift(live, before)), tuple(notes), version)


def drift(live: Live, compiled: Mapping[str, Any]) -> Iterator[Difference]:
    """Where the live index is not what its own spec compiles to: it was changed by hand, or half changed."""
    properties = compiled["mappings"]["properties"]
    if live.stored.attached:  # all else is of those who made it
        ours = {name: properties[name] for name in (*live.stored.spec.embeddings, PROVENANCE)}
        yield from differences(ours, live.properties)
        return
    yield from differences(properties, live.properties)
    for name, value in compiled["mappings"].items():
        if name not in ("properties", "_meta") and not same(value, live.mapping.get(name, value)):
            yield Difference(f"mapping {name}", value, live.mapping.get(name))
    for name, value in flat(compiled["settings"]).items():
        if not same(value, changes.setting_of(live.settings, name)):
            yield Difference(f"setting {name}", value, changes.setting_of(live.settings, name))
    if _alias_is_wrong(live):
        yield Difference(f"alias {live.alias} filter", ALIVE, live.aliases.get(live.alias, {}).get("filter"))


def _operations(sides: Sides) -> Iterator[Operation]:
    live = sides.live
    if live.stored.attached:
        changes.check_theirs(sides)
    else:
        yield from changes.settings(sides)
        yield from changes.whole(sides)
        yield from changes.fields(sides)
    yield from embeddings(sides)
    if _alias_is_wrong(live):
        reason = "deleted documents are kept as such, and the alias hides them"
        yield RestoreAlias(index=live.index, kind="in place", reason=reason, alias=live.alias)
    ours = meta(sides.wanted.spec, sides.wanted.resolved)
    if lines := differing(sides.wanted, live.stored):
        held = live.mapping.get("_meta", {})
        yield UpdateMeta(
            index=live.index,
            kind="in place",
            reason="workers and clients read the spec from the cluster",
            changes=tuple(lines),
            meta={**held, META: {**held.get(META, {}), **ours}},
        )


def _alias_is_wrong(live: Live) -> bool:
    """Whether the alias of one of our version indexes lets deleted documents through."""
    if live.index not in live.versions or live.alias not in live.aliases:
        return False
    held = live.aliases[live.alias]
    return not (same(ALIVE, held.get("filter")) and held.get("is_write_index"))


def _check_identity(spec: Spec, live: Live) -> None:
    """Raises SpecMismatch where ids or versions would not mean what the documents were written under."""
    if not live.documents + live.deleted:
        return
    for key in ("id", "version"):
        was, now = getattr(live.stored.spec, key), getattr(spec, key)
        if was != now:
            raise SpecMismatch(
                f"{key} of {spec.index!r} is {now!r}, but its {live.documents:,} documents were written under {was!r}",
                hint="choose another name for `index` and ingest the documents into it",
            )


def _check_reachable(live: Live, version: NewVersion | None) -> None:
    if version and live.stored.attached:
        raise SpecMismatch(
            f"{live.index} was made by others, who write to it, and this needs another index: {version.reasons[0]}",
            hint="declare it as one more embedding under another name, which can be added in place",
        )
    if version and not live.is_version:
        raise SpecMismatch(
            f"{live.alias!r} is a concrete index, whose place no other can take, and this needs another: "
            f"{version.reasons[0]}",
            hint="name another `index` in the spec, and copy the documents there",
        )
    if live.blocks:
        full = "read_only_allow_delete" in live.blocks
        named = ", ".join(f"index.blocks.{one}" for one in live.blocks)
        raise SpecMismatch(
            f"the index {live.index!r} takes no changes: {named} is set",
            hint="the disk of a node is full: make room" if full else f"PUT /{live.index}/_settings sets it to null",
        )


def _new_version(operations: tuple[Operation, ...], wanted: Stored, live: Live) -> NewVersion | None:
    asking = [one for one in operations if one.kind == "new version"]
    if not asking:
        return None
    made = {one.name for one in operations if isinstance(one, AddEmbedding)}
    made |= {name for name in wanted.spec.embeddings if not reusable(name, live.stored, wanted)}
    names = list(wanted.spec.embeddings)
    return NewVersion(
        source=live.index,
        target=next_version(live.alias, live.versions),
        reasons=tuple(f"{one.describe()}: {one.reason}" for one in asking),
        encode=tuple(name for name in names if name in made),
        reuse=tuple(name for name in names if name not in made),
    )


def _notes(live: Live, operations: tuple[Operation, ...], version: NewVersion | None) -> list[str]:
    notes = []
    if live.stored.also:
        notes.append(f"{', '.join(live.stored.also)} is being built beside {live.index}: `knnex apply` goes on with it")
    if version:
        notes.append(
            f"{version.target} is built beside {live.index}, which stays as it is until the swap; both take up disk"
        )
        notes += (
            _foreign(live)
            if live.foreign
            else ["writers that go through knnex write to both meanwhile and are never held up"]
        )
    elif any(one.kind == "backfill" for one in operations) and live.foreign:
        notes.append(
            f"{live.foreign:,} documents were written by others: a vector follows a later change of theirs as soon as "
            "`knnex follow` or a pass of it has seen it"
        )
    if any(isinstance(one, ChangeIndexOptions) for one in operations) and not version:
        notes.append(f"POST /{live.index}/_forcemerge?max_num_segments=1 brings all segments to it at once, at a price")
    return notes


def _foreign(live: Live) -> list[str]:
    """What cannot be promised to writers that know nothing of knnex: engines tell of no delete, and queue no write."""
    return [
        f"{live.foreign:,} of {live.documents + live.deleted:,} documents were not written through knnex; as for those "
        "who wrote them:",
        f"their writes are refused (403) for about a second while {live.index} is blocked before the swap: they must "
        "try again",
        f"who writes to {live.index} by its own name, and not by the alias, is refused for good after the swap",
        "two writes of one document, one to the old name and one to the new, have no order",
        "a document deleted and made again is told apart only as long as no snapshot is restored meanwhile",
        "vectors of what they write are made with a delay, by the catch-up rounds and then by `knnex follow`",
        "writers that send their events through knnex have none of this",
    ]
