"""LocalExecutor: the workers are children of the scheduler process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from executor_conformance.harness.backend import LOCAL_WORKER, Backend, Options, Variant, local_worker_units
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess


class LocalBackend(Backend):
    """Environment of LocalExecutor and its subclasses."""

    name: ClassVar[str] = "local"
    executor: ClassVar[str] = "airflow.executors.local_executor.LocalExecutor"
    variants: ClassVar = (Variant("local"),)
    victims: ClassVar = frozenset({"child", "supervisor", "unit", "idle"})
    unreachable: ClassVar = {
        "redelivery": "A workload is taken out of the executor's own queue once; no transport could repeat it."
    }

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """LocalExecutor needs nothing but Airflow and fork."""
        if options.substrate != "process":
            return f"LocalExecutor runs on host processes only, not on the substrate '{options.substrate}'"
        return None

    @property
    def control_plane(self) -> str:
        """The executor's own queue."""
        return "multiprocessing queue of the scheduler process"

    @property
    def data_plane(self) -> str:
        """Children of the scheduler."""
        return "forked host processes"

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Workers that are not idle, and everything that workers forked, orphans included."""
        return local_worker_units(processes, self.site.scheduler_pid)

    def idle_units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Workers that wait for a workload."""
        return [
            pid
            for pid, process in processes.items()
            if process.ppid == self.site.scheduler_pid
            and process.title.startswith(LOCAL_WORKER)
            and "<idle>" in process.title
        ]

    def nodes(self) -> list[ManagedProcess]:
        """None: the scheduler's process is the worker."""
        return []

    def repair(self, thorough: bool) -> bool:
        """Killed workers can leave the shared queue locked for good, so the scheduler starts anew."""
        return True
