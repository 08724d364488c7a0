"""The one gate through which an engine's or a client's errors become ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import (
    AccessDenied,
    DocumentChanged,
    EngineBusy,
    EngineError,
    EngineUnreachable,
    IndexMissing,
    RequestRejected,
    RequestTooLarge,
    UnsupportedByEngine,
)

# error.type of the engines -> ours; what is not listed is told by its status.
ENGINE_ERRORS: dict[str, type[EngineError] | type[UnsupportedByEngine]] = {
    "version_conflict_engine_exception": DocumentChanged,
    "index_not_found_exception": IndexMissing,
    "es_rejected_execution_exception": EngineBusy,
    "rejected_execution_exception": EngineBusy,
    "circuit_breaking_exception": EngineBusy,
    "cluster_block_exception": EngineBusy,
}
_STATUSES: dict[int, type[EngineError]] = {
    401: AccessDenied,
    403: AccessDenied,
    409: DocumentChanged,
    413: RequestTooLarge,
    429: EngineBusy,
    502: EngineUnreachable,
    503: EngineBusy,
    504: EngineBusy,
}
# How an engine says that it has no such query, retriever or field type: the module is missing.
_NOT_KNOWN = ("unknown query [", "unknown retriever [", "No handler for type [", "The mapper type [")
_HINTS: dict[type[Exception], str] = {
    AccessDenied: "set KNNEX_API_KEY, or KNNEX_USERNAME and KNNEX_PASSWORD, to credentials that may do this",
    IndexMissing: "create it with `knnex create SPEC`, or correct the name",
    RequestTooLarge: "send fewer documents at once",
    RequestRejected: "correct what it names, in the query or in the spec",
}


def refused(status: int, body: Any, request: str) -> EngineError | UnsupportedByEngine:
    """Our error for an answer of status 400 or above; `request` names what was asked."""
    kind, reason = _cause(body)
    if any(mark in reason for mark in _NOT_KNOWN):
        return UnsupportedByEngine(f"{request}: {reason}", hint="`knnex doctor` lists what this engine can do")
    found = ENGINE_ERRORS.get(kind) or _STATUSES.get(status, RequestRejected)
    detail = f"{kind}: {reason}" if kind and reason else kind or reason or "no reason given"
    return found(f"{request}: {status} {detail}", hint=_HINTS.get(found))


def part(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """One answer of `_msearch`, which may be an error by itself. Raises what `refused` makes of it."""
    if "error" in answer:
        raise refused(int(answer.get("status", 500)), dict(answer), "POST _msearch")
    return answer


def unreachable(address: str, error: Exception) -> EngineUnreachable:
    """Our error where no answer came at all."""
    text = " ".join(str(error).split())
    if "CERTIFICATE" in text.upper() or "SSL" in type(error).__name__.upper() or "TLS" in type(error).__name__.upper():
        hint = "check https:// in the URL, KNNEX_CA_CERTS and KNNEX_VERIFY_CERTS"
    elif "timed out" in text.lower() or "timeout" in type(error).__name__.lower():
        hint = "it is slow or the address is wrong; KNNEX_TIMEOUT sets the seconds to wait"
    else:
        hint = "check the URL and that the engine runs; `knnex up` starts one here"
    # Clients wrap the cause again and again; what the system said is enough.
    told = re.search(r"\[Errno -?\d+\] ([^)'\"]+)", text)
    return EngineUnreachable(f"no answer from {address}: {told[1] if told else text}", hint=hint)


def _cause(body: Any) -> tuple[str, str]:
    """(type, reason) of an error body, the root cause where one is given."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", str(error or "")
    causes = error.get("root_cause") or [error]
    cause = causes[0] if isinstance(causes[0], dict) else error
    reason = str(cause.get("reason") or error.get("reason") or "")
    nested = (error.get("caused_by") or {}).get("reason")
    return str(cause.get("type") or ""), f"{reason} ({nested})" if nested and nested not in reason else reason
