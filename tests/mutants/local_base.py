"""What the mutants of LocalExecutor are made from; for Airflow 3.3 and 3.4."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteCallback
from airflow.models.callback import CallbackKey
from airflow.utils.state import CallbackState

TERMINAL = (CallbackState.SUCCESS, CallbackState.FAILED)


def call(original: str, kwargs: dict[str, Any]) -> None:
    """Call the callable at the path ``original`` without a context."""
    module, _, name = original.rpartition(".")
    getattr(import_module(module), name)(**{key: value for key, value in kwargs.items() if key != "context"})


def put_before(workload: Any, wrapper: Callable[..., None], **more: str) -> None:
    """Let the worker call ``wrapper`` with the path of the callable, its kwargs and ``more``."""
    data = dict(workload.callback.data)
    data["kwargs"] = {**data["kwargs"], "original": data["path"], **more}
    data["path"] = f"{wrapper.__module__}.{wrapper.__qualname__}"
    workload.callback.data = data


class Mutant(LocalExecutor):
    """LocalExecutor with places at which a defect can be put."""

    def altered(self, key: Any, state: Any) -> Any:
        """The state to report instead of ``state``; None: it is not reported."""
        return state

    def alter(self, workload: ExecuteCallback) -> None:
        """Change a callback before it is queued."""

    def after_sync(self, ended: dict[Any, Any]) -> None:
        """See the callbacks whose end this heartbeat reports, with their states."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            self.alter(workload)
        super().queue_workload(workload, session)

    def sync(self) -> None:
        super().sync()
        events = list(self.event_buffer.items())
        if ended := {key: state for key, (state, _) in events if isinstance(key, CallbackKey) and state in TERMINAL}:
            self.after_sync(ended)

    # Airflow 3.3 reports through change_state, 3.4 through _finish_dispatch

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        if (altered := self.altered(key, state)) is None:
            self.running.discard(key)
        else:
            super().change_state(key, altered, info, remove_running)

    def _finish_dispatch(self, key: Any, state: Any) -> None:
        if (altered := self.altered(key, state)) is None:
            self._dispatch_counts.pop(key, None)
            self.running.discard(key)
        else:
            super()._finish_dispatch(key, altered)


class KnowsWhenItReads(Mutant):
    """Has ``_reading`` set while it reads what its workers have reported."""

    _reading = False

    def _read_results(self) -> None:
        self._reading = True
        try:
            super()._read_results()
        finally:
            self._reading = False


class Through:
    """A queue through which each item goes by way of ``see``."""

    def __init__(self, queue: Any, see: Callable[[Any], None]) -> None:
        self._queue, self._see = queue, see

    def get(self) -> Any:
        """The next item."""
        item = self._queue.get()
        self._see(item)
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


class WorkerMutant(Mutant):
    """Its defect is in the worker process, before the supervisor of the callback starts."""

    def before(self, workload: ExecuteCallback) -> None:
        """Of the worker process."""

    def _before(self, workload: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            self.before(workload)

    def _spawn_worker(self) -> None:
        queue = self.activity_queue
        self.activity_queue = Through(queue, self._before)
        try:
            super()._spawn_worker()
        finally:
            self.activity_queue = queue


class Mended(Mutant):
    """LocalExecutor without defects of its own (DECL-6, FAIL-4, ROUTE-8), so that a mutant can have one of them."""

    _ended = False

    def start(self) -> None:
        super().start()
        self._causes: dict[Any, str] = {}
        self.result_queue = Through(self.result_queue, self._hear)

    def _hear(self, result: Any) -> None:
        *_, key, _, raised = result
        if raised is not None and isinstance(key, CallbackKey):
            self._causes[key] = str(raised)

    def _process_workloads(self, workload_list: Any) -> None:
        super()._process_workloads(workload_list)
        if not hasattr(self, "executor_queues"):
            self.running.update(workload.key for workload in workload_list)

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        super().change_state(key, state, info or self.cause(key), remove_running and state != CallbackState.RUNNING)

    def _finish_dispatch(self, key: Any, state: Any) -> None:
        self._dispatch_counts.pop(key, None)
        BaseExecutor.change_state(self, key, self.altered(key, state), self.cause(key))

    def cause(self, key: Any) -> str | None:
        """Why the callback failed."""
        return self._causes.get(key)

    def revoke_task(self, *, ti: Any) -> None:
        if hasattr(self, "executor_queues"):
            super().revoke_task(ti=ti)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            super().end()
