"""Mutants of LocalExecutor with defects that users reported, or that an author's own executor may have."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from typing import Any

from airflow.executors.workloads import ExecuteCallback
from airflow.models.callback import CallbackKey
from airflow.utils.state import CallbackState
from local_base import TERMINAL, Mended, Mutant

BOUND_S = 4.0
"""ROUTE-7's, for a call while the remote side answers."""


# ------------------------------------------------------------------------------------------------------- construction


class StartsAProcessWhenMade(Mutant):
    """DECL-8."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watcher = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"])


class RaisesFromAnAdoption(Mended):
    """DECL-6."""

    def try_adopt_task_instances(self, tis: Any) -> Any:
        raise AttributeError("'NoneType' object has no attribute 'adopt'")


# --------------------------------------------------------------------------------------------------- slots and the loop


class SleepsInItsHeartbeat(Mutant):
    """ROUTE-7, once, and for longer than three times its bound, which a machine without CPU left gets."""

    _slept = False

    def _process_workloads(self, workload_list: Any) -> None:
        super()._process_workloads(workload_list)
        if not self._slept:
            self._slept = True
            time.sleep(3.25 * BOUND_S)


class UsesHalfItsSlots(Mutant):
    """ROUTE-9."""

    def _get_workloads_to_schedule(self, open_slots: int) -> Any:
        return super()._get_workloads_to_schedule(open_slots - self.parallelism // 2)

    def _spawn_workers_with_gc_freeze(self, spawn_number: int) -> None:
        allowed = self.parallelism - self.parallelism // 2  # beside 3.3 nothing else limits what runs
        super()._spawn_workers_with_gc_freeze(max(0, min(spawn_number, allowed - len(self.workers))))


class HasAParallelismOfItsOwn(Mutant):
    """ROUTE-9."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parallelism = 1


class LosesEventsButTheLast(Mutant):
    """CRASH-1, of all callbacks but the last whose end one sync() finds."""

    def after_sync(self, ended: dict[Any, Any]) -> None:
        for key in list(ended)[:-1]:
            del self.event_buffer[key]

    def sync(self) -> None:
        time.sleep(0.5)  # so that one sync() finds several
        super().sync()


class GivesUpAfterFiveSeconds(Mutant):
    """RUN-6 of a callable that runs for longer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since: dict[Any, float] = {}

    def _process_workloads(self, workload_list: Any) -> None:
        callbacks = [workload.key for workload in workload_list if isinstance(workload, ExecuteCallback)]
        self._since |= dict.fromkeys(callbacks, time.monotonic())
        super()._process_workloads(workload_list)

    def altered(self, key: Any, state: Any) -> Any:
        if state in TERMINAL:
            return state if self._since.pop(key, None) or not isinstance(key, CallbackKey) else None
        return state

    def sync(self) -> None:
        super().sync()
        for key in [key for key, since in self._since.items() if time.monotonic() - since > 5]:
            del self._since[key]
            self.running.discard(key)
            self.event_buffer[key] = (CallbackState.FAILED, "it took longer than 5 s")


# -------------------------------------------------------------------------------------------------- what it does twice


class HandsEachCallbackToTwoWorkers(Mutant):
    """CRASH-10."""

    def _process_workloads(self, workload_list: Any) -> None:
        callbacks = [workload for workload in workload_list if isinstance(workload, ExecuteCallback)]
        super()._process_workloads(workload_list)
        for workload in callbacks:
            self.activity_queue.put(workload)


# --------------------------------------------------------------------------------------------- what it keeps of each


class KeepsADescriptorOfEach(Mutant):
    """RUN-13."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        os.open(os.devnull, os.O_RDONLY)
        super().queue_workload(workload, session)


class KeepsAThreadOfEach(Mutant):
    """RUN-13."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        super().queue_workload(workload, session)


class KeepsMemoryOfEach(Mutant):
    """RUN-13."""

    kept: list[bytearray] = []

    def queue_workload(self, workload: Any, session: Any) -> None:
        self.kept.append(bytearray(os.urandom(1 << 20)) * 4)
        super().queue_workload(workload, session)


class LeavesTheTokenInAnEnvironment(Mutant):
    """TOKEN-8."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            os.environ["EXECUTOR_TOKEN"] = workload.token
            subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(4)"])
        super().queue_workload(workload, session)


# --------------------------------------------------------------------------------------------------------- polite end


class NeverEndsWhileItWorks(Mutant):
    """CRASH-11: end() waits for a worker that waits for end()."""

    def end(self) -> None:
        if self.workers:
            threading.Event().wait()
        super().end()


class EndsWithoutItsResults(Mutant):
    """CRASH-11: end() does not wait for what runs."""

    def end(self) -> None:
        for process in self.workers.values():
            process.kill()
            process.join()
        self.workers = {}
        super().end()


class LeavesItsWorkersAtTheEnd(Mutant):
    """CRASH-11: terminate() ends nothing, and the workers outlive the scheduler."""

    def terminate(self) -> None:
        pass


# ------------------------------------------------------------------------------------------------------- odd answers


class SaysNothingOfATaskThatDidNotStart(Mended):
    """TASK-3."""

    def altered(self, key: Any, state: Any) -> Any:
        return state if isinstance(key, CallbackKey) or str(getattr(state, "value", state)) != "failed" else None

    def _read_results(self) -> None:
        with contextlib.suppress(TypeError):  # an answer in HTML, which the released executor dies of
            super()._read_results()
