"""The indexes a worker writes to, each as the cluster describes it at the time."""

from __future__ import annotations

import logging
import time

from ..encoders import Cache
from ..engines import Engine
from ..errors import KnnexError
from ..ingest import EventLog, Target, make_target
from ..mappings import Stored
from .preflight import check_target, find_target

log = logging.getLogger(__name__)

# Seconds until a model that could not be loaded is tried again: that takes as long as loading one.
TRY_AGAIN = 10.0


class Targets:
    """Opens an index once, and again when its mapping has changed; models are loaded once per process."""

    def __init__(self, engine: Engine, cache: Cache | None = None, log: EventLog | None = None) -> None:
        self.engine = engine
        self._log = log
        self._cache = cache
        self._open: dict[str, Target] = {}
        self._failed: dict[str, tuple[Stored, KnnexError, float]] = {}

    def get(self, alias: str) -> Target:
        """The index behind an alias, asked of the cluster every time.

        Raises IndexMissing, SpecMismatch, ModelUnavailable, and ModelMismatch where another model filled the index.
        """
        stored = self.engine.run(find_target(alias))
        target = self._open.get(alias)
        if target is None or target.stored != stored:
            target = self._open[alias] = self._make(alias, stored)
            log.info(
                "Writing to %s, whose vectors are %s",
                stored.index,
                ", ".join(f"{name} by {one.encoder}" for name, one in stored.spec.embeddings.items()) or "none",
                extra={"action": "target_opened", "index": alias},
            )
        return target

    def _make(self, alias: str, stored: Stored) -> Target:
        failed = self._failed.get(alias)
        if failed and failed[0] == stored and time.monotonic() < failed[2] + TRY_AGAIN:
            raise failed[1].with_traceback(None)
        try:
            if self._log:
                check_target(self.engine, self._log, stored)
            return make_target(alias, stored, self._cache)
        except KnnexError as error:
            self._failed[alias] = (stored, error, time.monotonic())
            raise

    def facts(self) -> dict[str, str]:
        """What these targets encode with, for those who look at the worker from outside."""
        encoders = [encoder for target in list(self._open.values()) for encoder in target.encoders.values()]
        devices = {str(getattr(getattr(encoder, "model", None), "device", "")) for encoder in encoders} - {""}
        return {"device": ", ".join(sorted(devices)), "model": ", ".join(sorted({one.name for one in encoders}))}
