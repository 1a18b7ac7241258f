"""CeleryExecutor with one defect; the class name is the defect."""

from __future__ import annotations

from typing import Any

from airflow.executors.workloads import ExecuteCallback
from airflow.providers.celery.executors.celery_executor import CeleryExecutor


class IgnoresTheConfiguredQueue(CeleryExecutor):
    """ROUTE-5."""

    def _send_workloads(self, workload_tuples_to_send: Any) -> None:
        super()._send_workloads(
            [
                (key, workload, "default" if isinstance(workload, ExecuteCallback) else queue, *more)
                for key, workload, queue, *more in workload_tuples_to_send
            ]
        )
