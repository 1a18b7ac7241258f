"""JSON lines over a Unix socket: how the harness talks to the processes that import Airflow."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections.abc import Callable
from typing import Any

from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.pressure import Deadline

LOOK_S = 0.5
"""Seconds after which a wait for a message looks whether there is somebody to send it."""
LONGEST_PATH = 100
"""The kernel takes about 107 bytes as the path of a Unix socket."""


def socket_name(path: str) -> str:
    """``path``, or an abstract name (written with '@') where the path is too long for a socket."""
    return path if len(path.encode()) <= LONGEST_PATH else f"@executor-conformance-{secrets.token_hex(16)}"


def socket_address(name: str) -> str:
    """What the kernel is given for a name of :func:`socket_name`."""
    return "\0" + name[1:] if name.startswith("@") else name


class Channel:
    """One end of a connection; messages are JSON objects, one per line."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""

    @classmethod
    def connect(cls, path: str) -> Channel:
        """Connect to the socket at ``path``, a path or a name of :func:`socket_name`."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(socket_address(path))
        return cls(connection)

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._socket.sendall(json.dumps(message, default=str).encode() + b"\n")

    def receive(self, timeout: float | None = None, reason: str = "") -> dict[str, Any] | None:
        """The next message, or None when the other end has closed.

        :raises BoundReached: nothing came within ``timeout`` seconds; ``reason`` says what was waited for.
        """
        self._socket.settimeout(timeout)
        while b"\n" not in self._buffer:
            try:
                chunk = self._socket.recv(1 << 20)
            except TimeoutError:
                raise BoundReached(f"{reason or 'A message'} did not come within {timeout:g} s.") from None
            except OSError:
                return None
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise HarnessError(f"A message of the wrong shape came over a channel: {line[:200]!r}")
        return message

    def receive_by(
        self, deadline: Deadline, reason: str, goes_on: Callable[[], bool] = lambda: True
    ) -> dict[str, Any] | None:
        """The next message, or None when the other end has closed or ``goes_on``, asked now and then, is false.

        :raises BoundReached: nothing came in time; ``reason`` says what was waited for.
        """
        while True:
            with contextlib.suppress(BoundReached):
                return self.receive(deadline.slice_s(LOOK_S))
            if not goes_on():
                return None
            if deadline.over():
                raise BoundReached(f"{reason} did not come within {deadline}.")

    def call(self, op: str, limit: float, **arguments: Any) -> dict[str, Any] | None:
        """Send ``op`` with its arguments and return the answer (None: the other end has closed).

        :raises BoundReached: there was none within ``limit`` seconds, or longer under pressure.
        """
        try:
            self.send({"op": op, **arguments})
        except OSError:
            return None
        return self.receive_by(Deadline(limit), f"The answer to '{op}'")

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
