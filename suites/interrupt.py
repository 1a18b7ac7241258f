"""Ctrl-C: the first one ends the run, at once and whatever its subjects do; further ones do not keep it from that."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import pytest

AGAIN_S = 0.5
"""A terminal and the controller of pytest-xdist interrupt a worker at almost the same time, which counts once."""
WORKERS_S, REMOVING_S = 7, 120
"""Seconds that the workers of pytest-xdist get to end their environments; then they are killed, and their guardians do.
The second: where the environments have made something outside of this host, which nobody else would remove."""


class Interrupts:
    """Takes SIGINT in the place of Python's own handler, from now until :meth:`give_back`."""

    def __init__(self) -> None:
        self.ending = False
        """True once the run is ending anyway."""
        self._raised_at = 0.0
        self._former: Any = None
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._former = signal.signal(signal.SIGINT, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.ending or now - self._raised_at < AGAIN_S:
            return
        self._raised_at = now  # once more later, for Python may lose an exception that is raised in a destructor
        raise KeyboardInterrupt

    def give_back(self) -> None:
        """Let Python take it again."""
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
            self._former = None


def interrupt_workers(config: pytest.Config) -> None:
    """Interrupt the workers of pytest-xdist; the controller would wait for the end of their cases otherwise."""
    nodes = getattr(config.pluginmanager.get_plugin("dsession"), "nodemanager", None)
    if nodes is None:
        return
    nodes.EXIT_TIMEOUT = WORKERS_S if config.option.conformance_substrate == "process" else REMOVING_S
    for gateway in nodes.group:
        process = getattr(getattr(gateway, "_io", None), "popen", None)
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGINT)
