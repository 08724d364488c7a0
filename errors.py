"""Every error knnex raises on purpose, in one tree.

KnnexError
├── SettingsError            a KNNEX_* variable or option that cannot be used
├── SpecError                the declaration of an index is wrong
│   └── SpecMismatch         it is right, but the cluster holds something else
├── InputError               a file or document that cannot be read
├── EncoderError             a model failed
│   ├── ModelUnavailable     it cannot be loaded
│   ├── BadVector            it gave a vector no engine may hold
│   └── ModelMismatch        the index was filled by another model
├── QueryError               a query that cannot be asked
│   ├── UnknownField         it names a field the index does not have
│   └── UnsupportedByEngine  this engine has no way to run it
├── LogUnavailable           the event log cannot be used, or is unsafe
│   └── LogUnreachable       it does not answer
├── IngestIncomplete         some documents did not go in
├── ReindexStopped           a new index version was not swapped in
│   └── AlreadyRunning       somebody else is building one
└── EngineError              the engine answered with an error
    ├── EngineUnreachable    or did not answer at all
    ├── EngineStartFailed    an embedded server did not come up
    ├── AccessDenied         credentials missing, wrong or too weak
    ├── IndexMissing         no index or alias of that name
    ├── DocumentChanged      somebody else wrote the document first
    ├── EngineBusy           it asks us to slow down
    ├── RequestTooLarge      it refuses a body of that size
    └── RequestRejected      it refuses the request as such
"""

from __future__ import annotations


class KnnexError(Exception):
    """knnex could not do what was asked."""

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.hint = hint
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))
        if hint:
            self.add_note(f"Hint: {hint}")


class SettingsError(KnnexError):
    """A setting cannot be used."""


class SpecError(KnnexError):
    """The spec is not valid."""


class SpecMismatch(SpecError):
    """The spec and the index in the cluster do not agree."""


class InputError(KnnexError):
    """The input cannot be read."""


class EncoderError(KnnexError):
    """The encoder failed."""


class ModelUnavailable(EncoderError):
    """The model cannot be loaded."""


class BadVector(EncoderError):
    """The encoder returned a vector that no engine may hold."""


class ModelMismatch(EncoderError):
    """The index was filled by another model."""


class QueryError(KnnexError):
    """The query cannot be asked."""


class UnknownField(QueryError):
    """The query names a field the index does not have."""


class UnsupportedByEngine(QueryError):
    """This engine has no way to run the query."""


class LogUnavailable(KnnexError):
    """The event log cannot be used."""


class LogUnreachable(LogUnavailable):
    """The event log does not answer."""


class IngestIncomplete(KnnexError):
    """Some documents did not go in."""


class ReindexStopped(KnnexError):
    """The new index version was not swapped in."""


class AlreadyRunning(ReindexStopped):
    """Somebody else is building a new version of this index."""


class EngineError(KnnexError):
    """The engine answered with an error."""


class EngineUnreachable(EngineError):
    """The engine does not answer."""


class EngineStartFailed(EngineError):
    """An embedded server did not come up."""


class AccessDenied(EngineError):
    """The engine refused the credentials."""


class IndexMissing(EngineError):
    """There is no index or alias of that name."""


class DocumentChanged(EngineError):
    """Somebody else wrote the document first."""


class EngineBusy(EngineError):
    """The engine asks for fewer requests."""


class RequestTooLarge(EngineError):
    """The engine refuses a body of that size."""


class RequestRejected(EngineError):
    """The engine refuses the request."""
