"""Tiny real models, made of a configuration and saved as sentence-transformers saves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "log",
    "robot",
    "that",
    "long",
    "##s",
    "to",
    "be",
    "human",
    "query",
    "passage",
    ":",
]
TEXTS = ["the cat sat on the mat", "a dog", "", "robot that longs to be human " * 40, "unknown", "cat", "a robot sat"]


def tiny_model(folder: Path, *, seed: int = 0, pooling: str = "mean", **model: Any) -> Path:
    """A BERT of two layers and 32 dims that reads 48 word pieces, saved as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece({word: row for row, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=48, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]",
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(special + WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=48,
    )  # fmt: skip
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder / "plain")
    fast.save_pretrained(folder / "plain")
    modules = [Transformer(str(folder / "plain")), Pooling(32, pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", **model).save(str(folder / "model"))
    shutil.rmtree(folder / "plain")
    return folder / "model"


def tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP of two layers on each side and 16 dims: pictures of 32 x 32, and text by its letters."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(number) + end for end in ("", "</w>") for number in range(33, 127)]
    vocabulary = {letter: row for row, letter in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    start, end = len(letters), len(letters) + 1
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=layers | {"vocab_size": end + 1, "bos_token_id": start, "eos_token_id": end},
        vision_config=layers | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = CLIPProcessor(image_processor=images, tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[]))
    torch.manual_seed(seed)
    return _saved(folder, CLIPModel(config), processor)


def tiny_vit(folder: Path) -> Path:
    """A vision transformer of two layers and 32 dims, which reads no text."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    return _saved(folder, ViTModel(config), ViTImageProcessorPil(size={"height": 32, "width": 32}))


def _saved(folder: Path, model: Any, processor: Any) -> Path:
    from sentence_transformers import SentenceTransformer

    for one in (model, processor):
        one.save_pretrained(folder / "plain")
    SentenceTransformer(str(folder / "plain"), device="cpu").save(str(folder / "model"))
    shutil.rmtree(folder / "plain")
    return folder / "model"


def write_json(path: Path, change: Any) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps(change(config) or config))
