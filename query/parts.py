"""What a query holds besides its filters: ranked parts, and what is done with the ranking; frozen data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..encoders.pictures import shown

if TYPE_CHECKING:
    from pathlib import Path

    from .hits import Hit
    from .nodes import Filter

FusionName = Literal["rrf", "weighted"]
#: How a part's scores are brought to one scale before they are added.
Normaliser = Literal["min_max", "z_score", "l2", "none"]
LexicalType = Literal[
    "best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix", "query_string"
]
#: Of several scores of a family, the one that counts.
ScoreMode = Literal["max", "avg", "sum", "min"]
#: A query and texts to a score for each text, the higher the better.
Scorer = Callable[[str, Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Text:
    """A text as an example: `.like(Text("a lonely robot"))`; a plain string is a document's id."""

    text: str


@dataclass(frozen=True, init=False)
class Picture(Text):
    """A picture as an example: `.like(Picture(Path("dress.jpg")))`; a path, its bytes, or a `data:` URI.

    `text` is the `data:` URI. Raises QueryError for what is no picture.
    """

    def __init__(self, given: Path | bytes | str) -> None:
        from .given import uri_of

        object.__setattr__(self, "text", uri_of(given))

    def __repr__(self) -> str:
        return f"Picture({shown(self.text)})"


@dataclass(frozen=True)
class Semantic:
    """The part of a query that ranks by one embedding."""

    embedding: str
    text: str | None = None
    vector: tuple[float, ...] | None = None
    weight: float | None = None
    k: int | None = None
    candidates: int | None = None
    min_similarity: float | None = None
    exact: bool = False
    oversample: float | None = None
    image: Picture | None = None


@dataclass(frozen=True)
class Lexical:
    """The part of a query that ranks by words (BM25), in fields written as `title` or `title^2`."""

    fields: tuple[str, ...]
    text: str | None = None
    weight: float | None = None
    type: LexicalType = "best_fields"
    operator: Literal["or", "and"] = "or"
    fuzziness: int | str | None = None
    minimum: int | str | None = None
    slop: int = 0


@dataclass(frozen=True)
class Family:
    """The part of a query that ranks documents by their children, or by their parent."""

    relation: Literal["child", "parent"]
    name: str
    part: Semantic | Lexical
    where: Filter | None = None
    score: ScoreMode = "max"
    # How many of the children are returned with each hit, or its parent where it is above 0.
    inner: int = 0
    # The fields they are returned with, and how many chunks of each.
    selected: tuple[str, ...] | None = None
    passages: int = 3

    @property
    def weight(self) -> float | None:
        """That of the part it ranks by."""
        return self.part.weight

    @property
    def text(self) -> str | None:
        """That of the part it ranks by."""
        return self.part.text


Part = Semantic | Lexical | Family


def own(part: Part) -> Semantic | Lexical:
    """The part that ranks: of a family, the one that ranks the relatives."""
    return part.part if isinstance(part, Family) else part


@dataclass(frozen=True)
class Collapse:
    """One hit for each value of a field, the best; `inner` others of the same value are on it."""

    field: str
    inner: int = 0


@dataclass(frozen=True)
class Boost:
    """A number of each document that moves its score after fusion."""

    kind: Literal["popularity", "freshness"]
    field: str
    weight: float = 1.0
    # Popularity: the value that counts half. Freshness: days after which a document counts half.
    half: float | None = None


@dataclass(frozen=True)
class Rerank:
    """The best `top` are scored again by a cross-encoder, or by a function of yours."""

    by: str | Scorer
    fields: tuple[str, ...] = ()
    text: str | None = None
    top: int = 50
    deadline: float | None = None


@dataclass(frozen=True)
class Diversify:
    """Of the best `top` those are chosen that say something new (maximal marginal relevance)."""

    embedding: str | None = None
    balance: float = 0.5
    top: int = 50


@dataclass(frozen=True)
class Sort:
    """Order by a field."""

    field: str
    descending: bool = False


Aggregations = Mapping[str, Mapping[str, Any]]
Keep = Callable[["Hit"], bool]
