"""One loaded sentence-transformers model: its tokenizer, and the forward pass over token ids."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import EncoderError
from ..settings import settings
from .batching import Pass, run_batches
from .loading import best_device, load_quietly
from .model_files import content_hash, lacking

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Precision = Literal["float32", "bfloat16"]
Side = Literal["query", "document"]

# Tokens of one forward pass: enough to keep the device busy, little enough to stay in its caches or memory. What a pass
# costs besides is measured on a CPU with MiniLM: 6 ms, where a token takes 0.13 (2 cores, all-MiniLM-L6-v2). Thus 128
# docstrings are 6 % more tokens than they have, and with as few passes as can be 22 %.
_PASS = {"cpu": Pass(1024, 48)}
_PASS_ACCELERATOR = Pass(32_768, 32_768)
# Texts tokenised at once; bounds the memory that a long list takes.
_WINDOW = 8192
# What a picture counts for among these: the patches of one, by and large.
_IMAGE = 128
# Some tokenizers say "no limit" by an astronomic number.
_NO_LIMIT = 1 << 20
# The names under which models keep the prompt of a side, in the order sentence-transformers looks them up.
_PROMPT_NAMES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


class LoadedModel:
    """A model in memory. Its methods may be called from several threads."""

    def __init__(self, directory: Path, name: str, device: str | None, precision: Precision) -> None:
        self.directory, self.name, self.precision = directory, name, precision
        try:
            self.device = best_device(device or settings().device)
        except ImportError as error:
            raise lacking(name, error) from error
        self._lock = threading.Lock()
        self.model = load_quietly(directory, name, self.device)
        if precision == "bfloat16":
            # Pooling and normalisation stay in float32: their sums would lose what the layers kept.
            self.model[0].bfloat16()
        self.revision = content_hash(directory)
        # What it reads: text, image, or both.
        self.modalities = frozenset(getattr(self.model, "modalities", ("text",)))
        self.limit = _limit(self.model)
        self.is_plain = _is_plain(self.model)
        self.dims = self._probed()

    def encode(self, texts: Sequence[str], side: Side, prompt: str | None) -> NDArray[np.float32]:
        """Vectors `(n, dims) float32`, as `encode_query`, `encode_document` give them; no prompt: the model's own."""
        if not texts:
            return np.empty((0, self.dims), dtype=np.float32)
        windows = (texts[start : start + _WINDOW] for start in range(0, len(texts), _WINDOW))
        return np.concatenate([self._encode_window(list(map(clean, window)), side, prompt) for window in windows])

    def encode_images(self, images: Sequence[Image], side: Side) -> NDArray[np.float32]:
        """Vectors `(n, dims) float32` of pictures, by a model that reads them."""
        return run_batches(
            [_IMAGE] * len(images),
            self.one_pass,
            self.dims,
            lambda rows: self._encode_as_library([{"image": images[i]} for i in rows], side, ""),
        )

    def _probed(self) -> int:
        if "text" in self.modalities:
            return int(self._encode_as_library(self._told_apart(["probe"]), "document", None).shape[1])
        from PIL.Image import new

        return int(self._encode_as_library([{"image": new("RGB", (64, 64))}], "document", "").shape[1])

    def _told_apart(self, texts: list[str]) -> list[Any]:
        """Texts for the library, which reads the file or fetches the URL that a text names, if the model has eyes."""
        return [{"text": text} for text in texts] if "image" in self.modalities else texts

    def _encode_window(self, texts: list[str], side: Side, prompt: str | None) -> NDArray[np.float32]:
        prompt = self.prompt(side) if prompt is None else prompt
        if not self.is_plain or (prompt and self._skips_prompt):
            lengths = [len(text) // 4 + 1 for text in texts]
            return run_batches(
                lengths,
                self.one_pass,
                self.dims,
                lambda rows: self._encode_as_library(self._told_apart([texts[i] for i in rows]), side, prompt),
            )
        ids, types = self._tokenize([prompt + text for text in texts] if prompt else texts)
        return run_batches(
            [len(row) for row in ids], self.one_pass, self.dims, lambda rows: self._forward(ids, types, rows)
        )

    @property
    def one_pass(self) -> Pass:
        """How much goes into one forward pass on this device."""
        return _PASS.get(self.device.type, _PASS_ACCELERATOR)

    def prompt(self, side: Side) -> str:
        """The prompt that the model's own configuration has for a side; empty when it has none."""
        prompts: dict[str, str] = self.model.prompts
        names = (*_PROMPT_NAMES[side], self.model.default_prompt_name)
        return next((prompts[name] for name in names if name in prompts), None) or ""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token, special ones not among them, however long the text."""
        backend = self._backend
        with self._lock:
            backend.no_truncation()
            backend.no_padding()
            offsets: list[tuple[int, int]] = backend.encode(clean(text), add_special_tokens=False).offsets
        return offsets

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, special ones not counted."""
        backend = self._backend
        with self._lock:
            backend.no_truncation()
            backend.no_padding()
            return len(backend.encode(clean(text), add_special_tokens=False))

    @cached_property
    def special_tokens(self) -> int:
        """How many tokens the model adds to every text."""
        backend = self._backend
        return int(backend.num_special_tokens_to_add(False)) if self.is_plain else 2

    @cached_property
    def _backend(self) -> Any:
        """The Rust tokenizer, which knows where a token lies in the text."""
        tokenizer = self.model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "encode_batch"):
            raise EncoderError(
                f"{self.name}: its tokenizer ({type(tokenizer).__name__}) does not tell where a token lies in the text",
                hint="leave out `chunk`, or use a model with a fast tokenizer (tokenizer.json)",
            )
        return backend

    @cached_property
    def _skips_prompt(self) -> bool:
        """Whether pooling leaves the prompt's tokens out, for which only the library knows where they end."""
        return any(getattr(module, "include_prompt", True) is False for module in self.model)

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], list[list[int]] | None]:
        tokenizer, backend = self.model.tokenizer, self._backend
        with self._lock:
            backend.no_padding()
            if self.limit < _NO_LIMIT:
                backend.enable_truncation(self.limit, strategy="longest_first", direction=tokenizer.truncation_side)
            else:
                backend.no_truncation()
            encoded = backend.encode_batch_fast(texts)
        typed = "token_type_ids" in tokenizer.model_input_names
        return [one.ids for one in encoded], [one.type_ids for one in encoded] if typed else None

    def _forward(
        self, ids: list[list[int]], types: list[list[int]] | None, rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        import torch

        tokenizer = self.model.tokenizer
        right = tokenizer.padding_side == "right"
        picked = [ids[row] for row in rows]
        features = {
            "input_ids": _padded(picked, tokenizer.pad_token_id, right),
            "attention_mask": _padded([[1] * len(row) for row in picked], 0, right),
        }
        if types is not None:
            features["token_type_ids"] = _padded([types[row] for row in rows], tokenizer.pad_token_type_id, right)
        with torch.inference_mode():
            out: dict[str, Any] = {key: torch.from_numpy(value).to(self.device) for key, value in features.items()}
            for module in self.model:
                out = module(out)
                if self.precision == "bfloat16" and "token_embeddings" in out:
                    out["token_embeddings"] = out["token_embeddings"].float()
            return self._numpy(out["sentence_embedding"])

    def _numpy(self, embeddings: Any) -> NDArray[np.float32]:
        truncate = getattr(self.model, "truncate_dim", None)
        vectors: NDArray[np.float32] = embeddings[..., :truncate].float().cpu().numpy()
        return vectors

    def _encode_as_library(self, inputs: list[Any], side: Side, prompt: str | None) -> NDArray[np.float32]:
        """The library's own path, for models of which knnex does not know that its own gives the same."""
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        with self._lock:
            vectors = encode(
                inputs, prompt=prompt, batch_size=len(inputs), show_progress_bar=False, convert_to_tensor=True
            )
        return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)


def clean(text: str) -> str:
    """The text with each lone surrogate, which is no character, as U+FFFD; positions stay what they were."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _padded(rows: list[list[int]], filler: int, right: bool) -> NDArray[np.int64]:
    width = max(map(len, rows))
    matrix = np.full((len(rows), width), filler, dtype=np.int64)
    for target, row in zip(matrix, rows, strict=True):
        target[slice(len(row)) if right else slice(width - len(row), width)] = row
    return matrix


def _limit(model: Any) -> int:
    """The longest text the model reads, in tokens with the special ones."""
    limit = model.max_seq_length
    if limit is not None and limit > _NO_LIMIT:
        # Of a model of both texts and pictures the library does not look there; it fails on a longer text.
        config = getattr(getattr(model[0], "config", None), "text_config", None)
        if positions := getattr(config, "max_position_embeddings", None):
            limit = model.max_seq_length = positions
    return int(limit) if limit and limit < _NO_LIMIT else _NO_LIMIT


def _is_plain(model: Any) -> bool:
    """Whether tokenise, pad, forward is all that the library does with a text for this model."""
    first = model[0]
    kind = type(first)
    tokenizer: Any = getattr(model, "tokenizer", None)
    return (
        # By name, because the library moves the class about; a subclass may do anything, and is not of that name.
        kind.__name__ == "Transformer"
        and kind.__module__.startswith("sentence_transformers.")
        and bool(getattr(tokenizer, "is_fast", False))
        and tokenizer.pad_token_id is not None
        and set(tokenizer.model_input_names) <= {"input_ids", "attention_mask", "token_type_ids"}
        and set(getattr(first, "modality_config", {"text"})) == {"text"}
        and not getattr(first, "can_flatten_inputs", False)
        and not any(getattr(first, option, None) for option in _OPTIONS)
    )


# Options of the library's Transformer that change what happens to a text before or in the forward pass.
_OPTIONS = ("query_expansion", "query_length", "document_length", "processing_kwargs")
