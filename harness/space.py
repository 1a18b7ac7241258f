"""Which processes a process ID is one of: its PID namespace; standard library only, for callables ask too."""

from __future__ import annotations

import os
import socket


def pid_space() -> str:
    """What tells this process's PID namespace from all others: the host's name and the namespace's number."""
    try:
        number = os.readlink("/proc/self/ns/pid")
    except OSError:
        number = "?"
    return f"{socket.gethostname()} {number}"
