"""What a scenario comes to: figures, and the goals that it was held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .audit import Audit


@dataclass
class Outcome:
    """One scenario on one engine; `misses` says in words which goals it missed, `slow` which of those in seconds."""

    figures: dict[str, Any] = field(default_factory=dict)
    misses: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)

    def goal(self, reached: bool, otherwise: str) -> None:
        """Hold it against a goal."""
        if not reached:
            self.misses.append(otherwise)

    def pace(self, reached: bool, otherwise: str) -> None:
        """Hold it against a goal in seconds, which depends on what else the machine does."""
        if not reached:
            self.slow.append(otherwise)

    @property
    def passed(self) -> bool:
        """Whether all goals were reached."""
        return self.harmless and not self.slow

    @property
    def harmless(self) -> bool:
        """Whether all goals were reached but for those in seconds: what a test can ask on any machine."""
        return not self.misses and self.audit.clean

    def told(self) -> str:
        """All of it, for who has to find out what went wrong."""
        return f"missed: {self.misses}; slow: {self.slow}; faults: {dict(self.audit.faults)} {self.audit.examples}; {self.figures}"
