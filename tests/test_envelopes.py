"""Change events in the shapes producers send them: examples of Debezium's documentation, cut short."""

from __future__ import annotations

import json
from typing import Any

import pytest

from knnex.ingest import Event, Origin, Refused, accept
from knnex.ingest.bson import plain_bson
from knnex.ingest.envelopes import Change, Notice, changes
from knnex.mappings import Spec, load_spec

FIELDS = {"first_name": {"type": "text"}, "email": {"type": "keyword"}, "rev": {"type": "long"}}
SPEC = load_spec({"index": "customers", "fields": FIELDS})
OF_ROW = load_spec({"index": "customers", "fields": FIELDS, "version": "rev"})
OF_LSN = load_spec({"index": "customers", "fields": FIELDS, "version": "__lsn"})

ANNE = {"id": 1, "first_name": "Anne", "email": "annek@noanswer.org"}
SOURCE = {
    "version": "3.3.1.Final",
    "connector": "postgresql",
    "name": "PostgreSQL_server",
    "ts_ms": 1559033904863,
    "snapshot": "false",
    "db": "postgres",
    "sequence": '["24023119","24023128"]',
    "schema": "public",
    "table": "customers",
    "txId": 555,
    "lsn": 24023128,
    "xmin": None,
}
MONGO_SOURCE = {"connector": "mongodb", "name": "fulfillment", "db": "inventory", "collection": "customers", "ord": 31}
TOLD = "__debezium_unavailable_value"


def envelope(op: str, before: Any = None, after: Any = None, **more: Any) -> dict[str, Any]:
    return {"before": before, "after": after, "source": SOURCE, "op": op, "ts_ms": 1559033904863, **more}


def with_schema(payload: Any) -> dict[str, Any]:
    fields = [{"type": "int32", "optional": False, "field": "id"}]
    return {"schema": {"type": "struct", "fields": fields, "optional": False, "name": "Envelope"}, "payload": payload}


def one(value: Any, spec: Spec = SPEC) -> Change:
    (found,) = changes(value, spec)
    assert isinstance(found, Change), found
    return found


def reason(value: Any, spec: Spec = SPEC) -> str:
    (found,) = changes(value, spec)
    assert isinstance(found, Refused), found
    return found.reason


def short(change: Change) -> tuple[str, dict[str, Any], str]:
    return change.op, dict(change.document), change.lane


UPSERTED = ("upsert", ANNE, "live")
DELETED = ("delete", {"id": 1}, "live")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"op": "upsert", "document": ANNE}, UPSERTED),
        ({"op": "update", "document": {"id": 1, "email": "a@b.c"}}, ("update", {"id": 1, "email": "a@b.c"}, "updates")),
        ({"op": "update", "id": 1, "document": {"email": None}}, ("update", {"email": None, "id": 1}, "updates")),
        ({"op": "delete", "document": {"id": 1}}, DELETED),
        ({"op": "delete", "id": 1}, DELETED),
        ({"op": "delete", "id": "7", "routing": "3"}, ("delete", {"id": "7", "_routing": "3"}, "live")),
        ({"op": "upsert", "id": 1, "document": ANNE}, UPSERTED),
    ],
    ids=["upsert", "update", "update-id-apart", "delete-document", "delete-id", "delete-routing", "same-id-twice"],
)
def test_plain_events(value: Any, expected: Any) -> None:
    assert short(one(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (envelope("c", after=ANNE), UPSERTED),
        (envelope("u", before={"id": 1}, after=ANNE), UPSERTED),
        (envelope("u", before=ANNE | {"email": "old"}, after=ANNE), UPSERTED),
        (envelope("r", after=ANNE), ("upsert", ANNE, "backfill")),
        (envelope("d", before={"id": 1}), DELETED),
        (envelope("d", before=ANNE), ("delete", ANNE, "live")),
        (with_schema(envelope("c", after=ANNE)), UPSERTED),
        (with_schema(envelope("d", before={"id": 1})), DELETED),
        ({"schema": None, "payload": envelope("r", after=ANNE)}, ("upsert", ANNE, "backfill")),
        (envelope("c", after=ANNE, transaction={"id": "571", "total_order": 1}, ts_us=1559033904863123), UPSERTED),
        ({"op": "c", "after": ANNE}, UPSERTED),
        ({"op": "d", "before": {"id": 1}, "source": SOURCE, "ts_ms": 1}, DELETED),
    ],
    ids=[
        "create", "update", "update-replica-full", "snapshot", "delete", "delete-replica-full", "create-schema",
        "delete-schema", "schemas-off-wrapper", "transaction-block", "no-source", "no-after",
    ],
)  # fmt: skip
def test_envelopes_of_debezium(value: Any, expected: Any) -> None:
    assert short(one(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ANNE, UPSERTED),
        (ANNE | {"__deleted": "false"}, UPSERTED),
        (ANNE | {"__op": "u", "__table": "customers", "__lsn": 24023128, "__source_ts_ms": 1559033904863}, UPSERTED),
        (ANNE | {"__op": "r", "__deleted": "false"}, ("upsert", ANNE, "backfill")),
        ({"id": 1, "email": None, "__deleted": "true"}, ("delete", {"id": 1, "email": None}, "live")),
        ({"id": 1, "__deleted": True}, DELETED),
        ({"id": 1, "__op": "d"}, DELETED),
        (with_schema(ANNE | {"__op": "c"}), UPSERTED),
        (ANNE | {"__op": "c", "op": "a column"}, ("upsert", ANNE | {"op": "a column"}, "live")),
        (ANNE | {"status": "BEGIN"}, ("upsert", ANNE | {"status": "BEGIN"}, "live")),
        (ANNE | {"value": 3, "key": "a"}, ("upsert", ANNE | {"value": 3, "key": "a"}, "live")),
    ],
    ids=[
        "row", "not-deleted", "added-fields", "snapshot", "deleted-text", "deleted-bool", "op-d", "schema", "op-column",
        "status-column", "key-and-value-columns",
    ],
)  # fmt: skip
def test_flattened_rows(value: Any, expected: Any) -> None:
    assert short(one(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"key": {"id": 1}, "value": envelope("c", after=ANNE)}, UPSERTED),
        ({"key": with_schema({"id": 1}), "value": with_schema(envelope("u", after=ANNE))}, UPSERTED),
        ({"key": {"id": 1}, "value": None}, DELETED),
        ({"key": with_schema({"id": 1}), "value": None}, DELETED),
        ({"key": with_schema({"id": 1}), "value": with_schema(None)}, DELETED),
        ({"key": 1, "value": None}, DELETED),
        ({"key": "1", "value": None}, ("delete", {"id": "1"}, "live")),
        ({"key": '{"id": 1}', "value": None}, DELETED),
        ({"key": json.dumps(with_schema({"id": 1})), "value": None}, DELETED),
        ({"key": {"customer_id": 1}, "value": None}, DELETED),
        ({"key": {"tenant": 4, "id": 1}, "value": None}, DELETED),
        ({"key": "1", "value": {"first_name": "Anne"}}, ("upsert", {"first_name": "Anne", "id": "1"}, "live")),
        ({"key": "x", "value": ANNE}, UPSERTED),
        ({"key": None, "value": json.dumps(envelope("c", after=ANNE))}, UPSERTED),
        ({"topic": "customers", "key": "1", "value": ANNE, "partition": 0, "offset": 4}, UPSERTED),
        ({"value": {"op": "upsert", "document": ANNE}}, UPSERTED),
        ({"key": {"id": 1}, "value": envelope("d")}, DELETED),
    ],
    ids=[
        "key-envelope", "schemas", "tombstone", "tombstone-key-schema", "tombstone-payload", "tombstone-int",
        "tombstone-text", "key-json", "key-json-schema", "key-of-one", "key-of-two", "id-from-key", "id-of-row-counts",
        "value-json", "consumer-record", "plain-in-record", "delete-by-key",
    ],
)  # fmt: skip
def test_records_of_kafka(value: Any, expected: Any) -> None:
    assert short(one(value)) == expected


def mongo(op: str, before: Any = None, after: Any = None) -> dict[str, Any]:
    held = {side: None if row is None else json.dumps(row) for side, row in (("before", before), ("after", after))}
    return {**held, "updateDescription": None, "source": MONGO_SOURCE, "op": op, "ts_ms": 1558965515240}


OID = {"_id": {"$oid": "596e275826f08b2730779e1f"}, "first_name": "Anne"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (mongo("c", after=OID), ("upsert", {"first_name": "Anne", "id": "596e275826f08b2730779e1f"}, "live")),
        (mongo("r", after={"_id": {"$numberLong": "1004"}}), ("upsert", {"id": 1004}, "backfill")),
        (mongo("u", after={"_id": "sku-1", "at": {"$date": 7}}), ("upsert", {"at": 7, "id": "sku-1"}, "live")),
        (mongo("d", before=OID), ("delete", {"first_name": "Anne", "id": "596e275826f08b2730779e1f"}, "live")),
        (
            {"key": {"id": '{"$oid": "596e275826f08b2730779e1f"}'}, "value": mongo("d")},
            ("delete", {"id": "596e275826f08b2730779e1f"}, "live"),
        ),
        ({"key": with_schema({"id": "1004"}), "value": None}, ("delete", {"id": "1004"}, "live")),
        ({"key": {"id": '"sku-1"'}, "value": None}, ("delete", {"id": "sku-1"}, "live")),
    ],
    ids=["create", "snapshot", "update", "delete-pre-image", "delete-key", "tombstone-number", "tombstone-text"],
)
def test_envelopes_of_mongodb(value: Any, expected: Any) -> None:
    assert short(one(value)) == expected


@pytest.mark.parametrize(
    ("extended", "plain"),
    [
        ({"$numberInt": "7"}, 7),
        ({"$numberDouble": "1.5"}, 1.5),
        ({"$numberDecimal": "9.99"}, 9.99),
        ({"$date": {"$numberLong": "1559033904863"}}, 1559033904863),
        ({"$date": "2019-05-28T08:58:24Z"}, "2019-05-28T08:58:24Z"),
        ({"$uuid": "00112233-4455-6677-8899-aabbccddeeff"}, "00112233-4455-6677-8899-aabbccddeeff"),
        ({"a": [{"$oid": "x"}, {"b": {"$numberLong": "3"}}]}, {"a": ["x", {"b": 3}]}),
        ({"$numberLong": "many"}, {"$numberLong": "many"}),
        ({"$binary": {"base64": "AA==", "subType": "00"}}, {"$binary": {"base64": "AA==", "subType": "00"}}),
    ],
    ids=str,
)
def test_extended_json_becomes_plain(extended: Any, plain: Any) -> None:
    assert plain_bson(extended) == plain


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (envelope("t"), "truncate"),
        ({"op": "t", "source": SOURCE, "ts_ms": 1}, "truncate"),
        ({"id": 1, "__op": "t"}, "truncate"),
        (envelope("x", after=ANNE), "op 'x' is unknown"),
        (envelope("u", before=ANNE), "without `after`"),
        (mongo("u"), "change_streams_update_full"),
        (mongo("d"), "pre_image"),
        (envelope("d"), "a delete without 'id'"),
        (envelope("c", after=[1]), "`after` is list"),
        (envelope("c", after="{"), "holds no JSON"),
        ({"op": "merge", "document": ANNE}, "op 'merge' is unknown"),
        ({"op": 3, "document": ANNE}, "op '3' is unknown"),
        ({"op": "c", "document": ANNE}, "op 'c' is unknown"),
        ({"op": "upsert"}, "no document"),
        ({"op": "upsert", "document": [ANNE]}, "no document"),
        ({"op": "update", "id": 1}, "no document"),
        ({"op": "upsert", "id": 2, "document": ANNE}, "its id is 2, but its document's 'id' 1"),
        ({"op": "upsert", "document": ANNE, "tenant": 4}, "'tenant' is no part"),
        ({"op": "delete", "id": 1, "version": 4}, "names no field for versions"),
        ({"key": None, "value": None}, "no key"),
        ({"key": {"a": 1, "b": 2}, "value": None}, "no key"),
        ({"key": 1, "value": "Struct{id=1}"}, "holds no JSON"),
        ({"key": 1, "value": 7}, "it is int, not an object"),
        ([], None),
        (7, "it is int, not an object"),
        ("text", "it is str, not an object"),
        (True, "it is bool, not an object"),
        ([[ANNE]], "it is list, not an object"),
        (None, "no key"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:40],
)
def test_what_cannot_be_understood_is_refused(value: Any, said: str | None) -> None:
    if said is None:
        assert list(changes(value, SPEC)) == []
    else:
        assert said in reason(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"ts_ms": 1559033904863}, "heartbeat"),
        (with_schema({"ts_ms": 1559033904863}), "heartbeat"),
        ({"op": "m", "ts_ms": 1, "source": SOURCE, "message": {"prefix": "foo", "content": "Ymar"}}, "message"),
        ({"status": "BEGIN", "id": "571:53195829", "event_count": None, "data_collections": None}, "transaction"),
        ({"status": "END", "id": "571", "event_count": 2, "data_collections": [], "ts_ms": 1}, "transaction"),
        (
            {"source": SOURCE, "databaseName": "inventory", "ddl": "ALTER TABLE ...", "tableChanges": []},
            "schema change",
        ),
    ],
    ids=["heartbeat", "heartbeat-schema", "message", "begin", "end", "ddl"],
)
def test_what_changes_no_document_is_told_apart(value: Any, kind: str) -> None:
    (found,) = changes(value, SPEC)
    assert isinstance(found, Notice)
    assert found.kind == kind


def test_events_of_all_shapes_are_counted_where_they_stand() -> None:
    body = [{"op": "delete", "id": 7}, 3, envelope("r", after=ANNE), {"ts_ms": 1}, ANNE]
    found = list(changes(body, SPEC))
    assert [type(one).__name__ for one in found] == ["Change", "Refused", "Change", "Notice", "Change"]
    assert [one.origin.number for one in found if one.origin] == [1, 2, 3, 4, 5]
    records = {"records": [{"key": {"id": 1}, "value": ANNE}, {"key": {"id": 2}, "value": None}]}
    assert [one.op for one in changes(records, SPEC) if isinstance(one, Change)] == ["upsert", "delete"]
    line = Origin("", 12)
    assert [one.origin for one in changes(records, SPEC, line)] == [line, line]


def test_a_row_with_a_column_records_is_a_row() -> None:
    row = ANNE | {"records": [1, 2]}
    assert short(one(row)) == ("upsert", row, "live")


def test_a_refusal_names_the_document() -> None:
    (found,) = changes({"op": "upsert", "id": "7", "version": 1, "document": {"id": "7"}}, SPEC)
    assert isinstance(found, Refused)
    assert (found.id, found.origin and found.origin.number) == ("7", 1)


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: Any = "x"
    for _ in range(3000):
        deep = {"a": deep}
    (found,) = changes({"key": deep, "value": None}, SPEC)
    assert isinstance(found, Refused)
    assert "deeply" in found.reason


@pytest.mark.parametrize("told", [TOLD, [TOLD], {TOLD: TOLD}, "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="], ids=str)
def test_columns_the_database_did_not_tell_stay_as_they_are(told: Any) -> None:
    """PostgreSQL leaves large columns out of a change that does not touch them; nobody wants that text embedded."""
    row = {"id": 1, "email": "new@noanswer.org", "first_name": told}
    kept = {"id": 1, "email": "new@noanswer.org"}
    assert short(one(envelope("u", before={"id": 1}, after=row))) == ("update", kept, "updates")
    assert short(one(row | {"__op": "u"})) == ("update", kept, "updates")


def accepted(value: Any, spec: Spec) -> Event:
    change = one(value, spec)
    event = accept(spec, change.document, change.origin, op=change.op)
    assert isinstance(event, Event), event
    return event


def test_a_version_of_the_row_orders_its_changes_and_its_end() -> None:
    row = ANNE | {"rev": 5}
    assert accepted(envelope("u", after=row), OF_ROW).version == 5
    assert accepted(envelope("d", before=row), OF_ROW).version == 6, "a delete comes after the row's last change"
    assert accepted(row | {"__deleted": "true"}, OF_ROW).version == 6
    assert accepted({"op": "delete", "id": 1, "version": 9}, OF_ROW).version == 9, "as it was sent"
    assert accepted({"op": "delete", "document": {"id": 1, "rev": 9}}, OF_ROW).version == 9
    assert "REPLICA IDENTITY" in reason(envelope("d", before={"id": 1}), OF_ROW)
    assert "a tombstone without" in reason({"key": 1, "value": None}, OF_ROW)


def test_a_version_of_the_database_orders_all() -> None:
    lsn = SOURCE["lsn"]
    assert accepted(envelope("c", after=ANNE), OF_LSN).version == lsn
    assert accepted(envelope("d", before={"id": 1}), OF_LSN).version == lsn, "it has its own"
    assert accepted(ANNE | {"__op": "u", "__lsn": lsn, "__table": "customers"}, OF_LSN).version == lsn
    assert accepted({"id": 1, "__deleted": "true", "__lsn": lsn}, OF_LSN).version == lsn
    stamped = OF_LSN.model_copy(update={"version": "__source_ts_ms"})
    assert accepted(envelope("c", after=ANNE), stamped).version == SOURCE["ts_ms"]
    stamped = OF_LSN.model_copy(update={"version": "__ts_ms"})
    assert accepted(envelope("c", after=ANNE), stamped).version == 1559033904863
    absent = accept(OF_LSN, one(mongo("c", after=OID), OF_LSN).document)
    assert isinstance(absent, Refused)
    assert "'__lsn'" in absent.reason


def test_nothing_of_a_producer_s_own_object_is_changed() -> None:
    value = envelope("d", before=ANNE | {"rev": 5, "_id": 3})
    copy = json.loads(json.dumps(value))
    one(value, OF_ROW)
    assert value == copy
