"""Celery's settings in the environment: the provider's own, with less patience for a lost pool process."""

from typing import Any

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

CONFIG: dict[str, Any] = {**DEFAULT_CELERY_CONFIG, "worker_lost_wait": 2.0}  # 10 s by default
