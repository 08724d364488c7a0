"""Writing with `_bulk`: what becomes of each item, on both engines."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from knnex.engines import Engine, Request, Response, drive, path_of
from knnex.errors import EngineBusy, EngineUnreachable, IndexMissing, RequestRejected, RequestTooLarge
from knnex.ingest import Item, Outcome, Patience, write
from knnex.ingest.bulk import Line, attempt, cut
from knnex.mappings import create, load, load_spec

ONCE = Patience(attempts=1)


@pytest.fixture
def index(engine: Engine, index_name: str) -> str:
    spec = load_spec({"index": index_name, "fields": {"title": {"type": "text"}, "year": {"type": "integer"}}})
    engine.run(create(spec, engine.dialect, {}))
    return index_name


def item(id_: str, version: int = 1, **fields: Any) -> Item:
    return Item(id_, version, {"title": "x", "_knnex": {"version": version}, **fields})


def statuses(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def titles(engine: Engine, index: str, *ids: str) -> list[Any]:
    def flow() -> Any:
        stored = yield from load(index)
        found = []
        for id_ in ids:
            response = yield Request("GET", path_of(stored.index, "_doc", id_), allow=frozenset({404}))
            found.append(response.body.get("_source", {}).get("title"))
        return found

    return list(engine.run(flow()))


def test_the_newest_version_wins_whatever_the_order(engine: Engine, index: str) -> None:
    versions = list(range(1, 21))
    random.Random(7).shuffle(versions)
    seen = 0
    for version in [*versions, *versions]:
        (outcome,) = write(engine, index, [item("a", version, title=f"v{version}")])
        assert outcome.status == ("written" if version > seen else "stale")
        seen = max(seen, version)
    assert titles(engine, index, "a") == ["v20"]
    (largest,) = write(engine, index, [item("a", 1 << 62, title="last")])
    assert largest.status == "written"


def test_a_bad_item_is_buried_with_its_reason_and_its_neighbours_are_written(engine: Engine, index: str) -> None:
    items = [item("a"), item("b", year="not a year"), item("c")]
    outcomes = write(engine, index, items)
    assert statuses(outcomes) == ["written", "buried", "written"]
    assert "failed to parse field [year]" in outcomes[1].reason
    assert titles(engine, index, "a", "b", "c") == ["x", None, "x"]


def test_an_item_that_fails_the_whole_request_is_found_and_its_neighbours_are_written(
    engine: Engine, index: str
) -> None:
    items = [item(str(number)) for number in range(20)]
    items[7], items[13] = item("é" * 300), item("negative", -1)
    outcomes = write(engine, index, items)
    assert [outcome.id for outcome in outcomes if outcome.status != "written"] == ["é" * 300, "negative"]
    assert {outcome.status for outcome in outcomes} == {"written", "buried"}
    assert outcomes[7].reason
    assert titles(engine, index, "0", "19") == ["x", "x"]


def test_a_value_without_json_form_is_buried(engine: Engine, index: str) -> None:
    outcomes = write(engine, index, [item("a"), item("b", title={1, 2})])
    assert statuses(outcomes) == ["written", "buried"]
    assert "no JSON form" in outcomes[1].reason


def test_no_index_is_made_by_writing_to_a_name_that_has_none(engine: Engine, index_name: str) -> None:
    with pytest.raises(IndexMissing, match=index_name):
        write(engine, index_name, [item("a")])
    with pytest.raises(IndexMissing):
        engine.run(load(index_name))


def test_a_blocked_index_is_tried_again_until_it_takes_the_items(engine: Engine, index: str) -> None:
    stored = engine.run(load(index))
    write(engine, index, [item("a", 5)])
    waits: list[float] = []

    def request(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        response = yield Request(method, path, {}, body)
        return response

    def unblock(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            engine.run(request("PUT", path_of(stored.index, "_settings"), {"index.blocks.write": None}))

    engine.run(request("PUT", path_of(stored.index, "_block", "write")))
    outcomes = write(engine, index, [item("a", 4), item("b"), item("c")], sleep=unblock)
    assert statuses(outcomes) == ["stale", "written", "written"]
    assert len(waits) == 3
    assert 0 < waits[0] < waits[2] < 2


def test_when_patience_ends_the_items_have_failed_and_nothing_is_buried(engine: Engine, index: str) -> None:
    stored = engine.run(load(index))

    def block() -> Any:
        yield Request("PUT", path_of(stored.index, "_block", "write"))

    engine.run(block())
    outcomes = write(engine, index, [item("a"), item("b")], patience=ONCE)
    assert statuses(outcomes) == ["failed", "failed"]
    assert "cluster_block_exception" in outcomes[0].reason


def test_an_index_that_is_closed_is_waited_for_a_little_and_nothing_is_buried(engine: Engine, index: str) -> None:
    stored = engine.run(load(index))

    def close() -> Any:
        yield Request("POST", path_of(stored.index, "_close"))

    engine.run(close())
    waits: list[float] = []
    outcomes = write(engine, index, [item("a"), item("b")], sleep=waits.append)
    assert statuses(outcomes) == ["failed", "failed"]
    assert "index_closed_exception" in outcomes[0].reason
    # Other indexes have to wait meanwhile; eight attempts would take twenty seconds.
    assert 1.5 < sum(waits) < 7


def test_what_the_engine_stumbles_over_is_buried_unless_the_trying_was_cut_short(engine: Engine, index: str) -> None:
    class Stumbles(Engine):
        def run(self, flow: Any) -> Any:
            return drive(flow, stumble)

    def stumble(request: Request) -> Response:
        if b"stumble" in (request.payload() or b""):
            raise RequestRejected("POST /a/_bulk: 500 null_pointer_exception: no reason given")
        return engine.send(request)

    items = [item("a"), item("b", title="stumble"), item("c")]
    outcomes = write(Stumbles(engine.client, engine.dialect), index, items, sleep=lambda _: True)
    assert statuses(outcomes) == ["written", "failed", "written"]
    outcomes = write(Stumbles(engine.client, engine.dialect), index, items, sleep=lambda _: False)
    assert statuses(outcomes) == ["stale", "buried", "stale"]
    assert "500 " in outcomes[1].reason


def test_many_items_go_in_several_bodies(engine: Engine, index: str) -> None:
    items = [item(str(number)) for number in range(1201)]
    assert set(statuses(write(engine, index, items))) == {"written"}
    assert set(statuses(write(engine, index, items))) == {"stale"}
    assert titles(engine, index, "0", "1200") == ["x", "x"]


def lines(*sizes: int) -> list[Line]:
    return [Line(str(number), b"", b"x" * size) for number, size in enumerate(sizes)]


def test_bodies_are_capped_in_bytes_and_items() -> None:
    assert [len(part) for part in cut(lines(*[10] * 1201))] == [500, 500, 201]
    assert [len(part) for part in cut(lines(*[10] * 300))] == [150, 150]
    assert [len(part) for part in cut(lines(*[10] * 20))] == [20]
    assert [len(part) for part in cut(lines(3_000_000, 3_000_000, 6_000_000, 1, 1))] == [1, 1, 1, 2]
    assert list(cut([])) == []


def test_a_body_too_large_is_split_and_a_single_item_too_large_buried() -> None:
    sent: list[int] = []

    def send(request: Request) -> Response:
        size = len(request.payload() or b"")
        sent.append(size)
        if size > 50:
            raise RequestTooLarge("413")
        count = len(request.body or ()) // 2
        return Response(200, {"errors": False, "items": [{"index": {"status": 201}}] * count})

    outcomes = drive(attempt("a", lines(10, 10, 100, 10)), send)
    assert statuses(outcomes) == ["written", "written", "buried", "written"]
    assert [outcome.id for outcome in outcomes] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("error", [EngineBusy("429"), EngineUnreachable("gone")], ids=["busy", "unreachable"])
def test_an_engine_that_is_busy_or_gone_is_no_fault_of_the_items(error: Exception) -> None:
    def send(request: Request) -> Response:
        raise error

    assert statuses(drive(attempt("a", lines(10, 10)), send)) == ["busy", "busy"]


def test_an_answer_for_too_few_items_is_no_answer() -> None:
    def send(request: Request) -> Response:
        return Response(200, {"errors": False, "items": [{"index": {"status": 201}}]})

    assert statuses(drive(attempt("a", lines(10, 10)), send)) == ["busy", "busy"]
