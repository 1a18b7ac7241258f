"""CeleryExecutor with one defect; the class name is the defect."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from airflow.executors.workloads import ExecuteCallback
from airflow.providers.celery.executors.celery_executor import CeleryExecutor
from airflow.providers.celery.executors.celery_executor_utils import send_workload_to_executor


class IgnoresTheConfiguredQueue(CeleryExecutor):
    """ROUTE-5."""

    def _send_workloads(self, workload_tuples_to_send: Any) -> None:
        super()._send_workloads(
            [
                (key, workload, "default" if isinstance(workload, ExecuteCallback) else queue, *more)
                for key, workload, queue, *more in workload_tuples_to_send
            ]
        )


class InventsAQueue(CeleryExecutor):
    """ROUTE-5: no worker listens to it, so no callable starts (as in apache/airflow#57832)."""

    def _send_workloads(self, workload_tuples_to_send: Any) -> None:
        super()._send_workloads(
            [
                (key, workload, "callbacks" if isinstance(workload, ExecuteCallback) else queue, *more)
                for key, workload, queue, *more in workload_tuples_to_send
            ]
        )


_BUSY = threading.Lock()
"""A lock such as those of a logger, a metrics client or a connection pool."""


def _send(workload: Any) -> Any:
    with _BUSY:
        return send_workload_to_executor(workload)


class DeadlocksInItsPool(CeleryExecutor):
    """CRASH-5: a lock that is held at the fork is never released in the pool's processes (apache/airflow#70690)."""

    def _send_workloads_to_celery(self, workload_tuples_to_send: Any) -> Any:
        if len(workload_tuples_to_send) == 1 or self._sync_parallelism == 1:
            return super()._send_workloads_to_celery(workload_tuples_to_send)
        with _BUSY, ProcessPoolExecutor(self._sync_parallelism) as pool:
            return list(pool.map(_send, workload_tuples_to_send))


class GivesUpOnSilence(CeleryExecutor):
    """No defect: it fails a callback that no worker has begun within a bound, and takes its message back."""

    BOUND_S = 4.0

    def _process_workloads(self, workload_items: Any) -> None:
        super()._process_workloads(workload_items)
        for workload in workload_items:
            if isinstance(workload, ExecuteCallback):
                self.__dict__.setdefault("sent", {})[workload.callback.key] = time.monotonic()

    def sync(self) -> None:
        super().sync()
        for key, at in list(self.__dict__.get("sent", {}).items()):
            result = self.workloads.get(key)
            if result is None or result.state != "PENDING":
                del self.sent[key]
            elif time.monotonic() - at > self.BOUND_S:
                del self.sent[key]
                result.revoke()
                self.fail(key, "No worker has begun it.")


class PublishesTwice(CeleryExecutor):
    """A callback is published again although its message has arrived, as after a timeout (apache/airflow#67123)."""

    def _send_workloads(self, workload_tuples_to_send: Any) -> None:
        super()._send_workloads(workload_tuples_to_send)
        super()._send_workloads([each for each in workload_tuples_to_send if isinstance(each[1], ExecuteCallback)])
