"""What a scenario comes to: figures, and the goals that it was held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .audit import Audit


@dataclass
class Outcome:
    """One scenario on one engine; `misses` says in words which goals it missed."""

    figures: dict[str, Any] = field(default_factory=dict)
    misses: list[str] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)

    def goal(self, reached: bool, otherwise: str) -> None:
        """Hold it against a goal."""
        if not reached:
            self.misses.append(otherwise)

    @property
    def passed(self) -> bool:
        """Whether all goals were reached."""
        return not self.misses and self.audit.clean

    def told(self) -> str:
        """All of it, for who has to find out what went wrong."""
        return f"missed: {self.misses}; faults: {dict(self.audit.faults)} {self.audit.examples}; {self.figures}"
