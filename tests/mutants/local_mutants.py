"""Subclasses of LocalExecutor, for Airflow 3.3 and 3.4; ``table.py`` says which clause each one breaks."""

from __future__ import annotations

import sys
from typing import Any

from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteCallback
from airflow.models.callback import CallbackKey
from airflow.utils.state import CallbackState

TERMINAL = (CallbackState.SUCCESS, CallbackState.FAILED)


def twice(original: str, **kwargs: Any) -> None:
    """Call ``original`` two times."""
    from importlib import import_module

    module, _, name = original.rpartition(".")
    function = getattr(import_module(module), name)
    kwargs.pop("context", None)
    function(**kwargs)
    function(**kwargs)


class _Mutant(LocalExecutor):
    def altered(self, key: Any, state: Any) -> Any:
        """The state to report instead of ``state``."""
        return state

    # Airflow 3.3 reports through change_state, 3.4 through _finish_dispatch

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        super().change_state(key, self.altered(key, state), info, remove_running)

    def _finish_dispatch(self, key: Any, state: Any) -> None:
        super()._finish_dispatch(key, self.altered(key, state))


class ReportsSuccessOfFailedCallable(_Mutant):
    def altered(self, key: Any, state: Any) -> Any:
        failed = isinstance(key, CallbackKey) and state == CallbackState.FAILED
        return CallbackState.SUCCESS if failed else state


class RunsCallableTwice(_Mutant):
    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            data = dict(workload.callback.data)
            data["kwargs"] = {**data["kwargs"], "original": data["path"]}
            data["path"] = f"{twice.__module__}.twice"
            workload.callback.data = data
        super().queue_workload(workload, session)


class NeverFreesTheSlot(_Mutant):
    def sync(self) -> None:
        super().sync()
        for key, (state, _) in self.event_buffer.items():
            if isinstance(key, CallbackKey) and state in TERMINAL:
                self.running.add(key)


class SilentWhenAWorkerDies(_Mutant):
    _reading = False

    def _read_results(self) -> None:
        self._reading = True
        try:
            super()._read_results()
        finally:
            self._reading = False

    def _finish_dispatch(self, key: Any, state: Any) -> None:
        if self._reading:
            super()._finish_dispatch(key, state)
        else:
            self.running.discard(key)


class DropsKwargs(_Mutant):
    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            kept = {name: value for name, value in workload.callback.data["kwargs"].items() if name == "context"}
            workload.callback.data = {**workload.callback.data, "kwargs": kept}
        super().queue_workload(workload, session)


def _undeclared(cls: type) -> dict[str, Any]:
    if hasattr(LocalExecutor, "supported_workload_types"):
        callbacks = {kind for kind in LocalExecutor.supported_workload_types if kind.value == "ExecuteCallback"}
        return {"supported_workload_types": LocalExecutor.supported_workload_types - callbacks}
    return {"supports_callbacks": False}


class AcceptsWithoutDeclaring(_Mutant):
    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            if hasattr(self, "executor_queues"):
                self.executor_queues[workload.type][workload.key] = workload
            else:
                self.queued_callbacks[workload.key] = workload
            return
        super().queue_workload(workload, session)


for _name, _value in _undeclared(AcceptsWithoutDeclaring).items():
    setattr(AcceptsWithoutDeclaring, _name, _value)


class DeclaresAndRefuses(_Mutant):
    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            raise NotImplementedError("DeclaresAndRefuses does not take ExecuteCallback")
        super().queue_workload(workload, session)


class FailedThenSuccess(_Mutant):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._regrets: list[Any] = []

    def sync(self) -> None:
        for key in self._regrets:
            self.event_buffer[key] = (CallbackState.SUCCESS, None)
        self._regrets = []
        super().sync()
        self._regrets = [
            key
            for key, (state, _) in self.event_buffer.items()
            if isinstance(key, CallbackKey) and state == CallbackState.FAILED
        ]


class RunsInTheSchedulerProcess(_Mutant):
    def _process_workloads(self, workload_list: Any) -> None:
        from importlib import import_module

        callbacks = [workload for workload in workload_list if isinstance(workload, ExecuteCallback)]
        for workload in callbacks:
            module, _, name = workload.callback.data["path"].rpartition(".")
            kwargs = {k: v for k, v in workload.callback.data["kwargs"].items() if k != "context"}
            queue = getattr(self, "queued_callbacks", {})
            queue.pop(workload.key, None)
            try:
                getattr(import_module(module), name)(**kwargs)
                self.event_buffer[workload.key] = (CallbackState.SUCCESS, None)
            except Exception as error:
                self.event_buffer[workload.key] = (CallbackState.FAILED, str(error))
        tasks = [workload for workload in workload_list if not isinstance(workload, ExecuteCallback)]
        if tasks:
            super()._process_workloads(tasks)


class MintsItsOwnToken(_Mutant):
    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            scope = getattr(workload, "token_scope", "workload")
            workload.token = self.jwt_generator.generate(
                extras={"sub": str(workload.callback.id), "scope": scope}, valid_for=600
            )
        super().queue_workload(workload, session)


class WritesTheTokenToItsLog(_Mutant):
    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            # Airflow's own loggers would mask it
            print(f"queued: {workload.model_dump_json()}", file=sys.stderr, flush=True)
        super().queue_workload(workload, session)


class TakesWhatItDoesNotKnow(_Mutant):
    def queue_workload(self, workload: Any, session: Any) -> None:
        if type(workload).__name__.startswith("Execute"):
            super().queue_workload(workload, session)
        elif hasattr(self, "executor_queues"):
            self.executor_queues[workload.type][workload.key] = workload
        else:
            self.queued_tasks[workload.key] = workload
