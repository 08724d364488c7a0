from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from knnex.encoders import Chunk, Encoder, TextEncoder, chunk
from knnex.mappings.spec import Chunking

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
FAMILY = "\U0001f469‍\U0001f469‍\U0001f467"
FLAG = "\U0001f1e7\U0001f1f7"
ACCENTED = "e" + "\u0301"


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder(MINILM)


@pytest.fixture(scope="module")
def bytes_encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    """A tiny model whose tokens are pieces of UTF-8, several to a character outside ASCII, and which reads 24 of them."""
    return TextEncoder(str(byte_level_model(tmp_path_factory.mktemp("bytes"))))


def byte_level_model(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog lay on the log"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=24)
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "plain")
    fast.save_pretrained(folder / "plain")
    SentenceTransformer(modules=[Transformer(str(folder / "plain")), Pooling(16)], device="cpu").save(
        str(folder / "model")
    )
    return folder / "model"


def check(text: str, chunking: Chunking, encoder: Encoder) -> list[Chunk]:
    """The promises that hold for every text."""
    chunks = chunk(text, chunking, encoder)
    limit = min(chunking.max_tokens, encoder.max_tokens)
    covered: set[int] = set()
    for one in chunks:
        assert text[one.start : one.end] == one.text
        assert one.text.strip() == one.text != ""
        assert encoder.count_tokens(one.text) <= limit
        covered.update(range(one.start, one.end))
    assert all(text[position].isspace() for position in range(len(text)) if position not in covered)
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        shared = text[after.start : before.end]
        assert after.start >= before.end or encoder.count_tokens(shared) <= chunking.overlap + EDGE
    return chunks


# A cut word has other tokens alone than inside the text, so an overlap measured alone may be a little longer.
EDGE = 8

UNITS = ("tokens", "sentence", "paragraph")
CHUNKINGS = st.builds(
    lambda unit, size, share: Chunking(unit=unit, max_tokens=size, overlap=int(size * share)),
    st.sampled_from(UNITS),
    st.integers(8, 40),
    st.sampled_from([0, 0.1, 0.5]),
)
WORDS = st.sampled_from(
    [
        *("cat", "unbelievable", "Dr.", "e.g.", "end.", "Why?", "\n\n", "\r\n", "\n", " ", "\t", "。", "猫が好き"),
        *(FAMILY, FLAG, ACCENTED, "\u0301", "ﷺ", "กำ", "हिन्दी", "[SEP]", "<pad>", "x" * 130),
        *("\x00", "\x1f", "\u00ad", "\u200b", "\u2029"),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(WORDS, max_size=80).map(" ".join),
    st.lists(WORDS, max_size=80).map("".join),
    st.text(alphabet=st.characters(categories=["Mn", "Lo", "So", "Cc", "Cf", "Zs"]), max_size=200),
)


@settings(max_examples=200, deadline=None)
@given(TEXTS, CHUNKINGS)
@example("x" * 3000, Chunking(unit="tokens", max_tokens=8, overlap=4))
@example("x" * 99 + "y" * 99, Chunking(unit="paragraph", max_tokens=8, overlap=4))
@example("e" + "\u0301" * 400, Chunking(unit="tokens", max_tokens=8, overlap=4))
@example("." * 500, Chunking(unit="sentence", max_tokens=8, overlap=0))
def test_promises_hold_for_any_text_in_word_pieces(minilm: TextEncoder, text: str, chunking: Chunking) -> None:
    check(text, chunking, minilm)


@settings(max_examples=200, deadline=None)
@given(TEXTS, CHUNKINGS)
@example(FAMILY * 20, Chunking(unit="tokens", max_tokens=8, overlap=4))
@example("猫" * 100, Chunking(unit="sentence", max_tokens=9, overlap=4))
def test_promises_hold_for_any_text_in_bytes(bytes_encoder: TextEncoder, text: str, chunking: Chunking) -> None:
    check(text, chunking, bytes_encoder)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("text", ["", " ", "\n\n \t\u2003\x1f\u2029"])
def test_blank_text_has_no_passage(minilm: TextEncoder, unit: str, text: str) -> None:
    assert chunk(text, Chunking(unit=unit), minilm) == []


@pytest.mark.parametrize("unit", UNITS)
def test_a_short_text_is_one_passage_without_its_margins(minilm: TextEncoder, unit: str) -> None:
    assert chunk("\n A cat.\n\nA dog. \n", Chunking(unit=unit), minilm) == [Chunk("A cat.\n\nA dog.", 2, 16)]


def test_paragraphs_are_merged_while_they_fit(minilm: TextEncoder) -> None:
    text = "One two three.\n\nFour five six.\n \nSeven eight nine ten eleven."
    merged = check(text, Chunking(unit="paragraph", max_tokens=9, overlap=0), minilm)
    assert [one.text for one in merged] == ["One two three.\n\nFour five six.", "Seven eight nine ten eleven."]


def test_a_long_paragraph_is_cut_between_sentences_then_words(minilm: TextEncoder) -> None:
    text = (
        "A cat sat here. A dog lay there, e.g. on it. " + "One two three four five six seven eight nine ten. End now."
    )
    texts = [one.text for one in check(text, Chunking(unit="paragraph", max_tokens=8, overlap=0), minilm)]
    assert texts[0] == "A cat sat here."
    assert texts[-1] == "nine ten. End now."
    assert all(piece.split() for piece in texts)
    assert " ".join(texts).split() == text.split()


def test_a_unit_that_fits_stays_whole_and_takes_less_overlap(minilm: TextEncoder) -> None:
    first, second = "a b c d e f g h i j.", "k l m n o p q r s t u v w x y."
    chunks = check(f"{first}\n\n{second}", Chunking(unit="paragraph", max_tokens=16, overlap=8), minilm)
    assert [one.text for one in chunks] == [first, second]


def test_sentences_of_scripts_without_spaces(minilm: TextEncoder) -> None:
    text = "猫が好き。犬も好き！鳥は？" * 3
    chunks = check(text, Chunking(unit="sentence", max_tokens=12, overlap=0), minilm)
    assert all(one.text[-1] in "。！？" for one in chunks)


def test_overlap_repeats_whole_sentences_where_they_fit(minilm: TextEncoder) -> None:
    text = "One two three. Four five six. Seven eight nine. Ten eleven twelve."
    chunks = check(text, Chunking(unit="sentence", max_tokens=8, overlap=4), minilm)
    assert [one.text for one in chunks] == [
        "One two three. Four five six.",
        "Four five six. Seven eight nine.",
        "Seven eight nine. Ten eleven twelve.",
    ]


def test_overlap_of_tokens_repeats_words(minilm: TextEncoder) -> None:
    text = " ".join(f"{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    chunks = check(text, Chunking(unit="tokens", max_tokens=10, overlap=3), minilm)
    assert [one.text.replace(" ", "") for one in chunks] == ["abcdefghij", "hijklmnopq", "opqrstuvwx", "vwxyz"]


def test_words_stay_whole(minilm: TextEncoder) -> None:
    text = "unbelievable antidisestablishmentarianism electroencephalography " * 10
    words = set(text.split())
    for one in check(text, Chunking(unit="tokens", max_tokens=24, overlap=0), minilm):
        assert set(one.text.split()) <= words


@pytest.mark.parametrize("cluster", [FAMILY, FLAG, ACCENTED, "한", "\r\n", "นำ", "👍🏽"])
def test_graphemes_stay_whole(bytes_encoder: TextEncoder, cluster: str) -> None:
    text = "a" + (cluster + "b") * 60
    edges = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    for unit in UNITS:
        for one in check(text, Chunking(unit=unit, max_tokens=22, overlap=5), bytes_encoder):
            assert {one.start, one.end} <= edges


def test_passages_fit_the_encoder_when_the_spec_allows_more(bytes_encoder: TextEncoder) -> None:
    assert bytes_encoder.max_tokens == 24
    chunks = check("the cat sat on the mat " * 40, Chunking(unit="tokens", max_tokens=512, overlap=64), bytes_encoder)
    assert len(chunks) > 10


def test_text_between_code_points_of_a_pair_is_survived(minilm: TextEncoder) -> None:
    text = "half \ud83d of a pair \udc00 " * 20
    assert len(check(text, Chunking(unit="tokens", max_tokens=8, overlap=2), minilm)) > 5


def test_a_megabyte_of_anything_takes_no_ages(minilm: TextEncoder) -> None:
    for text in ("." * 200_000, "\n" * 200_000 + "x", ("word " * 50 + "\n") * 2_000, "x" * 20_000):
        chunks = chunk(text, Chunking(unit="paragraph"), minilm)
        assert chunks[-1].end == len(text.rstrip())
