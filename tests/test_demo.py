"""The demo, with a small slice of its corpus: right answers, strict filters and joins, and nothing encoded twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "stdlib_search" / "demo.py"


def demo(home: Path, engine: str, *options: str) -> str:
    """What the demo prints; it fails unless every question has its answer in the top 5 and no hit breaks a condition."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KNNEX_")}
    known = {key: os.environ[key] for key in ("KNNEX_JAVA_HOME",) if key in os.environ}
    # A cache of vectors of its own; the downloads are found where they always are.
    env = kept | known | {"KNNEX_HOME": str(home / "home"), "KNNEX_HEAP": "768m"}
    command = [sys.executable, str(DEMO), "--engine", engine, "--modules", "slice", "--assert", "--plain", *options]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.feature("The demo")
@pytest.mark.timeout(600)
def test_the_demo_answers_rightly_and_encodes_nothing_twice(engine_name: str, tmp_path: Path) -> None:
    try:
        first = demo(tmp_path, engine_name)
        assert "879 of 879 documents are in the index" in first
        assert "It keeps running" in first
        assert "knnex search python-stdlib" in first
        second = demo(tmp_path, engine_name, "--no-keep")
        assert "(0 texts encoded" in second
    finally:
        env = os.environ | {"KNNEX_HOME": str(tmp_path / "home")}
        subprocess.run(
            [sys.executable, "-m", "knnex", "down", "--erase"], env=env, check=True, capture_output=True, timeout=60
        )
