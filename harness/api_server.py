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

import psutil
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.supervisor import ManagedProcess, Supervisor


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
    :param label: its name in messages and logs.
    """

    def __init__(self, apps: str, label: str = "api-server") -> None:
        self.apps = apps
        self.label = label
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: ManagedProcess

    def start(self, supervisor: Supervisor, env: dict[str, str], folder: Path) -> None:
        """Start it; :meth:`wait_ready` waits for it."""
        argv = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(self.port)]
        argv += ["--apps", self.apps, "--workers", "1"]
        self.process = supervisor.spawn(self.label, argv, env, folder)

    def wait_ready(self, answers: Callable[[], bool] | None = None) -> None:
        """Wait until it answers, and it is this server that does.

        :param answers: whether it does; default: the Execution API's health route answers.
        :raises HarnessError: it ended, or another program has its port.
        :raises BoundReached: it was not ready in time.
        """
        deadline = time.monotonic() + LIMITS.api_server_start
        while not ((answers or self._is_healthy)() and self._listens()):
            if not self.process.alive:
                if "address already in use" in self.process.log_tail(40).lower():
                    raise HarnessError(
                        f"Another program took the port {self.port} before the API server could; run again."
                    )
                raise HarnessError(f"The API server ended at its start: {self.process.log_tail(5)}")
            if time.monotonic() > deadline:
                raise BoundReached(f"The API server was not ready within {LIMITS.api_server_start:g} s.")
            time.sleep(0.05)

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
