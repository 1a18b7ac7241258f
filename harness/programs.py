"""Programs that the harness runs to their end beside an environment; none of them outlives the run.

Each has a session of its own, so that Ctrl-C at a terminal reaches the harness alone, which then ends the program.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from executor_conformance.harness import processes
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.pressure import Deadline

_lock = threading.Lock()
_running: dict[int, threading.Thread] = {}
_ended: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Threads whose work is no longer wanted."""


class NotInTime(HarnessError):
    """The program did not end in time, and was killed; ``output`` is what it had written."""

    def __init__(self, message: str, deadline: Deadline, output: str) -> None:
        super().__init__(message)
        self.deadline, self.output = deadline, output


def run(
    argv: Sequence[str],
    limit: float,
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    merge: bool = False,
    always: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which is at most ``limit`` seconds away (longer under pressure, see ``Deadline``).

    :param merge: its errors belong to its output.
    :param always: it cleans up, so it runs also where the run has been ended.
    :raises NotInTime: it did not end.
    :raises HarnessError: the run has been ended, see :func:`end_in`.
    :raises OSError: it cannot be run.
    """
    deadline = Deadline(limit)
    if not always:
        check_not_ended()
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            with _lock:
                _running[process.pid] = threading.current_thread()
            said = ""
            while True:
                if not always:
                    check_not_ended()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    out, err = process.communicate(timeout=deadline.slice_s())
                    if not always:
                        check_not_ended()  # a program that was killed for it has not failed
                    return subprocess.CompletedProcess(argv, process.returncode, out, err or "")
                if deadline.over():
                    processes.kill_frozen(process.pid)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        said = process.communicate(timeout=processes.KILLED_BOUND)[0]
                    raise NotInTime(f"'{' '.join(argv[:3])}' did not end within {deadline}.", deadline, said)
        finally:
            with _lock:
                del _running[process.pid]
            if process.returncode is None:
                processes.kill_frozen(process.pid)


def check_not_ended() -> None:
    """Go on only while the work of this thread is wanted.

    :raises HarnessError: it is not.
    """
    if threading.current_thread() in _ended:
        raise HarnessError("The run was ended meanwhile.")


def end_in(thread: threading.Thread) -> None:
    """Kill the program that ``thread`` waits for, and let it run no other."""
    _ended.add(thread)
    with _lock:
        running = [pid for pid, waits in _running.items() if waits is thread]
    processes.kill_frozen(*running)
