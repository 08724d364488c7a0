"""Where engine and log are, for whoever was not told: the settings, else what runs embedded here, else localhost."""

from __future__ import annotations

from typing import Any

from ..settings import Settings
from .connect import Access
from .embedded import running


def engine_url(settings: Settings) -> str:
    """The engine's URL: KNNEX_URL, the embedded server of KNNEX_HOME, http://localhost:9200."""
    embedded = None if settings.url else running(settings.home)
    return settings.url or (embedded and embedded.url) or "http://localhost:9200"


def log_url(settings: Settings) -> str:
    """The URL of the event log and Celery broker: KNNEX_REDIS_URL, the embedded Redis, redis://localhost:6379/0."""
    embedded = None if settings.redis_url else running(settings.home)
    return settings.redis_url or (embedded and embedded.redis_url) or "redis://localhost:6379/0"


def access(settings: Settings, **given: Any) -> Access:
    """Credentials, TLS and patience by the settings, where `given` does not say otherwise.

    Raises TypeError for an option there is not.
    """
    known: dict[str, Any] = {
        "api_key": settings.api_key and settings.api_key.get_secret_value(),
        "username": settings.username,
        "password": settings.password and settings.password.get_secret_value(),
        "ca_certs": settings.ca_certs and str(settings.ca_certs),
        "verify_certs": settings.verify_certs,
        "timeout": settings.timeout,
    }
    if unknown := given.keys() - known.keys():
        raise TypeError(f"connect() takes no {', '.join(sorted(unknown))}; it takes {', '.join(known)}")
    options = known | given
    user, password = options.pop("username"), options.pop("password")
    return Access(basic_auth=(user, password or "") if user else None, **options)
