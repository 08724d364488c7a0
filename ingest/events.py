"""Events: what a producer sends, checked on the way in, and the bytes that the log keeps of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeVar, cast, get_args

import orjson

from ..errors import InputError
from ..mappings import PROVENANCE, Spec
from .positions import version_of
from .render import text_of

#: What producers send.
Op = Literal["upsert", "delete", "update"]
#: And what knnex itself asks of workers: to copy a document into the version index that is being built.
AnyOp = Literal["upsert", "delete", "update", "copy"]
SCHEMA = 1
#: Both engines refuse a whole bulk request for one longer id.
MAX_ID_BYTES = 512
MAX_VERSION = 1 << 62
MAX_DOCUMENT_BYTES = 10_000_000
#: A document's key for its routing, where that is not the id of its parent.
ROUTING = "_routing"

T = TypeVar("T")
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document came from, for messages: a file and the line, row or element in it."""

    source: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        where = f"{self.unit} {self.number}"
        return f"{self.source} {where}" if self.source else where


@dataclass(frozen=True, slots=True)
class Refused:
    """A document that does not go in, and why; `id` is empty where it was not found out."""

    origin: Origin | None
    id: str
    reason: str

    def __str__(self) -> str:
        names = [str(self.origin)] if self.origin else []
        # What a terminal would obey, such as an escape sequence, is spelled out.
        names += [f"id {self.id if self.id.isprintable() else repr(self.id)}"] if self.id else []
        return f"{', '.join(names)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one document. Without a version of its own it has that of its position in the log."""

    index: str
    id: str
    op: AnyOp
    document: Mapping[str, Any]
    version: int | None = None
    routing: str | None = None
    position: str | None = None
    # The W3C traceparent of who sent it, where traces are kept.
    trace: str | None = None

    @property
    def order(self) -> int:
        """The version to write: the producer's, else that of its position in the log."""
        if self.version is not None:
            return self.version
        if self.position is None:
            raise InputError(f"event for {self.id!r} has neither version nor position", hint="append it to a log")
        return version_of(self.position)


def dump(event: Event) -> bytes:
    """The event as the log keeps it; its position is the log's to give."""
    body: dict[str, Any] = {"schema": SCHEMA, "index": event.index, "id": event.id, "op": event.op}
    body["document"] = event.document
    if event.version is not None:
        body["version"] = event.version
    if event.routing is not None:
        body["routing"] = event.routing
    if event.trace is not None:
        body["trace"] = event.trace
    return orjson.dumps(body, option=_OPTIONS)


def load(data: bytes, position: str | None = None) -> Event:
    """The event of `dump`. Raises InputError for what no version of knnex up to this one has written."""
    try:
        body = orjson.loads(data)
        if body["schema"] != SCHEMA or body["op"] not in get_args(AnyOp):
            raise InputError(
                f"event {position}: schema {body['schema']!r}, op {body['op']!r} are unknown here",
                hint="a newer knnex wrote it: update this worker",
            )
        if wrong := _unlike(body):
            raise InputError(f"event {position} is damaged: {wrong}")
        return Event(
            index=body["index"],
            id=body["id"],
            op=body["op"],
            document=body["document"],
            version=body.get("version"),
            routing=body.get("routing"),
            position=position,
            trace=body.get("trace"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"event {position} is damaged: {type(error).__name__} {error}") from None


def id_in(data: bytes) -> str:
    """The id of the document that an event of `dump` is about, empty where it cannot be read."""
    try:
        found = orjson.loads(data)["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


def _unlike(body: Mapping[str, Any]) -> str:
    """What of an entry is not as `accept` makes it: who else writes into the log may spoil a whole bulk."""
    id_, version, document = body["id"], body.get("version"), body["document"]
    if not isinstance(id_, str) or not 0 < len(id_.encode()) <= MAX_ID_BYTES:
        return f"its id must be a string of 1 to {MAX_ID_BYTES} bytes"
    if not isinstance(document, dict):
        return f"its document is {type(document).__name__}, not an object"
    whole = isinstance(version, int) and not isinstance(version, bool)
    if version is not None and not (whole and 1 <= version <= MAX_VERSION):
        return "its version must be an integer from 1 to 2^62"
    if not isinstance(body["index"], str) or not isinstance(body.get("routing"), str | None):
        return "its index and routing must be strings"
    return ""


def accept(
    spec: Spec,
    document: Mapping[str, Any],
    origin: Origin | None = None,
    *,
    op: Op = "upsert",
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> Event | Refused:
    """The event of a document, or the reason why it is none.

    Checks what would spoil a whole bulk request or be lost silently; whether a field fits its type is the engine's to
    say. Lone surrogates, which no engine can give back, become U+FFFD. With op `update` the document holds the fields
    to change and no others.
    """
    try:
        if not isinstance(document, Mapping):
            raise InputError(f"it is {type(document).__name__}, not an object")
        body = _plain(document, max_bytes)
        _check_id(document.get(spec.id))
        identity = _id(spec, body)
        _check_names(spec, body)
        routing, version = _routing(spec, body), _version(spec, body)
        if op == "update" and not body.keys() - {spec.id}:
            raise InputError("it changes nothing: an update names the fields to change")
        if spec.id == "_id":  # which engines refuse inside a document
            del body["_id"]
        if op != "delete":
            for embedding in spec.embeddings.values():
                text_of(embedding.source, body)
        else:
            body = {join.field: body[join.field] for join in spec.parents().values() if join.field in body}
        return Event(spec.index, identity, op, body, version, routing)
    except InputError as error:
        named = document.get(spec.id) if isinstance(document, Mapping) else None
        return Refused(origin, "" if named is None else mended(str(named)[:80]), str(error))


def _id(spec: Spec, document: Mapping[str, Any]) -> str:
    value = document.get(spec.id)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        found = "is missing" if value is None else f"is {type(value).__name__}, not a string or an integer"
        raise InputError(f"the id field {spec.id!r} {found}")
    identity = str(value)
    if not identity:
        raise InputError(f"the id field {spec.id!r} is empty")
    if len(identity.encode()) > MAX_ID_BYTES:
        raise InputError(f"the id has {len(identity.encode())} bytes; at most {MAX_ID_BYTES} are allowed")
    return identity


def _check_id(given: Any) -> None:
    """Mending must not make one id of two."""
    if isinstance(given, str) and mended(given).count("\ufffd") > given.count("\ufffd"):
        raise InputError(f"the id {given[:80]!r} holds a lone surrogate, which is no character")


def _version(spec: Spec, document: Mapping[str, Any]) -> int | None:
    if spec.version is None:
        return None
    value = document.get(spec.version)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VERSION:
        raise InputError(f"the version field {spec.version!r} must be an integer from 1 to 2^62, not {value!r}")
    return value


def _check_names(spec: Spec, document: Mapping[str, Any]) -> None:
    for name in (PROVENANCE, *spec.embeddings):
        if name in document:
            raise InputError(f"field {name!r} is written by knnex; leave it out")


def _routing(spec: Spec, document: dict[str, Any]) -> str | None:
    """The routing of a child is its parent's id, so that both lie on one shard."""
    given = document.pop(ROUTING, None)
    routing = None if given is None else str(given)
    parents = spec.parents()
    children = {child: name for name, join in parents.items() for child in join.children}
    for field in {join.field for join in parents.values()}:
        relation = document.get(field)
        if relation is None:
            continue
        name = relation.get("name") if isinstance(relation, dict) else relation
        if name not in children and name not in parents:
            raise InputError(f"{field!r} names {name!r}; the spec's joins know {', '.join([*parents, *children])}")
        if name in children:
            routing = routing or _parent_id(field, relation, str(name), children)
    return routing


def _parent_id(field: str, relation: Any, name: str, children: Mapping[str, str]) -> str:
    parent = relation.get("parent") if isinstance(relation, dict) else None
    if isinstance(parent, bool) or not isinstance(parent, (str, int)) or parent == "":
        raise InputError(
            f'{name!r} is a child and names no parent; write "{field}": {{"name": "{name}", "parent": ID}}'
        )
    if children[name] in children:
        raise InputError(f"its parent is itself a child; give the id of the topmost parent as {ROUTING!r}")
    return str(parent)


def _plain(document: Mapping[str, Any], max_bytes: int) -> dict[str, Any]:
    """The document as every reader of the log will see it: JSON and nothing else."""
    try:
        payload = orjson.dumps(document, default=_number, option=_OPTIONS)
        # orjson writes NaN and Infinity as null: look for them only where there is one.
        if b"null" in payload:
            _check_finite(document, "")
    except TypeError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        if "surrogates" not in str(error):
            raise InputError(f"it has no JSON form: {error.__cause__ or error}") from None
        try:
            whole = mended(document)
        except RecursionError:
            raise InputError("it is nested too deeply") from None
        return _plain(whole, max_bytes)
    if len(payload) > max_bytes:
        raise InputError(f"it has {len(payload):,} bytes; at most {max_bytes:,} are allowed")
    plain: dict[str, Any] = orjson.loads(payload)
    return plain


def _number(value: Any) -> float:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise InputError(f"a value is {value}, which JSON cannot hold")
        return float(value)
    raise TypeError(f"{type(value).__name__} {str(value)[:40]!r}")


def _check_finite(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_finite(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_finite(inner, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"field {path!r} is {value}, which JSON cannot hold")
    elif hasattr(value, "tolist") and not isinstance(value, float):  # numpy
        _check_finite(value.tolist(), path)


def mended(value: T) -> T:
    """The value with U+FFFD for every half character (lone surrogate), which no encoding of text can hold."""
    try:
        orjson.dumps(value, option=_OPTIONS)  # takes a fortieth of looking at each number of a vector
    except TypeError:
        return cast(T, _whole(value))
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(inner) for inner in value]
    return value
