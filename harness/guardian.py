"""The parent of an environment's processes; outlives the harness just long enough to clean up after it.

Run by path with the standard library only: ``python -I -S guardian.py <fd> <rundir>``. ``fd`` is one end of a
socketpair that carries JSON lines. Requests and answers (each answer repeats the ``id``):

* ``{"id", "op": "spawn", "argv", "env", "cwd", "stdout"}`` -> ``{"id", "pid", "started"}`` (``started`` in
  clock ticks since boot) or ``{"id", "error"}``
* ``{"id", "op": "ping"}`` -> ``{"id", "pid"}``
* ``{"id", "op": "watch", "budget": {...}}`` -> ``{"id"}``; from now on the descendants are counted (``census.py``)
* ``{"id", "op": "end", "why": str}`` -> ``{"id", "killed": int}``; from now on nothing can be spawned, because ``why``
* ``{"id", "op": "stop", "remove": bool}`` -> ``{"id", "killed": int}``, then the guardian exits

Unsolicited, for each reaped process: ``{"exit": pid, "status": wait status}``. If the descendants exceed the budget,
they are stopped, and ``{"runaway": {...}}`` tells what there was; they are killed once the harness has asked for it by
``end``, or has not for ``TOLD_S`` seconds. On EOF, on the death of the parent and on SIGTERM all descendants are
killed, the run directory is removed and the guardian exits.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_BOUND = 5.0  # seconds; only a process in uninterruptible sleep lasts this long
PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.05  # between two looks at what is being killed
LOOK_S = 0.25  # between two looks at the budget; one costs less than a millisecond
TOLD_S = 3.0  # after which stopped processes are killed without a word of the harness: they hold memory
NICE = -10  # of a guardian that watches: a machine that a runaway has loaded must not keep it from acting
ALL_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})

_libc = ctypes.CDLL(None, use_errno=True)


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """State, parent pid and start time (ticks since boot) of a process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[1]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def descendants(root: int) -> dict[int, tuple[str, int]]:
    """State and start time by pid of all below ``root``, zombies too."""
    children: dict[int, list[int]] = {}
    stats: dict[int, tuple[str, int, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := stat_of(int(name))) is not None:
            stats[int(name)] = stat
            children.setdefault(stat[1], []).append(int(name))
    found: dict[int, tuple[str, int]] = {}
    todo = [root]
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in found:
                found[pid] = (stats[pid][0], stats[pid][2])
                todo.append(pid)
    return found


class Guardian:
    """The loop: requests in, answers and exits out, until the harness asks to stop or is gone."""

    def __init__(self, fd: int, rundir: str) -> None:
        os.set_inheritable(fd, False)
        self.pid = os.getpid()
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.rundir = rundir
        self.incoming = b""
        self.outgoing = b""
        self.terminated = False
        self.doing = ""
        self.census: Any = None
        self.look_at = 0.0
        self.closed = ""
        self.kill_at: float | None = None
        self.nice = os.getpriority(os.PRIO_PROCESS, 0)
        self.wakeup, self.wakeup_writer = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(self.wakeup_writer, False)
        signal.set_wakeup_fd(self.wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        # An ignored SIGCHLD or a blocked signal would be inherited from the harness.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self.parent: int | None = None
        # The socket alone does not tell of a death if a fork of the harness still holds the other end.
        with contextlib.suppress(OSError):
            self.parent = os.pidfd_open(os.getppid())
        if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")

    def _on_term(self, *_: object) -> None:
        self.terminated = True

    def send(self, message: dict[str, Any]) -> None:
        """Queue a line and write what the socket takes now; a stopped harness must not block the reaping."""
        self.outgoing += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self, bound: float = 0.0) -> None:
        """Write the queue; for at most ``bound`` seconds if the socket is full. A dead peer is ignored."""
        end = time.monotonic() + bound
        while self.outgoing:
            try:
                self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
            except BlockingIOError:
                left = end - time.monotonic()
                if left <= 0:
                    return
                select.select([], [self.socket], [], left)
            except OSError:
                self.outgoing = b""

    def reap(self) -> None:
        """Collect all ended children and adopted orphans and report them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.send({"exit": pid, "status": status})

    def kill_all(self) -> int:
        """SIGKILL all descendants until none is left; return how many there were."""
        seen: set[tuple[int, int]] = set()
        end = time.monotonic() + KILL_BOUND
        pause = PAUSE_S
        while True:
            self.reap()
            left = descendants(self.pid)
            if not left or time.monotonic() > end:
                return len(seen)
            known = len(seen)
            for pid, (state, started) in left.items():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                if state != "Z":
                    seen.add((pid, started))
            # A look at everything costs CPU, which those that end need
            pause = PAUSE_S if len(seen) > known else min(2 * pause, LONGEST_PAUSE_S)
            time.sleep(pause)

    def spawn(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a child in a session of its own; the answer without the id."""
        if self.closed:
            return {"error": self.closed}
        try:
            log = os.open(request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            return {"error": f"the log {request['stdout']} cannot be opened: {error.strerror}"}
        reader, writer = os.pipe()
        # No handler of the guardian's may run in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
        pid = -1
        try:
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                self._become(request, log, writer)
        except OSError as error:
            os.close(reader)
            return {"error": f"fork failed: {error.strerror}"}
        finally:
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                os.close(log)
                os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            problem = pipe.read().decode(errors="replace")
        if problem:
            os.waitpid(pid, 0)
            return {"error": problem}
        if self.census is not None:
            self.census.started.add(pid)
        stat = stat_of(pid)
        return {"pid": pid, "started": stat[2] if stat else 0}

    def _become(self, request: dict[str, Any], log: int, writer: int) -> NoReturn:
        """In the child: set up and exec; writes the reason to ``writer`` if that fails."""
        try:
            self._enter(request, log)
            self.doing = f"run {request['argv'][0]}"
            os.execvpe(request["argv"][0], request["argv"], request["env"])
        except BaseException as error:
            self._refuse(writer, error)
        finally:
            os._exit(127)

    def _enter(self, request: dict[str, Any], log: int) -> None:
        """In the child: signals, session, end with this process, streams, folder."""
        self.doing = "set up the process"
        signal.set_wakeup_fd(-1)
        for number in ALL_SIGNALS:
            with contextlib.suppress(OSError, ValueError):  # libc keeps two for itself
                signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != self.pid:  # it died before the prctl
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(log, 1)
        os.dup2(log, 2)
        self.doing = f"enter the folder {request['cwd']}"
        os.chdir(request["cwd"])
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _refuse(self, writer: int, error: BaseException) -> NoReturn:
        """In the child: say what could not be done, and end."""
        reason = getattr(error, "strerror", None) or repr(error)
        with contextlib.suppress(OSError):
            os.write(writer, f"cannot {self.doing}: {reason}".encode(errors="replace"))
        os._exit(127)

    def handle(self, line: bytes) -> bool:
        """Answer one request; False if it was the last."""
        request = json.loads(line)
        answer: dict[str, Any]
        if request["op"] == "spawn":
            answer = self.spawn(request)
        elif request["op"] == "ping":
            answer = {"pid": self.pid}
        elif request["op"] == "watch":
            self.watch(request["budget"])
            answer = {}
        elif request["op"] == "end":
            self.closed, self.kill_at = request["why"], None
            answer = {"killed": self.kill_all()}
        elif request["op"] == "stop":
            self.send({"id": request["id"], "killed": self.kill_all()})
            self.flush(1.0)
            if request.get("remove"):
                self.remove()
            return False
        else:
            answer = {"error": f"unknown op {request['op']}"}
        self.send({"id": request["id"], **answer})
        return True

    def watch(self, budget: dict[str, int]) -> None:
        """Begin to count, and come first where the CPU is scarce, if that is permitted."""
        from importlib.util import module_from_spec, spec_from_file_location

        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "census.py")
        spec = spec_from_file_location("census", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        self.census = module.Census(self.pid, budget)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)

    def keep_to_the_budget(self) -> float | None:
        """Look, if it is time to, and stop a runaway; the seconds until something is to be done again."""
        now = time.monotonic()
        if self.kill_at is not None:
            if now < self.kill_at:
                return self.kill_at - now
            self.kill_at = None
            self.kill_all()
        if self.census is None or self.closed:
            return None
        if now >= self.look_at:
            if exceeded := self.census.look():
                self.census.freeze()
                self.closed = "the environment has exceeded its budget and was stopped"
                self.kill_at = time.monotonic() + TOLD_S
                self.send({"runaway": self.census.report(exceeded, now)})
                self.flush(1.0)
                return TOLD_S
            self.look_at = time.monotonic() + LOOK_S
        return max(0.0, self.look_at - time.monotonic())

    def serve(self) -> bool:
        """Serve until asked to stop (True) or until the harness is gone or SIGTERM came (False)."""
        while not self.terminated:
            watched: list[Any] = [self.socket, self.wakeup]
            if self.parent is not None:
                watched.append(self.parent)
            ready, _, _ = select.select(watched, [self.socket] if self.outgoing else [], [], self.keep_to_the_budget())
            if self.wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wakeup, 4096)
            self.reap()
            self.flush()
            if self.parent is not None and self.parent in ready:
                return False
            if self.socket not in ready:
                continue
            try:
                data = self.socket.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                return False
            *lines, self.incoming = (self.incoming + data).split(b"\n")
            for line in lines:
                if not self.handle(line):
                    return True
        return False

    def remove(self) -> None:
        """Remove the run directory; tried again for what a killed process still wrote meanwhile."""
        import shutil  # its compression modules would triple the start time

        for _ in range(5):
            shutil.rmtree(self.rundir, ignore_errors=True)
            if not os.path.lexists(self.rundir):
                return
            time.sleep(0.02)


def main() -> None:
    """Serve; whatever ends it, nothing that was started here stays."""
    guardian = Guardian(int(sys.argv[1]), sys.argv[2])
    asked = False
    try:
        asked = guardian.serve()
    finally:
        if not asked:
            guardian.kill_all()
            guardian.remove()


if __name__ == "__main__":
    main()
