"""Containers as host processes: a session each, below a guardian that outlives the emulator just long enough.

The guardian (``harness/guardian.py``; its protocol is described there) is small and has one thread, so it can
fork safely and reap everything; it kills all containers when the emulator dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from executor_conformance.backends.relays import Fork, Relays
from executor_conformance.harness import processes
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.guardianship import Guardian
from executor_conformance.harness.warm_starts import LAZY, WORKER, WarmStarts

_KILL_SECONDS = 5.0


class NotStarted(Exception):
    """The argument is the guardian's reason."""


class HostProcess:
    """A container as a process tree: what is in the main process's session, below it, or carries its mark.

    :param hostname: variable of the environment that marks what belongs to it; '-' if that is no mark.
    :param log: where its streams go, which marks it too.
    """

    def __init__(self, hostname: str, log: Path) -> None:
        self.pid = 0
        self.started = 0  # clock ticks since boot
        self.hostname, self.log = hostname, log
        self.guardian_pid = 0
        self.status: int | None = None
        """As of ``os.waitstatus_to_exitcode``, once the main process has been reaped."""
        self.reaped = threading.Event()
        self.forks: list[Fork] = []
        """What programs of the container have started elsewhere; see ``relays``."""
        self._sweeping = threading.Lock()

    def note_exit(self, status: int) -> None:
        """Of the guardian: the main process was reaped with this wait status."""
        self.status = os.waitstatus_to_exitcode(status)
        self.reaped.set()

    def signal(self, number: int) -> None:
        """Signal the main process; SIGKILL reaches everything below it. Ignored after its end."""
        if self.reaped.is_set() or not processes.is_alive(self.pid, self.started):
            return
        if number == signal.SIGKILL:
            processes.kill_frozen(self.pid, *(fork.pid for fork in self.forks if not fork.reaped.is_set()))
        else:
            processes.kill([self.pid], number)

    def sweep(self) -> None:
        """End what is left, as with process 1 of a PID namespace: a container ends with its main process."""
        with self._sweeping:
            end = time.monotonic() + _KILL_SECONDS
            while (left := self._members()) and time.monotonic() < end:
                processes.kill(left)
                time.sleep(0.002)

    def _members(self) -> list[int]:
        found = []
        forks = list(self.forks)
        sessions = {self.pid, *(fork.pid for fork in forks)}
        guardians = {fork.guardian_pid for fork in forks}
        for pid, stat in processes.descendants_of(self.guardian_pid, *guardians).items():
            if stat.state not in "ZX" and pid != self.pid and (stat.session in sessions or self._is_marked(pid)):
                found += processes.tree_of(pid)
        return found

    def _is_marked(self, pid: int) -> bool:
        environ = processes.read_proc(pid, "environ", 1 << 20).split(b"\0")
        if f"HOSTNAME={self.hostname}".encode() in environ:
            return True
        for number in (1, 2):  # a title may overwrite the environment
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{number}") == str(self.log):
                    return True
        return False


class HostProcesses:
    """Starts containers below guardians of its own.

    :param folder: where what the guardians need is, until they end.
    :param logs: where the guardians' own words go.
    :param worker: the module whose commands may begin as forks.
    :param lazy: what it imports besides; see ``warm_starts``.
    :raises HarnessError: the guardian does not start.
    """

    def __init__(self, folder: Path, logs: Path, worker: str = WORKER, lazy: Sequence[str] = LAZY) -> None:
        self._closing = False
        private = folder / "guardian"  # what the guardian removes at its end
        private.mkdir(exist_ok=True)
        self._guardian = Guardian(private, logs / "guardian.log", on_loss=lambda: self._guardian.give_up())
        self.guardian_pid = self._guardian.pid
        self._warm = WarmStarts(folder, logs, worker, lazy)
        self._relays = Relays(folder, worker, self._warm.guardian_for, self._forks_of)
        self._guardian.ping()

    def start(self, process: HostProcess, argv: list[str], env: dict[str, str], cwd: str, warm: bool) -> None:
        """Start ``argv`` with exactly ``env`` as ``process``.

        :param warm: Airflow's worker command may begin as a fork of an interpreter that has imported Airflow, if it is
            this one, or if this one starts it; see ``warm_starts`` and ``relays``.
        :raises NotStarted: it cannot be run.
        """
        guardian = self._guardian
        if warm and not self._warm.is_worker(argv):
            argv, env = self._relays.offer(argv, env)
        elif warm:
            guardian = self._warm.guardian_for(argv, env, cwd) or guardian
        process.guardian_pid = guardian.pid
        try:
            problem = guardian.spawn(process, argv, env, cwd, process.log)
        except HarnessError as error:
            raise NotStarted(str(error)) from None
        if problem:
            raise NotStarted(problem)

    def close(self) -> None:
        """Kill everything that was started; bounded."""
        if self._closing:
            return
        self._closing = True
        self._relays.close()
        self._warm.close()
        self._guardian.stop(remove=True)
        self._guardian.give_up()

    def _forks_of(self, pid: int) -> list[Fork] | None:
        """Of the container that a process is in."""
        stat = processes.read_stat(pid)
        while stat is not None and stat.ppid not in (0, self.guardian_pid):
            stat = processes.read_stat(stat.ppid)
        container = self._guardian.running.get(stat.pid) if stat is not None else None
        return container.forks if isinstance(container, HostProcess) else None
