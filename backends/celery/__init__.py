"""CeleryExecutor and ``airflow celery worker``, with a choice of brokers."""

from executor_conformance.backends.celery.backend import CeleryBackend

__all__ = ["CeleryBackend"]
