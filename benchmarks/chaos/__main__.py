"""`python benchmarks/chaos --help`, `make chaos`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

if __name__ == "__main__":
    from chaos.command import main

    sys.exit(main())
