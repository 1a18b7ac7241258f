"""Removes the containers of an emulator that was killed; runs in a container itself, where no guardian reaches it.

``python -I -S docker_reaper.py PID STARTED LABEL``: once the process PID, started at STARTED (clock ticks since boot),
is gone, every container with LABEL (``name=value``) is removed by force, this one last. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from urllib.parse import quote

SOCKET = "/var/run/docker.sock"
_PERIOD_S = 0.2
_ROUNDS = 25  # a container may be created while the others are removed


class _Engine(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(SOCKET)


def _call(method: str, path: str) -> bytes:
    connection = _Engine("docker")
    try:
        connection.request(method, path)
        return connection.getresponse().read()
    finally:
        connection.close()


def alive(pid: int, started: str) -> bool:
    """Whether the process is still the one that was started then."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == started and fields[0] not in "ZX"


def main(pid: int, started: str, label: str) -> None:
    """Wait, and remove."""
    while alive(pid, started):
        time.sleep(_PERIOD_S)
    filters = quote(json.dumps({"label": [label]}))
    own = os.environ["HOSTNAME_OF_REAPER"]
    for _ in range(_ROUNDS):
        found = json.loads(_call("GET", f"/containers/json?all=1&filters={filters}"))
        others = [entry["Id"] for entry in found if own not in [name.lstrip("/") for name in entry["Names"]]]
        if not others:
            break
        for identity in others:
            _call("DELETE", f"/containers/{identity}?force=1&v=1")
    _call("DELETE", f"/containers/{own}?force=1&v=1")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
