"""The processes of containers: start, signal, kill with all descendants, reap."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from executor_conformance.backends.kubernetes.emulator.environment import Command, StartFailure
from executor_conformance.harness.processes import children_of, is_alive, kill, kill_frozen, read_proc, read_stat

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Make orphans of containers children of this process, so that none escapes; where prctl allows it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class ContainerProcess:
    """The main process of a container, leader of a session of its own.

    ``status`` is as of ``os.waitstatus_to_exitcode`` (negative: ended by a signal), once ``ended`` is set.
    """

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.pid = popen.pid
        self.status: int | None = None
        self.ended = asyncio.Event()
        self.log = log
        self._popen = popen

    def signal(self, number: int) -> None:
        """Send a signal to the main process; SIGKILL to all of the container."""
        if self.ended.is_set():
            return
        if number == signal.SIGKILL:
            self.kill()
        else:
            kill([self.pid], number)

    def kill(self) -> None:
        """SIGKILL the main process, its descendants and its session."""
        if not self.ended.is_set():
            kill_frozen(self.pid)
        self._kill_session()

    def _kill_session(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def has_ended(self, status: int, orphans: list[int]) -> None:
        """Note the main process's end; what it left behind dies, as with process 1 of a PID namespace.

        :param orphans: children of this process that are no main process of a container.
        """
        self.status = status
        self._popen.returncode = status  # it was reaped here, Popen must not try
        self._kill_session()
        for pid in orphans:
            if self._owns(pid):
                kill_frozen(pid)
        self.ended.set()

    def _owns(self, pid: int) -> bool:
        stat = read_stat(pid)
        if stat is None or stat.state in "ZX":
            return False
        if stat.session == self.pid:
            return True
        for number in (1, 2):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{number}") == str(self.log):
                    return True
        return False


class Processes:
    """All main processes of containers, by pid."""

    def __init__(self) -> None:
        self._running: dict[int, ContainerProcess] = {}

    def start(self, command: Command, log: Path) -> ContainerProcess:
        """Execute a command with nothing but its own environment; both outputs are appended to ``log``.

        :raises StartFailure: the program can't be executed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            try:
                popen = subprocess.Popen(
                    command.argv,
                    executable=command.program,
                    env=command.env,
                    cwd=command.working_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                text = f'unable to start container process: exec: "{command.argv[0]}": {error}'
                raise StartFailure("StartError", 128, text) from None
        process = ContainerProcess(popen, log)
        self._running[process.pid] = process
        return process

    def reap(self) -> None:
        """Collect the children that have ended; to be called on SIGCHLD, in the thread of ``start``."""
        ended = []
        for pid, status in _ended_children():
            if (process := self._running.pop(pid, None)) is not None:
                ended.append((process, os.waitstatus_to_exitcode(status)))
        orphans = self._orphans() if ended else []
        for process, status in ended:
            process.has_ended(status, orphans)

    def _orphans(self) -> list[int]:
        me = os.getpid()
        listed = read_proc(me, f"task/{me}/children", 1 << 16)
        if listed or os.path.exists(f"/proc/{me}/task/{me}/children"):
            children = [int(pid) for pid in listed.split()]
        else:  # a kernel without CONFIG_PROC_CHILDREN
            children = children_of(me)
        return [pid for pid in children if pid not in self._running]

    def kill_all(self) -> None:
        """SIGKILL every descendant of this process, until none is left."""
        for _ in range(100):
            living = children_of(os.getpid())
            if not living:
                break
            for pid in living:
                if is_alive(pid):
                    kill_frozen(pid)
            for _pid, _status in _ended_children():
                continue


def _ended_children() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
