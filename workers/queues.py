"""The queues: which there are, what goes into which, and which of them a worker listens to."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Literal

from ..settings import Settings

Kind = Literal["gpu", "cpu"]

#: A doorbell: any worker drains the log.
QUEUE = "knnex"
#: Documents that come as Celery messages: they do not wait behind doorbells.
INGEST_QUEUE = "knnex.ingest"
TASK, INGEST, SWEEP, TIDY, VERIFY = "knnex.drain", "knnex.ingest", "knnex.sweep", "knnex.tidy", "knnex.verify"

#: For `task_routes` of any Celery application that sends our tasks by name.
ROUTES: dict[str, dict[str, str]] = {
    TASK: {"queue": QUEUE},
    INGEST: {"queue": INGEST_QUEUE},
    SWEEP: {"queue": QUEUE},
    TIDY: {"queue": QUEUE},
    VERIFY: {"queue": QUEUE},
}


def queue_of(kind: Kind) -> str:
    """The queue of doorbells for workers with such a device: `knnex.gpu` or `knnex.cpu`."""
    return f"{QUEUE}.{kind}"


#: A worker that listens to one of these drains the log, and has to look into it by itself, too.
DRAINING = frozenset({QUEUE, queue_of("gpu"), queue_of("cpu")})


def kind_of(settings: Settings) -> Kind:
    """Whether models run on a GPU here. Asking torch would initialise CUDA, which no forked child survives."""
    if settings.device:
        return "cpu" if settings.device.startswith("cpu") else "gpu"
    if sys.platform == "darwin":
        return "gpu" if platform.machine() == "arm64" else "cpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return "gpu" if shutil.which("nvidia-smi") and not hidden else "cpu"


def queues_of(settings: Settings) -> tuple[str, ...]:
    """What a worker listens to unless it is told otherwise."""
    return QUEUE, queue_of(kind_of(settings)), INGEST_QUEUE
