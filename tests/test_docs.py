"""What README and docs say is so: their code runs, their commands and files exist, their table is the suite's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from knnex.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


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
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page, "console"):
        for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            words = shlex.split(line, comments=True)
            if words[0] == "knnex":
                assert words[1] in COMMANDS, line
                known = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
                assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line
            elif words[0] == "make":
                assert words[1] in targets, line


def test_every_command_is_documented() -> None:
    told = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in COMMANDS if f"knnex {name}" not in told] == []
