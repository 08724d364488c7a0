"""The package as it ships: what is in the wheel, which way imports point, what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import knnex
from knnex import errors

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [
    name.replace("knnex", ".", 1).replace(".", "/").lstrip("/") for name in PROJECT["tool"]["setuptools"]["packages"]
]

# Lower layers know nothing of higher ones; those of one rank know nothing of each other.
RANKS = [
    {"errors"},
    {"settings"},
    {"telemetry"},
    {"engines"},
    {"mappings"},
    {"encoders"},
    {"ingest", "query"},
    {"asking"},
    {"index", "evaluation"},
    {"client", "workers"},
    {"serving"},
    {"screens"},
    {"screens_plan", "screens_watch"},
    {path.stem for path in ROOT.glob("cli*.py")} | {"__main__"},
]


def modules() -> Iterator[Path]:
    """Every module of the package, relative to the root."""
    for package in PACKAGES:
        yield from sorted(path.relative_to(ROOT) for path in (ROOT / package).glob("*.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git would ship."""
    out = tmp_path_factory.mktemp("wheel")
    tree = out / "tree"
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(tree)]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert shipped == {f"knnex/{path.as_posix()}" for path in modules()} | {"knnex/py.typed"}


def test_every_folder_with_modules_is_listed() -> None:
    apart = {"tests", "examples", "benchmarks", "docs", "build"}
    found = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("__init__.py")}
    ours = {name for name in found if name.split("/")[0] not in apart and not name.startswith((".venv", "."))}
    assert ours | {""} == {package.rstrip("/") for package in PACKAGES} | {""}


@pytest.mark.timeout(600)
def test_the_wheel_works_where_only_its_own_requirements_are(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(list(map(str, install)), check=True, cwd=tmp_path, capture_output=True, timeout=400)
    code = "import knnex; [getattr(knnex, name) for name in knnex.__all__]; import knnex.workers, knnex.cli; print(knnex.__file__)"
    done = subprocess.run([python, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert str(tmp_path) in done.stdout
    told = subprocess.run([python.parent / "knnex", "--help"], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "ingest" in told.stdout


def imported(path: Path) -> Iterator[str]:
    """The top-level parts of knnex a module imports, wherever in the file."""
    depth = len(path.parts) - 1
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(re.match(r"knnex\b", name) for name in names if not getattr(node, "level", 0)), path


def test_imports_point_one_way() -> None:
    rank = {name: number for number, names in enumerate(RANKS) for name in names}
    wrong = []
    for path in modules():
        ours = path.parts[0].removesuffix(".py")
        if ours == "__init__" or ours in RANKS[-1]:
            continue
        wrong += [
            f"{path} imports {theirs}"
            for theirs in imported(path)
            if theirs != ours and rank.get(theirs, -1) >= rank[ours]
        ]
    assert not wrong


def test_every_module_has_a_rank() -> None:
    top = {path.parts[0].removesuffix(".py") for path in modules()} - {"__init__"}
    assert top <= set().union(*RANKS)


def test_public_names_are_sorted_and_found() -> None:
    assert list(knnex.__all__) == sorted(knnex.__all__)
    assert knnex.__all__ == list(knnex._HOMES)
    assert all(getattr(knnex, name) for name in knnex.__all__)


def test_importing_loads_no_model_library() -> None:
    code = "import sys, knnex, knnex.client, knnex.cli; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "sentence_transformers", "pyarrow", "celery", "jgo"} & set(loaded)


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    defined = [name for name, value in vars(errors).items() if isinstance(value, type) and name != "KnnexError"]
    assert drawn == [name for name in defined if issubclass(getattr(errors, name), errors.KnnexError)]


def test_no_file_is_too_long_and_none_names_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix == ".py" and path.is_file():
            # Tables of cases make the files of tests longer.
            assert len(path.read_text().splitlines()) <= (650 if name.startswith("tests/") else 320), name
