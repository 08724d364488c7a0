"""From a directory to a model in memory, on a device that exists, without a word on the user's terminal."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelUnavailable, SettingsError
from .model_files import lacking

if TYPE_CHECKING:
    import torch

log = logging.getLogger("knnex.encoders")


def best_device(wanted: str | None) -> torch.device:
    """The device asked for, or the best there is. Raises SettingsError for one that this machine does not have."""
    import torch

    if wanted is None:
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SettingsError(
            f"device {wanted!r} cannot be used: {reason}",
            hint="set KNNEX_DEVICE to cpu, cuda, cuda:1, mps ..., or unset it for the best there is",
        ) from error
    return device


def import_libraries() -> None:
    """Import what loading a model takes, and no model: processes forked afterwards need not, which spares each of them
    seconds and some hundred MB. What fails now fails again, and is told, when a model is loaded."""
    with suppress(Exception), _quiet():
        import sentence_transformers  # noqa: F401


def load_quietly(directory: Path, name: str, device: torch.device, kind: str = "SentenceTransformer") -> Any:
    """The model of a directory, of that class of the library, in float32 and ready. Raises ModelUnavailable."""
    try:
        with _quiet():
            import sentence_transformers
    except ImportError as error:
        raise lacking(name, error) from error
    try:
        with _quiet():
            model = getattr(sentence_transformers, kind)(
                str(directory),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
                **_for_pictures(directory),
            )
    except Exception as error:  # what a damaged or unknown model raises is the libraries' business, and anything
        reason = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
        )
        raise ModelUnavailable(
            f"model {name!r} cannot be loaded from {directory}: {reason}",
            hint="the directory must hold a whole sentence-transformers model with safetensors weights",
        ) from error
    # Some checkpoints are stored in half precision, which a CPU computes slowly or not at all.
    return model.float().eval()


def _for_pictures(directory: Path) -> dict[str, Any]:
    """Pictures are made ready by Pillow, torchvision or not: the two differ in a vector's third digit."""
    reads = any((directory / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    return {"processor_kwargs": {"backend": "pil"}} if reads else {}


_quiet_lock = threading.RLock()


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries' progress bars and warnings stay off the terminal; what they log goes to our log at DEBUG."""
    import transformers.utils.logging as library

    _silence_forks()
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
        bars = library.is_progress_bar_enabled()
        library.disable_progress_bar()
        try:
            for logger in loggers:
                logger.handlers[:], logger.propagate = [_ToDebug()], False
            yield
        finally:
            for logger, handlers, propagate in before:
                logger.handlers[:], logger.propagate = handlers, propagate
            if bars:
                library.enable_progress_bar()


class _ToDebug(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.debug("%s: %s", record.name, record.getMessage())


_forks_silenced = False


def _silence_forks() -> None:
    """Children forked after tokenizers ran must not use its threads, which did not come along; it warns unless told."""
    global _forks_silenced
    if not _forks_silenced:
        os.register_at_fork(after_in_child=lambda: os.environ.setdefault("TOKENIZERS_PARALLELISM", "false"))
        _forks_silenced = True
