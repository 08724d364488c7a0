"""Before an index is written to: what would lose documents or spoil them later is refused now, with the way out.

Whoever opens an index asks `find_target` what lies behind its alias and `check_target` whether it is safe;
`make_target` then refuses a model that is not the one that filled the index, or whose directory could run code. The
log is asked by its own `check`, before anything else. Each refusal concerns one index and leaves the others alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..engines import Engine, Flow, Request, path_of
from ..errors import IndexMissing, SpecMismatch
from ..ingest import EventLog
from ..ingest.positions import version_of
from ..mappings import PROVENANCE, SEARCHED, Stored, check_name, load, version_number

# Milliseconds by which the clocks of those who gave versions may differ from the log's.
_SKEW = 5_000
_ABSENT = frozenset({404})
_DURABILITY = "translog.durability"


def find_target(alias: str) -> Flow[Stored]:
    """What lies behind an alias, as `mappings.load` has it, with the exact request to mend an alias that is not right.

    Raises IndexMissing where the alias is gone, SpecMismatch where it is a concrete index or has several.
    """
    try:
        return (yield from load(alias))
    except IndexMissing as error:
        yield from _explain_gone(alias, error)
        raise
    except SpecMismatch:
        yield from check_alias(alias)
        raise


def check_target(engine: Engine, log: EventLog, stored: Stored) -> None:
    """Refuse an index that could lose or spoil what is written to it. Raises SpecMismatch, IndexMissing."""
    for check in CHECKS.values():
        check(engine, log, stored)


def check_beside(engine: Engine, log: EventLog, stored: Stored) -> None:
    """The same of a version index that no alias of the spec points at yet. Raises SpecMismatch."""
    _durability(engine, log, stored)


def check_alias(alias: str) -> Flow[None]:
    """The name must be an alias, of one index, that takes writes: a bulk goes to it under `require_alias`."""
    response = yield Request("GET", f"/_alias/{check_name(alias)}", allow=_ABSENT)
    holders: Mapping[str, Any] = response.body if response.status != 404 else {}
    holders = {index: one["aliases"][alias] for index, one in holders.items() if alias in one.get("aliases", {})}
    if not holders:
        yield from _explain_concrete(alias)
    if len(holders) > 1:
        kept = next((index for index in sorted(holders) if holders[index].get("is_write_index")), sorted(holders)[-1])
        away = [{"remove": {"index": index, "alias": alias}} for index in sorted(holders) if index != kept]
        raise SpecMismatch(
            f"alias {alias!r} points at {', '.join(sorted(holders))}: searches find documents twice",
            hint=f"let it point at one; to keep {kept}: {_request(away)}",
        )
    for index, options in holders.items():
        if options.get("is_write_index") is False:
            raise SpecMismatch(
                f"alias {alias!r} takes no writes: {index} is not its write index",
                hint=_request([_add(index, alias)]),
            )


def _explain_concrete(alias: str) -> Flow[None]:
    """Where the name is that of a concrete index: a write under `require_alias` would be refused for ever."""
    response = yield Request("GET", path_of(alias, "_settings"), allow=_ABSENT)
    if response.status == 404:
        yield from _explain_gone(alias, None)
        return
    versions = yield from _versions(alias)
    if versions:
        newest = versions[-1]
        hint = (
            f"somebody wrote to {alias!r} while the alias was gone; save those documents if you need them, then "
            + _request([{"remove_index": {"index": alias}}, _add(newest, alias)])
        )
    else:
        hint = "choose another name for `index` in the spec, and fill that"
    raise SpecMismatch(f"{alias!r} is an index and no alias of one, so that it cannot be replaced later", hint=hint)


def _explain_gone(alias: str, error: IndexMissing | None) -> Flow[None]:
    versions = yield from _versions(alias)
    if versions:
        raise IndexMissing(
            f"the alias {alias!r} is gone, though {versions[-1]} is there",
            hint=f"put it back: {_request([_add(versions[-1], alias)])}",
        ) from error


def _versions(alias: str) -> Flow[list[str]]:
    """The index versions of an alias that lie in the cluster, the newest last."""
    pattern = f"{path_of(alias)}-*"
    response = yield Request("GET", f"{pattern}/_settings", {"filter_path": "*.settings.index.uuid"})
    return sorted(index for index in response.body if version_number(alias, index))


def _add(index: str, alias: str) -> dict[str, Any]:
    return {"add": {"index": index, "alias": alias, **SEARCHED}}


def _request(actions: list[dict[str, Any]]) -> str:
    return f"POST /_aliases {json.dumps({'actions': actions})}"


def _alias(engine: Engine, _: EventLog, stored: Stored) -> None:
    if not stored.attached:
        engine.run(check_alias(stored.spec.index))


def _durability(engine: Engine, _: EventLog, stored: Stored) -> None:
    """With an asynchronous translog the engine acknowledges what the next power cut takes back."""
    found = engine.run(_setting(stored.index, _DURABILITY))
    if str(found).lower() == "async":
        raise SpecMismatch(
            f"{stored.index} has index.{_DURABILITY}: async, and loses acknowledged writes when a node dies",
            hint=f'PUT /{stored.index}/_settings {{"index.{_DURABILITY}": "request"}}, and correct the spec or the '
            "template that set it",
        )


def _setting(index: str, name: str) -> Flow[object]:
    """A setting of an index, or what it is by default here."""
    params = {"include_defaults": "true", "flat_settings": "true"}
    response = yield Request("GET", path_of(index, "_settings"), params)
    held = response.body.get(index, {})
    return {**held.get("defaults", {}), **held.get("settings", {})}.get(f"index.{name}")


def _not_behind(engine: Engine, log: EventLog, stored: Stored) -> None:
    """A log that was wiped, with a clock set back, gives versions that the index takes for old: writes get lost."""
    if stored.spec.version is not None:
        return
    highest = engine.run(_highest_version(stored.index))
    waiting = log.backlog(stored.spec.index).low_water
    # An event of this log that is beyond all versions shows that the log goes on where it was.
    if not highest or (waiting and version_of(waiting) > highest):
        return
    now = log.now()
    if highest > now + _SKEW << 20:
        raise SpecMismatch(
            f"{stored.index} holds versions up to {_when(highest >> 20)}, but its log at {log.address} is at "
            f"{_when(now)}: what is sent now would be taken for older and dropped",
            hint="set the clock of the log's machine right; or, where the log was wiped, wait until that time and send "
            "again what was sent meanwhile, or fill a new index",
        )


def _highest_version(index: str) -> Flow[int]:
    """The highest version among the documents of an index, tombstones too, to 2^-53 of it."""
    highest = {"highest": {"max": {"field": f"{PROVENANCE}.version"}}}
    response = yield Request("POST", path_of(index, "_search"), body={"size": 0, "aggs": highest})
    return int(response.body["aggregations"]["highest"]["value"] or 0)


def _when(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(milliseconds / 1000))


#: What is checked when an index is opened for writing, in this order, by the names that `knnex doctor` shows.
CHECKS: dict[str, Callable[[Engine, EventLog, Stored], None]] = {
    "alias": _alias,
    "durability": _durability,
    "versions": _not_behind,
}
