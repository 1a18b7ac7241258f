"""A subject that takes processes, memory or descriptors without end: an environment's budget, and what exceeded it.

The guardian counts (``census.py``), stops everything that is below it and reports; this is the harness's side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from executor_conformance.harness.processes import title_of

GIB = 1 << 30
PROCESSES, PROCESSES_OF_A_WORKER, PROCESSES_OF_A_CPU = 100, 8, 20
LEAST_MEMORY = 3 * GIB
DESCRIPTORS = 4096
SCHEDULER_SIDE = frozenset({"airflow-side", "scheduler"})
"""Names of the processes below which nothing runs but the executor and what core starts it with."""
ORPHANS = "processes whose parents have ended"
INHERITS = "guardian, which inherits them"
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
SHOWN = 12  # samples of the growth in an event


def memory_of_machine() -> int:
    """Bytes of memory that this machine, or the container that this process is in, has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there, or 'max'
            continue
    return min(found)


@dataclass(frozen=True)
class Budget:
    """The most that all processes of an environment may have; far above what a sound executor needs.

    Measured on two cores beside Airflow 3.4, at the peak of a burst, of full slots and of many callbacks at once:

    =========== ========= ====================== ==============================
    environment processes descriptors of the most memory, shared parts once
    =========== ========= ====================== ==============================
    local       9         30                     620 MB
    celery      13        29                     1.1 GB
    kubernetes  15        21                     1.0 GB
    =========== ========= ====================== ==============================
    """

    processes: int
    memory: int
    """Bytes of all processes, what they share counted once."""
    descriptors: int
    """Of one process; three quarters of its own limit are too many as well."""

    @classmethod
    def of(cls, worker_concurrency: int, processes: int | None = None) -> Budget:
        """Return the budget of an environment whose workers run so many workloads at once, on this machine.

        :param processes: what the user allows instead.
        """
        usual = PROCESSES + PROCESSES_OF_A_WORKER * worker_concurrency + PROCESSES_OF_A_CPU * (os.cpu_count() or 1)
        return cls(processes or usual, max(LEAST_MEMORY, memory_of_machine() // 2), DESCRIPTORS)

    def to_dict(self) -> dict[str, int]:
        """Plain JSON values, for the guardian."""
        return asdict(self)


@dataclass(frozen=True)
class Runaway:
    """What exceeded the budget; ``fields`` are those of the history's event of the kind ``runaway``."""

    sentence: str
    subject: bool
    """True where it was the executor's doing."""
    fields: Mapping[str, Any]


def describe(report: Mapping[str, Any], names: Mapping[int, str], nodes: Callable[[], Collection[int]]) -> Runaway:
    """Return what a guardian's report says.

    :param names: of the processes that the environment has started, by pid.
    :param nodes: gives the pids of those of them that are workers.
    """
    what = report["what"]
    column = {"processes": 1, "memory": 2, "descriptors": 3}[what]
    top = max(report["tops"], key=lambda row: row[column], default=[0, 0, 0, 0])
    part = names.get(top[0], ORPHANS)
    subject = part in SCHEDULER_SIDE or (what == "processes" and (part == ORPHANS or top[0] in _or_none(nodes)))
    titles = {report["root"]: INHERITS}
    parents = [
        {"pid": pid, "title": titles.get(pid) or title_of(pid), "children": count} for pid, count in report["parents"]
    ]
    unit = 1 << 20 if what == "memory" else 1
    name = "memory_mb" if what == "memory" else what
    largest = [{"pid": pid, "title": title_of(pid), name: number // unit} for pid, number in report["largest"]]
    growth = [
        {"before_s": before, "processes": count, "memory_mb": memory >> 20, "descriptors": most}
        for before, count, memory, most in _thinned(report["growth"])
    ]
    fields = {
        "what": what,
        "limit": report["limit"] // unit,
        "processes": report["processes"],
        "memory_mb": report["memory"] >> 20,
        "descriptors": report["descriptors"],
        "part": part,
        "subject": subject,
        "parents": parents,
        "largest": largest,
        "growth": growth,
        "frozen_s": report["frozen_s"],
    }
    return Runaway(_sentence(fields, name), subject, fields)


def _sentence(fields: Mapping[str, Any], name: str) -> str:
    what, limit = fields["what"], fields["limit"]
    if what == "processes":
        most = fields["parents"][0] if fields["parents"] else {"title": "?", "pid": 0, "children": 0}
        said = (
            f"The environment had {fields['processes']} processes, and its budget is {limit}: {most['children']} of "
            f"them are children of '{most['title']}' (pid {most['pid']})"
        )
    else:
        most = fields["largest"][0] if fields["largest"] else {"title": "?", "pid": 0, name: 0}
        amount = "MB of memory" if what == "memory" else "descriptors"
        whole = (
            f"{fields['memory_mb']} MB of memory" if what == "memory" else f"a process with {most[name]} descriptors"
        )
        said = (
            f"The environment had {whole}, and its budget is {limit}: most has '{most['title']}' "
            f"(pid {most['pid']}) with {most[name]} {amount}"
        )
    first = fields["growth"][0] if fields["growth"] else None
    grew = f"; {first['before_s']:.1f} s before, it was {first[name]}" if first and first["before_s"] > 0 else ""
    return f"{said}, in the part {fields['part']}{grew}. All of it was stopped."


def _or_none(nodes: Callable[[], Collection[int]]) -> Collection[int]:
    try:
        return nodes()
    except Exception:  # a backend that has not started yet
        return ()


def _thinned(samples: list[list[Any]]) -> list[list[Any]]:
    """The first and the last of the samples, and some between."""
    step = max(1, len(samples) // SHOWN)
    return [*samples[:-1][::step], *samples[-1:]]
