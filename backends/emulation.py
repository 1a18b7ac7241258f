"""What environments with an emulated control plane share: its start, its faults, and what its containers get."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor_conformance.harness.backend import Site
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

FORKED = ", worker commands forked from an interpreter that has imported Airflow"
"""Of a data plane, where that may be so."""


@dataclass(frozen=True)
class Way:
    """One way to a fault point.

    :param text: what is done, for the history.
    :param rules: rules of the emulator that come into force, each as keyword arguments of ``add_fault``.
    :param act: what is done to the callback's unit of work: a method of the emulator's client, with ``arguments``.
    :param retry_s: for how long the subject may rightly wait before it tries again.
    :param again_s: the same where the fault lasts until it is healed: for how long from then on.
    """

    text: str
    rules: tuple[dict[str, Any], ...] = ()
    act: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    retry_s: float = 0.0
    again_s: float = 0.0


class Timers:
    """What a fault makes the subject wait for, with the moment at which it is over."""

    def __init__(self) -> None:
        self._due: list[tuple[float, str]] = []
        self._again: list[float] = []

    def note(self, way: Way) -> None:
        """Begin to count the patience that ``way`` asks for, if any."""
        if way.retry_s:
            self._begin(way.retry_s)
        if way.again_s:
            self._again.append(way.again_s)

    def _begin(self, seconds: float) -> None:
        self._due.append((time.monotonic() + seconds, f"a retry is due within {seconds:g} s"))

    def pending(self) -> list[str]:
        """A sentence for each that is not over."""
        now = time.monotonic()
        self._due = [(until, why) for until, why in self._due if until > now]
        return [why for _, why in self._due]

    def clear(self) -> None:
        """Forget all but the tries that come after the faults, which are over now."""
        self._due, again, self._again = [], self._again, []
        for seconds in again:
            self._begin(seconds)


def start_emulator(site: Site, title: str, module: str, folder: Path, *more: str) -> ManagedProcess:
    """Start ``python -m module --folder folder``, and return once it has written its ``ready.json``.

    :param title: what it is called in messages; in lower case, the name of its process.
    :raises HarnessError: it ended at its start.
    :raises BoundReached: it is not ready in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "TMPDIR": str(folder)}
    env |= inherited("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DOCKER_HOST")
    argv = [sys.executable, "-m", module, "--folder", str(folder), *more]
    process = site.supervisor.spawn(title.lower(), argv, env, site.folder)
    deadline = Deadline(LIMITS.worker_start)
    while not (folder / "ready.json").exists():
        if not process.alive:
            raise HarnessError(f"The {title} emulator ended at its start: {process.log_tail(5)}")
        if deadline.over():
            raise BoundReached(f"The {title} emulator was not ready within {deadline}.")
        time.sleep(0.02)
    return process


def emulator_lost(process: ManagedProcess | None) -> str:
    """As :meth:`Backend.lost`, of the emulator's process."""
    if process is None or process.alive:
        return ""
    return f"The environment's emulator has ended: {process.log_tail(1) or 'without a word'} (log: {process.log})."


def inherited(*names: str) -> dict[str, str]:
    """Those of the variables that this process has."""
    return {name: os.environ[name] for name in names if name in os.environ}


def image_env() -> dict[str, str]:
    """What the image of a worker has: this interpreter and its paths, none of the deployment's settings."""
    env = inherited("PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return env


def in_containers(processes: Mapping[int, ProcessInfo], emulator: int) -> list[int]:
    """Pids of the containers' processes: all below the guardians, which are all that an emulator itself starts."""
    return below(processes, [pid for pid, process in processes.items() if process.ppid == emulator])


def below(processes: Mapping[int, ProcessInfo], roots: Iterable[int]) -> list[int]:
    """Pids of all descendants of ``roots`` among ``processes``."""
    top = set(roots)
    found = set(top)
    while more := {pid for pid, process in processes.items() if process.ppid in found} - found:
        found |= more
    return sorted(found - top)


def reported_of(keys: Iterable[str], site: Site) -> list[str]:
    """A sentence for each workload of another deployment for which the executor has reported an event."""
    reported = [(key, site.events_of(key)) for key in keys]
    return [
        f"The executor reported '{events[0]['state']}' for {key}, which is another deployment's."
        for key, events in reported
        if events
    ]
