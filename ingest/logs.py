"""Opening the event log by its URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import SettingsError
from .log import EventLog
from .redis_log import RedisLog

_REDIS = ("redis", "rediss", "unix")
_SQL = ("sqlite", "postgresql")


def open_log(url: str) -> EventLog:
    """The event log at a URL, without asking it anything yet. Raises SettingsError for a kind there is not."""
    kind = urlsplit(url).scheme.partition("+")[0]
    if kind in _REDIS:
        return RedisLog(url)
    if kind in _SQL:
        from .sql_log import SqlLog

        return SqlLog(url)
    raise SettingsError(
        f"{kind or 'a URL without scheme'} is no kind of event log",
        hint="set KNNEX_LOG_URL to redis://HOST:6379/0, sqlite:////PATH/log.sqlite or postgresql+psycopg://HOST/DATABASE",
    )
