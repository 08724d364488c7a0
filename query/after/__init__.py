"""What the client does with a ranking before it is returned: boosts, functions of yours, groups, rerank, diversity."""

from __future__ import annotations

from .check import check
from .explain import steps
from .finish import Finished, fields, finish, least, wanted

__all__ = ["Finished", "check", "fields", "finish", "least", "steps", "wanted"]
