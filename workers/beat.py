"""Upkeep, on a schedule: what nobody needs any more goes, and a sample of each index is looked at. Knows no Celery."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ..encoders import input_hash
from ..engines import Engine, Flow, Request, path_of
from ..errors import EngineError, InputError, KnnexError
from ..ingest import EventLog
from ..ingest.positions import version_of
from ..ingest.render import text_of
from ..mappings import ALIVE, PROVENANCE, Stored, find

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Days for which a tombstone is kept: a worker frozen for longer could revive what was deleted.
TOMBSTONE_DAYS = 7.0
#: Documents looked at in each index.
SAMPLE = 200
# Tombstones at once, and in one run: the next one goes on.
_PAGE, _MOST = 500, 50_000
# Only one worker does upkeep; should it die, another may after so many seconds.
_HELD = 600.0
_NAMED = 10
_DAY = 86_400_000


@dataclass(frozen=True)
class Tidied:
    """What went: names in the log, and tombstones by index; `kept` are indexes whose versions tell no time."""

    names: int = 0
    tombstones: dict[str, int] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"kept": list(self.kept)}


@dataclass(frozen=True)
class Verified:
    """What a sample of an index shows.

    `missing` are ids of documents that have text and no vector, `stale` those whose vector was made of another text;
    `mixed` has the counts of fingerprints, of all documents, for each embedding that has several or a foreign one.
    """

    index: str
    documents: int = 0
    looked_at: int = 0
    missing: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    mixed: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missing or self.stale or self.mixed)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"missing": list(self.missing), "stale": list(self.stale), "sound": self.sound}


def safely(work: Callable[[], T]) -> T | None:
    """Do it; an error is logged, and the next time is soon enough."""
    try:
        return work()
    except KnnexError as error:
        log.warning("Upkeep has to wait: %s", error, extra={"action": "upkeep_failed"})
    except Exception:
        log.exception("Upkeep failed", extra={"action": "upkeep_failed"})
    return None


def tidy(
    engine: Engine,
    events: EventLog,
    *,
    owner: str,
    days: float = TOMBSTONE_DAYS,
    stopping: Callable[[], bool] = lambda: False,
) -> Tidied | None:
    """Drop names that nobody uses from the log, and old tombstones from the indexes; None where another is at it.

    A tombstone goes once it is `days` old and older than all that the log still holds, unless it changes meanwhile.
    Raises LogUnavailable, EngineError.
    """
    if not events.hold("tidy", owner, _HELD):
        return None
    gone: dict[str, int] = {}
    kept: list[str] = []
    for stored in _indexes(engine, events, stopping):
        if stored.spec.version:
            kept.append(stored.spec.index)  # the producer's versions, which tell no time
        elif found := _collect(engine, events, stored, days, stopping):
            gone[stored.spec.index] = found
            log.info("Collected %d tombstones of %s", found, stored.index, extra={"action": "tombstones_collected"})
    return Tidied(events.tidy(), gone, tuple(kept))


def _indexes(engine: Engine, events: EventLog, stopping: Callable[[], bool]) -> Iterator[Stored]:
    for index in events.indexes():
        if stopping():
            return
        try:
            stored = engine.run(find(index))
        except EngineError:
            raise
        except KnnexError as error:  # somebody else's index under that name
            log.debug("%s is left alone: %s", index, error, extra={"action": "upkeep_skipped", "index": index})
            continue
        if stored:
            yield stored


def _collect(engine: Engine, events: EventLog, stored: Stored, days: float, stopping: Callable[[], bool]) -> int:
    # The clock first: what is accepted after it has a greater version.
    bound = events.now() - int(days * _DAY) << 20
    low = events.backlog(stored.spec.index).low_water
    bound = min(bound, version_of(low)) if low else bound
    gone, after = 0, 0
    while gone < _MOST and not stopping():
        hits = engine.run(_tombstones(stored.index, after, bound))
        if not hits:
            break
        gone += engine.run(_delete(stored.index, hits))
        after = hits[-1]["sort"][0]
    return gone


def _tombstones(index: str, after: int, below: int) -> Flow[list[dict[str, Any]]]:
    version = f"{PROVENANCE}.version"
    filters = [{"term": {f"{PROVENANCE}.deleted": True}}, {"range": {version: {"gt": after, "lt": below}}}]
    body = {
        "query": {"bool": {"filter": filters}},
        "sort": [{version: "asc"}],
        "size": _PAGE,
        "seq_no_primary_term": True,
        "_source": False,
    }
    response = yield Request("POST", path_of(index, "_search"), {}, body)
    hits: list[dict[str, Any]] = response.body["hits"]["hits"]
    return hits


def _delete(index: str, hits: list[dict[str, Any]]) -> Flow[int]:
    """Delete for good those that are still what was found; how many."""
    lines = []
    for hit in hits:
        named = {"_id": hit["_id"], "if_seq_no": hit["_seq_no"], "if_primary_term": hit["_primary_term"]}
        lines.append({"delete": named | ({"routing": hit["_routing"]} if "_routing" in hit else {})})
    response = yield Request("POST", path_of(index, "_bulk"), {}, tuple(lines))
    return sum(item["delete"]["status"] == 200 for item in response.body["items"])


def verify_all(
    engine: Engine, events: EventLog, *, owner: str, sample: int = SAMPLE, stopping: Callable[[], bool] = lambda: False
) -> list[Verified] | None:
    """`verify` for each index in the log; None where another worker is at it. Raises LogUnavailable, EngineError."""
    if not events.hold("verify", owner, _HELD):
        return None
    return [verify(engine, stored, sample) for stored in _indexes(engine, events, stopping)]


def verify(engine: Engine, stored: Stored, sample: int = SAMPLE) -> Verified:
    """Look at random documents of an index, and at the fingerprints of all of them. Raises EngineError."""
    index = stored.spec.index
    documents, counted = engine.run(_fingerprints(stored))
    hits = engine.run(_sample(stored.index, sample))
    missing: dict[str, None] = {}
    stale: dict[str, None] = {}
    for hit in hits:
        for name in stored.spec.embeddings:
            verdict = _look(stored, name, hit["_source"])
            if verdict:
                (missing if verdict == "missing" else stale)[hit["_id"]] = None
    ours = {name: one.fingerprint for name, one in stored.resolved.items()}
    mixed = {name: found for name, found in counted.items() if found.keys() - {ours[name]}}
    report = Verified(index, documents, len(hits), tuple(missing), tuple(stale), mixed)
    _tell(report)
    return report


def _look(stored: Stored, name: str, source: Mapping[str, Any]) -> str:
    """What is wrong with one vector of one document."""
    try:
        text = text_of(stored.spec.embeddings[name].source, source)
    except InputError:
        return ""
    made = source.get(PROVENANCE, {}).get("vectors", {}).get(name)
    if made is None:
        return "missing" if text else ""
    return "" if text and made.get("input_hash") == input_hash(text) else "stale"


def _fingerprints(stored: Stored) -> Flow[tuple[int, dict[str, dict[str, int]]]]:
    """How many documents there are, and for each embedding how many of each fingerprint."""
    aggregations = {
        name: {"terms": {"field": f"{PROVENANCE}.vectors.{name}.fingerprint", "size": _NAMED}}
        for name in stored.spec.embeddings
    }
    body = {"size": 0, "query": ALIVE, "track_total_hits": True} | ({"aggs": aggregations} if aggregations else {})
    response = yield Request("POST", path_of(stored.index, "_search"), {}, body)
    counted = {
        name: {bucket["key"]: bucket["doc_count"] for bucket in one["buckets"]}
        for name, one in response.body.get("aggregations", {}).items()
    }
    return response.body["hits"]["total"]["value"], counted


def _sample(index: str, size: int) -> Flow[list[dict[str, Any]]]:
    query = {"function_score": {"query": ALIVE, "random_score": {}}}
    response = yield Request("POST", path_of(index, "_search"), {}, {"query": query, "size": size})
    hits: list[dict[str, Any]] = response.body["hits"]["hits"]
    return hits


def _tell(report: Verified) -> None:
    more = {"action": "verified", "index": report.index, "missing": len(report.missing), "stale": len(report.stale)}
    if report.sound:
        log.info("%s: %d of %d documents are sound", report.index, report.looked_at, report.documents, extra=more)
        return
    log.warning(
        "%s: of %d documents, %d lack a vector, %d have one of another text (%s); foreign fingerprints: %s",
        report.index,
        report.looked_at,
        len(report.missing),
        len(report.stale),
        ", ".join((*report.missing, *report.stale)[:_NAMED]) or "none",
        report.mixed or "none",
        extra=more,
    )
