"""A coordinator that was stopped, and followed by another, changes nothing when it goes on; and documents made anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from feeding import Stranger
from filling import films, held, made
from test_reindex import FAST, SHARDS, filled, now

from knnex.engines import Engine, Flow, Request, Response
from knnex.engines.wire import drive
from knnex.errors import EngineBusy, ReindexStopped
from knnex.ingest.reindex import Options, Step, abort, compare, drop_version, reading, reindex, versions
from knnex.mappings import Spec

SILENT = Options(page=20, ttl=1.0, beats=False)


class Stopping:
    """An engine whose user is stopped before the first request of a kind, until he is let go on."""

    def __init__(self, engine: Engine, at: Callable[[Request], bool]) -> None:
        self.engine, self.dialect, self.at = engine, engine.dialect, at
        self.reached, self.go_on = threading.Event(), threading.Event()

    def run(self, flow: Flow[Any]) -> Any:
        return drive(flow, self._send)

    def _send(self, request: Request) -> Response:
        if not self.reached.is_set() and self.at(request):
            self.reached.set()
            assert self.go_on.wait(60)

        def one() -> Flow[Response]:
            return (yield request)

        return self.engine.run(one())


def stopped_at(engine: Engine, at: Callable[[Request], bool], work: Callable[[Engine], object]) -> Any:
    """Somebody who is at that request, and what he raises once he is let go on."""
    stopping, raised = Stopping(engine, at), list[Exception]()

    def run() -> None:
        try:
            work(cast(Engine, stopping))
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert stopping.reached.wait(60)

    def let_go() -> Exception:
        stopping.go_on.set()
        thread.join()
        return raised[0]

    return let_go


POINTS: dict[str, Callable[[Request], bool]] = {
    "announcing": lambda one: one.method == "PUT" and one.path.endswith("/_mapping"),
    "filling": lambda one: one.method == "PUT" and one.path.endswith("/_settings"),
    "copying": lambda one: one.path.endswith("/_bulk"),
    "blocking": lambda one: one.path.endswith("/_block/write") or one.body == {"index.blocks.write": True},
    "swapping": lambda one: one.path == "/_aliases" and "is_write_index" in str(one.body),
}


def state(engine: Engine, index: str) -> Any:
    """Documents, mapping, settings and aliases of the version that is searched."""
    live = Stranger(engine, now(engine, index).stored.index)
    found = [live.send("GET", name)[live.index] for name in ("_mapping", "_settings", "_alias")]
    return held(engine, index), found


@pytest.mark.parametrize("point", POINTS)
def test_one_that_was_followed_by_another_changes_nothing(
    engine: Engine, index_name: str, tiny: Path, point: str
) -> None:
    spec = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, spec), 30)
    newer = spec.model_copy(update={"fields": {**spec.fields, "country": spec.fields["genre"]}})
    let_go = stopped_at(engine, POINTS[point], lambda slow: reindex(slow, None, newer, options=SILENT))
    done = reindex(engine, None, newer, options=FAST)
    stranger = Stranger(engine, index_name)
    stranger.put("1", {"title": "a robot"})
    stranger.delete("2")
    before = state(engine, index_name)
    raised = let_go()
    assert isinstance(raised, ReindexStopped), raised
    assert "has taken over" in str(raised)
    assert state(engine, index_name) == before
    assert not [name for name in before[1][2]["aliases"] if "-by-" in name]
    assert [(one.name, one.state) for one in engine.run(versions(index_name))] == [
        (done.source, "kept"),
        (done.target, "live"),
    ]
    with pytest.raises(EngineBusy, match="blocked by"):
        Stranger(engine, done.source).put("late", {"title": "cat"})


def test_giving_up_deletes_no_version_that_took_its_place_meanwhile(
    engine: Engine, index_name: str, tiny: Path
) -> None:
    spec = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, spec), 10)

    def stop(step: Step) -> None:
        if step.name == "compare":
            raise ReindexStopped("here")

    with pytest.raises(ReindexStopped, match="here"):
        reindex(engine, None, spec, options=FAST, tell=stop)
    deleting: Callable[[Request], bool] = lambda one: "remove_index" in str(one.body)  # noqa: E731
    let_go = stopped_at(engine, deleting, lambda slow: abort(slow, index_name, options=SILENT))
    done = reindex(engine, None, spec, options=FAST)
    assert isinstance(let_go(), ReindexStopped)
    assert now(engine, index_name).stored.index == done.target
    assert len(held(engine, index_name)) == 10
    drop_version(engine, index_name, done.source)
    assert [one.name for one in engine.run(versions(index_name))] == [done.target]


def test_what_others_make_again_is_not_taken_for_older_once_all_was_compared(
    engine: Engine, index_name: str, tiny: Path
) -> None:
    """Its version starts anew where the engine has forgotten the delete; that of what knnex wrote there is far above."""
    spec: Spec = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, spec), 20, version=1 << 60)
    stranger = Stranger(engine, index_name)
    stranger.send("PUT", "_settings", body={"index.gc_deletes": "1ms"})
    made_again: list[int] = []

    def make_again(step: Step) -> None:
        while step.name == "swap" and 1 not in made_again:
            stranger.delete("5")
            stranger.send("POST", "_refresh")
            made_again.append(stranger.put("5", {"title": "human"})["_version"])

    reindex(engine, None, spec, options=FAST, tell=make_again)
    assert 1 in made_again
    assert held(engine, index_name)["5"]["title"] == "human"


@pytest.mark.parametrize("routed", [False, True])
def test_what_was_deleted_just_before_the_swap_is_found_without_comparing_all_again(
    engine: Engine, index_name: str, tiny: Path, routed: bool
) -> None:
    spec: Spec = films(index_name, str(tiny), settings=SHARDS)
    made(engine, spec)
    stranger = Stranger(engine, index_name)
    routing: Callable[[int], dict[str, str]] = lambda one: {"routing": f"{one % 3}"} if routed else {}  # noqa: E731
    for one in range(60):
        stranger.put(str(one), {"title": f"film {one}"}, **routing(one))

    def act(step: Step) -> None:
        if step == Step("swap"):
            for one in (7, 8, 9):
                stranger.delete(str(one), **routing(one))
            stranger.put("8", {"title": "again"}, **routing(8))
            stranger.put("10", {"title": "other"}, **routing(10))
            stranger.put("new", {"title": "new"}, **routing(1))

    done = reindex(engine, None, spec, options=FAST, tell=act)
    assert (done.compared.seen, done.compared.extra, len(done.stalls)) == (60, 2, 1)
    found = held(engine, index_name)
    assert len(found) == 59
    assert not {"7", "9"} & found.keys()
    assert [found[one]["title"] for one in ("8", "10", "new")] == ["again", "other", "new"]


def test_what_changed_while_all_was_compared_and_was_deleted_then_is_found_too(
    engine: Engine, index_name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_SCAN", 20)
    monkeypatch.setattr(reading, "_LEAST", 1)
    spec: Spec = films(index_name, str(tiny), settings=SHARDS)
    made(engine, spec)
    stranger = Stranger(engine, index_name)
    for one in range(60):
        stranger.put(str(one), {"title": f"film {one}"})
    done_before: list[str] = []

    def act(step: Step) -> None:
        if step.name == "compare" and step.done and not done_before:
            done_before.append("changed")  # most of them before they were seen
            for one in range(60):
                stranger.put(str(one), {"title": f"other {one}"})
            stranger.send("POST", "_refresh")
        if step == Step("swap"):
            for one in range(0, 60, 3):
                stranger.delete(str(one))

    done = reindex(engine, None, spec, options=FAST, tell=act)
    assert 0 < done.compared.seen < 60
    assert (done.compared.extra, len(done.stalls)) == (20, 1)
    assert held(engine, index_name).keys() == {str(one) for one in range(60) if one % 3}
