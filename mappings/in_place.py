"""What engines change on a live index, as tables; everything else needs a new index version.

Sources: the engines' pages on index settings and on mapping parameters, and for the vectors' graphs a matrix of updates
tried on Elasticsearch 8.13 to 9.5 and OpenSearch 3.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engines import Dialect

# Settings that an engine takes on a live index, if it has them at all; a name that ends in a dot is a whole group.
_DYNAMIC = (
    "number_of_replicas", "auto_expand_replicas", "refresh_interval", "search.", "max_result_window",
    "max_inner_result_window", "max_rescore_window", "max_docvalue_fields_search", "max_script_fields",
    "max_ngram_diff", "max_shingle_diff", "max_refresh_listeners", "max_terms_count", "max_regex_length",
    "max_slices_per_scroll", "max_slices_per_pit", "analyze.max_token_count", "highlight.", "query.", "routing.",
    "gc_deletes", "default_pipeline", "final_pipeline", "hidden", "priority", "blocks.", "translog.", "merge.policy.",
    "merge.scheduler.", "mapping.total_fields.", "mapping.depth.", "mapping.nested_fields.", "mapping.nested_objects.",
    "mapping.field_name_length.", "mapping.dimension_fields.", "unassigned.", "write.wait_for_active_shards",
    "indexing.slowlog.", "lifecycle.", "plugins.", "knn.algo_param.ef_search", "knn.advanced.",
    "dense_vector.hnsw_filter_heuristic",
)  # fmt: skip
# Of these groups, what is fixed when the index is made.
_FIXED = ("merge.policy.type", "query.parse.allow_unmapped_fields", "search.throttled")
# Options of a field that an update of the mapping may change; what came in before stays as it was indexed.
_FIELD_OPTIONS = {
    "ignore_above", "meta", "search_analyzer", "search_quote_analyzer", "eager_global_ordinals", "fielddata",
    "fielddata_frequency_filter", "coerce", "ignore_malformed", "dynamic", "copy_to", "split_queries_on_whitespace",
}  # fmt: skip
# What holds for the whole mapping and may be changed.
MAPPING_OPTIONS = {
    "dynamic", "dynamic_templates", "date_detection", "dynamic_date_formats", "numeric_detection", "runtime",
}  # fmt: skip

# The types of graph in Elasticsearch, each of which may become any that comes after it, but for `bbq_flat`.
_ORDER = ("flat", "int8_flat", "int4_flat", "hnsw", "int8_hnsw", "int4_hnsw", "bbq_hnsw")
_TO_BBQ_FLAT = ("flat", "int8_flat", "int4_flat")


def setting_is_dynamic(name: str) -> bool:
    """Whether a setting (without `index.`) may be changed while the index is open; of what is not known, no."""
    if name in _FIXED:
        return False
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in _DYNAMIC)


def field_option_is_dynamic(option: str) -> bool:
    """Whether an option of a field may be changed by an update of the mapping."""
    return option in _FIELD_OPTIONS


def why_not_forward(dialect: Dialect, was: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Why the mapping of a vector cannot be updated to `wanted`; None where it can be."""
    if dialect.product == "opensearch":
        return "OpenSearch updates nothing of a knn_vector"
    for option in ("type", "dims", "element_type", "similarity", "index"):
        if option in wanted and option in was and wanted[option] != was[option]:
            return f"{option} of a live {was.get('type', 'field')} cannot change"
    before, after = was.get("index_options") or {}, wanted.get("index_options") or {}
    old, new = before.get("type"), after.get("type")
    if old != new and not _is_forward(dialect.version, str(old), str(new)):
        return f"{dialect} does not turn {old} into {new}"
    if int(after.get("m", 0)) < int(before.get("m", 0)):
        return "m of a live graph may only grow"
    return None


def _is_forward(version: tuple[int, ...], old: str, new: str) -> bool:
    """Any step forward from 8.19 and 9.1 on; before, only those few that were tried."""
    if (8, 19) <= version < (9, 0) or version >= (9, 1):
        if new == "bbq_flat":
            return old in _TO_BBQ_FLAT
        if new == "bbq_disk":
            return old == "flat" and version >= (9, 5)
        if old == "bbq_flat":
            return new == "bbq_hnsw"
        return old in _ORDER and new in _ORDER and _ORDER.index(old) < _ORDER.index(new)
    early = [("flat", "hnsw"), ("flat", "int8_hnsw"), ("hnsw", "int8_hnsw")] if version >= (8, 15) else []
    early += [("int8_hnsw", "int4_hnsw"), ("hnsw", "int4_hnsw"), ("flat", "int4_hnsw")] if version >= (8, 17) else []
    return (old, new) in early
