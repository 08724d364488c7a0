"""The requests around a version index: make it, announce it, block the one before, swap the alias.

What changes an index is given the alias by which one coordinator does so, see fencing.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...engines import Dialect, Flow, Request, path_of
from ...errors import AccessDenied, EngineBusy, IndexMissing, ReindexStopped, RequestRejected, SpecMismatch
from ...mappings import META, SEARCHED, Stored, differing, find, index_body, version_number, write_alias
from ...mappings import next_version as after
from .fencing import Action, by, change_aliases, is_fence, still

#: While it is being filled, an index need neither be searchable nor have copies.
FILLING = {"index.refresh_interval": "-1", "index.number_of_replicas": 0}
_MISSING = frozenset({404})
# So often it is asked whether writes are still under way, which takes some milliseconds each time.
_LOOKS = 100


def next_version(alias: str) -> Flow[str]:
    """The name of a version index that there is not yet."""
    return after(alias, (yield from made(alias)))


def made(alias: str) -> Flow[dict[str, int]]:
    """When the version indexes of an alias were made, in ms since 1970."""
    params = {"expand_wildcards": "all", "filter_path": "*.settings.index.creation_date"}
    response = yield Request("GET", f"{path_of(alias)}-*/_settings", params)
    found = {name: int(one["settings"]["index"]["creation_date"]) for name, one in response.body.items()}
    return {name: at for name, at in found.items() if version_number(alias, name)}


def make(target: Stored, dialect: Any) -> Flow[None]:
    """Make a version index, with an alias of its own by which it is written to; one that is there must be the same."""
    body = index_body(target.spec, dialect, target.resolved) | {"aliases": {write_alias(target.index): {}}}
    try:
        yield Request("PUT", path_of(target.index), body=body)
    except RequestRejected as error:
        if "resource_already_exists_exception" not in str(error):
            raise
        there = yield from find(target.index)
        if there is None or differing(target, there):
            raise SpecMismatch(
                f"{target.index} is there and was made for another spec", hint="delete it, or abort the re-index"
            ) from None
        yield from write_to(target.index)


def settings(index: str, names: Sequence[str]) -> Flow[dict[str, Any]]:
    """What these settings of an index are, None where they are the engine's defaults."""
    response = yield Request("GET", path_of(index, "_settings"), {"flat_settings": "true"})
    held = response.body[index]["settings"]
    return {name: held.get(name) for name in names}


def change_settings(fence: str, values: Mapping[str, Any]) -> Flow[None]:
    """Change settings of an index; None puts one back to its default."""
    yield Request("PUT", path_of(fence, "_settings"), body=dict(values))


def announce(fence: str, also: Sequence[str]) -> Flow[None]:
    """Say in an index' mapping which ones are written to with it. Raises EngineBusy where not all nodes know it yet."""
    response = yield Request("GET", path_of(fence, "_mapping"))
    ((index, held),) = response.body.items()
    meta = dict(held["mappings"].get("_meta", {}))
    ours = {key: value for key, value in meta[META].items() if key != "also"}
    meta[META] = ours | ({"also": list(also)} if also else {})
    response = yield Request("PUT", path_of(fence, "_mapping"), body={"_meta": meta})
    if not response.body.get("acknowledged"):
        raise EngineBusy(f"not every node knows yet what is written beside {index}")


def block(fence: str) -> Flow[None]:
    """Refuse writes from now on; what was begun is done when this returns. Raises EngineBusy where it is not."""
    response = yield Request("PUT", path_of(fence, "_block", "write"))
    if not response.body.get("indices"):  # refused before
        return
    if not response.body.get("acknowledged") or not response.body.get("shards_acknowledged", True):
        raise EngineBusy(f"writes to {response.body['indices'][0]['name']} could not be stopped")


def cut_off(fence: str, index: str, dialect: Dialect) -> Flow[None]:
    """`block`, sooner on Elasticsearch, which there tells all nodes twice that writes are refused: once is enough where
    the list of tasks says when the writes that were begun are done."""
    if dialect.product != "elasticsearch" or (yield from _writing(index)) is None:
        yield from block(fence)
        return
    response = yield Request("PUT", path_of(fence, "_settings"), body={"index.blocks.write": True})
    if not response.body.get("acknowledged"):
        raise EngineBusy(f"not every node refuses writes to {index} yet")
    for _ in range(_LOOKS):
        if (yield from _writing(index)) is False:
            return
    yield from unblock(fence)
    yield from block(fence)


def _writing(index: str) -> Flow[bool | None]:
    """Whether a shard of an index is being written to on any node; None where that is not told to us."""
    params = {"actions": "indices:data/write/bulk[s]*", "detailed": "true"}
    try:
        response = yield Request("GET", "/_tasks", params)
    except AccessDenied:
        return None
    if response.body.get("node_failures") or response.body.get("task_failures"):
        return None
    tasks = [task for node in response.body["nodes"].values() for task in node["tasks"].values()]
    return any(f"index[{index}][" in task["description"] for task in tasks)


def unblock(fence: str) -> Flow[None]:
    """Take writes again."""
    yield from change_settings(fence, {"index.blocks.write": None})


def swap(alias: str, source: str, target: str, epoch: int) -> Flow[None]:
    """Move the alias, and every other one that people gave the source, in one step; the target is let go in it.

    Raises ReindexStopped, and nothing has changed, where somebody else moved the alias, or the re-index is another's.
    """
    response = yield Request("GET", path_of(source, "_alias"))
    others = response.body[source]["aliases"]
    actions = [*still(source, epoch)]
    actions.append({"remove": {"index": target, "alias": by(target, epoch), "must_exist": True}})
    for name, options in others.items():
        if name not in (alias, write_alias(source)) and not is_fence(name, source):
            actions += _moved(name, source, target, options)
    actions += _moved(alias, source, target, SEARCHED)
    yield from points_at(alias, source)
    try:
        yield from change_aliases(actions)
    except IndexMissing as error:
        raise _elsewhere(alias, source, str(error)) from error
    except RequestRejected as error:
        if "alias" not in str(error):
            raise
        raise _elsewhere(alias, source, str(error)) from error
    try:
        yield from points_at(alias, target)
    except ReindexStopped:
        # Somebody pointed the alias at an index of theirs too, in between: as it was, but for that.
        yield from change_aliases([*still(source, epoch), *_moved(alias, target, source, SEARCHED)])
        raise


def points_at(alias: str, index: str) -> Flow[None]:
    """Raises ReindexStopped unless the alias points at this index, and at no other."""
    response = yield Request("GET", path_of("_alias", alias), allow=_MISSING)
    names = sorted(response.body) if response.status == 200 else []
    if names != [index]:
        raise _elsewhere(alias, index, f"it points at {', '.join(names) or 'nothing'}")


def _elsewhere(alias: str, source: str, reason: str) -> ReindexStopped:
    return ReindexStopped(
        f"somebody else moved the alias {alias!r}, which pointed at {source}: {reason}",
        hint="nothing was changed; put the alias back, or give up with `knnex abort`",
    )


def _moved(alias: str, source: str, target: str, options: Mapping[str, Any]) -> list[Action]:
    return [
        # Without must_exist the alias would point at both where it was moved meanwhile.
        {"remove": {"index": source, "alias": alias, "must_exist": True}},
        {"add": {"index": target, "alias": alias, **options}},
    ]


def write_to(index: str) -> Flow[None]:
    """Give a version index the alias by which it is written to."""
    yield from change_aliases([{"add": {"index": index, "alias": write_alias(index)}}])


def delete(index: str, still_ours: Sequence[Action]) -> Flow[None]:
    """Delete a version index, if the one beside it is still ours: another coordinator may have put it in its place."""
    yield from change_aliases([*still_ours, {"remove_index": {"index": index}}])
