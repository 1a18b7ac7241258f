"""Births of worker processes, seen within milliseconds, and frozen where a sweep asks for it."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from executor_conformance.harness.explore.boundaries import BORN
from executor_conformance.harness.processes import ProcessInfo

if TYPE_CHECKING:
    from executor_conformance.harness.environment import Environment

LOOK_EVERY_S = 0.001


@dataclass(frozen=True)
class Birth:
    """The ``number``-th worker process (from 1) since the watch began."""

    number: int
    pid: int
    ppid: int


class BirthWatch:
    """Counts the worker processes that are born while the watch is on; one of them can be frozen at its birth.

    A worker process is one that carries out a workload, by what the backend says, or descends from the scheduler.
    The recording and the runs of a sweep count alike, so the numbers mean the same.
    """

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.births: list[Birth] = []
        self.freeze: int | None = None
        """Number of the process to stop with SIGSTOP as soon as it is seen."""
        self.frozen: Birth | None = None
        self.trouble = ""
        self._known = {(process.pid, process.started) for process in env.processes().values()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="birth-watch", daemon=True)

    def __enter__(self) -> BirthWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.thaw()

    def thaw(self) -> None:
        """Let the frozen process go on, if it is still there."""
        if self.frozen:
            self.env.watcher.kill([self.frozen.pid], signal.SIGCONT)

    def _watch(self) -> None:
        try:
            while not self._ended.wait(LOOK_EVERY_S):
                self._look()
        except Exception as error:  # a thread's error would be lost
            self.trouble = f"{type(error).__name__}: {error}"

    def _look(self) -> None:
        processes = self.env.processes()
        new = [each for each in processes.values() if (each.pid, each.started) not in self._known]
        if not new:
            return
        units = set(self.env.backend.units(processes))
        for process in new:
            if process.pid in units or _below(process, self.env.site.scheduler_pid, processes):
                self._known.add((process.pid, process.started))
                birth = Birth(len(self.births) + 1, process.pid, process.ppid)
                if birth.number == self.freeze:
                    self.env.watcher.kill([birth.pid], signal.SIGSTOP)
                    self.frozen = birth
                self.births.append(birth)
                self.env.sink("note", what=BORN, number=birth.number, pid=birth.pid, ppid=birth.ppid)


def _below(process: ProcessInfo, root: int, processes: dict[int, ProcessInfo]) -> bool:
    """Whether ``root`` is an ancestor."""
    seen = set()
    while process.ppid in processes and process.pid not in seen:
        seen.add(process.pid)
        if process.ppid == root:
            return True
        process = processes[process.ppid]
    return process.ppid == root
