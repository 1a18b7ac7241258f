"""Residents: processes that an executor keeps beside its workloads, told by what they do and not by their titles.

A multiprocessing manager, a resource tracker, a watcher, a proxy, or an idle worker of a pool was there before the
first workload, or outlives all of them. A resident carries out a workload only while it has a child that does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from executor_conformance.harness.processes import ProcessInfo

WORKER_COMMAND = "airflow.sdk.execution_time.execute_workload"
"""What the command line of Airflow's worker command has; a process that runs it is no resident."""

Identity = tuple[int, int]
"""Pid and start, in clock ticks since boot, of a process."""


def identity(process: ProcessInfo) -> Identity:
    """Return what tells a process from a later one with the same pid."""
    return process.pid, process.started


class Residents:
    """The residents of one scheduler side."""

    def __init__(self) -> None:
        self._known: set[Identity] = set()

    def begin(self, processes: Iterable[ProcessInfo]) -> None:
        """Take what is there before the first workload of a new scheduler for residents."""
        self._known = {identity(process) for process in processes}

    def add(self, processes: Iterable[ProcessInfo]) -> None:
        """Take processes that have outlived all workloads for residents."""
        self._known |= {identity(process) for process in processes if WORKER_COMMAND not in process.title}

    def working(self, pids: Collection[int], processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Return those of ``pids`` that carry out a workload: all but the residents without a working child."""
        there = [pid for pid in pids if pid in processes]
        working = {pid for pid in there if identity(processes[pid]) not in self._known}
        while parents := {processes[pid].ppid for pid in working} & set(there) - working:
            working |= parents
        return [pid for pid in there if pid in working]

    def __contains__(self, process: ProcessInfo) -> bool:
        return identity(process) in self._known
