"""Questions to the standard library's documentation, each with the answers that count as right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from knnex import F, Query

Document = Mapping[str, Any]

#: How many hits are asked for; one of the right answers must be among them.
TOP = 5
# Looked at in the graph for each: it is approximate, and of so few documents more cost nothing.
CANDIDATES = 500


def _anything(_document: Document, _module: Document) -> bool:
    return True


@dataclass(frozen=True)
class Question:
    """A question in words, as a query, and how its answer is checked.

    `holds` is asked for every hit, with its document and its module's: a filter is strict.
    """

    text: str
    answers: frozenset[str]
    query: Query
    # The filter, join or ranking, as the screen shows it.
    how: str = "by meaning"
    holds: Callable[[Document, Document], bool] = field(default=_anything)


def plain(text: str, *answers: str) -> Question:
    """A question by its words alone."""
    return Question(text, frozenset(answers), Query(text).semantic("meaning", candidates=CANDIDATES).limit(TOP))


#: What the demo shows.
QUESTIONS = (
    plain("remember results of expensive calls", "functools.cache", "functools.lru_cache"),
    plain(
        "where does a value belong in a sorted list",
        *("bisect.bisect_left", "bisect.bisect_right", "bisect.insort_left", "bisect.insort_right"),
    ),
    plain("pick a few winners, nobody twice", "random.sample"),
    plain("make a folder that deletes itself when I am done", "tempfile.TemporaryDirectory"),
    Question(
        "hold everyone back until all have arrived",
        frozenset({"threading.Barrier.wait"}),
        Query("hold everyone back until all have arrived")
        .semantic("meaning")
        .where(F.kind == "method", F.module == "threading")
        .limit(TOP),
        how="by meaning, among the methods of threading alone",
        holds=lambda document, _: document["kind"] == "method" and document["module"] == "threading",
    ),
    Question(
        "turn base85 text back into bytes",
        frozenset({"base64.b85decode"}),
        Query("turn base85 text back into bytes").semantic("meaning").lexical("name^2", "body").limit(TOP),
        how="by meaning and by words (BM25), fused",
    ),
    Question(
        "make data smaller",
        frozenset({"bz2.compress", "gzip.compress", "lzma.compress"}),
        Query("make data smaller")
        .semantic("meaning")
        .where(F.kind == "function")
        .where_lookup("in_module", F.pure_python == True)  # noqa: E712
        .limit(TOP),
        how="by meaning, functions whose module is written in Python (joined)",
        holds=lambda document, module: document["kind"] == "function" and module["pure_python"] is True,
    ),
    Question(
        "like heapq.merge, but not itertools.chain",
        frozenset({"heapq.nsmallest", "heapq.nlargest", "heapq.heapify"}),
        Query().semantic("meaning").like("heapq.merge").unlike("itertools.chain").limit(TOP),
        how="by example: no words at all",
        holds=lambda document, _: document["id"] not in ("heapq.merge", "itertools.chain"),
    ),
)

#: More of them, asked by `--assert`.
MORE = (
    plain("suggest the right spelling for a mistyped word", "difflib.get_close_matches"),
    plain("largest number that divides both", "math.gcd"),
    plain("smallest few entries of a big collection", "heapq.nsmallest"),
    plain("ask for a password without showing it", "getpass", "getpass.getpass", "getpass.unix_getpass"),
    plain("how much room is left on the disk", "shutil.disk_usage"),
    plain("every arrangement of the letters", "itertools.permutations"),
    plain("a queue where the most urgent comes out first", "queue.PriorityQueue", "asyncio.PriorityQueue"),
    plain("what changed between two versions of a text", "difflib.Differ", "difflib.HtmlDiff", "difflib.unified_diff"),
)

#: A slice of the corpus that holds every answer, for machines in a hurry.
SLICE = (
    *("base64", "binascii", "bisect", "builtins", "bz2", "collections", "contextlib", "copy", "difflib", "functools"),
    *("getpass", "glob", "gzip", "heapq", "itertools", "lzma", "math", "operator", "os.path", "queue", "random"),
    *("secrets", "shutil", "statistics", "string", "struct", "tempfile", "textwrap", "threading", "timeit", "zlib"),
)
