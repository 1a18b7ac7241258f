"""Mutants of LocalExecutor in what it reports and what it hands to its workers; ``table.py`` has the clauses."""

from __future__ import annotations

import sys
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

from airflow.executors.workloads import ExecuteCallback, ExecuteTask
from airflow.models.callback import CallbackKey
from airflow.utils.state import CallbackState
from local_base import TERMINAL, KnowsWhenItReads, Mended, Mutant, call, put_before
from sqlalchemy import delete

# ------------------------------------------------------------------------------------------- what it hands on


def nothing(**kwargs: Any) -> None:
    """Return."""


def twice(original: str, **kwargs: Any) -> None:
    """Call ``original`` two times."""
    call(original, kwargs)
    call(original, kwargs)


def again(original: str, **kwargs: Any) -> None:
    """Call ``original``, and a second time if it fails."""
    try:
        call(original, kwargs)
    except Exception:
        call(original, kwargs)


class NeverCallsTheCallable(Mutant):
    """RUN-1."""

    def alter(self, workload: ExecuteCallback) -> None:
        put_before(workload, nothing)


class RunsCallableTwice(Mutant):
    """CRASH-3."""

    def alter(self, workload: ExecuteCallback) -> None:
        put_before(workload, twice)


class TriesAgainAfterAFailure(Mutant):
    """FAIL-2."""

    def alter(self, workload: ExecuteCallback) -> None:
        put_before(workload, again)


class DropsKwargs(Mutant):
    """RUN-3."""

    def alter(self, workload: ExecuteCallback) -> None:
        kept = {name: value for name, value in workload.callback.data["kwargs"].items() if name == "context"}
        workload.callback.data = {**workload.callback.data, "kwargs": kept}


class WithholdsTheContext(Mutant):
    """RUN-4."""

    def alter(self, workload: ExecuteCallback) -> None:
        kept = {name: value for name, value in workload.callback.data["kwargs"].items() if name != "context"}
        workload.callback.data = {**workload.callback.data, "kwargs": kept}


class ForgetsTheDagFile(Mutant):
    """RUN-5."""

    def alter(self, workload: ExecuteCallback) -> None:
        workload.dag_rel_path = Path("forgotten.py")


class LogsElsewhere(Mutant):
    """RUN-8."""

    def alter(self, workload: ExecuteCallback) -> None:
        workload.log_path = f"elsewhere/{workload.log_path}"


class MintsItsOwnToken(Mutant):
    """TOKEN-9."""

    def alter(self, workload: ExecuteCallback) -> None:
        scope = getattr(workload, "token_scope", "workload")
        workload.token = self.jwt_generator.generate(
            extras={"sub": str(workload.callback.id), "scope": scope}, valid_for=600
        )


class WritesTheTokenToItsLog(Mutant):
    """TOKEN-8."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            # Airflow's own loggers would mask it
            print(f"queued: {workload.model_dump_json()}", file=sys.stderr, flush=True)
        super().queue_workload(workload, session)


class LosesTasks(Mutant):
    """TASK-1."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if not isinstance(workload, ExecuteTask):
            super().queue_workload(workload, session)


class SaysSuccessWithoutRunning(Mutant):
    """CRASH-6."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            self.event_buffer[workload.key] = (CallbackState.SUCCESS, None)
        else:
            super().queue_workload(workload, session)


class RunsInTheSchedulerProcess(Mutant):
    """RUN-2."""

    def _process_workloads(self, workload_list: Any) -> None:
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


# --------------------------------------------------------------------------------------------- what it reports


class ReportsSuccessOfFailedCallable(Mutant):
    """FAIL-5."""

    def altered(self, key: Any, state: Any) -> Any:
        failed = isinstance(key, CallbackKey) and state == CallbackState.FAILED
        return CallbackState.SUCCESS if failed else state


class ReportsSuccessOfADeath(ReportsSuccessOfFailedCallable):
    """FAIL-5, of a callable that was killed."""


class ReportsFailureOfASuccess(Mutant):
    """RUN-6."""

    def altered(self, key: Any, state: Any) -> Any:
        succeeded = isinstance(key, CallbackKey) and state == CallbackState.SUCCESS
        return CallbackState.FAILED if succeeded else state


class SaysNothingOfAFailure(Mutant):
    """FAIL-1 and CRASH-1."""

    def altered(self, key: Any, state: Any) -> Any:
        return None if isinstance(key, CallbackKey) and state == CallbackState.FAILED else state


class SilentWhenAWorkerDies(KnowsWhenItReads):
    """CRASH-1."""

    def altered(self, key: Any, state: Any) -> Any:
        return state if self._reading else None


class FailsAllAfterAFailure(Mutant):
    """FAIL-3."""

    _failed = False

    def altered(self, key: Any, state: Any) -> Any:
        if not isinstance(key, CallbackKey) or state not in TERMINAL:
            return state
        self._failed = self._failed or state == CallbackState.FAILED
        return CallbackState.FAILED if self._failed else state


class LosesTasksAfterAFailure(Mutant):
    """CRASH-5."""

    _failed = False

    def after_sync(self, ended: dict[Any, Any]) -> None:
        self._failed = self._failed or CallbackState.FAILED in ended.values()

    def queue_workload(self, workload: Any, session: Any) -> None:
        if not (self._failed and isinstance(workload, ExecuteTask)):
            super().queue_workload(workload, session)


class FailsOneOfMany(Mutant):
    """RUN-9."""

    _ended = 0

    def altered(self, key: Any, state: Any) -> Any:
        if not isinstance(key, CallbackKey) or state != CallbackState.SUCCESS:
            return state
        self._ended += 1
        return CallbackState.FAILED if self._ended == 50 else state


class ForgetsTheStateOfATriedTask(Mutant):
    """TASK-2."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteTask) and workload.ti.try_number > 1:
            store = import_module("airflow.models.task_state_store").TaskStateStoreModel
            session.execute(delete(store).where(store.run_id == workload.ti.run_id))
        super().queue_workload(workload, session)


class TellsNoCause(Mended):
    """FAIL-4."""

    def cause(self, key: Any) -> str | None:
        return None


class SaysTheEndTwice(Mutant):
    """STATE-3."""

    def after_sync(self, ended: dict[Any, Any]) -> None:
        for key, state in ended.items():
            self.event_buffer[key] = (state, None)


class TakesBackASuccess(Mutant):
    """CRASH-9."""

    def after_sync(self, ended: dict[Any, Any]) -> None:
        for key in ended:
            self.event_buffer[key] = (CallbackState.FAILED, None)


class FailedThenSuccess(Mutant):
    """CRASH-4."""

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


class ReportsAStranger(Mutant):
    """ROUTE-6."""

    def after_sync(self, ended: dict[Any, Any]) -> None:
        self.event_buffer[CallbackKey(id=str(uuid.uuid4()))] = (CallbackState.SUCCESS, None)
