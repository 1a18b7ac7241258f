"""The other end of a guardian (``guardian.py``): its start, its answers, and what it says of the processes it reaps."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from executor_conformance.harness import processes
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.processes import FOLDER_VARIABLE, KILLED_BOUND, RUN_VARIABLE

ANSWER_BOUND = 15.0  # seconds of a quiet machine; a guardian answers within milliseconds, its start takes more
STOP_BOUND = 6.0  # seconds, also under pressure: Ctrl-C ends a run within 10 s

_GUARDIAN = Path(__file__).with_name("guardian.py")
_guardians: weakref.WeakSet[Guardian] = weakref.WeakSet()


class Spawned(Protocol):
    """What becomes a direct child of a guardian."""

    pid: int
    started: int
    """Clock ticks since boot."""

    def note_exit(self, status: int) -> None:
        """The guardian reaped it, with this wait status; called with ``Guardian.changed`` held."""


class Guardian:
    """A running guardian, and the children that it was asked to start.

    ``changed`` is notified of each message from it. ``lost`` is true once it ended without being asked.

    :param folder: what it removes at its end, unless it is told otherwise.
    :param log: where its own words go.
    :param on_spawn: called with the pid of each child that it has started, before anything else is heard of it.
    :param on_exit: called with the pid and the wait status of each process that it reaps, adopted orphans too.
    :param on_loss: called once it has ended without being asked, before ``lost`` is true.
    :param on_runaway: called with its report once what it watches has exceeded its budget and was stopped; it returns
        why nothing can be started any more, and everything is killed then.
    :param program: what runs it, if not this interpreter: up to where a descriptor and the folder are its arguments.
    :param arguments: further arguments.
    :param env: its environment, if not this process's.
    :param cwd: its folder.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        on_spawn: Callable[[int], None] = lambda pid: None,
        on_exit: Callable[[int, int], None] = lambda pid, status: None,
        on_loss: Callable[[], None] = lambda: None,
        on_runaway: Callable[[dict[str, Any]], str] = lambda report: "it has exceeded its budget",
        program: Sequence[str] = (sys.executable, "-I", "-S", str(_GUARDIAN)),
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> None:
        self.folder, self.log = folder, log
        self.changed = threading.Condition()
        self.lost = False
        self.running: dict[int, Spawned] = {}
        self._on_spawn, self._on_exit, self._on_loss, self._on_runaway = on_spawn, on_exit, on_loss, on_runaway
        self._spawning: dict[int, Spawned] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._ids = itertools.count(1)
        self._sending = threading.Lock()
        self._stopping = False
        self._socket, theirs = socket.socketpair()
        _guardians.add(self)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(ANSWER_BOUND), 0))
        outer = {name: value for name, value in os.environ.items() if name not in (RUN_VARIABLE, FOLDER_VARIABLE)}
        with theirs, log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*program, str(theirs.fileno()), str(folder), *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=cwd,
                env=outer if env is None else dict(env),
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name=f"guardian-{folder.name}", daemon=True)
        self._reader.start()

    def ping(self, bound: float = ANSWER_BOUND) -> None:
        """Return once it answers.

        :raises HarnessError: it does not, within ``bound`` seconds.
        """
        self._request({"op": "ping"}, bound)

    def watch(self, budget: dict[str, int]) -> None:
        """Let it count what is below it from now on; see ``census.py``.

        :raises HarnessError: the guardian is gone or does not answer.
        """
        self._request({"op": "watch", "budget": budget}, ANSWER_BOUND)

    def end(self, why: str, bound: float = STOP_BOUND) -> None:
        """Let it kill everything and start nothing any more; it goes on itself.

        :raises HarnessError: the guardian is gone or does not answer.
        """
        self._request({"op": "end", "why": why}, bound, patient=False)

    def spawn(self, child: Spawned, argv: list[str], env: dict[str, str], cwd: str, stdout: Path) -> str:
        """Start ``child`` with exactly ``env``, both its streams in ``stdout``; why it cannot be run, or empty.

        :raises HarnessError: the guardian is gone or does not answer.
        """
        request = {"op": "spawn", "argv": argv, "env": env, "cwd": cwd, "stdout": str(stdout)}
        return str(self._request(request, ANSWER_BOUND, child).get("error", ""))

    def stop(self, remove: bool, on_failure: Callable[[], None] = lambda: None) -> None:
        """Let it kill everything and end; bounded. ``on_failure`` is called if it had to be killed itself."""
        self._stopping = True
        try:
            end = time.monotonic() + STOP_BOUND
            self._request({"op": "stop", "remove": remove}, STOP_BOUND, patient=False)
            self._process.wait(max(0.1, end - time.monotonic()))
        except (HarnessError, subprocess.TimeoutExpired):
            if self._process.poll() is None:
                processes.kill_frozen(self.pid)
            on_failure()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_BOUND)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(KILLED_BOUND)
        self._socket.close()

    def close_in_fork(self) -> None:
        """Let go of it in a fork of its owner."""
        self._socket.close()

    def _request(
        self, request: dict[str, Any], bound: float, child: Spawned | None = None, patient: bool = True
    ) -> dict[str, Any]:
        """Return the answer; it may come later on a machine under pressure if ``patient``."""
        number = next(self._ids)
        if child is not None:
            self._spawning[number] = child
        try:
            with self._sending:
                self._socket.sendall(json.dumps({"id": number, **request}).encode() + b"\n")
        except OSError as error:
            raise HarnessError(f"The guardian of {self.folder} is gone ({error}); see {self.log}.") from None
        deadline = Deadline(bound)

        def told() -> bool:
            return number in self._answers or not self._reader.is_alive() or self.lost

        with self.changed:
            if not patient:
                self.changed.wait_for(told, bound)
            while patient and not told() and not deadline.over():
                self.changed.wait_for(told, deadline.slice_s())
            if number in self._answers:
                return self._answers.pop(number)
        if self.lost:
            raise HarnessError(f"The guardian of {self.folder} ended unexpectedly; see {self.log}.")
        within = deadline if patient else f"{bound:g} s"
        raise HarnessError(
            f"The guardian of {self.folder} did not answer '{request['op']}' within {within}; see {self.log}."
        )

    def _read(self) -> None:
        """Of the reader thread: answers and exits, in the order of the guardian."""
        rest = b""
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
            with self.changed:
                for message in messages:
                    if "runaway" not in message:
                        self._take(message)
                self.changed.notify_all()
            for message in messages:
                if "runaway" in message:
                    self._take_runaway(message["runaway"])
        if not self._stopping:
            self._on_loss()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_BOUND)
        with self.changed:
            self.lost = self.lost or not self._stopping
            self.changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "exit" in message:
            pid = message["exit"]
            self._on_exit(pid, message["status"])
            if (ended := self.running.pop(pid, None)) is not None:
                ended.note_exit(message["status"])
            return
        child = self._spawning.pop(message["id"], None)
        if child is not None and "pid" in message:
            child.pid, child.started = message["pid"], message["started"]
            self._on_spawn(child.pid)
            self.running[child.pid] = child
        self._answers[message["id"]] = message

    def _take_runaway(self, report: dict[str, Any]) -> None:
        why = self._on_runaway(report)
        request = {"id": next(self._ids), "op": "end", "why": why}
        with contextlib.suppress(OSError), self._sending:  # its answer comes by this thread, which cannot wait for it
            self._socket.sendall(json.dumps(request).encode() + b"\n")

    def give_up(self) -> None:
        """Take the children that are left for dead by SIGKILL: they died with it."""
        with self.changed:
            for child in self.running.values():
                child.note_exit(signal.SIGKILL)
            self.running.clear()


def _close_in_fork() -> None:
    # A fork without exec keeps CLOEXEC descriptors; with this end open the guardian would see no EOF.
    for guardian in _guardians:
        guardian.close_in_fork()


os.register_at_fork(after_in_child=_close_in_fork)
