"""What can be done about the versions of an index: build the next one, go back, give up, list them, drop one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...encoders import Cache, resolve
from ...engines import Engine, Flow, Request, path_of
from ...errors import IndexMissing, ReindexStopped, SpecMismatch
from ...mappings import Spec, Stored, find, load
from ..log import EventLog
from ..prepare import Target
from ..target import make_target
from . import cutover
from .control import Control, Lock, Quality, read
from .coordinator import Coordinator
from .fencing import leave, still
from .quality import note, of
from .report import Gate, Options, Report, Tell


@dataclass(frozen=True)
class Version:
    """One version index; `state` is live, building, kept (one can go back to it) or left (nothing refers to it)."""

    name: str
    state: str
    documents: int
    bytes: int
    created: int
    stored: Stored | None
    # As a gate found it, or who measured it; None where nobody looked.
    quality: Quality | None = None


def reindex(
    engine: Engine,
    events: EventLog | None,
    spec: Spec,
    *,
    cache: Cache | None = None,
    gate: Gate | None = None,
    options: Options | None = None,
    tell: Tell = lambda _: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Report:
    """Build a new version of the spec's index for this spec, and put it in the place of the present one.

    Readers and writers go on meanwhile; without an event log, or where others write to the index too, writes are
    refused for a moment in the end. Vectors whose fingerprint stays are taken over, others are encoded.

    Raises ReindexStopped, with both versions as they are, where it cannot be ended; AlreadyRunning; ModelUnavailable;
    SpecMismatch, IndexMissing, EngineError, EncoderError. The next run goes on where this one ended.
    """
    resolved = resolve(spec)
    coordinator = Coordinator(
        engine,
        events,
        spec.index,
        _opener(cache),
        wanted=lambda name: Stored(name, spec, resolved),
        gate=gate,
        options=options,
        tell=tell,
        sleep=sleep,
    )
    return coordinator.run()


def roll_back(
    engine: Engine,
    events: EventLog | None,
    alias: str,
    to: str | None = None,
    *,
    cache: Cache | None = None,
    options: Options | None = None,
    tell: Tell = lambda _: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Report:
    """Return to a former version (the one before this, if none is named), with all that was written since.

    Raises what `reindex` raises, and IndexMissing where there is no such version.
    """
    control = engine.run(read(alias))
    if not control.step:
        to = _former(engine, alias, to)
    return Coordinator(
        engine, events, alias, _opener(cache), back=to or control.target, options=options, tell=tell, sleep=sleep
    ).run()


def _former(engine: Engine, alias: str, to: str | None) -> str:
    live = engine.run(load(alias)).index
    others = {one.name: one for one in engine.run(versions(alias)) if one.name != live}
    before = [name for name in sorted(others) if name < live]
    if to is None and before:
        return before[-1]
    if to not in others:
        named = f"{to!r} is no former version of {alias!r}" if to else f"no former version of {alias!r} is kept"
        raise IndexMissing(named, hint=f"there is {', '.join(others) or 'only ' + live}; see `knnex versions {alias}`")
    return to


def _opener(cache: Cache | None) -> Callable[[str, Stored], Target]:
    return lambda alias, stored: make_target(alias, stored, cache)


def abort(
    engine: Engine, alias: str, *, options: Options | None = None, sleep: Callable[[float], object] = time.sleep
) -> str:
    """Give up the version that is being built, and delete it; its name, empty where there is none.

    A former version to which one was about to return is kept. Raises AlreadyRunning while somebody is at it.
    """
    chosen = options or Options()
    lock = Lock(engine, alias, ttl=chosen.ttl, beats=chosen.beats, sleep=sleep)
    with lock.held() as control:
        if not control.target:
            return ""
        # Before the alias is looked at: a coordinator that was stopped may be about to move it.
        lock.fence(control.source)
        live = engine.run(load(alias))
        if live.index == control.target:
            raise ReindexStopped(f"{control.target} is in place already", hint=f"return with `knnex rollback {alias}`")
        _forget(engine, lock, control)
        kept = {name: at for name, at in control.kept.items() if name != control.target}
        lock.save(step="", source="", target="", cursors={}, settings={}, kept=kept)
        return control.target


def _forget(engine: Engine, lock: Lock, control: Control) -> None:
    source, target = control.source, control.target
    there = engine.run(find(source)) is not None
    if there:
        engine.run(cutover.announce(lock.by(source), ()))
        engine.run(cutover.unblock(lock.by(source)))
    if target in control.kept:
        lock.fence(target)
        engine.run(cutover.block(lock.by(target)))
        engine.run(leave(target, control.epoch))
    elif engine.run(find(target)):
        engine.run(cutover.delete(target, still(source, control.epoch) if there else ()))
    if there:
        engine.run(leave(source, control.epoch))


def versions(alias: str) -> Flow[list[Version]]:
    """The version indexes of an alias, oldest first; one of somebody else with such a name is none of them.

    Raises IndexMissing, SpecMismatch.
    """
    live = (yield from load(alias)).index
    control = yield from read(alias)
    created = yield from cutover.made(alias)
    names = sorted({live, *created})
    found = []
    for name in names:
        state = _state(name, live, control)
        try:
            found.append((yield from _version(name, state, created.get(name, 0), control)))
        except SpecMismatch:
            if state != "left":
                raise
    return found


def _state(name: str, live: str, control: Control) -> str:
    if name == live:
        return "live"
    if control.step and name == control.target:
        return "building"
    return "kept" if name in control.kept else "left"


def _version(name: str, state: str, created: int, control: Control) -> Flow[Version]:
    stats = yield Request("GET", path_of(name, "_stats", "docs,store"), {"filter_path": "_all.primaries"})
    figures: Mapping[str, Any] = stats.body.get("_all", {}).get("primaries", {})
    stored = yield from find(name)
    return Version(
        name,
        state,
        int(figures.get("docs", {}).get("count", 0)),
        int(figures.get("store", {}).get("size_in_bytes", 0)),
        created,
        stored,
        of(control, name, created),
    )


def note_quality(
    engine: Engine, alias: str, found: Mapping[str, Quality], *, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Keep how good versions were found to be. Raises AlreadyRunning while one is being built."""
    lock = Lock(engine, alias, sleep=sleep)
    with lock.held():
        note(lock, found)


def drop_version(engine: Engine, alias: str, name: str, *, sleep: Callable[[float], object] = time.sleep) -> None:
    """Delete a former version. Raises ReindexStopped for the live one, or one being built; IndexMissing."""
    lock = Lock(engine, alias, sleep=sleep)
    with lock.held() as control:
        found = {one.name: one for one in engine.run(versions(alias))}
        if name not in found:
            raise IndexMissing(f"{name!r} is no version of {alias!r}", hint=f"there is {', '.join(found)}")
        if found[name].state in ("live", "building"):
            raise ReindexStopped(
                f"{name} is {found[name].state}", hint="only a former version can be dropped; `knnex drop` takes all"
            )
        live = next(one.name for one in found.values() if one.state == "live")
        lock.fence(live)
        engine.run(cutover.delete(name, still(live, control.epoch)))
        engine.run(leave(live, control.epoch))
        lock.save(kept={one: at for one, at in control.kept.items() if one != name})
