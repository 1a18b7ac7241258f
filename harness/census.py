"""What a guardian counts below itself: processes, memory, descriptors; and what it does when they are too many.

For the standard library only, as ``guardian.py``, which loads it by path.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import time
from typing import Any

FREEZE_BOUND = 5.0  # seconds; only something that forks faster than it can be stopped lasts so long
EXACTLY_BOUND = 1.0  # seconds for an exact look at the memory of what is stopped
REMEMBERED_S = 10.0  # for so long what was counted is kept, to tell how fast it grew
ANEW_S = 10.0  # after so long every process is looked at again, because a pid may have been given anew
WEIGH_S = 1.0  # between two looks at memory and descriptors, which cost more than to count processes
SHARE = 0.05  # of one CPU, at most, for exact looks at memory that is shared
NAMED = 5  # processes that a report names at most
NEAR_LIMIT = 0.75  # share of its own limit at which a process has too many descriptors
SMALL = 256  # descriptors below which nobody's limit is looked at
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def parent_of(pid: int) -> int | None:
    """The pid of a process's parent; None if there is no such process."""
    fields = _read(pid, "stat").rpartition(b")")[2].split(None, 2)
    return int(fields[1]) if len(fields) == 3 else None


def memory_of(pid: int) -> int:
    """Bytes of a process that no file backs; what forks share is counted in each of them."""
    fields = _read(pid, "statm").split(None, 3)
    return (int(fields[1]) - int(fields[2])) * _PAGE if len(fields) == 4 else 0


def share_of(pid: int) -> int:
    """Bytes of memory of a process, of what it shares its part only; costs milliseconds."""
    for line in _read(pid, "smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    folder = f"/proc/{pid}/fd"
    try:
        return os.stat(folder).st_size or len(os.listdir(folder))  # the size is their number since Linux 6.2
    except OSError:
        return 0


def descriptor_limit(pid: int) -> int:
    """How many descriptors a process may have open; a large number if it cannot be told."""
    for line in _read(pid, "limits").splitlines():
        if line.startswith(b"Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else 1 << 30
    return 1 << 30


class Census:
    """The descendants of the process ``root``, and the budget that they must keep to.

    :param root: of the tree; the process that counts.
    :param budget: ``processes``, ``memory`` (bytes, all together) and ``descriptors`` (of one process): the most that
        is allowed of each.
    """

    def __init__(self, root: int, budget: dict[str, int]) -> None:
        self.root, self.budget = root, budget
        self.members: dict[int, int] = {}
        """By pid: the child of the root that it is or was born below; 0 for an orphan whose origin is unknown."""
        self.started: set[int] = set()
        """Children that the root has started itself; its others are orphans that it has inherited."""
        self.memory = 0
        self.descriptors: dict[int, int] = {}
        self.samples: collections.deque[tuple[float, int, int, int]] = collections.deque()
        self._strangers: set[int] = set()
        self._anew_at = self._weighed_at = self._exact_at = 0.0

    # -- counting -------------------------------------------------------------------------------------------

    def count(self) -> list[int]:
        """Bring ``members`` up to date; the new ones are returned. Costs as much as there are new processes."""
        now = time.monotonic()
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        former = self.members
        if now - self._anew_at > ANEW_S:
            known: dict[int, int] = {}
            self._strangers, self._anew_at = set(), now
        else:
            known = {pid: top for pid, top in former.items() if pid in there}
            self._strangers &= there
        unknown = {
            pid: parent for pid in there - known.keys() - self._strangers if (parent := parent_of(pid)) is not None
        }
        unknown.pop(self.root, None)
        while unknown:
            placed = {pid for pid, parent in unknown.items() if parent == self.root or parent in known}
            # One whose parent has just ended belongs to nobody until it is inherited: neither here nor there
            strange = {pid for pid, parent in unknown.items() if parent == 0 or parent in self._strangers}
            if not placed and not strange:
                break
            for pid in placed:
                parent = unknown.pop(pid)
                known[pid] = former.get(pid) or self._top(pid, parent, known)
            self._strangers |= strange - placed
            for pid in strange - placed:
                del unknown[pid]
        self.members = known
        return [pid for pid in known if pid not in former]

    def _top(self, pid: int, parent: int, known: dict[int, int]) -> int:
        """The child of the root below which it was born; an orphan's session may tell."""
        if parent != self.root:
            return known[parent]
        if pid in self.started:
            return pid
        fields = _read(pid, "stat").rpartition(b")")[2].split(None, 4)
        return known.get(int(fields[3]), 0) if len(fields) == 5 else 0

    def weigh(self) -> None:
        """Look at memory and descriptors."""
        self.memory = sum(map(memory_of, self.members))
        self.descriptors = {pid: descriptors_of(pid) for pid in self.members}
        now = time.monotonic()
        self._weighed_at = now
        if self.memory > self.budget["memory"] and now >= self._exact_at:
            self.memory = sum(map(share_of, self.members))
            self._exact_at = time.monotonic() + (time.monotonic() - now) / SHARE
        elif self.memory > self.budget["memory"]:
            self.memory = self.budget["memory"]  # as an exact look showed not long ago, it is not more

    def look(self) -> str:
        """Count, now and then weigh, and return which budget is exceeded; empty if none is."""
        self.count()
        now = time.monotonic()
        if now - self._weighed_at > WEIGH_S:
            self.weigh()
        most = max(self.descriptors.values(), default=0)
        self.samples.append((now, len(self.members), self.memory, most))
        while now - self.samples[0][0] > REMEMBERED_S:
            self.samples.popleft()
        if len(self.members) > self.budget["processes"]:
            return "processes"
        if self.memory > self.budget["memory"]:
            return "memory"
        return "descriptors" if self._too_many_descriptors() else ""

    def _too_many_descriptors(self) -> bool:
        return any(
            number > self.budget["descriptors"] or (number > SMALL and number > NEAR_LIMIT * descriptor_limit(pid))
            for pid, number in self.descriptors.items()
        )

    # -- acting ---------------------------------------------------------------------------------------------

    def freeze(self) -> int:
        """SIGSTOP everything, until two looks find nothing new, so that nothing forks away; how many there are."""
        frozen: set[int] = set()
        quiet = 0
        end = time.monotonic() + FREEZE_BOUND
        while quiet < 2 and time.monotonic() < end:
            self.count()
            new = self.members.keys() - frozen
            for pid in new:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)
            frozen |= new
            quiet = 0 if new else quiet + 1
            time.sleep(0.002)
        return len(self.members)

    def _exactly(self) -> dict[int, int]:
        """The memory of each process, shared parts once; empty if there are too many to look at."""
        found: dict[int, int] = {}
        end = time.monotonic() + EXACTLY_BOUND
        for pid in self.members:
            if time.monotonic() > end:
                return {}
            found[pid] = share_of(pid)
        return found

    def report(self, what: str, began: float) -> dict[str, Any]:
        """What is there, whose it is, and how fast it grew; ``began`` is when the budget was found to be exceeded.

        ``memory`` counts what is shared once, but in ``growth`` in each process. ``tops``: for each child of the root
        (0: orphans of unknown origin) its number of processes, its memory and descriptors. ``parents``: who has the
        most children. ``largest``: the processes with the most memory, or descriptors. ``growth``: seconds before
        ``began``, with the three numbers then.
        """
        memory = self._exactly()
        tops: dict[int, list[int]] = {}
        children: collections.Counter[int] = collections.Counter()
        for pid, top in self.members.items():
            sums = tops.setdefault(top, [0, 0, 0])
            sums[0] += 1
            sums[1] += memory.get(pid, 0)
            sums[2] += self.descriptors.get(pid, 0)
            children[parent_of(pid) or 0] += 1
        each = memory if what == "memory" else self.descriptors
        largest = sorted(each.items(), key=lambda item: -item[1])[:NAMED] if what != "processes" else []
        return {
            "what": what,
            "root": self.root,
            "limit": self.budget[what],
            "processes": len(self.members),
            "memory": sum(memory.values()) or self.memory,
            "descriptors": max(self.descriptors.values(), default=0),
            "tops": [[top, *sums] for top, sums in tops.items()],
            "parents": children.most_common(NAMED),
            "largest": largest,
            "growth": [[round(began - t, 2), *numbers] for t, *numbers in self.samples],
            "frozen_s": round(time.monotonic() - began, 3),
        }
