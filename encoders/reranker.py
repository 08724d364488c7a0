"""Cross-encoders: models that read a query and a text together and say how well the text answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EncoderError, ModelUnavailable
from ..settings import settings
from .batching import out_of_memory
from .loading import best_device, load_quietly
from .model import clean
from .model_files import find_model

# Pairs of one forward pass: enough to keep the device busy, few enough for a deadline to be seen in time.
_BATCH = {"cpu": 16}
_BATCH_ACCELERATOR = 128
_OWNER = "cross-encoder"

_loaded: dict[tuple[Path, str | None], Reranker] = {}
_lock = threading.Lock()


class Reranker:
    """A cross-encoder in memory. It may be asked from several threads."""

    def __init__(self, directory: Path, name: str, device: str | None = None) -> None:
        self.name = name
        _check_kind(directory, name)
        self.device = best_device(device or settings().device)
        self.model = load_quietly(directory, name, self.device, "CrossEncoder")
        self._lock = threading.Lock()
        labels = int(self.model.num_labels)
        if labels != 1:
            raise ModelUnavailable(
                f"model {name!r} gives {labels} numbers for a text and not one score",
                hint="give a cross-encoder for ranking, such as cross-encoder/ms-marco-MiniLM-L6-v2",
            )

    def __repr__(self) -> str:
        return f"Reranker({self.name!r}, device={self.device})"

    @property
    def batch(self) -> int:
        """How many texts are scored at once on this device."""
        return _BATCH.get(self.device.type, _BATCH_ACCELERATOR)

    def score(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """A score for each text, `(n,)`, the higher the better, on the model's own scale.

        A pair is cut at the model's limit. Raises EncoderError.
        """
        if not texts:
            return np.empty(0)
        pairs = [(clean(query), clean(text)) for text in texts]
        try:
            with self._lock:
                scores = self.model.predict(pairs, batch_size=self.batch, show_progress_bar=False)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise EncoderError(
                f"{self.name}: out of memory with {len(texts)} texts: {error}",
                hint="rerank fewer fields, or take a smaller model or another device (KNNEX_DEVICE)",
            ) from error
        return np.asarray(scores, dtype=np.float64)


def load_reranker(name: str) -> Reranker:
    """The cross-encoder of that name or folder, loaded once in this process. Raises ModelUnavailable, SettingsError.

    Found as encoders are: a directory, an entry of KNNEX_MODELS, or the model hub, where a name without an owner is one
    of `cross-encoder/`. No code that comes with a model is run.
    """
    known = "/" in name or Path(name).expanduser().is_dir() or name in settings().models
    directory = find_model(name if known else f"{_OWNER}/{name}")
    key = (directory, settings().device)
    with _lock:
        if key not in _loaded:
            _loaded[key] = Reranker(directory, name)
        return _loaded[key]


def _check_kind(directory: Path, name: str) -> None:
    """Of any other model the library makes a cross-encoder too, whose scores are random numbers."""
    saved_as = _read(directory / "config_sentence_transformers.json").get("model_type")
    classes = list(map(str, _read(directory / "config.json").get("architectures") or ["no classifier"]))
    if saved_as == "CrossEncoder" or (saved_as is None and classes[0].endswith("ForSequenceClassification")):
        return
    what = saved_as or ", ".join(classes)
    raise ModelUnavailable(
        f"model {name!r} is no cross-encoder: it is saved as {what}",
        hint="give one that scores pairs, such as cross-encoder/ms-marco-MiniLM-L6-v2; semantic() takes the others",
    )


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}
