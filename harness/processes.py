"""Processes as /proc shows them: trees, states and the births and deaths below a supervisor's guardian."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executor_conformance.harness.supervisor import Supervisor

RUN_VARIABLE = "EXECUTOR_CONFORMANCE_RUN"
FOLDER_VARIABLE = "EXECUTOR_CONFORMANCE_RUN_FOLDER"
TITLE_LENGTH = 160
EXIT_REPORT_BOUND = 0.05  # seconds between a direct child's death and the guardian's report of it, at most
KILLED_BOUND = 5.0  # seconds until SIGKILL must have worked

_TOKEN = re.compile(r"eyJ[\w-]{4,}(?:\.[\w-]*){1,4}")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/pid/stat in use; ``cpu_ticks`` and ``started`` in clock ticks (since boot)."""

    pid: int
    state: str
    ppid: int
    session: int
    cpu_ticks: int
    started: int
    comm: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process at one moment.

    ``state`` is the letter of /proc ('R', 'S', 'D', 'T', 'Z' ...), ``cpu_ticks`` user plus system time of all
    threads in clock ticks, ``started`` the start in clock ticks since boot, which with ``pid`` identifies the process.
    """

    pid: int
    ppid: int
    title: str
    state: str
    cpu_ticks: int
    started: int


def read_proc(pid: int, name: str, size: int = 1 << 14) -> bytes:
    """Up to ``size`` bytes of /proc/pid/name; empty if the process is gone or not readable."""
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, size)
    except OSError:
        return b""
    finally:
        os.close(fd)


def read_stat(pid: int) -> Stat | None:
    """The stat of a process, zombies included; None if there is none."""
    return _parse_stat(pid, read_proc(pid, "stat", 2048))


def _parse_stat(pid: int, data: bytes) -> Stat | None:
    head, _, tail = data.rpartition(b")")
    fields = tail.split(None, 20)
    if len(fields) < 20:
        return None
    return Stat(
        pid=pid,
        state=fields[0].decode(),
        ppid=int(fields[1]),
        session=int(fields[3]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        started=int(fields[19]),
        comm=head.partition(b"(")[2].decode(errors="replace"),
    )


def all_pids() -> list[int]:
    """The pids of all processes that this one can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants_of(root: int, *more: int) -> dict[int, Stat]:
    """All below ``root`` and further roots, by pid, parents before children; zombies too, the roots themselves not."""
    return _parsed(_below([root, *more], _children(all_pids())))


def _children(pids: Iterable[int]) -> dict[int, list[tuple[int, bytes]]]:
    """By the pid of a parent: those of ``pids`` that are its children, with what their /proc/pid/stat says."""
    children: dict[int, list[tuple[int, bytes]]] = {}
    for pid in pids:
        data = read_proc(pid, "stat", 2048)
        fields = data[data.rfind(b")") + 1 :].split(None, 2)
        if len(fields) == 3:
            children.setdefault(int(fields[1]), []).append((pid, data))
    return children


def _below(roots: Collection[int], children: Mapping[int, list[tuple[int, bytes]]]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    todo = list(roots)
    for parent in todo:
        for pid, data in children.get(parent, ()):
            if pid not in found and pid not in roots:
                found[pid] = data
                todo.append(pid)
    return found


def _parsed(found: Mapping[int, bytes]) -> dict[int, Stat]:
    return {pid: stat for pid, data in found.items() if (stat := _parse_stat(pid, data)) is not None}


class Descendants:
    """:func:`descendants_of` for who asks at each step, at a cost that does not grow with the rest of the host.

    A process that is below none of the roots stays so: whoever inherits an orphan is below them too. So strangers are
    read again only once per second, because a pid may be given anew, and when the roots change.
    """

    STRANGERS_S = 1.0

    def __init__(self) -> None:
        self._roots: list[int] = []
        self._strangers: set[int] = set()
        self._read_at = 0.0

    def of(self, roots: list[int]) -> dict[int, Stat]:
        """As :func:`descendants_of`."""
        now = time.monotonic()
        if roots != self._roots or now - self._read_at > self.STRANGERS_S:
            self._roots, self._strangers, self._read_at = roots, set(), now
        pids = all_pids()
        self._strangers.intersection_update(pids)
        children = _children(pid for pid in pids if pid not in self._strangers)
        found = _below(roots, children)
        # From the first process down: one whose parent has just ended is nobody's until it is inherited
        self._strangers |= _below({0} | self._strangers, children).keys() - found.keys()
        return _parsed(found)


def is_alive(pid: int, started: int | None = None) -> bool:
    """Whether ``pid`` runs, and is the process started then (ticks since boot), if given; zombies do not."""
    stat = read_stat(pid)
    return stat is not None and stat.state not in "ZX" and (started is None or stat.started == started)


def tree_of(pid: int) -> list[int]:
    """``pid`` and its living descendants, parents first; empty if ``pid`` is gone."""
    if not is_alive(pid):
        return []
    return [pid, *(stat.pid for stat in descendants_of(pid).values() if stat.state not in "ZX")]


def children_of(pid: int) -> list[int]:
    """The living children of ``pid``."""
    return [child for child, stat in descendants_of(pid).items() if stat.ppid == pid and stat.state not in "ZX"]


def kill(pids: Iterable[int], sig: int = signal.SIGKILL) -> None:
    """Send ``sig`` to each; those that are gone or foreign are passed over."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, sig)


def kill_frozen(*roots: int) -> list[int]:
    """SIGKILL ``roots`` and their descendants, stopped first so that none can fork away; returns their pids."""
    frozen: list[int] = []
    while new := [pid for root in roots for pid in tree_of(root) if pid not in frozen]:
        kill(new, signal.SIGSTOP)
        frozen += new
    kill(reversed(frozen))
    return frozen


def is_marked(pid: int, folder: Path) -> bool:
    """Whether the process is of the run: by its environment or, as titles may overwrite that, by its log."""
    environ = read_environ(pid).split(b"\0")
    if f"{RUN_VARIABLE}={folder.name}".encode() in environ:
        prefix = f"{FOLDER_VARIABLE}=".encode()
        paths = [entry[len(prefix) :] for entry in environ if entry.startswith(prefix)]
        return not paths or os.fsencode(folder) in paths  # another run's folder may have the same name
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(f"{folder}/logs/"):
                return True
    return False


def kill_marked(folder: Path, sessions: Iterable[int] = ()) -> None:
    """SIGKILL what is of the run or of one of the sessions, with descendants, until none is left."""
    spared = {os.getpid()}  # and its ancestors: a harness may itself run below another one
    stat = read_stat(os.getpid())
    while stat is not None and stat.ppid not in spared:
        spared.add(stat.ppid)
        stat = read_stat(stat.ppid)
    end = time.monotonic() + KILLED_BOUND
    while time.monotonic() < end:
        found = False
        for pid in all_pids():
            stat = read_stat(pid)
            if stat is None or stat.state in "ZX" or pid in spared:
                continue
            if stat.session in sessions or is_marked(pid, folder):
                found = True
                kill_frozen(pid)
        if not found:
            return
        time.sleep(0.005)


def read_command_line(pid: int) -> bytes:
    """What every user of the host can read of a process: its whole command line, or the title in its place."""
    return read_proc(pid, "cmdline", 1 << 22)


def read_environ(pid: int) -> bytes:
    """Return the environment with which a process was started, its entries separated by zero bytes."""
    return read_proc(pid, "environ", 1 << 20)


def title_of(pid: int, comm: str = "?") -> str:
    """The command line, joined, without tokens, at most 160 characters; ``[comm]`` if it is empty."""
    text = read_proc(pid, "cmdline").rstrip(b"\0 ").replace(b"\0", b" ").decode(errors="replace")
    return _TOKEN.sub("<token>", text)[:TITLE_LENGTH] or f"[{comm}]"


class ProcessWatcher:
    """Records the births and deaths among the descendants of a supervisor's guardian.

    ``sink`` has the signature of ``History.append`` and may be replaced at any time. ``roots`` gives the pids of
    foreign processes whose descendants belong to the environment too, as those of a container engine.
    """

    def __init__(
        self, supervisor: Supervisor, sink: Callable[..., Any], roots: Callable[[], Iterable[int]] = tuple
    ) -> None:
        self.supervisor = supervisor
        self.sink = sink
        self.roots = roots
        self.command_line_seen: Callable[[tuple[int, str], bytes], None] | None = None
        """Takes the pid and the title of a process, and its whole command line, whenever one of them is new."""
        self._known: dict[tuple[int, int], tuple[int, str]] = {}
        self._descendants = Descendants()

    def _stats(self) -> Iterable[Stat]:
        return self._descendants.of([self.supervisor.guardian_pid, *self.roots()]).values()

    is_alive = staticmethod(is_alive)
    tree_of = staticmethod(tree_of)
    kill = staticmethod(kill)

    def poll(self) -> None:
        """Record ``process`` events for what changed since the last poll.

        Fields: ``what`` ("born" or "gone"), ``pid``, ``ppid``, ``title`` (for "gone": the last one seen), and
        for "gone" ``status`` (as of ``os.waitstatus_to_exitcode``) if the guardian reaped the process.
        A parent is recorded before its children; zombies are gone.
        """
        now: dict[tuple[int, int], tuple[int, str]] = {}
        for stat in self._stats():
            if stat.state not in "ZX":
                # Read each time: a child is born with its parent's title and gets its own by exec.
                now[stat.pid, stat.started] = (stat.ppid, title_of(stat.pid, stat.comm))
        former, self._known = self._known, now
        for key, (ppid, title) in former.items():
            if key not in now:
                self._gone(key[0], ppid, title)
        for key, (ppid, title) in now.items():
            if self.command_line_seen is not None and former.get(key, (0, ""))[1] != title:
                self.command_line_seen((key[0], title), read_command_line(key[0]))
            if key not in former:
                self.sink("process", what="born", pid=key[0], ppid=ppid, title=title)

    def _gone(self, pid: int, ppid: int, title: str) -> None:
        status = self.supervisor.exits.get(pid)
        if status is None and ppid == self.supervisor.guardian_pid:
            status = self.supervisor.await_exit(pid, EXIT_REPORT_BOUND)
        known = {} if status is None else {"status": status}
        self.sink("process", what="gone", pid=pid, ppid=ppid, title=title, **known)

    def snapshot(self, zombies: bool = False) -> dict[int, ProcessInfo]:
        """The descendants by pid, parents first; with those already dead if ``zombies``."""
        return {
            stat.pid: ProcessInfo(
                pid=stat.pid,
                ppid=stat.ppid,
                title=title_of(stat.pid, stat.comm),
                state=stat.state,
                cpu_ticks=stat.cpu_ticks,
                started=stat.started,
            )
            for stat in self._stats()
            if zombies or stat.state not in "ZX"
        }
