"""Chaos: real servers and real workers, killed by their ids in the middle of things, and an audit of what is left.

`benchmarks/` has to be on the path. What the suite has made already is used here too: the tiny model, the small index,
the proxies.
"""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parents[2] / "tests")
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
