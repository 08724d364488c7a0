"""Options of vectors: what cannot be is said before anything is sent, with the reason and a way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from knnex import load_spec
from knnex.engines import Dialect, VectorField
from knnex.engines.engine import DIALECTS
from knnex.errors import SpecError, UnsupportedByEngine
from knnex.mappings import Resolved, index_body

ES = DIALECTS["elasticsearch"]((9, 5, 0))
OS = DIALECTS["opensearch"]((3, 6, 0))
EMBEDDED = replace(OS, embedded=True)
PLAIN: dict[str, Any] = {"index": "a", "fields": {"t": {"type": "text"}}}
VECTOR = {"source": "{t}", "encoder": "x"}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "bytes": ({"element_type": "byte"}, "element_type: byte is for vectors of integers, .* quantization: int8"),
    "bits": ({"element_type": "bit"}, "element_type: bit is for vectors of integers, .* quantization: binary"),
    "an unknown element": ({"element_type": "double"}, "'double' is not one of float, bfloat16"),
    "an unknown quantization": ({"quantization": "int16"}, "'int16' is not one of .*, did you mean 'int"),
    "oversample of nothing": ({"oversample": 2}, "oversample: vectors are not compressed"),
    "oversample below k": ({"quantization": "int8", "oversample": 0.5}, "oversample: 0.5 is less than k itself"),
    "oversample too far": ({"quantization": "int8", "oversample": 11}, "oversample: .*less than or equal to 10"),
    "a graph of none": ({"index": "flat", "hnsw": {"m": 32}}, "hnsw: index flat has no graph"),
    "a disk of floats": ({"index": "disk"}, "index: index disk keeps binary vectors; write quantization: binary"),
    "an option that has a key": ({"options": {"m": 5}}, "options: m is said by hnsw"),
    "too many links": ({"hnsw": {"m": 513}}, "hnsw.m: .*less than or equal to 512"),
    "too many dims": ({"dims": 20_000}, "dims: .*less than or equal to 16000"),
    "a typo in the graph": ({"hnsw": {"ef": 5}}, "hnsw.ef: unknown key"),
    "a typo in the chunks": ({"chunk": {"max_token": 5}}, "chunk.max_token: unknown key, did you mean 'max_tokens'"),
    "a source of numbers": ({"source": 5}, r"source: write '\{title\}. \{body\}' or \[title, body\]"),
}
PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "a setting twice": (
        {"settings": {"refresh_interval": "1s", "index": {"refresh_interval": "2s"}}},
        "settings: index.refresh_interval is there twice",
    ),
    "fields in the mapping": ({"mapping": {"properties": {}}}, "mapping.properties: .* not yours to write: `fields`"),
    "meta in the mapping": ({"mapping": {"_meta": {}}}, "mapping._meta: .* knnex keeps the spec there"),
    "a typo in the mapping": ({"mapping": {"dynamik": True}}, "a mapping has no 'dynamik', did you mean 'dynamic'"),
    "no source": ({"mapping": {"_source": {"enabled": False}}}, "mapping._source: what _source leaves out is lost"),
    "a hidden source": ({"mapping": {"_source": {"excludes": ["t"]}}}, "mapping._source: what _source leaves out"),
    "an unknown dynamic": ({"mapping": {"dynamic": "strickt"}}, "'strickt' is not one of .*, did you mean 'strict'"),
    "strict without the id": ({"mapping": {"dynamic": "strict"}}, "under dynamic: strict 'id' must be declared"),
}
DECLINED: dict[str, tuple[Dialect, dict[str, Any], str]] = {
    "faiss where it is not": (EMBEDDED, {"engine": "faiss"}, "engine faiss: the embedded distribution has no native"),
    "1 bit where it is not": (EMBEDDED, {"quantization": "binary"}, "binary: the embedded distribution has no native"),
    "4 bits of lucene": (EMBEDDED, {"quantization": "int4"}, "lucene engine quantizes to 7 bits or to 1"),
    "a new sq on an old one": (
        DIALECTS["opensearch"]((2, 15)),
        {"quantization": "int8"},
        "lucene's sq encoder came with 2.16",
    ),
    "wide on an old one": (DIALECTS["opensearch"]((2, 11)), {"wide": 1025}, "1025 dims: lucene with .* came with 2.12"),
    "inner product on an old one": (
        DIALECTS["opensearch"]((2, 12)),
        {"similarity": "max_inner_product"},
        "lucene's innerproduct came with 2.13",
    ),
    "cosine of an old faiss": (DIALECTS["opensearch"]((2, 18)), {"engine": "faiss"}, "it came with 2.19"),
    "compression of an old faiss": (
        DIALECTS["opensearch"]((2, 16)),
        {"engine": "faiss", "quantization": "binary", "similarity": "l2"},
        "compression_level came with 2.17",
    ),
    "odd dims of int4": (ES, {"quantization": "int4", "wide": 65}, "int4_hnsw of 65 dims: it packs dims in pairs"),
    "few dims of binary": (ES, {"quantization": "binary", "wide": 63}, "bbq_hnsw of 63 dims: it takes 64 or more"),
    "more dims than there can be": (ES, {"wide": 4097}, "at most 4096 dims, not 4097"),
    "rescoring between the versions": (
        DIALECTS["elasticsearch"]((9, 0)),
        {"quantization": "int8", "oversample": 2},
        "rescore_vector came with 8.19 and 9.1",
    ),
}
SETTINGS: dict[str, tuple[Dialect, dict[str, Any], str]] = {
    "columns": (
        ES,
        {"settings": {"index": {"mode": "columnar"}}},
        "index.mode columnar: such an index has no sequence",
    ),
    "no numbers": (ES, {"settings": {"disable_sequence_numbers": True}}, "index.disable_sequence_numbers: such an"),
    "no vectors": (OS, {"settings": {"knn": False}}, "an index with index.knn off"),
    "runtime fields": (OS, {"mapping": {"runtime": {"x": {"type": "long"}}}}, "runtime fields"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_option_that_cannot_be(case: str) -> None:
    options, message = WRONG[case]
    with pytest.raises(SpecError, match=f"embeddings.v.*{message}") as caught:
        load_spec({**PLAIN, "embeddings": {"v": VECTOR | options}})
    assert str(caught.value).count("the spec: ") == 1


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_the_index_that_cannot_be(case: str) -> None:
    parts, message = PARTS[case]
    with pytest.raises(SpecError, match=message):
        load_spec(PLAIN | parts)


@pytest.mark.parametrize("case", DECLINED)
def test_what_a_dialect_cannot_do_is_declined_with_a_way_out(case: str) -> None:
    dialect, options, message = DECLINED[case]
    wide = options.get("wide", 64)
    embedding = VECTOR | {key: value for key, value in options.items() if key != "wide"}
    spec = load_spec({**PLAIN, "embeddings": {"v": embedding}})
    with pytest.raises(UnsupportedByEngine, match=message) as caught:
        index_body(spec, dialect, {"v": Resolved(wide, "f")})
    assert str(caught.value).startswith(f"embedding 'v': {dialect}")
    assert caught.value.hint


@pytest.mark.parametrize("case", SETTINGS)
def test_what_an_engine_cannot_do_for_a_whole_index(case: str) -> None:
    dialect, parts, message = SETTINGS[case]
    with pytest.raises(UnsupportedByEngine, match=message) as caught:
        index_body(load_spec(PLAIN | parts), dialect, {})
    assert caught.value.hint


@pytest.mark.parametrize("dialect", [ES, OS, EMBEDDED], ids=str)
def test_a_vector_of_four_words_is_a_vector_as_before(dialect: Dialect) -> None:
    """What callers said before there were more options means the same."""
    made = dialect.vector_field(VectorField(64, "cosine", 16, 100, "none"))
    spec = load_spec({**PLAIN, "embeddings": {"v": VECTOR}})
    assert index_body(spec, dialect, {"v": Resolved(64, "f")})["mappings"]["properties"]["v"] == made


@pytest.mark.parametrize(("version", "kept"), [((2, 0, 1), None), ((2, 1, 0), False), ((3, 6, 0), False)])
def test_opensearch_merges_later_unless_the_spec_says_otherwise(version: tuple[int, ...], kept: bool | None) -> None:
    name, dialect = "index.merge_on_flush.enabled", DIALECTS["opensearch"](version)
    assert index_body(load_spec(PLAIN), dialect, {})["settings"].get(name) is kept
    wished = load_spec({**PLAIN, "settings": {"merge_on_flush": {"enabled": True}}})
    assert index_body(wished, dialect, {})["settings"][name] is True
