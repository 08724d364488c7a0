"""`knnex doctor`: look at every part, say what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ..encoders import load_matching
from ..engines import Engine, Flow, Request, path_of
from ..errors import KnnexError
from ..ingest import LANES, EventLog
from ..mappings import META, PROVENANCE, Stored, index_body
from ..mappings.look import count
from ..settings import settings
from .pauses import stays
from .preflight import CHECKS, find_target
from .watch import feed_lag

# What a module that is missing means, and what to do instead.
_WITHOUT = {"parent join": "this distribution lacks the join module: declare a lookup or a nested join instead"}

# What it means that a check of the preflight has nothing against an index.
_SAFE = {
    "alias": "of one index, which takes writes",
    "durability": "a write is on disk before it is acknowledged",
    "versions": "the log gives higher ones than the index holds",
}
# Seconds without a word from the change feed after which nobody follows it any more.
_FEED_SILENT = 120.0

Verdict = Literal["ok", "absent", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the screen."""

    part: str
    name: str
    verdict: Verdict
    detail: str
    hint: str = ""


def examine(
    connect_engine: Callable[[], Engine], connect_log: Callable[[], EventLog], index: str | None = None
) -> Iterator[Finding]:
    """Findings, as they are made: engine, capabilities, log, workers, models, then each index (or the one named)."""
    try:
        engine = connect_engine()
    except KnnexError as error:
        yield _wrong("engine", "connection", error)
        engine = None
    if engine:
        yield Finding("engine", "server", "ok", f"{engine.dialect} at {engine.address}")
        yield from _capabilities(engine)
    yield from _device()
    log = None
    try:
        log = connect_log()
        warnings = log.check()
        yield Finding("log", "connection", "warning" if warnings else "ok", "; ".join((log.address, *warnings)))
    except KnnexError as error:
        yield _wrong("log", "connection", error)
    else:
        yield from _workers(log)
    if engine:
        yield from _indexes(engine, log, index)


def _wrong(part: str, name: str, error: KnnexError) -> Finding:
    return Finding(part, name, "wrong", str(error), error.hint or "")


def _capabilities(engine: Engine) -> Iterator[Finding]:
    try:
        for name, answer in engine.capabilities.rows():
            absent = answer == "no"
            yield Finding(
                "engine", name, "absent" if absent else "ok", answer, _WITHOUT.get(name, "") if absent else ""
            )
    except KnnexError as error:
        yield _wrong("engine", "capabilities", error)


def _device() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:
        if settings().encoder_url:
            yield Finding("models", "torch", "ok", f"not installed: texts are encoded at {settings().encoder_url}")
            return
        yield Finding(
            "models", "torch", "warning", "not installed: no text can be encoded here", "pip install 'knnex[text]'"
        )
        return
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    yield Finding("models", "device", "ok", f"{device}, torch {torch.__version__}")


def _workers(log: EventLog) -> Iterator[Finding]:
    workers = log.workers()
    for name, facts in sorted(workers.items()):
        plain = {key: value for key, value in facts.items() if isinstance(value, (str, int, float)) and value != ""}
        yield Finding("workers", name, "ok", ", ".join(f"{key} {value}" for key, value in plain.items()))
    if not workers:
        yield Finding("workers", "none", "wrong", "no worker runs: events would wait in the log", "`knnex worker`")


def _indexes(engine: Engine, log: EventLog | None, only: str | None) -> Iterator[Finding]:
    names = [only] if only else engine.run(names_of_indexes())
    if not names:
        yield Finding("indexes", "none", "warning", "knnex has made no index here", "`knnex create SPEC` makes one")
    for name in names:
        try:
            yield from _index(engine, log, engine.run(find_target(name)))
        except KnnexError as error:
            yield _wrong(name, "index", error)


def _index(engine: Engine, log: EventLog | None, stored: Stored) -> Iterator[Finding]:
    name = stored.spec.index
    total = engine.run(count(name))
    yield Finding(name, "index", "ok", f"{stored.index}, {total:,} documents")
    for embedding, resolved in stored.resolved.items():
        yield _model(stored, embedding)
        path = f"{PROVENANCE}.vectors.{embedding}.fingerprint"
        missing = {"bool": {"must_not": [{"exists": {"field": path}}]}}
        foreign = {
            "bool": {"filter": [{"exists": {"field": path}}], "must_not": [{"term": {path: resolved.fingerprint}}]}
        }
        without, mixed = engine.run(count(name, missing)), engine.run(count(name, foreign))
        yield Finding(
            name,
            f"{embedding}: vectors",
            "wrong" if mixed else "warning" if without else "ok",
            f"{total - without:,} of {total:,} documents have one" + (f", {mixed:,} of another model" if mixed else ""),
            "ingest these documents again" if mixed else "documents without text have none" if without else "",
        )
    yield from _mapping(engine, stored)
    if log:
        yield from _preflight(engine, log, stored)
        yield from _backlog(log, name)


def _model(stored: Stored, name: str) -> Finding:
    part, embedding, resolved = stored.spec.index, stored.spec.embeddings[name], stored.resolved[name]
    try:
        load_matching(stored, name)
    except KnnexError as error:
        return _wrong(part, f"{name}: model", error)
    detail = f"{embedding.encoder}, {resolved.dims} dims, fingerprint {resolved.fingerprint}"
    return Finding(part, f"{name}: model", "ok", detail)


def _mapping(engine: Engine, stored: Stored) -> Iterator[Finding]:
    """The live mapping must hold all that the spec asks for; servers add to it what they like."""
    wanted = index_body(stored.spec, engine.dialect, stored.resolved)["mappings"]["properties"]
    live = engine.run(_properties(stored.index))
    missing = sorted(name for name in wanted if wanted[name].get("type") != live.get(name, {}).get("type"))
    if missing:
        detail = f"not as the spec has them: {', '.join(missing)}"
        yield Finding(stored.spec.index, "mapping", "wrong", detail, "somebody changed the mapping: fill a new index")
    else:
        yield Finding(stored.spec.index, "mapping", "ok", f"agrees with the spec, {len(wanted)} fields")


def _preflight(engine: Engine, log: EventLog, stored: Stored) -> Iterator[Finding]:
    """What a worker asks before it writes."""
    for name, check in CHECKS.items():
        try:
            check(engine, log, stored)
        except KnnexError as error:
            yield _wrong(stored.spec.index, name, error)
        else:
            yield Finding(stored.spec.index, name, "ok", _SAFE[name])


def _backlog(log: EventLog, name: str) -> Iterator[Finding]:
    held = log.backlog(name)
    lanes = {lane: held.of(lane).total for lane in LANES}
    waiting, buried = held.total, log.counts(name).get("buried", 0)
    each = ", ".join(f"{count:,} {lane}" for lane, count in lanes.items() if count)
    yield Finding(name, "events", "ok", f"{waiting:,} wait in the log" + (f": {each}" if each else ""))
    if feed := feed_lag(log, name):
        detail = f"{feed.behind:,} documents behind, as of {feed.age:,.0f} s ago"
        late = feed.age > _FEED_SILENT
        hint = "nobody follows the index any more: `knnex follow`" if late else ""
        yield Finding(name, "change feed", "warning" if late else "ok", detail, hint)
    if buried:
        hint = (
            f"`knnex buried list {name}` names them; correct and send them again, or `knnex buried retry {name} --all`"
        )
        yield Finding(name, "buried", "warning", f"{buried:,} documents could not be embedded or written", hint)
    if waiting and (reason := log.resting(name)):
        yield Finding(name, "resting", "warning", reason, "the engine refuses them for now; workers try again")
    yield from _pauses(log, name)


def _pauses(log: EventLog, name: str) -> Iterator[Finding]:
    for lane in (None, *LANES):
        if reason := log.paused(name, lane):
            # A pause of a lane is somebody's wish, and one of the index is a fault as long as nobody wished it.
            resume = f"`knnex resume {name}{f' --lane {lane}' if lane else ''}` lets it go on"
            hint = resume if lane or stays(reason) else "mend that; the workers go on by themselves"
            verdict: Verdict = "warning" if lane else "wrong"
            yield Finding(name, f"paused {lane}" if lane else "paused", verdict, reason, hint)


def names_of_indexes() -> Flow[list[str]]:
    """The aliases of the indexes knnex made."""
    response = yield Request("GET", "/_all/_mapping", {"filter_path": f"*.mappings._meta.{META}.spec.index"})
    found = (holder["mappings"]["_meta"][META]["spec"]["index"] for holder in response.body.values())
    return sorted(set(found))


def _properties(index: str) -> Flow[dict[str, dict[str, object]]]:
    response = yield Request("GET", path_of(index, "_mapping"))
    properties: dict[str, dict[str, object]] = response.body[index]["mappings"]["properties"]
    return properties
