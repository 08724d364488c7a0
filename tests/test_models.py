"""Where a model comes from, what it may not do, and what identifies what it makes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import MINILM, tiny_model, write_json

from knnex.encoders import (
    Encoder,
    TextEncoder,
    fingerprint,
    input_hash,
    load_encoder,
)
from knnex.encoders.model_files import PACKAGES, content_hash, find_model
from knnex.errors import ModelUnavailable, SpecError
from knnex.mappings.spec import Chunking, Embedding
from knnex.settings import settings


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder(MINILM)


# ---- where a model comes from ----


def test_the_same_weights_have_one_revision_by_name_path_and_variable(
    minilm: TextEncoder, tmp_path: Path, fresh_settings: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(minilm.model.directory, copy)
    (copy / "README.md").write_text("changed")
    (copy / "onnx").mkdir()
    (copy / "onnx" / "config.json").write_text("{}")
    (copy / ".gitattributes").write_text("changed")
    assert TextEncoder(str(copy)).revision == minilm.revision
    fresh_settings.setenv("KNNEX_MODELS", json.dumps({"ours": str(copy)}))
    settings.cache_clear()
    ours = TextEncoder("ours")
    assert (ours.revision, ours.identity) == (minilm.revision, minilm.identity)
    assert TextEncoder("all-MiniLM-L6-v2").model is minilm.model


def test_the_table_of_packages_is_true() -> None:
    for package, folder in PACKAGES.values():
        spec = importlib.util.find_spec(package)
        assert spec
        assert (Path((spec.submodule_search_locations or [""])[0]) / folder / "modules.json").is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "1_Pooling" / "config.json").write_text(
            '{"pooling_mode": "cls", "embedding_dimension": 32}'
        ),
        lambda path: (path / "tokenizer.json").write_text((path / "tokenizer.json").read_text() + " "),
        lambda path: shutil.copy(tiny_model(path.parent / "other", seed=1) / "model.safetensors", path),
    ],
    ids=["pooling", "tokenizer", "weights"],
)
def test_any_change_of_content_is_another_revision(tiny: Path, change: Any) -> None:
    before = content_hash(tiny)
    change(tiny)
    assert content_hash(tiny) != before


def test_notes_of_the_tool_that_saved_a_model_are_no_content(tiny: Path) -> None:
    before = content_hash(tiny)
    for name in ("config.json", "config_sentence_transformers.json"):
        config = json.loads((tiny / name).read_text())
        config |= {"__version__": {"torch": "0"}, "transformers_version": "0", "_name_or_path": "elsewhere"}
        (tiny / name).write_text(json.dumps(config, indent=4))
    assert content_hash(tiny) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./no/such/model", "there is no such directory"),
        ("/nowhere/at/all", "there is no such directory"),
        ("a/b/c", "there is no such directory"),
        ("no such name!", "cannot be fetched from the hub"),
    ],
)
def test_a_model_that_is_nowhere_is_named_with_the_way_out(name: str, reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        find_model(name)
    assert name in str(caught.value)
    assert caught.value.hint


def test_a_hub_that_does_not_answer_is_named_with_the_way_out(tmp_path: Path) -> None:
    code = """
from knnex.encoders import TextEncoder
from knnex.errors import ModelUnavailable
try:
    TextEncoder("sentence-transformers/all-mpnet-base-v2")
except ModelUnavailable as error:
    print(error, "|", error.hint)
"""
    # A port where nothing listens, and an empty cache.
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "'sentence-transformers/all-mpnet-base-v2' cannot be fetched from the hub" in out.stdout, out.stderr
    assert "KNNEX_MODELS" in out.stdout


def test_a_variable_that_points_nowhere_is_named(fresh_settings: pytest.MonkeyPatch) -> None:
    fresh_settings.setenv("KNNEX_MODELS", '{"ours": "/nowhere"}')
    with pytest.raises(ModelUnavailable, match="KNNEX_MODELS says '/nowhere', which is no directory"):
        TextEncoder("ours")


def pickled(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04.")


CRAFTED: dict[str, tuple[Any, str]] = {
    "program": (lambda _: None, "carries the program evil.py"),
    "module": (
        lambda path: write_json(path / "modules.json", lambda them: them[0].update(type="evil.Evil")),
        "asks for the class 'evil.Evil'",
    ),
    "installed package": (
        lambda path: write_json(path / "modules.json", lambda them: them[1].update(type="subprocess.Popen")),
        "asks for the class 'subprocess.Popen'",
    ),
    "auto_map": (
        lambda path: write_json(path / "config.json", lambda it: it.update(auto_map={"AutoModel": "evil.Evil"})),
        "asks for the class 'evil.Evil'",
    ),
    "router": (
        lambda path: (path / "1_Pooling" / "router_config.json").write_text('{"types": {"0": "evil.Evil"}}'),
        "asks for the class 'evil.Evil'",
    ),
    "pickle": (pickled, "pytorch_model.bin is a pickle"),
    "adapter": (lambda path: (path / "adapter_config.json").write_text("{}"), "it is an adapter"),
    "broken json": (lambda path: (path / "config.json").write_text("{"), "config.json is not JSON"),
    "no model": (lambda path: [(path / name).unlink() for name in ("modules.json", "config.json")], "has neither"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "cannot be loaded from"),
    "cut weights": (lambda path: (path / "model.safetensors").write_bytes(b"\0" * 64), "cannot be loaded from"),
    "unknown architecture": (
        lambda path: write_json(path / "config.json", lambda it: it.update(model_type="nonesuch")),
        "cannot be loaded from",
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_or_broken_model_is_refused_and_runs_nothing(tiny: Path, tmp_path: Path, name: str) -> None:
    craft, reason = CRAFTED[name]
    canary = tmp_path / "canary"
    if name not in (
        "pickle",
        "adapter",
        "broken json",
        "no model",
        "no weights",
        "cut weights",
        "unknown architecture",
    ):
        (tiny / ("evil.py" if name == "program" else "evil.txt")).write_text(f"open({str(canary)!r}, 'w')")
    craft(tiny)
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        TextEncoder(str(tiny))
    assert caught.value.hint
    assert not canary.exists()


# ---- registry, fingerprint ----


def embedding(**declared: Any) -> Embedding:
    return Embedding(**{"source": "{title}", "encoder": MINILM} | declared)


def test_the_registry_loads_a_model_once_for_all_threads() -> None:
    got: list[Encoder] = []
    threads = [threading.Thread(target=lambda: got.append(load_encoder(embedding()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert len(set(map(id, got))) == 1
    assert load_encoder(embedding(dims=384)) is got[0]
    prompted = load_encoder(embedding(document_prompt="passage: "))
    assert isinstance(prompted, TextEncoder)
    assert prompted.model is TextEncoder(MINILM).model


def test_what_the_spec_says_must_be_so() -> None:
    with pytest.raises(SpecError, match=f"the spec says dims 768, but {MINILM} gives 384"):
        load_encoder(embedding(dims=768))


def test_a_fingerprint_is_of_what_determines_the_vector_and_nothing_else(minilm: TextEncoder, tmp_path: Path) -> None:
    plain = fingerprint(minilm, embedding())
    assert len(plain) == 32
    shutil.copytree(minilm.model.directory, tmp_path / "copy")
    by_path = TextEncoder(str(tmp_path / "copy"))
    same = [
        fingerprint(by_path, embedding(encoder=str(tmp_path / "copy"))),
        fingerprint(minilm, embedding(similarity="l2", quantization="int8", hnsw={"m": 32})),
        fingerprint(TextEncoder(MINILM, query_prompt="query: "), embedding(query_prompt="query: ")),
        fingerprint(TextEncoder(MINILM, document_prompt=""), embedding(document_prompt="")),
    ]
    assert set(same) == {plain}
    others = [
        fingerprint(TextEncoder(MINILM, document_prompt="passage: "), embedding()),
        fingerprint(TextEncoder(MINILM, precision="bfloat16"), embedding()),
        fingerprint(minilm, embedding(source="{title}.")),
        fingerprint(minilm, embedding(source=["title"])),
        fingerprint(minilm, embedding(chunk=Chunking())),
        fingerprint(minilm, embedding(chunk=Chunking(unit="tokens"))),
        fingerprint(minilm, embedding(chunk=Chunking(overlap=0))),
    ]
    assert len({plain, *others}) == 1 + len(others)


def test_an_input_hash_is_of_the_text() -> None:
    # BLAKE2b-128 of "a cat", as b2sum -l 128 gives it.
    assert input_hash("a cat") == "6eda1d6f0337894464a66e34f5d33507"
    assert len({input_hash(text) for text in ("", " ", "é", "e\u0301", "\ud800", "\ufffd")}) == 6
