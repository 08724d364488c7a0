"""The Celery application by the settings of the environment: `celery -A knnex.workers.celery worker`."""

from __future__ import annotations

from ..settings import settings
from .app import make_app

app = make_app(settings())
