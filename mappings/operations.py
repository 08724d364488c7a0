"""What has to be done to an index so that it is what a spec says: one operation each, as data, with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from ..engines import Dialect, Request, path_of
from .apply import aliases
from .compile import SEARCHED

#: in place: a request or two, at once. backfill: in place, and then documents get what they lack. new version: an index
#: is built beside the live one and takes its place.
Kind = Literal["in place", "backfill", "new version"]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One change of one index, how it is made, and why so."""

    # The concrete index.
    index: str
    kind: Kind
    # Why it is of this kind, in words.
    reason: str

    op: ClassVar[str]

    def describe(self) -> str:
        """What changes, in one line."""
        raise NotImplementedError

    def requests(self, _: Dialect) -> tuple[Request, ...]:
        """What makes the change in place; may be sent again. Nothing where only a new version can make it."""
        return ()

    def row(self, dialect: Dialect) -> dict[str, Any]:
        """The operation for scripts."""
        sent = [{"method": one.method, "path": one.path, "body": one.body} for one in self.requests(dialect)]
        return {"op": self.op, "what": self.describe(), **asdict(self), "requests": sent}


@dataclass(frozen=True, kw_only=True)
class CreateIndex(Operation):
    """Make the first version index, behind its alias."""

    alias: str
    body: Mapping[str, Any]
    op: ClassVar[str] = "create index"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"make index {self.index} behind alias {self.alias}"

    def requests(self, _: Dialect) -> tuple[Request, ...]:
        """The index with its alias."""
        body = {**self.body, "aliases": aliases(self.alias, self.index)}
        return (Request("PUT", path_of(self.index), body=body),)


@dataclass(frozen=True, kw_only=True)
class _Mapped(Operation):
    """A change that an update of the mapping makes; `properties` is none where only a new version can make it."""

    properties: Mapping[str, Any] | None = None

    def requests(self, _: Dialect) -> tuple[Request, ...]:
        """The update of the mapping."""
        if self.properties is None:
            return ()
        return (Request("PUT", path_of(self.index, "_mapping"), body={"properties": self.properties}),)


@dataclass(frozen=True, kw_only=True)
class AddField(_Mapped):
    """Add a field; documents that hold it already are written again, for engines index a field only as it comes in."""

    path: str
    type: str
    op: ClassVar[str] = "add field"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"field {self.path}: absent -> {self.type}"


@dataclass(frozen=True, kw_only=True)
class ChangeField(_Mapped):
    """Change options of a field, or its type."""

    path: str
    changes: tuple[str, ...]
    op: ClassVar[str] = "change field"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"field {self.path}: {', '.join(self.changes)}"


@dataclass(frozen=True, kw_only=True)
class RemoveField(Operation):
    """Leave a field out, which only an index that never had it can."""

    path: str
    op: ClassVar[str] = "remove field"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"field {self.path}: removed"


@dataclass(frozen=True, kw_only=True)
class AddEmbedding(_Mapped):
    """Add a vector field, and give every document its vector."""

    name: str
    encoder: str
    op: ClassVar[str] = "add embedding"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"embedding {self.name}: absent -> {self.encoder}"


@dataclass(frozen=True, kw_only=True)
class ChangeEmbedding(Operation):
    """Make vectors by other means, or search them by others; `encode` says whether the vectors themselves change."""

    name: str
    changes: tuple[str, ...]
    encode: bool
    op: ClassVar[str] = "change embedding"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"embedding {self.name}: {', '.join(self.changes)}"


@dataclass(frozen=True, kw_only=True)
class ChangeIndexOptions(_Mapped):
    """Search a vector by another graph or quantization, from the next segments on."""

    name: str
    changes: tuple[str, ...]
    op: ClassVar[str] = "change index options"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"embedding {self.name}: {', '.join(self.changes)}"


@dataclass(frozen=True, kw_only=True)
class DropEmbedding(Operation):
    """Leave a vector out, which only an index that never had it can."""

    name: str
    op: ClassVar[str] = "drop embedding"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"embedding {self.name}: removed"


@dataclass(frozen=True, kw_only=True)
class ChangeSetting(Operation):
    """Set an index setting; `value` None is the engine's default."""

    name: str
    value: Any
    was: Any
    op: ClassVar[str] = "change setting"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"setting {self.name}: {_told(self.was)} -> {_told(self.value)}"

    def requests(self, _: Dialect) -> tuple[Request, ...]:
        """The update of the settings."""
        if self.kind == "new version":
            return ()
        return (Request("PUT", path_of(self.index, "_settings"), body={f"index.{self.name}": self.value}),)


@dataclass(frozen=True, kw_only=True)
class ChangeMapping(Operation):
    """Change what holds for the whole mapping: `dynamic`, `dynamic_templates`, `_routing`."""

    name: str
    value: Any
    was: Any
    op: ClassVar[str] = "change mapping"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"mapping {self.name}: {_told(self.was)} -> {_told(self.value)}"

    def requests(self, _: Dialect) -> tuple[Request, ...]:
        """The update of the mapping."""
        if self.kind == "new version":
            return ()
        return (Request("PUT", path_of(self.index, "_mapping"), body={self.name: self.value}),)


@dataclass(frozen=True, kw_only=True)
class RestoreAlias(Operation):
    """Give the alias back its filter, which hides deleted documents, and its writes."""

    alias: str
    op: ClassVar[str] = "restore alias"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"alias {self.alias}: filter of deleted documents, write index"

    def requests(self, _: Dialect) -> tuple[Request, ...]:
        """The alias, added once more."""
        add = {"index": self.index, "alias": self.alias, **SEARCHED}
        return (Request("POST", "/_aliases", body={"actions": [{"add": add}]}),)


@dataclass(frozen=True, kw_only=True)
class UpdateMeta(Operation):
    """Keep the spec as it is now in the cluster, where workers and clients read it; comes after all other changes."""

    changes: tuple[str, ...]
    meta: Mapping[str, Any]
    op: ClassVar[str] = "update meta"

    def describe(self) -> str:
        """What changes, in one line."""
        return f"spec kept in the cluster: {', '.join(self.changes)}"

    def requests(self, _: Dialect) -> tuple[Request, ...]:
        """`_meta`, which engines replace as a whole."""
        return (Request("PUT", path_of(self.index, "_mapping"), body={"_meta": self.meta}),)


@dataclass(frozen=True)
class NewVersion:
    """The index to be built beside the live one, and all that asks for it."""

    source: str
    target: str
    reasons: tuple[str, ...]
    # Embeddings whose vectors are made anew, and those whose vectors are copied.
    encode: tuple[str, ...]
    reuse: tuple[str, ...]


def _told(value: Any) -> str:
    return "default" if value is None else str(value)
