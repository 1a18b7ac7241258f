"""The cause of a scheduler's death: what its last traceback says of where the exception was raised, and in whose code.

The traceback is text, so that the stepped scheduler and the ``airflow scheduler`` command are told alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

CORE, EXECUTOR, ENVIRONMENT = "core", "executor", "environment"

_HEAD = "Traceback (most recent call last):"
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line \d+, in (?P<function>.+)$')
_RAISED = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_STATEMENT = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM|FROM|JOIN)\s+\"?(\w+)", re.IGNORECASE)
_COMMAND = ("airflow/__main__.py", "jobs/scheduler_job_runner.py")
"""Files that the traceback of a dying ``airflow scheduler`` goes through; a worker's tracebacks share its log."""
_BASE = "airflow/executors/base_executor.py"
_LOCKED = "database is locked"


@dataclass(frozen=True)
class Origin:
    """The marks of an executor's code beside core's: where it lies, its tables, and what it declares."""

    sources: tuple[str, ...] = ()
    """Files of its classes, and folders of the packages that they belong to; BaseExecutor's not."""
    tables: tuple[str, ...] = ()
    """Tables of the metadata database whose models are the executor's."""
    declares_callbacks: bool = True

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Origin:
        """Make it of what the scheduler side tells of an executor."""
        return cls(
            tuple(told.get("sources", ())), tuple(told.get("tables", ())), bool(told.get("declares_callbacks", True))
        )

    def owns(self, file: str) -> bool:
        """Return True if the executor's code is in ``file``."""
        return any(file == source or file.startswith(f"{source}/") for source in self.sources)


@dataclass(frozen=True)
class Cause:
    """Why a scheduler ended."""

    owner: str
    """'core', 'executor' or 'environment': whose defect it is."""
    type: str
    message: str
    raised_in: str
    """File and function of the innermost frame of Airflow or of the executor."""

    @property
    def sentence(self) -> str:
        """The cause as a message quotes it."""
        first = next(iter(self.message.splitlines()), "")
        return f"{self.type} in {self.raised_in}" + (f": {first}" if first else "")

    def to_event(self) -> dict[str, str]:
        """Return its fields for the history."""
        return {**asdict(self), "message": self.message[:1000]}


@dataclass(frozen=True)
class _Traceback:
    type: str
    message: str
    frames: tuple[tuple[str, str], ...]
    """Files and functions, outermost first."""


def cause_of(text: str, origin: Origin) -> Cause | None:
    """Return the cause that the last traceback in ``text`` names; None if there is none.

    :param text: a formatted exception, or the log of an ``airflow scheduler`` command.
    """
    tracebacks = list(_tracebacks(text.splitlines()))
    of_the_command = [each for each in tracebacks if any(_is_of(file, _COMMAND) for file, _ in each.frames)]
    if not (found := (of_the_command or tracebacks)[-1:]):
        return None
    last = found[0]
    told = [frame for frame in last.frames if origin.owns(frame[0]) or "/airflow/" in frame[0]] or last.frames
    file, function = told[-1] if told else ("an unknown file", "an unknown function")
    raised_in = f"{_short(file)}: {function}"
    return Cause(_owner(last, origin), last.type.rpartition(".")[2], last.message, raised_in)


def _owner(last: _Traceback, origin: Origin) -> str:
    """Decide whose defect an exception is that left the scheduler's loop.

    It is the executor's if it came out of one of the executor's methods, inherited ones included, or if the database
    refused a row of the executor's own table. It is core's if the executor refused, as it must, a workload that it does
    not declare (DECL-1, DECL-2), and if no method of the executor had to do with it.
    """
    if _LOCKED in last.message:
        return ENVIRONMENT  # two processes wrote to one SQLite file for longer than its time limit
    functions = [function.rpartition(".")[2] for _, function in last.frames]
    refused = last.type == "NotImplementedError" and {"queue_workload", "_enqueue_executor_callbacks"} <= {*functions}
    if refused and not origin.declares_callbacks:
        return CORE
    if set(_STATEMENT.findall(last.message)) & set(origin.tables):
        return EXECUTOR
    through = any(origin.owns(file) or _is_of(file, (_BASE,)) for file, _ in last.frames)
    return EXECUTOR if through else CORE


def _tracebacks(lines: list[str]) -> Iterable[_Traceback]:
    """Yield each traceback of a text; of a chain of exceptions the last is the one that was raised."""
    for number, line in enumerate(lines):
        if line.strip() != _HEAD:
            continue
        frames: list[tuple[str, str]] = []
        for place, following in enumerate(lines[number + 1 :], number + 1):
            if match := _FRAME.match(following):
                frames.append((match["file"], match["function"]))
            elif not following.startswith(" "):
                if raised := _RAISED.match(following):
                    more = _until_next_entry(lines[place + 1 :])
                    message = "\n".join([raised["message"] or "", *more]).strip()
                    yield _Traceback(raised["type"], message, tuple(frames))
                break


def _until_next_entry(lines: list[str], most: int = 12) -> list[str]:
    """Return the further lines of an exception's message, up to the next entry of the log."""
    found: list[str] = []
    for line in lines[:most]:
        if line.startswith(_HEAD) or re.match(r"\d{4}-\d\d-\d\d[T ]", line):
            break
        found.append(line)
    return found


def _is_of(file: str, ends: Iterable[str]) -> bool:
    return any(file.endswith(end) for end in ends)


def _short(file: str) -> str:
    """Return a file's path below ``site-packages``, or its last three parts."""
    _, found, below = file.rpartition("/site-packages/")
    return below if found else "/".join(PurePath(file).parts[-3:]).lstrip("/")
