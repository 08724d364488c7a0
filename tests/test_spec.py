"""Specs: YAML and Python are the same model, and what is wrong is told by line, key and the right name."""

from __future__ import annotations

from pathlib import Path

import pytest

from knnex import Spec, load_spec
from knnex.errors import SpecError
from knnex.mappings import dump_yaml

MOVIES = """
index: movies
fields:
  title:  {type: text}
  plot:   {type: text}
  genre:  {type: keyword, ignore_above: 256}
  year:   {type: integer}
  maker_id: {type: keyword}
embeddings:
  plot_vector:
    source: "{title}. {plot}"
    encoder: sentence-transformers/all-MiniLM-L6-v2
    chunk: {unit: paragraph, max_tokens: 256, overlap: 32}
    similarity: cosine
    hnsw: {m: 16, ef_construction: 100}
    quantization: int8
joins:
  studio: {kind: parent, children: [movie]}
  cast:   {kind: nested, fields: {name: {type: keyword}}}
  maker:  {kind: lookup, index: people, field: maker_id, key: id}
"""


def test_yaml_and_python_are_the_same_model() -> None:
    spec = load_spec(MOVIES)
    assert spec == load_spec(spec.model_dump()) == Spec.model_validate_json(spec.model_dump_json())
    assert load_spec(dump_yaml(spec)) == spec
    assert spec.embeddings["plot_vector"].source_fields == ("title", "plot")
    assert spec.vector_path("plot_vector") == "plot_vector.vector"


def test_a_spec_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "movies.yaml"
    path.write_text(MOVIES)
    assert load_spec(path) == load_spec(str(path)) == load_spec(MOVIES)


WRONG = {
    "typo in a key": (
        "encoder:",
        "encodr:",
        r"line 12: embeddings.plot_vector.encodr: unknown key, did you mean 'encoder'",
    ),
    "unknown choice": (
        "similarity: cosine",
        "similarity: cosin",
        r"line 14: embeddings.plot_vector.similarity: .*'cosine'",
    ),
    "overlap": ("overlap: 32", "overlap: 200", r"line 13: embeddings.plot_vector.chunk: overlap 200 is more than half"),
    "source without a field": ('"{title}. {plot}"', '"plot"', r"line 11: .*source: source 'plot' names no field"),
    "source of no field": ("{plot}", "{story}", r"source names 'story', which is no field"),
    "index name": ("index: movies", "index: My Movies", r"line 2: index: 'My Movies' is no index name"),
    "number": ("{m: 16,", "{m: many,", r"line 15: embeddings.plot_vector.hnsw.m: .*integer"),
    "join kind": ("kind: parent", "kind: mother", r"line 18: joins.studio: .*'parent'"),
    "join key": ("children: [movie]", "child: [movie]", r"line 18: joins.studio.child: unknown key"),
    "indentation": ("  title:", "title:\n   - x:", r"line \d+"),
    "foreign key": ("field: maker_id", "field: makr_id", r"join 'maker': field names 'makr_id', which is no field"),
    "name taken": ("  plot_vector:", "  plot:", r"embedding 'plot' has the name of a field"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_by_line_and_key(case: str) -> None:
    right, wrong, message = WRONG[case]
    assert right in MOVIES
    with pytest.raises(SpecError, match=message):
        load_spec(MOVIES.replace(right, wrong))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "index: x\n\tfields: 1\n", "just words\n"])
def test_what_is_no_spec_at_all(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text + "\n")
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the spec .*none.yaml: No such file"):
        load_spec(tmp_path / "none.yaml")
