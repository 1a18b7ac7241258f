"""Processes of an environment, started through a guardian that cleans up whatever becomes of the harness."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil
from executor_conformance.harness import processes
from executor_conformance.harness.errors import BoundReached, HarnessError, RanAway
from executor_conformance.harness.guardianship import Guardian
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.processes import FOLDER_VARIABLE, KILLED_BOUND, RUN_VARIABLE
from executor_conformance.harness.runaway import Budget, Runaway, describe

OWNER_FILE = "owner.json"


class ManagedProcess:
    """A direct child of the guardian, leader of a session of its own."""

    def __init__(self, supervisor: Supervisor, name: str, log: Path) -> None:
        self.supervisor = supervisor
        self.name = name
        self.log = log
        self.pid = 0
        self.started = 0  # clock ticks since boot
        self.exit_status: int | None = None  # as of os.waitstatus_to_exitcode; None while it runs

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid} exit_status={self.exit_status}>"

    def note_exit(self, status: int) -> None:
        """Of the guardian: it was reaped with this wait status."""
        self.exit_status = os.waitstatus_to_exitcode(status)

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        return self.exit_status is None and processes.is_alive(self.pid, self.started)

    def wait(self, timeout: float, reason: str) -> int:
        """Wait until it ended, at most ``timeout`` seconds, and return its exit status.

        :raises BoundReached: it still runs; ``reason`` (what is waited for) is in the message.
        :raises HarnessError: the guardian died, so that the status is lost.
        """
        supervisor = self.supervisor
        with supervisor.changed:
            supervisor.changed.wait_for(lambda: self.exit_status is not None or supervisor.lost, timeout)
        if self.exit_status is not None:
            return self.exit_status
        if supervisor.lost:
            raise HarnessError(
                f"The exit status of {self.name} (pid {self.pid}) is lost because the guardian of "
                f"{supervisor.folder} ended unexpectedly; see {supervisor.guardian_log}."
            )
        raise BoundReached(f"{self.name} (pid {self.pid}) did not end within {timeout:g} s ({reason}); see {self.log}.")

    def kill_tree(self) -> list[int]:
        """SIGKILL it and its current descendants, all stopped first; returns their pids, does not wait."""
        return processes.kill_frozen(self.pid) if self.alive else []

    def terminate(self, grace: float = LIMITS.stop_grace) -> int:
        """SIGTERM, after ``grace`` seconds ``kill_tree``; returns the exit status.

        :raises HarnessError: as ``wait``; BoundReached if not even SIGKILL ended it.
        """
        if self.alive:
            processes.kill([self.pid], signal.SIGTERM)
        with contextlib.suppress(BoundReached):
            return self.wait(grace, "after SIGTERM")
        self.kill_tree()
        return self.wait(KILLED_BOUND, "after SIGKILL")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of what it and its descendants wrote; empty if there is no log."""
        return "\n".join(self.log_text(400 * lines).splitlines()[-lines:])

    def log_text(self, most: int = 1 << 20) -> str:
        """Return the last ``most`` bytes of what it and its descendants wrote; empty if there is no log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - most))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


class Supervisor:
    """Starts processes for one environment through a guardian; ends them all in ``stop`` or when it dies.

    ``exits`` holds the exit status (as of ``os.waitstatus_to_exitcode``) by pid of each process that the
    guardian reaped: its children and the orphans it adopted. ``changed`` is notified at each change of it.
    ``lost`` is true once the guardian ended without being asked, ``runaway`` tells what exceeded the ``budget``.
    """

    def __init__(
        self,
        folder: Path,
        budget: Budget | None = None,
        nodes: Callable[[], Collection[int]] = tuple,
        on_runaway: Callable[[Runaway], object] = lambda runaway: None,
    ) -> None:
        """Start the guardian of ``folder``, which is made if needed.

        :param budget: of all processes together; None: nobody counts them.
        :param nodes: gives the pids of the processes that are workers.
        :param on_runaway: called by another thread once the budget is exceeded and everything is stopped.
        :raises HarnessError: the guardian does not start.
        """
        self.runaway: Runaway | None = None
        self._nodes, self._on_runaway = nodes, on_runaway
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.guardian_log = self.logs / "guardian.log"
        self.exits: dict[int, int] = {}
        self.processes: list[ManagedProcess] = []
        self._stop_lock = threading.Lock()
        self._stopping = False
        self._harness_pid = os.getpid()
        self._write_owner(None)
        self.guardian = Guardian(
            self.folder,
            self.guardian_log,
            self._forget_exit,
            self._note_exit,
            self._kill_leftovers,
            self._note_runaway,
        )
        self.guardian_pid = self.guardian.pid
        self.changed = self.guardian.changed
        self._write_owner(self.guardian_pid)
        atexit.register(self._at_exit)
        try:
            self.guardian.ping()
            if budget is not None:
                self.guardian.watch(budget.to_dict())
        except HarnessError as error:
            said = self.guardian_log.read_text(errors="replace").strip() if self.guardian_log.exists() else ""
            self.stop(remove=False)
            raise HarnessError(f"The guardian of {self.folder} did not start: {said or error}") from None

    def check(self) -> None:
        """Go on only while the budget is kept.

        :raises RanAway: it was exceeded, so nothing runs any more.
        """
        if self.runaway:
            raise RanAway(self.runaway.sentence)

    @property
    def lost(self) -> bool:
        """Whether the guardian ended without being asked."""
        return self.guardian.lost

    def spawn(self, name: str, argv: list[str], env: dict[str, str], cwd: Path) -> ManagedProcess:
        """Start a process with exactly ``env`` plus the run's marks; both its streams go to logs/<name>.log.

        :raises HarnessError: the command cannot be run, or the guardian is gone.
        """
        self.check()
        if self.lost or self._stopping:
            how = "ended unexpectedly" if self.lost else "was stopped"
            raise HarnessError(f"{name} cannot be started because the guardian of {self.folder} {how}.")
        process = ManagedProcess(self, name, self._log_for(name))
        marks = {RUN_VARIABLE: self.folder.name, FOLDER_VARIABLE: str(self.folder)}
        problem = self.guardian.spawn(process, argv, env | marks, str(cwd), process.log)
        if problem:
            self.check()
            raise HarnessError(f"{name} did not start: {problem} (command: {' '.join(argv)[:160]}).")
        self.processes.append(process)
        return process

    def descendants(self) -> list[psutil.Process]:
        """All processes below the guardian, adopted orphans too; empty once the guardian is gone."""
        try:
            return psutil.Process(self.guardian_pid).children(recursive=True)
        except psutil.Error:
            return []

    def await_exit(self, pid: int, timeout: float) -> int | None:
        """The exit status of a process that the guardian reaps; None if not reported within ``timeout`` s."""
        with self.changed:
            self.changed.wait_for(lambda: pid in self.exits or self.lost, timeout)
            return self.exits.get(pid)

    def stop(self, remove: bool) -> None:
        """Kill everything, end the guardian and, if asked, remove the folder; bounded, may be repeated."""
        if os.getpid() != self._harness_pid:  # a fork of the harness owns nothing
            return
        with self._stop_lock:
            if not self._stopping:
                self._stopping = True
                atexit.unregister(self._at_exit)
                self.guardian.stop(remove, self._kill_leftovers)
            if remove:
                _remove(self.folder)

    def end(self, why: str) -> None:
        """Kill everything that was started, and start nothing any more; bounded, and harmless if nothing is left."""
        if os.getpid() == self._harness_pid and not self._stopping:
            with contextlib.suppress(HarnessError):
                self.guardian.end(why)

    def _at_exit(self) -> None:
        self.stop(remove=True)

    def _kill_leftovers(self) -> None:
        # What the guardian started died with it; what its children started did not
        with self.changed:
            sessions = set(self.guardian.running)
        processes.kill_marked(self.folder, sessions)

    def _log_for(self, name: str) -> Path:
        stem = name.replace("/", "-")
        for number in itertools.count(1):
            path = self.logs / (f"{stem}.log" if number == 1 else f"{stem}-{number}.log")
            try:
                path.touch(exist_ok=False)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise HarnessError(f"The log {path} cannot be made: {error.strerror}.") from None
        return path

    def _write_owner(self, guardian: int | None) -> None:
        owner = {"harness": _identity(self._harness_pid), "guardian": _identity(guardian)}
        draft = self.folder / f"{OWNER_FILE}.new"
        draft.write_text(json.dumps(owner))
        draft.replace(self.folder / OWNER_FILE)  # at no moment half written, for a sweep beside us

    def _forget_exit(self, pid: int) -> None:
        self.exits.pop(pid, None)  # of a former process with this pid

    def _note_runaway(self, report: dict[str, Any]) -> str:
        names = {process.pid: process.name for process in list(self.processes)}
        runaway = describe(report, names, self._nodes)
        self._on_runaway(runaway)
        self.runaway = runaway
        return runaway.sentence

    def _note_exit(self, pid: int, status: int) -> None:
        self.exits[pid] = os.waitstatus_to_exitcode(status)


def _identity(pid: int | None) -> dict[str, Any] | None:
    stat = processes.read_stat(pid) if pid is not None else None
    if stat is None:
        return None
    try:
        return {"pid": pid, "create_time": psutil.Process(pid).create_time(), "started": stat.started}
    except psutil.Error:
        return None


def _lives(identity: dict[str, Any] | None) -> bool:
    """Whether that very process runs; its start by either measure, as the wall clock may have been set."""
    if identity is None or not processes.is_alive(identity["pid"]):
        return False
    if processes.is_alive(identity["pid"], identity["started"]):
        return True
    try:
        return abs(psutil.Process(identity["pid"]).create_time() - identity["create_time"]) < 0.5
    except psutil.Error:
        return False


def _remove(folder: Path) -> None:
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)


def runs_folder() -> Path:
    """The folder of all this user's runs below the temporary folder, rid of what dead ones left there."""
    root = Path(tempfile.gettempdir()) / f"executor-conformance-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    sweep_stale(root)
    return root


def sweep_stale(root: Path) -> list[Path]:
    """Remove the folders below ``root`` that dead runs left, and kill their processes; returns the folders.

    A folder is left alone while its harness or its guardian lives, or if it has no readable ``owner.json``.
    """
    swept: list[Path] = []
    for file in sorted(root.resolve().glob(f"*/{OWNER_FILE}")):
        try:
            owner = json.loads(file.read_text())
            dead = not _lives(owner["harness"]) and not _lives(owner["guardian"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if dead:
            processes.kill_marked(file.parent)
            _remove(file.parent)
            swept.append(file.parent)
    return swept
