"""Vectors: those of the library, in batches, of every device, and none that no engine may hold."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MINILM, TEXTS, WORDS, tiny_model, write_json
from tokenizers import Tokenizer

from knnex.encoders import (
    TextEncoder,
    check_vectors,
)
from knnex.encoders.batching import Pass, plan_batches, run_batches
from knnex.encoders.pulse import watched
from knnex.errors import BadVector, EncoderError, SettingsError


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder(MINILM)


# ---- vectors are those of the library ----


@pytest.mark.parametrize("texts", [TEXTS, ["one"], TEXTS * 4], ids=["mixed", "single", "many"])
def test_vectors_are_those_of_the_library(minilm: TextEncoder, texts: list[str]) -> None:
    library = minilm.model.model
    assert np.abs(minilm.encode_documents(texts) - library.encode(texts)).max() < 1e-5
    assert np.abs(minilm.encode_queries(texts) - library.encode_query(texts)).max() < 1e-5
    assert minilm.model.is_plain


def test_many_windows_and_batches_keep_the_order(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(str(tiny))
    texts = [" ".join(WORDS[row % 9 : row % 9 + row % 7]) for row in range(300)]
    whole = encoder.encode_documents(texts)
    monkeypatch.setattr("knnex.encoders.model._WINDOW", 64)
    monkeypatch.setitem(sys.modules["knnex.encoders.model"]._PASS, "cpu", Pass(40, 8))
    assert np.abs(encoder.encode_documents(texts) - whole).max() < 1e-5
    assert np.abs(whole - encoder.model.model.encode(texts)).max() < 1e-5
    assert encoder.model.is_plain


def test_a_model_has_width_limit_and_revision(minilm: TextEncoder, tiny: Path) -> None:
    assert (minilm.dims, minilm.max_tokens, len(minilm.revision)) == (384, 254, 32)
    small = TextEncoder(str(tiny))
    assert (small.dims, small.max_tokens) == (32, 46)
    vectors = small.encode_documents(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (7, 32)
    assert small.encode_documents([]).shape == (0, 32)


def test_similar_meaning_is_near(minilm: TextEncoder) -> None:
    query = minilm.encode_queries(["remember the results of expensive calls"])
    near, far = minilm.encode_documents(["a cache of function results", "the weather in Lisbon"]) @ query[0]
    assert near > far + 0.2


def test_prompts_of_the_model_apply_to_their_side(tmp_path: Path) -> None:
    prompts = {"query": "query : ", "document": "passage : "}
    encoder = TextEncoder(str(tiny_model(tmp_path, prompts=prompts)))
    library = encoder.model.model
    assert (encoder.query_prompt, encoder.document_prompt) == ("query : ", "passage : ")
    assert np.abs(encoder.encode_queries(TEXTS) - library.encode_query(TEXTS)).max() < 1e-5
    assert np.abs(encoder.encode_documents(TEXTS) - library.encode_document(TEXTS)).max() < 1e-5
    assert np.abs(encoder.encode_queries(TEXTS) - encoder.encode_documents(TEXTS)).max() > 1e-3
    assert encoder.max_tokens == 44


def test_prompts_given_go_before_those_of_the_model(tmp_path: Path) -> None:
    path = str(tiny_model(tmp_path, prompts={"query": "query : ", "document": "passage : "}))
    encoder = TextEncoder(path, query_prompt="", document_prompt="the ")
    library = encoder.model.model
    assert np.abs(encoder.encode_queries(TEXTS) - library.encode(TEXTS)).max() < 1e-5
    assert np.abs(encoder.encode_documents(TEXTS) - library.encode(["the " + text for text in TEXTS])).max() < 1e-5
    assert encoder.model is TextEncoder(path).model
    assert encoder.identity != TextEncoder(path).identity


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean"])
def test_every_pooling_gives_the_librarys_vectors(tmp_path: Path, pooling: str) -> None:
    encoder = TextEncoder(str(tiny_model(tmp_path, pooling=pooling)))
    assert np.abs(encoder.encode_documents(TEXTS) - encoder.model.model.encode(TEXTS)).max() < 1e-5


def test_padding_on_the_left_gives_the_librarys_vectors(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All in one pass, as the library does it: such a model's vectors depend on what they are padded to.
    monkeypatch.setitem(sys.modules["knnex.encoders.model"]._PASS, "cpu", Pass(4096, 4096))
    config = json.loads((tiny / "tokenizer_config.json").read_text())
    (tiny / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    encoder = TextEncoder(str(tiny))
    assert encoder.model.model.tokenizer.padding_side == "left"
    assert np.abs(encoder.encode_documents(TEXTS) - encoder.model.model.encode(TEXTS)).max() < 1e-5


def test_a_pooling_without_the_prompt_is_left_to_the_library(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, prompts={"query": "query : ", "document": "passage : "})
    config = json.loads((path / "1_Pooling" / "config.json").read_text())
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config | {"include_prompt": False}))
    encoder = TextEncoder(str(path))
    library = encoder.model.model
    assert np.abs(encoder.encode_documents(TEXTS) - library.encode_document(TEXTS)).max() < 1e-5
    with_prompt = library.encode(["passage : " + text for text in TEXTS])
    assert np.abs(encoder.encode_documents(TEXTS) - with_prompt).max() > 1e-3


def test_a_model_of_static_embeddings_is_left_to_the_library(tiny: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    modules = [StaticEmbedding(tokenizer, embedding_weights=np.random.default_rng(0).random((30, 8), np.float32))]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "static"))
    encoder = TextEncoder(str(tmp_path / "static"))
    texts = ["the cat", "a dog sat", "robot"]
    assert np.abs(encoder.encode_documents(texts) - encoder.model.model.encode(texts)).max() < 1e-5
    assert encoder.offsets("the cat") == [(0, 3), (4, 7)]
    assert encoder.max_tokens > 1_000_000
    assert not encoder.model.is_plain


def test_half_precision_is_near_and_of_unit_length(minilm: TextEncoder) -> None:
    half = TextEncoder(MINILM, precision="bfloat16")
    texts = [text for text in TEXTS * 3 if text]
    vectors = half.encode_documents(texts)
    # How near depends on what the processor multiplies such numbers with: 0.99989 was seen, and 0.99995.
    assert (vectors * minilm.encode_documents(texts)).sum(axis=1).min() > 0.9997
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert half.revision == minilm.revision
    assert half.identity != minilm.identity


def test_lone_surrogates_and_controls_are_survived(minilm: TextEncoder) -> None:
    broken, mended = minilm.encode_documents(["half \ud83d \x00", "half \ufffd \x00"])
    assert np.abs(broken - mended).max() < 1e-6


def test_offsets_are_those_of_the_text_however_long(minilm: TextEncoder) -> None:
    text = "Ünbelievable 👍 cats. " * 200
    spans = minilm.offsets(text)
    assert len(spans) == minilm.count_tokens(text) > 256
    assert [text[start:end] for start, end in spans[:5]] == ["Ünbelievable", "👍", "cats", ".", "Ünbelievable"]
    # Encoding cuts at the model's limit, and that does not stay behind.
    minilm.encode_documents([text])
    assert minilm.offsets(text) == spans


def test_threads_share_a_model(minilm: TextEncoder) -> None:
    texts = [f"{word} number {row}" for row, word in enumerate(WORDS)]
    expected = minilm.encode_documents(texts)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(5):
            if np.abs(minilm.encode_documents(texts) - expected).max() > 1e-5:
                wrong.append("vectors")
            if minilm.count_tokens("a b " * 300) != 600:
                wrong.append("tokens")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- batches ----


@pytest.mark.parametrize("overhead", [0, 48, 1000])
def test_batches_hold_every_row_once_within_the_budget(overhead: int) -> None:
    lengths, device = [int(n) for n in np.random.default_rng(1).integers(1, 300, 500)], Pass(1000, overhead)
    batches = list(plan_batches(lengths, device))
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 1000 for batch in batches)
    assert [len(batch) for batch in plan_batches([5000, 1], device)] == [1, 1]
    assert list(plan_batches([], device)) == []


def test_batches_are_cut_where_padding_and_passes_cost_least() -> None:
    def cost(counts: Sequence[int]) -> int:
        """Of batches of so many rows, the longest first; what does not fit costs a fortune."""
        ends = list(itertools.accumulate(counts))
        wide = [ordered[end - count] * count for end, count in zip(ends, counts, strict=True)]
        return sum(one + 20 if one <= 100 else 10**6 for one in wide)

    for seed in range(30):
        lengths = [int(n) for n in np.random.default_rng(seed).integers(1, 60, 9)]
        ordered = sorted(lengths, reverse=True)
        every = ((*cuts, 9) for n in range(9) for cuts in itertools.combinations(range(1, 9), n))
        cheapest = min(cost([b - a for a, b in itertools.pairwise((0, *ends))]) for ends in every)
        assert cost([len(batch) for batch in plan_batches(lengths, Pass(100, 20))]) == cheapest


def test_who_watches_hears_of_every_pass(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, heard = TextEncoder(str(tiny)), list[int]()
    monkeypatch.setitem(sys.modules["knnex.encoders.model"]._PASS, "cpu", Pass(10, 10))
    with watched(lambda: heard.append(1)):
        encoder.encode_documents(["a dog"] * 9)
    assert len(heard) > 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_too_large_for_memory_is_halved(tiny: Path, error: Exception) -> None:
    encoder = TextEncoder(str(tiny))
    expected = encoder.encode_documents(TEXTS * 5)
    seen: list[int] = []

    def full(module: Any, arguments: Any) -> None:
        seen.append(len(arguments[0]["input_ids"]))
        if seen[-1] > 3:
            raise error

    hook = encoder.model.model[0].register_forward_pre_hook(full)
    try:
        vectors = encoder.encode_documents(TEXTS * 5)
    finally:
        hook.remove()
    assert np.abs(vectors - expected).max() < 1e-5
    assert max(seen) > 3
    assert min(seen) > 0


def test_one_text_too_large_for_memory_is_an_error_that_says_so() -> None:
    def forward(rows: Any) -> Any:
        raise MemoryError("all gone")

    with pytest.raises(EncoderError, match="out of memory with one text of 9 tokens: all gone") as caught:
        run_batches([7, 9, 8], Pass(4096, 48), 4, forward)
    assert "KNNEX_DEVICE" in str(caught.value.hint)


def test_another_error_is_not_taken_for_a_full_memory() -> None:
    def forward(rows: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        run_batches([1, 2], Pass(4096, 48), 4, forward)


# ---- vectors no engine may hold ----


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([0.0, 0.0], "has length 0"),
        ([1e-7, 0.0], "has length 1e-07"),
        ([1e7, 0.0], r"has length 1e\+07"),
        ([3e38, 3e38], "has length 4.2"),
        ([float("nan"), 1.0], "is not finite"),
        ([1.0, float("inf")], "is not finite"),
    ],
)
def test_a_bad_vector_is_named(row: list[float], reason: str) -> None:
    with pytest.raises(BadVector, match=rf"^m: the vector of row 1 \(of 3\) {reason}"):
        check_vectors([[1.0, 0.0], row, row], 3, 2, "m")


@pytest.mark.parametrize("rows", [np.ones((2, 3)), np.ones((3, 2)), np.ones(3), np.ones((3, 3, 1))])
def test_a_matrix_of_another_shape_is_refused(rows: Any) -> None:
    with pytest.raises(BadVector, match="for 3 inputs of 3 dims"):
        check_vectors(rows, 3, 3, "m")


def test_good_vectors_pass_as_float32() -> None:
    vectors = check_vectors(np.asfortranarray([[2e-6, 0], [0, 1e6 - 1]]), 2, 2, "m")
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous


def test_a_model_that_breaks_is_caught(tiny: Path) -> None:
    encoder = TextEncoder(str(tiny))
    hook = encoder.model.model[-1].register_forward_hook(
        lambda _module, _arguments, out: {**out, "sentence_embedding": out["sentence_embedding"] * float("nan")}
    )
    with pytest.raises(BadVector, match="row 0 .of 2. is not finite"):
        encoder.encode_documents(["a cat", "a dog"])
    hook.remove()
    not_only_text: Any = ["a cat", 7]
    with pytest.raises(EncoderError, match="input 1 is no text but int"):
        encoder.encode_documents(not_only_text)


# ---- devices, quiet ----


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_a_clear_error(tiny: Path, device: str) -> None:
    with pytest.raises(SettingsError, match=f"device '{device}' cannot be used") as caught:
        TextEncoder(str(tiny), device=device)
    assert "KNNEX_DEVICE" in str(caught.value.hint)


def test_the_device_of_the_settings_is_used(tiny: Path, fresh_settings: pytest.MonkeyPatch) -> None:
    fresh_settings.setenv("KNNEX_DEVICE", "nowhere")
    with pytest.raises(SettingsError, match="device 'nowhere'"):
        TextEncoder(str(tiny))
    assert TextEncoder(str(tiny), device="cpu").model.device.type == "cpu"


def test_nothing_is_printed_and_torch_waits_until_it_is_needed() -> None:
    code = f"""
import sys
import knnex.encoders
assert not {{"torch", "transformers", "sentence_transformers", "tokenizers"}} & sys.modules.keys()
knnex.encoders.TextEncoder({MINILM!r}).encode_documents(["a cat"] * 100)
import os
child = os.fork()
if not child:
    knnex.encoders.TextEncoder({MINILM!r}).count_tokens("a cat")
    os._exit(0)
os.waitpid(child, 0)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")


def test_what_the_libraries_say_goes_to_our_log(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(
        tiny / "config_sentence_transformers.json",
        lambda it: it.update({"__version__": {"sentence_transformers": "99.0.0"}}),
    )
    with caplog.at_level(logging.DEBUG, "knnex.encoders"):
        TextEncoder(str(tiny))
    assert "99.0.0" in caplog.text
    assert logging.getLogger("sentence_transformers").propagate or logging.getLogger("sentence_transformers").handlers
