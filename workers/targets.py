"""The indexes a worker writes to, each as the cluster describes it at the time."""

from __future__ import annotations

import logging

from ..encoders import VectorCache
from ..engines import Engine
from ..ingest import Target, make_target
from ..mappings import load

log = logging.getLogger(__name__)


class Targets:
    """Opens an index once, and again when its mapping has changed; models are loaded once per process."""

    def __init__(self, engine: Engine, cache: VectorCache | None = None) -> None:
        self.engine = engine
        self._cache = cache
        self._open: dict[str, Target] = {}

    def get(self, alias: str) -> Target:
        """The index behind an alias, asked of the cluster every time.

        Raises IndexMissing, SpecMismatch, ModelUnavailable, and ModelMismatch where another model filled the index.
        """
        stored = self.engine.run(load(alias))
        target = self._open.get(alias)
        if target is None or target.stored != stored:
            target = self._open[alias] = make_target(alias, stored, self._cache)
            log.info(
                "Writing to %s, whose vectors are %s",
                stored.index,
                ", ".join(f"{name} by {one.encoder}" for name, one in stored.spec.embeddings.items()) or "none",
                extra={"action": "target_opened", "index": alias},
            )
        return target

    def facts(self) -> dict[str, str]:
        """What these targets encode with, for those who look at the worker from outside."""
        encoders = [encoder for target in self._open.values() for encoder in target.encoders.values()]
        devices = {str(getattr(getattr(encoder, "model", None), "device", "")) for encoder in encoders} - {""}
        return {"device": ", ".join(sorted(devices)), "model": ", ".join(sorted({one.name for one in encoders}))}
