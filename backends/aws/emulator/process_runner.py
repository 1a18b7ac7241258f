"""Containers as host processes: a session each, below a guardian that outlives this process just long enough.

The guardian (``harness/guardian.py``; its protocol is described there) is small and has one thread, so it can
fork safely and reap everything; it kills all containers when this process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
import uuid
from pathlib import Path

from executor_conformance.backends.aws.emulator.runner import DEFAULT_PATH, Handle, Image, Runner, StartFailed
from executor_conformance.harness import processes
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.guardianship import Guardian

_KILL_SECONDS = 5.0


class ProcessHandle(Handle):
    """A container as a process tree: what is in the main process's session, below it, or carries its mark."""

    def __init__(self, runner: ProcessRunner, hostname: str, log: Path) -> None:
        self.pid = 0
        self.started = 0  # clock ticks since boot
        self.hostname = hostname
        self.log = log
        self._runner = runner
        self._ended = threading.Event()
        self._sweeping = threading.Lock()
        self._exit_code = -1

    def note_exit(self, status: int) -> None:
        """Of the guardian: the main process was reaped with this wait status."""
        code = os.waitstatus_to_exitcode(status)
        self._exit_code = code if code >= 0 else 128 - code
        self._ended.set()

    def wait(self, timeout: float | None = None) -> int | None:
        """As ``Handle.wait``."""
        if not self._ended.wait(timeout):
            return None
        with self._sweeping:  # a container ends with its main process: so do all others in it
            end = time.monotonic() + _KILL_SECONDS
            while (left := self._members()) and time.monotonic() < end:
                processes.kill(left)
                time.sleep(0.002)
        return self._exit_code

    def kill(self, number: int) -> None:
        """As ``Handle.kill``."""
        if self._ended.is_set() or not processes.is_alive(self.pid, self.started):
            return
        if number == signal.SIGKILL:
            processes.kill_frozen(self.pid)
        else:
            processes.kill([self.pid], number)

    def _members(self) -> list[int]:
        found = []
        for pid, stat in processes.descendants_of(self._runner.guardian_pid).items():
            if stat.state not in "ZX" and pid != self.pid and (stat.session == self.pid or self._is_marked(pid)):
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


class ProcessRunner(Runner):
    """Starts containers as host processes; streams go to ``folder``/logs/<name>.log."""

    name = "process"

    def __init__(self, folder: Path) -> None:
        """Start the guardian.

        :raises HarnessError: it does not start.
        """
        self.logs = folder.resolve() / "logs"
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._closing = False
        private = folder.resolve() / "guardian"  # what the guardian removes at its end
        private.mkdir(exist_ok=True)
        self._guardian = Guardian(private, self.logs / "guardian.log", on_loss=self._note_loss)
        self.guardian_pid = self._guardian.pid
        self._guardian.ping()

    def start(self, image: Image, argv: list[str], env: dict[str, str], name: str, working_dir: str = "") -> Handle:
        """As ``Runner.start``; an environment without PATH or HOSTNAME gets those of a container runtime."""
        if not argv:
            raise StartFailed("no command specified")
        hostname = uuid.uuid4().hex[:12]
        handle = ProcessHandle(self, hostname, self.logs / (re.sub(r"[^\w.-]+", "-", name)[-120:] + ".log"))
        complete = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname} | env
        handle.hostname = complete["HOSTNAME"] if "HOSTNAME" not in env else "-"  # a given one marks nothing
        try:
            problem = self._guardian.spawn(handle, argv, complete, working_dir or image.working_dir, handle.log)
        except HarnessError as error:
            raise StartFailed(str(error)) from None
        if problem:
            raise StartFailed(_runtime_words(problem, argv[0]))
        return handle

    def close(self) -> None:
        """As ``Runner.close``."""
        if self._closing:
            return
        self._closing = True
        self._guardian.stop(remove=True)
        self._guardian.give_up()

    def _note_loss(self) -> None:
        self._guardian.give_up()


def _runtime_words(problem: str, program: str) -> str:
    """A failed start in the words of runc; ``problem`` is the guardian's."""
    if problem.startswith("cannot run"):
        what = "permission denied" if "ermission" in problem else "executable file not found in $PATH"
        return f'exec: "{program}": {what}: unknown'
    if problem.startswith("cannot enter the folder"):
        return f"mkdir {problem.removeprefix('cannot enter the folder ').partition(':')[0]}: no such directory: unknown"
    return problem
