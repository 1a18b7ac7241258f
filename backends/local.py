"""LocalExecutor: the workers are children of the scheduler process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from executor_conformance.harness.backend import LOCAL_WORKER, Backend, Options, Variant, local_worker_units
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

IDLE = "<idle>"
"""What the title of a worker process says that waits for a workload; LocalExecutor's own word."""


class LocalBackend(Backend):
    """Environment of LocalExecutor and its subclasses."""

    name: ClassVar[str] = "local"
    executor: ClassVar[str] = "airflow.executors.local_executor.LocalExecutor"
    variants: ClassVar = (Variant("local"),)
    victims: ClassVar = frozenset({"child", "supervisor", "unit", "idle"})
    unreachable: ClassVar = {
        "redelivery": "A workload is taken out of the executor's own queue once; no transport could repeat it."
    }

    @property
    def crowd(self) -> int | None:  # type: ignore[override]
        """100 where Airflow's own workers fork for each; nobody knows what a worker of the user's executor costs."""
        return None if self.site.options.executor else 100

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """LocalExecutor needs nothing but Airflow and fork."""
        if options.substrate != "process":
            return f"LocalExecutor runs on host processes only, not on the substrate '{options.substrate}'"
        return None

    @property
    def control_plane(self) -> str:
        """The executor's own queue."""
        if self.site.options.executor:
            return "the executor itself, in the scheduler process"
        return "multiprocessing queue of the scheduler process"

    @property
    def data_plane(self) -> str:
        """Children of the scheduler."""
        return "host processes below the scheduler" if self.site.options.executor else "forked host processes"

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Workers that are not idle, and everything that workers started, orphans included."""
        units = local_worker_units(processes, self.site.scheduler_pid)
        return units + self._own_units(processes) if self.site.options.executor else units

    def _own_units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Return what an executor of the user's own started for its workloads, and what was orphaned of it."""
        scheduler = self.site.scheduler_pid
        supervisor = self.site.supervisor
        spawned = {process.pid for process in supervisor.processes}
        if scheduler in spawned:  # the `airflow scheduler` command starts processes for itself
            return []
        below = {scheduler}
        for pid, process in processes.items():  # parents first
            orphan = process.ppid == supervisor.guardian_pid and pid not in spawned
            if process.ppid in below or orphan:
                below.add(pid)
        titled = {pid for pid in below if pid in processes and processes[pid].title.startswith(LOCAL_WORKER)}
        return self.site.residents.working(below - titled - {scheduler}, processes)

    def renew_workers(self) -> bool:
        """Workers have the settings of the scheduler."""
        return True

    def idle_units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Workers that wait for a workload."""
        titled = LOCAL_WORKER if not self.site.options.executor else ""
        return [
            pid
            for pid, process in processes.items()
            if process.ppid == self.site.scheduler_pid and process.title.startswith(titled) and IDLE in process.title
        ]

    def nodes(self) -> list[ManagedProcess]:
        """None: the scheduler's process is the worker."""
        return []

    def repair(self, thorough: bool) -> bool:
        """Killed workers can leave the shared queue locked for good, so the scheduler starts anew."""
        return True
