"""From a query to its plan: names checked, filters resolved, texts encoded; nothing is sent."""

from __future__ import annotations

from dataclasses import replace

from ..engines import Dialect
from ..errors import QueryError
from ..mappings import Stored
from . import after, exact, examples, family, lookup, native
from .check import check
from .check_results import check_results
from .names import Names
from .nodes import Ids, Not, both
from .parts import Semantic
from .plan import Plan
from .query import Query
from .resolve import Resolver
from .vectors import Encode, encode_texts, searched


def plan(query: Query, stored: Stored, dialect: Dialect, encode: Encode) -> Plan:
    """How `query` is answered by an index on an engine; its texts are encoded here, nothing is sent.

    Raises QueryError, UnknownField, UnsupportedByEngine, and what `encode` raises.
    """
    query = _with_parts(query, stored)
    check(query, stored)
    names = Names.of(stored.spec)
    check_results(query, names)
    after.check(query, names)
    resolver = Resolver(names)
    given = resolver.resolve(both(query.filters)) if query.filters else None
    post = Resolver(names).resolve(both(query.post)) if query.post else None
    if lookup.lookups_in(post):
        raise QueryError("post_filter() follows no foreign key", hint="use where_lookup(), which filters strictly")
    within = family.within(query, names, given)
    encoded = encode_texts(query, stored, encode)
    made = Plan(
        query=query,
        stored=stored,
        dialect=dialect,
        filter=given,
        vectors=searched(query, stored, encoded),
        texts=encoded,
        encoded=tuple(name for name, found in encoded.items() if found),
        post=post,
        within=within,
    )
    if made.examples:
        unseen = Not(Ids(made.examples))
        made = replace(made, filter=unseen if given is None else both((given, unseen)))
    asked = lookup.lookups_in(made.filter, *within.values())
    lookups = tuple((one, names.lookup(one.join)) for one in asked)
    if lookups or made.examples or exact.asked(made):
        made = replace(made, lookups=lookups, ready=False)
    elif query.liked or query.disliked:  # examples that are texts need no answer
        made = made.completed((), examples.combined(made, {}))
    if made.native:
        native.check(made)
    _ = made.legs, made.requests  # what the dialect declines is declined now
    return made


def _with_parts(query: Query, stored: Stored) -> Query:
    """A text or examples without any part ask every embedding of the index."""
    if query.parts or (query.text is None and not query.liked and not query.disliked):
        return query
    if not stored.spec.embeddings:
        raise QueryError(
            f"index {stored.spec.index!r} has no embedding to rank by",
            hint="rank by words: .lexical('FIELD'), or --lexical FIELD",
        )
    return replace(query, parts=tuple(Semantic(name) for name in stored.spec.embeddings))
