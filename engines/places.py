"""Where engine and log are, for whoever was not told: the settings, else what runs embedded here, else localhost."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ..errors import SettingsError
from ..settings import Settings
from .connect import Access
from .embedded import running


def engine_url(settings: Settings) -> str:
    """The engine's URL: KNNEX_URL, the embedded server of KNNEX_HOME, http://localhost:9200."""
    embedded = None if settings.url else running(settings.home)
    return settings.url or (embedded and embedded.url) or "http://localhost:9200"


def log_url(settings: Settings) -> str:
    """The event log's URL: KNNEX_LOG_URL, KNNEX_REDIS_URL, the embedded Redis, redis://localhost:6379/0."""
    if settings.log_url:
        return settings.log_url.get_secret_value()
    embedded = None if settings.redis_url else running(settings.home)
    return settings.redis_url or (embedded and embedded.redis_url) or "redis://localhost:6379/0"


def broker_url(settings: Settings) -> str:
    """Celery's broker: KNNEX_BROKER_URL, the Redis of the log, else the worker's own memory, where it rings itself."""
    if settings.broker_url:
        return settings.broker_url.get_secret_value()
    url = log_url(settings)
    return url if urlsplit(url).scheme in ("redis", "rediss", "unix") else "memory://"


def access(settings: Settings, **given: Any) -> Access:
    """Credentials, TLS and patience by the settings, where `given` does not say otherwise; None says nothing.

    Credentials that are given stand alone: those of the settings are then not used. Raises SettingsError, and
    TypeError for an option there is not.
    """
    credentials: dict[str, Any] = {
        "api_key": settings.api_key and settings.api_key.get_secret_value(),
        "username": settings.username,
        "password": settings.password and settings.password.get_secret_value(),
    }
    known: dict[str, Any] = {
        "ca_certs": settings.ca_certs,
        "verify_certs": settings.verify_certs,
        "timeout": settings.timeout,
    }
    if unknown := given.keys() - credentials.keys() - known.keys():
        takes = ", ".join((*credentials, *known, "log_url", "redis_url"))
        raise TypeError(f"connect() takes no {', '.join(sorted(unknown))}; it takes {takes}")
    given = {name: value for name, value in given.items() if value is not None}
    chosen = given if credentials.keys() & given.keys() else credentials
    options = known | {name: given[name] for name in known if name in given}
    user, password = chosen.get("username"), chosen.get("password")
    if password and not user:
        raise SettingsError("there is a password without a user name", hint="set KNNEX_USERNAME, or give username")
    return Access(
        api_key=chosen.get("api_key"),
        basic_auth=(user, password or "") if user else None,
        ca_certs=options["ca_certs"] and str(options["ca_certs"]),
        verify_certs=options["verify_certs"],
        timeout=options["timeout"],
    )
