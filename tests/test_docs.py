"""What README and docs say is so: their code runs, their commands and files exist, their table is the suite's."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import click
import pytest
from typer.main import get_command

from knnex import load_spec
from knnex.cli import app
from knnex.engines import Engine
from knnex.mappings import drop, find
from knnex.settings import Settings, settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
FENCE = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [found[3] for found in FENCE.finditer(page.read_text()) if found[1] == language]


@dataclass(frozen=True)
class Example:
    """A block of Python, the line it starts on, and what it prints: on every engine (""), or on the one named.

    One that has the name of an engine is run on that one alone.
    """

    line: int
    code: str
    printed: dict[str, str]
    only: str = ""


def examples(page: Path) -> list[Example]:
    """Each ```python block with the ```text and ```text ENGINE blocks up to the next one."""
    made: list[Example] = []
    whole = page.read_text()
    for found in FENCE.finditer(whole):
        if found[1] == "python":
            made.append(Example(whole.count("\n", 0, found.start(3)) + 1, found[3], {}, found[2] or ""))
        elif found[1] == "text" and made:
            made[-1].printed[found[2] or ""] = found[3]
    return made


def agrees(claimed: str, printed: str) -> bool:
    """Whether that was printed; `…` in a claim stands for anything within a line."""
    return re.fullmatch("[^\n]*".join(map(re.escape, claimed.strip().split("…"))), printed.strip()) is not None


@pytest.fixture
def renamed(engine: Engine, engine_url: str) -> Iterator[str]:
    """What the names of a page's indexes start with while it runs; `connect()` leads to the engine under test."""
    prefix = f"knnex-test-{uuid4().hex[:12]}-"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNNEX_URL", engine_url)
        settings.cache_clear()
        yield prefix
    settings.cache_clear()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs_and_prints_what_the_page_says(page: Path, engine: Engine, engine_name: str, renamed: str) -> None:
    made = [example for example in examples(page) if example.only in ("", engine_name)]
    names = set(re.findall(r'"index": "(\S+?)"', "".join(example.code for example in made)))
    held: dict[str, object] = {"__name__": page.stem}
    try:
        for example in made:
            code = re.sub(
                r'"([^"\n]+)"', lambda one: f'"{renamed}{one[1]}"' if one[1] in names else one[0], example.code
            )
            said = io.StringIO()
            with redirect_stdout(said):
                exec(compile("\n" * (example.line - 1) + code, str(page), "exec"), held)
            printed = said.getvalue().replace(renamed, "")
            claimed = example.printed.get("") or example.printed.get(engine_name, "")
            assert agrees(claimed, printed), f"{page.name}:{example.line} prints on {engine_name}\n{printed}"
            if "theirs" in held:  # another way to ask what was asked before
                assert held.pop("theirs") == held["ours"], (
                    f"{page.name}:{example.line} finds otherwise on {engine_name}"
                )
    finally:
        for name in names:
            if engine.run(find(renamed + name)):
                engine.run(drop(renamed + name))


@pytest.mark.parametrize(
    ("claimed", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a … c", "a b c", True),
        ("a … c", "a\nc", False),
        ("", "a", False),
        ("a.c", "abc", False),
    ],
)
def test_a_claim_is_compared_with_what_was_printed(claimed: str, printed: str, same: bool) -> None:
    assert agrees(claimed, printed) is same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_specs_load(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert load_spec(block).fields


def test_the_table_is_the_one_the_suite_makes(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    collect = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--support-table={out}",
    ]
    subprocess.run([*collect, str(ROOT / "tests")], cwd=ROOT, check=True, capture_output=True, timeout=120)
    found = re.search(r"<!-- support table[^>]*-->\n(.*?)<!-- end -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "README.md has no support table"
    assert found[1].strip() == out.read_text().strip(), "run `make table`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()) + re.findall(
        r'src="(?!https?:)([^"]+)"', page.read_text()
    ):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    folders = "|".join(one.name for one in ROOT.iterdir() if one.is_dir() and one.name.isidentifier())
    for name in re.findall(rf"(?<![\w/.])(?:{folders})/[\w./]*\w", FENCE.sub("", page.read_text())):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page, "console"):
        for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            words = shlex.split(line, comments=True)
            if words[0] == "knnex":
                assert words[1] in COMMANDS, line
                try:  # every word is read as the command would read it; nothing is run
                    COMMANDS[words[1]].make_context(words[1], words[2:])
                except click.ClickException as error:
                    pytest.fail(f"{line}: {error.format_message()}")
            elif words[0] == "make":
                assert words[1] in targets, line


def test_every_command_is_documented() -> None:
    told = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in COMMANDS if f"knnex {name}" not in told] == []


def test_every_setting_is_documented_and_no_other() -> None:
    known = {f"KNNEX_{name.upper()}" for name in Settings.model_fields}
    told = set(re.findall(r"KNNEX_[A-Z_]+", "\n".join(page.read_text() for page in PAGES)))
    assert known - told == set()
    assert {name for name in told - known if not name.startswith(("KNNEX_TEST_", "KNNEX_UPDATE_"))} == set()
