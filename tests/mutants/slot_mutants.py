"""Mutants of LocalExecutor in routing and slots; ``table.py`` has the clauses."""

from __future__ import annotations

import gc
import os
import resource
from typing import Any

from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteCallback, ExecuteTask
from airflow.models.callback import CallbackKey
from local_base import Mended, Mutant


class HandsItsCallbacksToAnother(Mutant):
    """ROUTE-1."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        others = [found for found in gc.get_objects() if isinstance(found, LocalExecutor) and found is not self]
        if others and isinstance(workload, ExecuteCallback):
            others[0].queue_workload(workload, session)
        else:
            super().queue_workload(workload, session)


class TasksFirst(Mended):
    """ROUTE-2."""

    def _get_workloads_to_schedule(self, open_slots: int) -> Any:
        found = super()._get_workloads_to_schedule(1000)
        found.sort(key=lambda item: not isinstance(item[1], ExecuteTask))
        return found[: max(0, open_slots)]


class NeverFreesTheSlot(Mutant):
    """ROUTE-3."""

    def after_sync(self, ended: dict[Any, Any]) -> None:
        self.running.update(ended)


class CountsNoCallback(Mended):
    """ROUTE-8."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._uncounted: set[Any] = set()

    def heartbeat(self) -> None:
        self.running |= self._uncounted
        super().heartbeat()
        self._uncounted = {key for key in self.running if isinstance(key, CallbackKey)}
        self.running -= self._uncounted


class RunsTwiceAsMany(CountsNoCallback):
    """ROUTE-4: core is not told of what runs and hands over more, and all of it is started."""

    def _get_workloads_to_schedule(self, open_slots: int) -> Any:
        return super()._get_workloads_to_schedule(open_slots + self.parallelism)

    def _spawn_workers_with_gc_freeze(self, spawn_number: int) -> None:
        super()._spawn_workers_with_gc_freeze(2 * spawn_number)


class StartsWorkersWithoutEnd(Mutant):
    """ROUTE-4: it raises its own `parallelism` at each heartbeat, and starts as many workers."""

    def heartbeat(self) -> None:
        self.parallelism += 25
        self._spawn_workers_with_gc_freeze(25)
        super().heartbeat()


class LeaksDescriptorsWithoutEnd(Mutant):
    """ROUTE-4: it opens files at each heartbeat and closes none; it stops where it would die of its own limit."""

    def heartbeat(self) -> None:
        most = min(4500, int(0.85 * resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        now = len(os.listdir("/proc/self/fd"))
        for _ in range(min(most // 8, most - now)):
            os.open(os.devnull, os.O_RDONLY)
        super().heartbeat()
