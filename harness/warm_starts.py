"""Worker commands that begin as forks of an interpreter that has imported Airflow (``warm_guardian.py``).

A container's command costs two seconds of CPU in imports before it does anything; a fork costs milliseconds. What has
another interpreter, environment or folder, or is another command, is executed as ever.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.guardianship import Guardian
from executor_conformance.harness.processes import kill_frozen
from executor_conformance.harness.warm_guardian import ROOM_VARIABLE

WORKER = "airflow.sdk.execution_time.execute_workload"
"""What the containers of ECS, Batch and Kubernetes run with ``python -m``, and what Lambda's handler runs."""
LAZY = (
    "pydantic",
    "airflow.executors.workloads",
    "airflow.executors.base_executor",
    "airflow.sdk.log",
    "airflow.settings",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.callback_supervisor",
    "airflow.sdk.execution_time.task_runner",
)
"""What it imports itself once it runs, before it forks the task's or the callback's process."""
OF_ONE = frozenset({"HOSTNAME", "AWS_BATCH_JOB_ID", "AWS_BATCH_JOB_ATTEMPT", "AWS_LAMBDA_RUNTIME_API"})
"""Variables that differ between containers that are otherwise alike; nothing reads them at its import."""
MOST = 2
"""Interpreters at once: each holds about 130 MB."""
ROOM = 120_000  # bytes; the kernel takes no longer argument
IMPORT_BOUND = 120.0  # seconds of a quiet machine; then it is not waited for, and its commands are executed

_WARM_GUARDIAN = Path(__file__).with_name("warm_guardian.py")


class WarmStarts:
    """The interpreters of one emulator, by what they were started with; each begins with its first command.

    :param folder: where each has a folder of its own, until it ends.
    :param logs: where their own words go.
    :param worker: the module whose commands begin as forks.
    :param lazy: further modules to import.
    """

    def __init__(self, folder: Path, logs: Path, worker: str = WORKER, lazy: Sequence[str] = LAZY) -> None:
        self._folder, self._logs, self._worker, self._lazy = folder, logs, worker, lazy
        self._lock = threading.Lock()
        self._guardians: dict[object, Guardian | None] = {}
        self._ready: set[object] = set()
        self._closed = False

    def is_worker(self, argv: Sequence[str]) -> bool:
        """Whether this command may begin as a fork."""
        return list(argv[1:3]) == ["-m", self._worker]

    def guardian_for(self, argv: list[str], env: Mapping[str, str], cwd: str) -> Guardian | None:
        """The one that can start this command; None if it is to be executed.

        The first command of its kind is executed, while its interpreter gets ready for the next.
        """
        program = shutil.which(argv[0], path=env.get("PATH", ""))
        if not self.is_worker(argv) or program is None or "PYTHONSAFEPATH" in env or not os.path.isabs(program):
            return None
        if sum(len(part.encode()) + 1 for part in argv) >= ROOM:
            return None  # its arguments would not be seen whole
        alike = {name: value for name, value in env.items() if name not in OF_ONE}
        key = (argv[0], program, cwd, tuple(sorted(alike.items())))
        with self._lock:
            if key in self._ready:
                guardian = self._guardians[key]
                return guardian if guardian is not None and not guardian.lost else None
            if key not in self._guardians and len(self._guardians) < MOST and not self._closed:
                self._guardians[key] = None
                private = self._folder / f"warm-{len(self._guardians)}"
                threading.Thread(target=self._start, args=[key, private, program, alike, cwd], daemon=True).start()
        return None

    def close(self) -> None:
        """End them with all that they started; bounded."""
        with self._lock:
            self._closed = True
            guardians = {key: guardian for key, guardian in self._guardians.items() if guardian is not None}
            ready, self._ready = self._ready, set()
        for key, guardian in guardians.items():
            if key not in ready:  # it has started nothing yet, and answers only when its imports are done
                kill_frozen(guardian.pid)
            guardian.stop(remove=True)
            shutil.rmtree(guardian.folder, ignore_errors=True)
            guardian.give_up()

    def pids(self) -> list[int]:
        """Of the interpreters."""
        with self._lock:
            return [guardian.pid for guardian in self._guardians.values() if guardian is not None]

    def _start(self, key: object, private: Path, program: str, env: dict[str, str], cwd: str) -> None:
        with self._lock:
            if self._closed or not os.path.isdir(cwd):
                return
            private.mkdir(exist_ok=True)
            guardian = self._guardians[key] = Guardian(
                private,
                self._logs / f"{private.name}.log",
                on_loss=lambda: self._lose(key),
                program=(program, str(_WARM_GUARDIAN)),
                arguments=(self._worker, *self._lazy),
                env={**env, ROOM_VARIABLE: "-" * ROOM},
                cwd=cwd,
            )
        with contextlib.suppress(HarnessError):
            guardian.ping(IMPORT_BOUND)
            with self._lock:
                if not self._closed:
                    self._ready.add(key)

    def _lose(self, key: object) -> None:
        """It ended: its children did with it, and what comes is executed."""
        with self._lock:
            self._ready.discard(key)
            guardian = self._guardians[key]
        if guardian is not None:
            guardian.give_up()
