"""Version indexes that are being built beside the one behind the alias: whoever writes there writes to them too.

The index behind the alias, the source, is written first. What it took, or holds already, goes to each of the others
whole and under the same version, so that doing it again harms nobody. No failure there is a failure of the source.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from ..engines import Engine
from ..errors import EngineError, KnnexError, LogUnavailable
from ..mappings import load, write_alias
from ..telemetry import span
from .bulk import write
from .patience import Patience, patiently
from .prepare import Prepared, Target
from .target import make_target

log = logging.getLogger(__name__)

# The source's next documents wait meanwhile, and these come again.
_ATTEMPTS = 3


def joined(target: Target, open_one: Callable[[str], Target]) -> Target:
    """A target with all that is announced beside it now; of what `open_one` cannot open the reason is kept."""
    beside: list[Target] = []
    shut: dict[str, str] = {}
    for index in target.stored.also:
        try:
            beside.append(open_one(index))
        except LogUnavailable:
            raise
        except KnnexError as error:
            shut[index] = f"{index} cannot be opened: {error}"
        except Exception as error:  # a newer knnex may have made it
            log.debug("Opening %s failed", index, exc_info=True)
            shut[index] = f"{index} cannot be opened: {type(error).__name__}: {error}"
    return replace(target, beside=tuple(beside), shut=shut)


def renewed(
    engine: Engine,
    target: Target,
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Target:
    """A target as the cluster has it now: another index may be behind the alias, and others beside it.

    Raises IndexMissing, SpecMismatch, ModelUnavailable, ModelMismatch.
    """
    held = target.stored
    stored = patiently(engine, lambda: load(target.alias), patience, sleep)
    if (stored.index, stored.spec, stored.resolved) != (held.index, held.spec, held.resolved):
        target = make_target(target.alias, stored, target.cache)
    return joined(
        replace(target, stored=stored),
        lambda index: make_target(write_alias(index), engine.run(load(index)), target.cache),
    )


def write_beside(
    engine: Engine,
    target: Target,
    prepared: Prepared,
    ids: Collection[str],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[dict[str, str], dict[str, str]]:
    """Write those documents of a batch that the source has, by `ids`, to all that is beside it.

    The reasons by id why one of these refuses a document for good, and why one has to take it later; in one of both.
    """
    refused: dict[str, str] = {}
    behind = {id_: reason for reason in target.shut.values() for id_ in ids}
    for other, batch in zip(target.beside, prepared.beside, strict=True) if ids else ():
        against, later = _write(engine, other, batch, ids, brief(patience or Patience()), sleep)
        refused, behind = against | refused, later | behind
    return {id_: reason for id_, reason in refused.items() if id_ not in behind}, behind


def brief(patience: Patience) -> Patience:
    """How long an index beside is asked again."""
    return replace(patience, attempts=min(_ATTEMPTS, patience.attempts))


def _write(
    engine: Engine,
    other: Target,
    batch: Prepared,
    ids: Collection[str],
    patience: Patience,
    sleep: Callable[[float], object],
) -> tuple[dict[str, str], dict[str, str]]:
    name = other.stored.index
    if batch.unready:
        return {}, dict.fromkeys(ids, f"{name} has to wait: {batch.unready}")
    items = [item for item in batch.items if item.id in ids]
    try:
        with span("knnex.bulk", kind="client", index=other.alias, documents=len(items)):
            outcomes = write(engine, other.alias, items, patience=patience, sleep=sleep)
    except EngineError as error:
        return {}, dict.fromkeys(ids, f"{name} has to wait: {error}")
    refused = {one.event.id: one.reason for one in batch.refused if one.event.id in ids}
    refused |= {one.id: one.reason for one in outcomes if one.status == "buried"}
    behind = {one.id: f"{name} has to wait: {one.reason}" for one in outcomes if one.status == "failed"}
    return {id_: f"{name} refuses it: {reason}" for id_, reason in refused.items()}, behind
