"""The indexes a worker writes to, each as the cluster describes it at the time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..encoders import Cache
from ..engines import Engine
from ..errors import KnnexError
from ..ingest import EventLog, Target, make_target
from ..ingest.beside import joined
from ..mappings import Stored, load, write_alias
from .preflight import check_beside, check_target, find_target

log = logging.getLogger(__name__)

Check = Callable[[Engine, EventLog, Stored], None]

# Seconds until a model that could not be loaded is tried again: that takes as long as loading one.
TRY_AGAIN = 10.0


class Targets:
    """Opens an index once, and again when its mapping has changed; models are loaded once per process."""

    def __init__(self, engine: Engine, cache: Cache | None = None, log: EventLog | None = None) -> None:
        self.engine = engine
        self._log = log
        self._cache = cache
        # By the aliases they are written to by; and as they were given, with what is beside them.
        self._open: dict[str, Target] = {}
        self._given: dict[str, Target] = {}
        self._failed: dict[str, tuple[Stored, KnnexError, float]] = {}

    def get(self, alias: str) -> Target:
        """The index behind an alias with what is announced beside it, asked of the cluster every time.

        Raises what `source` does; what is beside the index and cannot be opened is named in the target's `shut`.
        """
        target = joined(self.source(alias), self._beside)
        # As it was given before, where nothing changed: others know it by that.
        if target != self._given.get(alias):
            self._given[alias] = target
        return self._given[alias]

    def known(self, alias: str) -> Target | None:
        """The target as it was last given; nobody is asked."""
        return self._given.get(alias)

    def source(self, alias: str) -> Target:
        """The index behind an alias alone, asked of the cluster every time.

        Raises IndexMissing, SpecMismatch, ModelUnavailable, and ModelMismatch where another model filled the index.
        """
        return self._opened(alias, self.engine.run(find_target(alias)), check_target)

    def _beside(self, index: str) -> Target:
        return self._opened(write_alias(index), self.engine.run(load(index)), check_beside)

    def _opened(self, alias: str, stored: Stored, check: Check) -> Target:
        target = self._open.get(alias)
        if target is None or target.stored != stored:
            target = self._open[alias] = self._make(alias, stored, check)
            log.info(
                "Writing to %s, whose vectors are %s",
                stored.index,
                ", ".join(f"{name} by {one.encoder}" for name, one in stored.spec.embeddings.items()) or "none",
                extra={"action": "target_opened", "index": alias},
            )
        return target

    def _make(self, alias: str, stored: Stored, check: Check) -> Target:
        failed = self._failed.get(alias)
        if failed and failed[0] == stored and time.monotonic() < failed[2] + TRY_AGAIN:
            raise failed[1].with_traceback(None)
        try:
            if self._log:
                check(self.engine, self._log, stored)
            return make_target(alias, stored, self._cache)
        except KnnexError as error:
            self._failed[alias] = (stored, error, time.monotonic())
            raise

    def facts(self) -> dict[str, str]:
        """What these targets encode with, for those who look at the worker from outside."""
        targets = [one for target in list(self._given.values()) for one in (target, *target.beside)]
        encoders = [encoder for target in targets for encoder in target.encoders.values()]
        devices = {str(getattr(getattr(encoder, "model", None), "device", "")) for encoder in encoders} - {""}
        return {"device": ", ".join(sorted(devices)), "model": ", ".join(sorted({one.name for one in encoders}))}
