"""LocalExecutor with workers that report the end of a callback by the state route, which Airflow 3.4 has not yet."""

from __future__ import annotations

import os
import time
from typing import Any

from airflow.executors.workloads import ExecuteCallback
from airflow.models.callback import CallbackKey
from airflow.utils.state import CallbackState
from local_base import TERMINAL, KnowsWhenItReads, WorkerMutant

LATE_S = 3.0
"""Time for a scheduler to see what an executor said before its worker."""


class Reports(KnowsWhenItReads, WorkerMutant):
    """Its workers report the end, and it says a terminal state only of a callback whose worker has died."""

    def before(self, workload: ExecuteCallback) -> None:
        from airflow.sdk.execution_time.callback_supervisor import CallbackSubprocess

        if not hasattr(CallbackSubprocess, "unreported"):
            CallbackSubprocess.unreported = CallbackSubprocess.wait
        before_report = self.before_report

        def wait(process: Any) -> int:
            code: int = process.unreported()
            before_report(workload, code)
            report(process.client, str(workload.callback.id), code)
            return code

        CallbackSubprocess.wait = wait

    def before_report(self, workload: ExecuteCallback, code: int) -> None:
        """Of the worker process, when the callable has come to its end."""

    def altered(self, key: Any, state: Any) -> Any:
        return None if self._reading and isinstance(key, CallbackKey) and state in TERMINAL else state


class NeverSays(Reports):
    """CRASH-1: nor does it say that a worker has died."""

    def altered(self, key: Any, state: Any) -> Any:
        return None if isinstance(key, CallbackKey) and state in TERMINAL else state


class ReportsAndSays(Reports):
    """Its workers report the end, and it says a terminal state afterwards, as today's executors do."""

    def altered(self, key: Any, state: Any) -> Any:
        return state


class SaysTheEndFirst(ReportsAndSays):
    """RUN-12."""

    def before_report(self, workload: ExecuteCallback, code: int) -> None:
        state = CallbackState.FAILED if code else CallbackState.SUCCESS
        self.result_queue.put((os.getpid(), workload.callback.key, state, None))
        time.sleep(LATE_S)


def report(client: Any, callback: str, code: int) -> None:
    """Report the end; that the row is already as reported is no failure, for an answer may have been lost."""
    from airflow.sdk.api.client import ServerResponseError

    state = "failed" if code else "success"
    said = {"state": state, "output": f"The callable's process ended with exit code {code}" if code else None}
    try:
        client.patch(f"callbacks/{callback}/state", json=said)
    except ServerResponseError as error:
        told = error.response.json().get("detail", {})
        if error.response.status_code != 409 or told.get("current_state") != state:
            raise
