"""The corpus of the demo, its spec and its questions."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from knnex.mappings import Spec, load_spec
from knnex.query import Query

DEMO = Path(__file__).parent.parent / "examples" / "stdlib_search"
Document = dict[str, Any]
# Prints one line, and nothing else may be printed: how many documents there are, and a digest of all of them.
READ = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
from corpus import documents
every = list(documents())
print(len(every), hashlib.sha256(json.dumps(every).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def demo() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of the demo, which is no package, under its own name."""
    before = set(sys.modules)
    sys.path.insert(0, str(DEMO))
    yield importlib.import_module
    sys.path.remove(str(DEMO))
    for name in {"corpus", "introspection", "questions"} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.fixture(scope="module")
def read(demo: Callable[[str], ModuleType]) -> Callable[..., Iterator[Document]]:
    documents: Callable[..., Iterator[Document]] = demo("corpus").documents
    return documents


@pytest.fixture(scope="module")
def corpus(read: Callable[..., Iterator[Document]]) -> list[Document]:
    return list(read())


@pytest.fixture(scope="module")
def by_id(corpus: list[Document]) -> dict[str, Document]:
    return {document["id"]: document for document in corpus}


@pytest.fixture(scope="module")
def questions(demo: Callable[[str], ModuleType]) -> ModuleType:
    return demo("questions")


@pytest.fixture(scope="module")
def spec() -> Spec:
    return load_spec(DEMO / "spec.yaml")


def test_there_are_some_thousands_of_documents_of_every_kind(corpus: list[Document]) -> None:
    assert 4_000 < len(corpus) < 9_000
    kinds = Counter(document["kind"] for document in corpus)
    assert kinds.keys() == {"module", "class", "function", "method"}
    assert min(kinds.values()) > 150


def test_ids_are_unique_and_in_order(corpus: list[Document]) -> None:
    ids = [document["id"] for document in corpus]
    assert ids == sorted(set(ids))


def test_every_document_says_something(corpus: list[Document]) -> None:
    for document in corpus:
        assert document["body"] == document["body"].strip()
        assert document["first_line"], document["id"]
        assert len(re.findall(r"[^\W\d_]{2,}", document["body"])) >= 2, document["id"]


def test_fields_are_those_of_the_spec(corpus: list[Document], spec: Spec) -> None:
    python = {"text": str, "keyword": str, "boolean": bool, "integer": int}
    for document in corpus:
        expected = spec.fields.keys()
        if document["kind"] != "module":
            expected -= {"package", "pure_python", "functions", "classes"}
        assert document.keys() == expected, document["id"]
        for name, value in document.items():
            assert type(value) is python[spec.fields[name].type], (document["id"], name)


def test_no_words_stand_twice_under_one_name(corpus: list[Document]) -> None:
    said = Counter((document["name"], document["body"]) for document in corpus if document["kind"] != "module")
    assert not [key for key, count in said.items() if count > 1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("functools.cache", "function"),
        ("heapq.merge", "function"),
        ("bisect.bisect_left", "function"),
        ("os.path.join", "function"),
        ("os.getcwd", "function"),
        ("open", "function"),
        ("len", "function"),
        ("str.split", "method"),
        ("random.choice", "function"),
        ("asyncio.gather", "function"),
        ("asyncio.Task", "class"),
        ("unittest.TestCase", "class"),
        ("itertools.chain", "class"),
        ("collections.OrderedDict", "class"),
        ("collections.OrderedDict.move_to_end", "method"),
        ("collections.abc.Mapping", "class"),
        ("io.IOBase.readline", "method"),
        ("math.hypot", "function"),
        ("json.loads", "function"),
        ("threading.Barrier.wait", "method"),
        ("xml.etree.ElementTree", "module"),
        ("functools", "module"),
    ],
)
def test_well_known_thing_stands_under_the_name_people_write(by_id: dict[str, Document], name: str, kind: str) -> None:
    document = by_id[name]
    assert document["kind"] == kind
    assert document["name"] == (name if kind == "module" else name.rpartition(".")[2])


@pytest.mark.parametrize(
    "name",
    [
        *(
            "posixpath.join",
            "_heapq.merge",
            "builtins.len",
            "io.open",
            "random.Random.choice",
            "unittest.case.TestCase",
        ),
        *("asyncio.tasks.gather", "bisect.bisect", "OSError.__init__", "this", "antigravity", "test.support", "exit"),
    ],
)
def test_other_name_private_half_and_generic_docstring_are_left_out(by_id: dict[str, Document], name: str) -> None:
    assert name not in by_id


def test_only_public_names(corpus: list[Document]) -> None:
    assert not [document["id"] for document in corpus if any(part[0] == "_" for part in document["id"].split("."))]


def test_methods_name_their_class_and_everything_its_module(by_id: dict[str, Document]) -> None:
    assert by_id["collections.OrderedDict.move_to_end"]["parent"] == "collections.OrderedDict"
    assert by_id["str.split"]["parent"] == "str"
    assert by_id["heapq.merge"]["parent"] == "heapq"
    for document in by_id.values():
        own = document["module"] == "builtins" or f"{document['id']}.".startswith(f"{document['module']}.")
        assert own, document["id"]


def test_module_of_a_function_that_the_join_needs_is_a_document(by_id: dict[str, Document]) -> None:
    assert by_id["heapq"]["pure_python"] is True
    assert by_id["itertools"]["pure_python"] is False
    assert by_id["xml"]["package"] is True
    assert by_id["heapq"]["functions"] == 8
    assert by_id["queue"]["classes"] >= 4


def test_signature_shows_no_value_that_differs_from_run_to_run(corpus: list[Document]) -> None:
    assert not [document["id"] for document in corpus if " at 0x" in document["signature"]]
    assert not [document["id"] for document in corpus if os.environ["PATH"] in document["signature"]]


@pytest.mark.parametrize(
    ("name", "signature", "first_line"),
    [
        ("heapq.merge", "merge(*iterables, key=None, reverse=False)", "Merge multiple sorted inputs"),
        ("math.hypot", "hypot(*coordinates)", "Multidimensional Euclidean distance"),
        ("str.split", "split(sep=None, maxsplit=-1)", "Return a list of the substrings"),
        ("random.choice", "choice(seq)", "Choose a random element"),
        ("itertools.chain", "chain(*iterables)", "Return a chain object"),
        ("heapq", "import heapq", "Heap queue algorithm"),
    ],
)
def test_signature_and_first_line_are_what_a_person_wants_to_read(
    by_id: dict[str, Document], name: str, signature: str, first_line: str
) -> None:
    assert by_id[name]["signature"] == signature
    assert by_id[name]["first_line"].startswith(first_line)


@pytest.mark.parametrize(("name", "deprecated"), [("abc.abstractproperty", True), ("heapq.merge", False)])
def test_deprecated(by_id: dict[str, Document], name: str, deprecated: bool) -> None:
    assert by_id[name]["deprecated"] is deprecated


def test_every_process_reads_the_same_and_prints_nothing() -> None:
    # Not compared with this process: pytest replaces parts of pdb.
    assert read_in_another_process("1") == read_in_another_process("2")


def read_in_another_process(seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, str(DEMO)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    assert done.stderr == ""
    count, digest = done.stdout.split()
    assert int(count) > 4_000
    return digest


def test_limit_and_modules_choose(read: Callable[..., Iterator[Document]], corpus: list[Document]) -> None:
    assert list(read(3)) == corpus[:3]
    chosen = list(read(modules={"heapq", "bisect"}))
    assert {document["module"] for document in chosen} == {"heapq", "bisect"}
    assert chosen == [document for document in corpus if document["module"] in ("heapq", "bisect")]


def test_documents_are_the_callers_own(read: Callable[..., Iterator[Document]]) -> None:
    first = next(read())
    first["id"] = "changed"
    assert next(read())["id"] != "changed"


def test_questions_cover_every_kind_of_query(questions: ModuleType) -> None:
    queries: list[Query] = [question.query for question in questions.QUESTIONS]
    assert any(len(query.parts) == 2 for query in queries), "hybrid"
    assert any(query.liked and query.disliked for query in queries), "by example"
    assert any("Lookup" in repr(query.filters) for query in queries), "joined"
    assert any("Term" in repr(query.filters) for query in queries), "filtered"
    assert sum(not query.filters and len(query.parts) == 1 and not query.liked for query in queries) >= 2, "plain"


def test_questions_have_answers_in_the_corpus_that_fulfil_their_condition(
    questions: ModuleType, by_id: dict[str, Document]
) -> None:
    for question in (*questions.QUESTIONS, *questions.MORE):
        known = [by_id[answer] for answer in question.answers if answer in by_id]
        assert known, question.text
        assert all(question.holds(one, by_id[one["module"]]) for one in known), question.text
        assert question.query.size == questions.TOP


def test_condition_excludes_something(questions: ModuleType, by_id: dict[str, Document]) -> None:
    for question in questions.QUESTIONS:
        if question.query.filters:
            let_through = [
                one for one in by_id.values() if question.holds(one, by_id.get(one["module"], {"pure_python": None}))
            ]
            assert 0 < len(let_through) < len(by_id) / 2, question.text


def test_no_question_is_asked_twice(questions: ModuleType) -> None:
    texts = [question.text for question in (*questions.QUESTIONS, *questions.MORE)]
    assert len(set(texts)) == len(texts) >= 10


def test_slice_is_small_and_has_an_answer_to_every_question(
    questions: ModuleType, read: Callable[..., Iterator[Document]]
) -> None:
    ids = {document["id"] for document in read(modules=questions.SLICE)}
    assert 300 < len(ids) < 1_500
    for question in (*questions.QUESTIONS, *questions.MORE):
        assert question.answers & ids, question.text
