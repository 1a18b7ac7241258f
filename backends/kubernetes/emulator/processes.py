"""The main processes of containers, as the event loop sees them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from executor_conformance.backends.host_processes import HostProcess, HostProcesses, NotStarted
from executor_conformance.backends.kubernetes.emulator.environment import Command, StartFailure


class ContainerProcess(HostProcess):
    """The main process of a container; ``ended`` is set once all of the container is gone."""

    def __init__(self, log: Path) -> None:
        super().__init__("-", log)  # the HOSTNAME of a pod is its name, which marks nothing
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def note_exit(self, status: int) -> None:
        """As of the parent class; in the thread that hears of it."""
        super().note_exit(status)
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.sweep()
        self.ended.set()

    def kill(self) -> None:
        """SIGKILL the main process, its descendants and what is in its session."""
        self.signal(signal.SIGKILL)


class Processes:
    """Starts the main processes of containers."""

    def __init__(self, folder: Path) -> None:
        """Start what they run below.

        :raises HarnessError: it does not start.
        """
        self._processes = HostProcesses(folder, folder)

    def start(self, command: Command, log: Path, warm: bool) -> ContainerProcess:
        """Execute a command with nothing but its own environment; both outputs are appended to ``log``.

        :param warm: as of the image.
        :raises StartFailure: the program can't be executed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        process = ContainerProcess(log)
        try:
            self._processes.start(process, command.argv, command.env, command.working_dir, warm)
        except NotStarted as error:
            text = f'unable to start container process: exec: "{command.argv[0]}": {error}'
            raise StartFailure("StartError", 128, text) from None
        return process

    def close(self) -> None:
        """SIGKILL everything that was started; bounded."""
        self._processes.close()
