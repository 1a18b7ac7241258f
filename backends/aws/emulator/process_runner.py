"""Containers as host processes, for tasks, jobs and runtimes."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from executor_conformance.backends.aws.emulator.runner import DEFAULT_PATH, Handle, Image, Runner, StartFailed
from executor_conformance.backends.host_processes import HostProcess, HostProcesses, NotStarted


class ProcessHandle(HostProcess, Handle):
    """A container as a process tree."""

    def wait(self, timeout: float | None = None) -> int | None:
        """As ``Handle.wait``."""
        if not self.reaped.wait(timeout):
            return None
        self.sweep()
        assert self.status is not None
        return self.status if self.status >= 0 else 128 - self.status

    def kill(self, number: int) -> None:
        """As ``Handle.kill``."""
        self.signal(number)


class ProcessRunner(Runner):
    """Starts containers as host processes; streams go to ``folder``/logs/<name>.log."""

    name = "process"

    def __init__(self, folder: Path) -> None:
        """Start the guardian.

        :raises HarnessError: it does not start.
        """
        self.logs = folder.resolve() / "logs"
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._processes = HostProcesses(folder.resolve(), self.logs)
        self.guardian_pid = self._processes.guardian_pid

    def start(self, image: Image, argv: list[str], env: dict[str, str], name: str, working_dir: str = "") -> Handle:
        """As ``Runner.start``; an environment without PATH or HOSTNAME gets those of a container runtime."""
        if not argv:
            raise StartFailed("no command specified")
        hostname = uuid.uuid4().hex[:12]
        complete = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname} | env
        log = self.logs / (re.sub(r"[^\w.-]+", "-", name)[-120:] + ".log")
        handle = ProcessHandle(hostname if "HOSTNAME" not in env else "-", log)  # a given one marks nothing
        try:
            self._processes.start(handle, argv, complete, working_dir or image.working_dir, image.warm)
        except NotStarted as error:
            raise StartFailed(_runtime_words(str(error), argv[0])) from None
        return handle

    def close(self) -> None:
        """As ``Runner.close``."""
        self._processes.close()


def _runtime_words(problem: str, program: str) -> str:
    """A failed start in the words of runc; ``problem`` is the guardian's."""
    if problem.startswith("cannot run"):
        what = "permission denied" if "ermission" in problem else "executable file not found in $PATH"
        return f'exec: "{program}": {what}: unknown'
    if problem.startswith("cannot enter the folder"):
        return f"mkdir {problem.removeprefix('cannot enter the folder ').partition(':')[0]}: no such directory: unknown"
    return problem
