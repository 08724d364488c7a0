"""Change events as producers shape them: plain ones, Debezium's envelopes, flattened rows, records of Kafka.

Pure functions: a value that was read from JSON goes in, changes of documents come out. The shapes are those of
https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events, of its transformation
ExtractNewRecordState, and of the MongoDB connector, whose `after` is a JSON string of extended JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from ..errors import InputError
from ..mappings import Spec
from .bson import plain_bson
from .events import ROUTING, Op, Origin, Refused
from .positions import Lane

_PLAIN: dict[str, Op] = {"upsert": "upsert", "update": "update", "delete": "delete"}
_PLAIN_KEYS = frozenset({"op", "document", "id", "version", "routing"})
_ENVELOPE_OPS = frozenset("crudtm")
_ENVELOPE_KEYS = frozenset({"before", "after", "source", "message"})
_RECORD_KEYS = frozenset({"key", "value", "topic", "partition", "offset", "timestamp", "timestampType", "headers"})
_BATCH_KEYS = frozenset({"records", "key_schema", "key_schema_id", "value_schema", "value_schema_id"})
_TRANSACTION_KEYS = frozenset({"status", "id", "event_count", "data_collections", "ts_ms"})
# What Debezium writes for a value that the database did not tell, because it did not change; as text and as bytes.
_UNTOLD = "__debezium_unavailable_value"
_UNTOLD_FORMS: tuple[Any, ...] = (
    _UNTOLD,
    [_UNTOLD],
    {_UNTOLD: _UNTOLD},
    "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
)

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What a producer asks for: one document, what is to be done with it, and the lane in which it waits."""

    op: Op
    document: Mapping[str, Any]
    lane: Lane
    origin: Origin


@dataclass(frozen=True, slots=True)
class Notice:
    """A message that changes no document: a heartbeat, the bounds of a transaction, a change of the schema."""

    kind: Literal["message", "heartbeat", "transaction", "schema change"]
    origin: Origin


def changes(body: object, spec: Spec, origin: Origin | None = None) -> Iterator[Change | Notice | Refused]:
    """The changes in a JSON value: one event, an array of them, or `{"records": [...]}`.

    Events are counted from 1, or are all at `origin`. What cannot be understood is refused, with the reason; whether
    a document may go in is for `accept` to say.
    """
    for number, value in enumerate(_events(body), 1):
        place = origin or Origin("", number, "event")
        try:
            yield _read(value, spec, place)
        except InputError as error:
            yield Refused(place, _named(value, spec), str(error))
        except RecursionError:
            yield Refused(place, "", "it is nested too deeply")


def _events(body: object) -> Sequence[object]:
    if isinstance(body, list):
        return body
    if isinstance(body, Mapping) and isinstance(body.get("records"), list) and body.keys() <= _BATCH_KEYS:
        records: list[object] = body["records"]
        return records
    return [body]


def _named(value: object, spec: Spec) -> str:
    found = value.get("id", value.get(spec.id)) if isinstance(value, Mapping) else None
    return str(found)[:80] if isinstance(found, (str, int)) else ""


def _read(value: object, spec: Spec, origin: Origin) -> Change | Notice | Refused:
    key: object = None
    if isinstance(value, Mapping) and "value" in value and value.keys() <= _RECORD_KEYS - {spec.id}:
        key, value = value.get("key"), _parsed(value["value"])
    value = _unwrapped(value)
    if value is None:
        return _tombstone(key, spec, origin)
    if not isinstance(value, Mapping):
        raise InputError(f"it is {type(value).__name__}, not an object")
    op = value.get("op")
    if "__op" in value or "__deleted" in value or "op" not in value:
        kind = _notice(value)
        return Notice(kind, origin) if kind else _flattened(dict(value), key, spec, origin)
    if isinstance(op, str) and op in _ENVELOPE_OPS and value.keys() & _ENVELOPE_KEYS:
        return Notice("message", origin) if op == "m" else _envelope(op, value, key, spec, origin)
    if isinstance(op, str) and op in _PLAIN:
        return _plain(_PLAIN[op], value, spec, origin)
    raise InputError(
        f"op {str(op)[:40]!r} is unknown; it is upsert, update or delete, or in a change envelope with `before`, "
        "`after` and `source` c, u, r or d"
    )


def _plain(op: Op, value: Mapping[str, Any], spec: Spec, origin: Origin) -> Change:
    """`{"op": ..., "document": {...}}`, where id, version and routing may stand outside of the document."""
    if unknown := value.keys() - _PLAIN_KEYS:
        raise InputError(f"{sorted(map(str, unknown))[0][:40]!r} is no part of an event; it has op, document and id")
    document = value.get("document", {} if op == "delete" else None)
    if not isinstance(document, Mapping):
        raise InputError(f'it has no document: write {{"op": "{op}", "document": {{...}}}}')
    document = dict(document)
    if "version" in value and spec.version is None:
        raise InputError("it has a version, but the index's spec names no field for versions")
    for name, field in (("id", spec.id), ("version", spec.version), ("routing", ROUTING)):
        if name not in value or field is None:
            continue
        if document.setdefault(field, value[name]) != value[name]:
            raise InputError(f"its {name} is {value[name]!r:.80}, but its document's {field!r} {document[field]!r:.80}")
    return Change(op, document, "updates" if op == "update" else "live", origin)


def _envelope(op: str, value: Mapping[str, Any], key: object, spec: Spec, origin: Origin) -> Change:
    if op == "t":
        raise InputError("a truncate names no documents; delete them one by one, or drop the index and fill it again")
    side = "before" if op == "d" else "after"
    row = _row(value.get(side), side)
    if row is None and op != "d":
        raise InputError(f"op {op} without `after`; of MongoDB, capture with capture.mode=change_streams_update_full")
    row = _identified(row or {}, key, spec)
    if row.get(spec.id) is None and op == "d":
        raise InputError(
            f"a delete without {spec.id!r}, neither in `before` nor in a key; of PostgreSQL, the table needs a primary "
            "key, of MongoDB, capture with capture.mode=change_streams_update_full_with_pre_image"
        )
    if spec.version is not None and spec.version.startswith("__") and spec.version not in row:
        row[spec.version] = _metadata(spec.version, value)
    if op == "d":
        return _deletion(row, spec, origin)
    return _writing(row, "backfill" if op == "r" else "live", origin)


def _flattened(row: _Row, key: object, spec: Spec, origin: Origin) -> Change:
    """A row alone, as ExtractNewRecordState makes it; what it adds is named `__op`, `__deleted`, `__lsn` and so on."""
    op = row.get("__op")
    deleted = op == "d" or row.get("__deleted") in ("true", True)
    if op == "t":
        raise InputError("a truncate names no documents; delete them one by one, or drop the index and fill it again")
    known = {spec.id, spec.version, *spec.fields}
    row = {name: value for name, value in row.items() if not name.startswith("__") or name in known}
    row = _identified(row, key, spec)
    if deleted:
        return _deletion(row, spec, origin)
    return _writing(row, "backfill" if op == "r" else "live", origin)


def _tombstone(key: object, spec: Spec, origin: Origin) -> Change:
    """A record of Kafka whose value is null: what has its key is gone."""
    row = _identified({}, key, spec)
    if row.get(spec.id) is None:
        raise InputError("it is null, and has no key that says what is gone")
    return _deletion(row, spec, origin, kind="a tombstone")


def _writing(row: _Row, lane: Lane, origin: Origin) -> Change:
    """An upsert, or an update where the database did not tell the values of large columns that stayed as they were."""
    told = {name: value for name, value in row.items() if value not in _UNTOLD_FORMS}
    if len(told) < len(row):
        return Change("update", told, "updates", origin)
    return Change("upsert", row, lane, origin)


def _deletion(row: _Row, spec: Spec, origin: Origin, kind: str = "a delete") -> Change:
    if spec.version is not None:
        version = row.get(spec.version)
        if version is None:
            raise InputError(
                f"{kind} without the version field {spec.version!r}: send it (of PostgreSQL, with REPLICA IDENTITY "
                "FULL), or take the version from the log of the database (version: __lsn)"
            )
        # The row's own is that of its last change, and its end comes after that.
        if not spec.version.startswith("__") and isinstance(version, int) and version is not True:
            row[spec.version] = version + 1
    return Change("delete", row, "live", origin)


def _row(value: object, side: str) -> _Row | None:
    """`before` or `after`; the MongoDB connector's are JSON strings."""
    row = plain_bson(_parsed(value)) if isinstance(value, str) else value
    if row is not None and not isinstance(row, Mapping):
        raise InputError(f"`{side}` is {type(row).__name__}, not an object")
    return None if row is None else dict(row)


def _identified(row: _Row, key: object, spec: Spec) -> _Row:
    """The row with the spec's id, which may be MongoDB's `_id` (no engine takes a field of that name), or the key."""
    if spec.id != "_id" and "_id" in row:
        found = row.pop("_id")
        row.setdefault(spec.id, plain_bson(found))
    if row.get(spec.id) is None and (found := _key(key, spec)) is not None:
        row[spec.id] = found
    return row


def _key(key: object, spec: Spec) -> object:
    """The id in the key of a record: a value, an object that has it or nothing else, either also as a JSON string."""
    key = _unwrapped(key)
    if isinstance(key, str) and key[:1] in ("{", '"'):
        try:
            key = _unwrapped(orjson.loads(key))
        except orjson.JSONDecodeError:
            return key
    if not isinstance(key, Mapping):
        return key
    if not isinstance(plain := plain_bson(key), Mapping):
        return plain
    only = next(iter(plain.values())) if len(plain) == 1 else None
    found = plain.get(spec.id, only)
    return _key(found, spec) if isinstance(found, str) and found[:1] in ("{", '"') else found


def _unwrapped(value: object) -> object:
    """Without the schema that Kafka Connect's JSON converter puts beside the payload."""
    if isinstance(value, Mapping) and value.keys() == {"schema", "payload"}:
        payload: object = value["payload"]
        return payload
    return value


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        parsed: object = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InputError(f"it is a string that holds no JSON: {error.msg}") from None
    return parsed


def _metadata(name: str, envelope: Mapping[str, Any]) -> object:
    """What ExtractNewRecordState would add under that name: `__lsn`, `__ts_ms`, `__source_ts_ms`."""
    source = envelope.get("source")
    source = source if isinstance(source, Mapping) else {}
    plain = name.removeprefix("__")
    if plain.startswith("source_"):
        return source.get(plain.removeprefix("source_"))
    return envelope.get(plain, source.get(plain))


def _notice(value: Mapping[str, Any]) -> Literal["heartbeat", "transaction", "schema change"] | None:
    if value.keys() == {"ts_ms"}:
        return "heartbeat"
    if value.get("status") in ("BEGIN", "END") and "event_count" in value and value.keys() <= _TRANSACTION_KEYS:
        return "transaction"
    if "ddl" in value and "databaseName" in value and "source" in value:
        return "schema change"
    return None
