"""The API server of an environment: Airflow's own command, on a loopback port that nobody else has."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.supervisor import ManagedProcess, Supervisor

T = TypeVar("T")


def free_port() -> int:
    """A loopback port that nobody listens on, below those that the kernel gives to whoever asks for any port.

    A server binds it seconds later: until then it must neither become another server's nor a client's.
    """
    for _ in range(100):
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise HarnessError("No port between 20000 and 32000 is free on the loopback interface.")


class ApiServer:
    """``airflow api-server`` with the apps named, in ``folder``.

    :param apps: as of ``--apps``: 'execution', 'core', or both, and a provider's own.
    :param name: in messages, and with hyphens of its log.
    """

    def __init__(self, apps: str, name: str = "API server") -> None:
        self.apps = apps
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: ManagedProcess

    def start(self, supervisor: Supervisor, env: dict[str, str], folder: Path) -> None:
        """Start it; :meth:`wait_ready` waits for it."""
        argv = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(self.port)]
        argv += ["--apps", self.apps, "--workers", "1"]
        self.process = supervisor.spawn(self.name.lower().replace(" ", "-"), argv, env, folder)

    def wait_ready(self) -> None:
        """As :meth:`wait_for`, for the Execution API's health route."""
        self.wait_for(self._is_healthy)

    def wait_for(self, ask: Callable[[], T | None]) -> T:
        """The answer, once there is one and it is this server that gives it.

        :param ask: false or None while nobody answers.
        :raises HarnessError: it ended, or another program has its port.
        :raises BoundReached: it was not ready in time.
        """
        deadline = Deadline(LIMITS.api_server_start)
        while not ((answer := ask()) and self._listens()):
            if not self.process.alive:
                if "address already in use" in self.process.log_tail(40).lower():
                    raise HarnessError(
                        f"Another program took the port {self.port} before the {self.name} could; run again."
                    )
                raise HarnessError(f"The {self.name} ended at its start: {self.process.log_tail(5)}")
            if deadline.over():
                raise BoundReached(f"The {self.name} was not ready within {deadline}.")
            time.sleep(0.05)
        return answer

    def _is_healthy(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/execution/health", timeout=5).close()
        except OSError:
            return False  # not listening yet
        return True

    def _listens(self) -> bool:
        """Whether it is our API server that has the port, and not that of another run."""
        try:
            sockets = psutil.Process(self.process.pid).net_connections("tcp")
        except psutil.Error:
            return False
        return any(found.status == psutil.CONN_LISTEN and found.laddr.port == self.port for found in sockets)

    @property
    def pid(self) -> int:
        """Of its main process."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether its main process is."""
        return self.process.alive

    def kill_tree(self) -> None:
        """SIGKILL it with all its children."""
        self.process.kill_tree()
