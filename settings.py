"""Settings: `KNNEX_*` environment variables, read once, in one class."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as _Unreadable

from .errors import SettingsError


def _cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knnex"


class Settings(BaseSettings):
    """What knnex reads from the environment; every field is `KNNEX_` plus its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="KNNEX_", extra="ignore")

    # The engine's address; unset, the embedded server of `home` is used if it runs, else http://localhost:9200.
    url: str | None = Field(default=None, repr=False)
    api_key: SecretStr | None = None
    username: str | None = None
    password: SecretStr | None = None
    ca_certs: Path | None = None
    verify_certs: bool = True
    # Redis: the event log and the Celery broker; unset, the embedded one of `home`, else redis://localhost:6379/0.
    redis_url: str | None = Field(default=None, repr=False)
    # The event log, where it is not that Redis: redis://, rediss://, unix://, sqlite:///FILE, postgresql+psycopg://.
    log_url: SecretStr | None = None
    # The Celery broker; unset, the Redis of the log, and each worker's own memory where the log is a database.
    broker_url: SecretStr | None = None
    # Where embedded servers keep data, logs and their state.
    home: Path = Path(".knnex")
    # Where downloads and encoded vectors are kept between runs.
    cache_dir: Path = Field(default_factory=_cache_root)
    java_home: Path | None = None
    # Bytes of vectors kept there; those not used for longest go first.
    cache_bytes: int = Field(default=4 << 30, ge=1 << 20)
    # A Redis for them instead, shared by workers on many machines: one of its own, with maxmemory and allkeys-lru.
    cache_url: SecretStr | None = None
    # float16 takes half the room and keeps three digits of each number.
    cache_dtype: Literal["float32", "float16"] = "float32"
    # Vectors of queries kept in the memory of each process; those not asked for longest go first, 0 keeps none.
    query_cache: int = Field(default=10_000, ge=0)
    # A `knnex serve` that encodes for this process, which then needs no model; unset, models are loaded here.
    encoder_url: str | None = Field(default=None, repr=False)
    # Models that `knnex serve` encodes with for others.
    served_models: tuple[str, ...] = ()
    # The folder that the paths of pictures are seen from; unset, no path is read.
    images: Path | None = None
    # Hosts whose pictures are fetched although their addresses are not public.
    image_hosts: tuple[str, ...] = ()
    # cpu, cuda, mps; unset, the best one there is.
    device: str | None = None
    # Model name -> local directory, for machines that cannot reach the model hub.
    models: dict[str, str] = Field(default_factory=dict)
    # A Python module with settings of Celery's own.
    celery_config: str | None = None
    # gpu: workers without one leave the backfill to those that have one, while any lives; any: they do not.
    backfill: Literal["gpu", "any"] = "gpu"
    # Bytes of memory that a document which may have killed a worker gets, when it is tried alone.
    trial_bytes: int | None = Field(default=None, ge=1)
    # Documents a worker takes from the log at once.
    batch: int = Field(default=512, ge=1, le=10_000)
    # Seconds after which the events of a silent worker are given to another.
    lease: float = Field(default=15.0, gt=0)
    # Seconds a model may take for one answer, after which the worker ends itself: it hangs.
    deadline: float = Field(default=300.0, gt=0)
    # Seconds that a worker waits for an engine and a log that do not answer when it starts.
    start_wait: float = Field(default=120.0, ge=0)
    # Events of an index that may wait in the log, beyond which producers are told to come back later.
    max_waiting: int = Field(default=1_000_000, ge=1)
    # What producers that send events over HTTP have to present; unset, only this machine is served.
    token: SecretStr | None = None
    # text for people, json for collectors of logs.
    log_format: Literal["text", "json"] = "text"
    # Seconds to wait for one answer of the engine.
    timeout: float = Field(default=30.0, gt=0)


# Settings that are written as JSON.
_SHAPES = {"models": '{"MODEL": "DIRECTORY"}', "served_models": '["MODEL"]', "image_hosts": '["HOST"]'}


@cache
def settings() -> Settings:
    """The settings of this process. Raises SettingsError for a variable that cannot be read."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "KNNEX_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{name}: {first['msg']}", hint=f"correct or unset {name}") from None
    except _Unreadable as error:  # it names the field, and the reason is its cause
        field = next((name for name in _SHAPES if f'"{name}"' in str(error)), "models")
        raise SettingsError(
            f"KNNEX_{field.upper()} is no JSON: {error.__cause__ or error}", hint=f"write {_SHAPES[field]}, or unset it"
        ) from None
