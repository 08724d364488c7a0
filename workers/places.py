"""Where a worker finds its engine and its log: the settings, else what runs embedded here, else localhost."""

from __future__ import annotations

from ..engines import Access, Engine, open_engine
from ..settings import Settings


def engine_of(settings: Settings) -> Engine:
    """The engine by the settings. Raises EngineUnreachable, AccessDenied."""
    password = settings.password.get_secret_value() if settings.password else ""
    access = Access(
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        basic_auth=(settings.username, password) if settings.username else None,
        ca_certs=str(settings.ca_certs) if settings.ca_certs else None,
        verify_certs=settings.verify_certs,
        timeout=settings.timeout,
    )
    return open_engine(settings.url or _embedded(settings, "url") or "http://localhost:9200", access)


def log_url(settings: Settings) -> str:
    """The URL of the event log, which is the Celery broker too."""
    return settings.redis_url or _embedded(settings, "redis_url") or "redis://localhost:6379/0"


def _embedded(settings: Settings, what: str) -> str | None:
    from ..engines.embedded import running

    found: str | None = getattr(running(settings.home), what, None)
    return found
