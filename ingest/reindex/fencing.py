"""What keeps a coordinator that was stopped for a while, and followed by another, from changing anything when it wakes.

Each changes an index only by an alias that bears the epoch under which it holds the lock; the next one takes that alias
away, and what the former still sends is answered with 404. The same request that moves an alias or deletes an index
requires it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...engines import Flow, Request, path_of
from ...errors import ReindexStopped

Action = Mapping[str, Mapping[str, Any]]


def by(index: str, epoch: int) -> str:
    """The alias by which the holder of an epoch changes an index."""
    return f"{index}-by-{epoch}"


def copies_by(index: str, epoch: int) -> str:
    """The alias by which workers copy into an index for that holder, and as long as it lets them."""
    return f"{by(index, epoch)}-copies"


def is_fence(name: str, index: str) -> bool:
    """Whether an alias of an index is a coordinator's, or for its workers."""
    return _epoch(name, index) is not None


def _epoch(name: str, index: str) -> int | None:
    found = re.fullmatch(re.escape(index) + r"-by-(\d+)(-copies)?", name)
    return int(found[1]) if found else None


def fence(index: str, epoch: int) -> Flow[None]:
    """Keep the coordinators of earlier epochs from an index; nothing where it is gone.

    The caller looks then whether the lock is still its own: a later one, which could not see this alias, goes on only
    after that.
    """
    if (former := (yield from _former(index, epoch))) is not None:
        yield from change_aliases([*former, {"add": {"index": index, "alias": by(index, epoch)}}])


def leave(index: str, epoch: int) -> Flow[None]:
    """Take the own alias away, and what earlier ones left."""
    if former := (yield from _former(index, epoch + 1)):
        yield from change_aliases(former)


def let_copy(index: str, epoch: int) -> Flow[str]:
    """Let workers copy into an index; the alias by which they do."""
    alias = copies_by(index, epoch)
    yield from change_aliases([*still(index, epoch), {"add": {"index": index, "alias": alias}}])
    return alias


def bar_copies(index: str, epoch: int) -> Flow[None]:
    """Let them no more."""
    alias = copies_by(index, epoch)
    if alias in (yield Request("GET", path_of(index, "_alias"))).body[index]["aliases"]:
        yield from change_aliases([*still(index, epoch), {"remove": {"index": index, "alias": alias}}])


def still(index: str, epoch: int) -> list[Action]:
    """What makes a request to `_aliases` fail as a whole where another coordinator has taken over."""
    own = {"index": index, "alias": by(index, epoch)}
    return [{"remove": {**own, "must_exist": True}}, {"add": own}]


def _former(index: str, epoch: int) -> Flow[list[Action] | None]:
    response = yield Request("GET", path_of(index, "_alias"), allow=frozenset({404}))
    if response.status == 404:
        return None
    epochs = {name: _epoch(name, index) for name in response.body[index]["aliases"]}
    return [{"remove": {"index": index, "alias": name}} for name, at in epochs.items() if at is not None and at < epoch]


def change_aliases(actions: Sequence[Action]) -> Flow[None]:
    """All of them or none."""
    response = yield Request("POST", "/_aliases", body={"actions": list(actions)})
    # Elasticsearch may answer 200 where an action failed.
    if response.body.get("errors"):
        raise ReindexStopped(f"the alias was not moved: {response.body}")
