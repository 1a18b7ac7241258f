"""Find what loading and constructing an executor starts, by the interpreter's audit events and by what is left.

The scheduler constructs its executors, and so does every process that only wants to know one: the API server, the Dag
processor, the command line. Nothing may be running afterwards.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from executor_conformance.harness.airflow_side.failures import raised

STARTS = {
    "os.fork": "a process is forked",
    "os.forkpty": "a process is forked",
    "os.posix_spawn": "a process is spawned",
    "subprocess.Popen": "a process is started",
    "_thread.start_new_thread": "a thread is started",
    "_thread.start_joinable_thread": "a thread is started",
    "socket.connect": "a connection is opened",
}
"""Audit events of the interpreter that say that something was started, and in which words."""


class Watch:
    """Collects the audit events of this thread while it is on; a hook cannot be taken out again."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._thread: int | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._thread != threading.get_ident() or event not in STARTS:
            return
        if event == "socket.connect" and getattr(arguments[0], "family", None) == socket.AF_UNIX:
            return  # on this host, as to a logging daemon
        what = arguments[1] if event == "socket.connect" else ""
        self.seen.append(f"{STARTS[event]} {what}".strip())

    def during(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call ``function``: what it started, what is left of it, and what it raised."""
        before = _left()
        self.seen, self._thread = [], threading.get_ident()
        try:
            function()
            failed: dict[str, Any] = {}
        except Exception as error:
            failed = raised(error)
        finally:
            self._thread = None
        more = {name: after - before[name] for name, after in _left().items() if after > before[name]}
        return {"started": list(dict.fromkeys(self.seen)), "left": more, **failed}


def _left() -> dict[str, int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"threads": threading.active_count(), "children": len(children), "sockets": _sockets()}


def _sockets() -> int:
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            found += os.readlink(entry.path).startswith("socket:")
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def construction(path: str, own_settings: Iterable[str]) -> dict[str, Any]:
    """Load the executor, construct it, and construct it without the settings of its own.

    :param path: import path of the class.
    :param own_settings: names of the ``AIRFLOW__…`` variables that a deployment of this executor sets for it.
    :return: ``load``, ``construct`` and ``unconfigured``, each with ``started``, ``left``, and ``raised`` if it raised.
    """
    from airflow.executors.base_executor import BaseExecutor

    class Plain(BaseExecutor):
        """Leave out what core itself starts with its first executor."""

    Plain()
    watch = Watch()
    module, _, name = path.rpartition(".")
    for loaded in [each for each in sys.modules if each == module]:
        del sys.modules[loaded]  # the process that this one was forked from has imported it
    found = {"load": watch.during(lambda: importlib.import_module(module))}
    cls = getattr(importlib.import_module(module), name)
    found["construct"] = watch.during(cls)
    for setting in own_settings:
        os.environ.pop(setting, None)
    found["unconfigured"] = watch.during(cls)
    return found
