"""Specs: YAML and Python are the same model, and what is wrong is told by line, key and the right name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
        r"line 14: embeddings.plot_vector.similarity: 'cosin' is not one of cosine, .*, did you mean 'cosine'\?",
    ),
    "overlap": ("overlap: 32", "overlap: 200", r"line 13: embeddings.plot_vector.chunk: overlap 200 is more than half"),
    "source without a field": ('"{title}. {plot}"', '"plot"', r"line 11: .*source: source 'plot' names no field"),
    "source of no field": (
        "{plot}",
        "{plt}",
        r"line 11: .*source names 'plt', which is no field, did you mean 'plot'\?",
    ),
    "index name": ("index: movies", "index: My Movies", r"line 2: index: 'My Movies' is no index name"),
    "number": ("{m: 16,", "{m: many,", r"line 15: embeddings.plot_vector.hnsw.m: .*integer"),
    "join kind": (
        "kind: parent",
        "kind: mother",
        r"line 18: joins.studio: 'mother' is not one of parent, nested, lookup",
    ),
    "join key": (
        "children: [movie]",
        "child: [movie]",
        r"line 18: joins.studio.child: unknown key, did you mean 'children'\?",
    ),
    "indentation": ("  title:", "title:\n   - x:", r"line \d+"),
    "foreign key": (
        "field: maker_id",
        "field: makr_id",
        r"line 20: joins.maker.field: join 'maker': field names 'makr_id', .*'maker_id'\?",
    ),
    "name taken": ("  plot_vector:", "  plot:", r"line 10: embeddings.plot: embedding 'plot' has the name of a field"),
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


PLAIN: dict[str, Any] = {"index": "a", "fields": {"t": {"type": "text"}}}
VECTOR = {"source": "{t}", "encoder": "x"}
NESTED = {"kind": "nested", "fields": {"k": {"type": "keyword"}}}
ODD: dict[str, tuple[Any, str]] = {
    "a number": (5, "int is no spec"),
    "bytes": (b"index: a\n", "bytes is no spec"),
    "no name of a file": ("a\0b", "null byte"),
    "one line that lacks something": ("index: a", "fields: Field required"),
    "a key twice": ("index: a\nfields: {}\nindex: b\n", "line 3: index is in line 1 already"),
    "no such day": ("index: a\nfields: {}\nsettings: {x: 2024-99-99}\n", "not YAML: month must be"),
    "inside itself": ("a: &x {b: *x}\n", "inside its own anchor"),
    "a truth for a name": ("index: a\nfields:\n  on: {type: keyword}\n", "a name must be text"),
    "a type alone": ("index: a\nfields: {t: text}\n", r"line 2: fields.t: 'text' has no type; write t: \{type: text\}"),
    "a join without kind": ({**PLAIN, "joins": {"j": {"field": "t"}}}, "joins.j: kind is missing"),
    "no JSON": ({**PLAIN, "settings": {"x": object()}}, "settings.x: <object object .* is no JSON value"),
    "a day": ("index: a\nfields: {}\nsettings:\n  x: 2024-01-02\n", "line 4: settings.x: .* put a date in quotes"),
    "no number": ({**PLAIN, "settings": {"x": float("nan")}}, "settings: JSON has no nan"),
    "an empty name": ({**PLAIN, "fields": {"": {"type": "text"}}}, "a name is empty"),
    "no id": ({**PLAIN, "id": ""}, "id: String should have at least 1 character"),
    "what knnex keeps": (
        {**PLAIN, "fields": {"_knnex": {"type": "text"}}},
        "field '_knnex' has the name of what knnex",
    ),
    "a vector for the id": (
        {**PLAIN, "embeddings": {"id": VECTOR}},
        "embedding 'id' has the name of the document's id",
    ),
    "a vector for a join": (
        {**PLAIN, "embeddings": {"j": VECTOR}, "joins": {"j": NESTED}},
        "'j' has the name of an embedd",
    ),
    "a join for a text": (
        {**PLAIN, "joins": {"p": {"kind": "parent", "children": ["c"], "field": "t"}}},
        "join field 't' has the name of a field",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_what_no_file_should_hold(case: str) -> None:
    given, message = ODD[case]
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(given)
    assert caught.value.hint
