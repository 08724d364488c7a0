"""Celery's settings: ours, then those of a module that KNNEX_CELERY_CONFIG names, then what must not be changed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..engines.places import broker_url
from ..errors import SettingsError
from ..settings import Settings
from .queues import INGEST, QUEUE, ROUTES, SWEEP, TIDY, VERIFY, queues_of

_HOUR = 3600.0

#: For `beat_schedule`; a job that nobody did until the next one is due is forgotten.
SCHEDULE: dict[str, dict[str, Any]] = {
    "knnex-sweep": {"task": SWEEP, "schedule": 30.0, "options": {"expires": 30}},
    "knnex-tidy": {"task": TIDY, "schedule": _HOUR, "options": {"expires": _HOUR}},
    "knnex-verify": {"task": VERIFY, "schedule": 6 * _HOUR, "options": {"expires": 6 * _HOUR}},
}

#: What makes a Redis that went silent be noticed, and a worker be back within seconds.
TRANSPORT: dict[str, Any] = {
    "visibility_timeout": 600,
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 3,
    # A worker's messages are looked after every ten seconds, not every hundred.
    "unacked_restore_throttle": 1,
    # For who rings; a worker reconnects for as long as it takes.
    "max_retries": 1,
    "interval_start": 0.1,
}
_MEMORY: dict[str, Any] = {"polling_interval": 0.05}

#: A message is data and nothing else; a doorbell is never run by who rings it.
FIXED: dict[str, Any] = {
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "event_serializer": "json",
    "task_always_eager": False,
    "task_default_queue": QUEUE,
}


def configure(app: Any, settings: Settings) -> None:
    """Give a Celery application of ours its settings. Raises SettingsError for a module that cannot be used."""
    given = read(settings.celery_config or "")
    url = str(given.get("broker_url") or kombu_url(broker_url(settings)))
    memory = url.startswith("memory:")
    transport = (_MEMORY if memory else TRANSPORT) | dict(given.get("broker_transport_options") or {})
    places = {"broker_url": url, "broker_read_url": url, "broker_write_url": url, "broker_transport_options": transport}
    app.conf.update(_defaults(settings) | given | FIXED | places | {"task_routes": routes(given.get("task_routes"))})


def _defaults(settings: Settings) -> dict[str, Any]:
    from kombu import Exchange, Queue

    return {
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in queues_of(settings)],
        "task_ignore_result": True,
        "task_publish_retry": False,
        "worker_prefetch_multiplier": 1,
        "worker_consumer": "knnex.workers.consumer:Consumer",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "beat_schedule": SCHEDULE,
    }


def read(module: str) -> dict[str, Any]:
    """The settings in a module: as Celery has them, `task_time_limit`, or in the style `CELERY_TASK_TIME_LIMIT`."""
    if not module:
        return {}
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a module of somebody's raises
        raise SettingsError(
            f"KNNEX_CELERY_CONFIG: {module!r} cannot be imported: {type(error).__name__}: {error}",
            hint="name a module that Python finds, such as mycompany.celeryconfig",
        ) from error
    names = [name for name in vars(found) if not name.startswith("_")]
    values = {name: getattr(found, name) for name in names}
    values |= {name.removeprefix("CELERY_").lower(): values[name] for name in names if name.startswith("CELERY_")}
    return {name: value for name, value in values.items() if name in _known()}


def _known() -> set[str]:
    from celery.app.defaults import DEFAULTS

    return set(DEFAULTS)


def routes(given: Any) -> list[Any]:
    """The routes of an application with ours before them."""
    mine = {name: dict(route) for name, route in ROUTES.items()}
    if given is None:
        return [mine]
    theirs = list(given) if isinstance(given, (list, tuple)) else [given]
    return [mine, *(one for one in theirs if not (isinstance(one, Mapping) and INGEST in one))]


def kombu_url(url: str) -> str:
    """The URL as Celery has it: a socket's is written `redis+socket:///PATH?virtual_host=NUMBER`."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    user = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"
