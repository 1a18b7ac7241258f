"""The history of a case: append-only, one JSON line per event, one monotonic origin.

A history file starts with a ``header`` line and holds, in the order of their occurrence, events of the kinds
in ``history.schema.json``. The checker reads nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from executor_conformance.harness.errors import HarnessError, UsageError

FORMAT = "executor-conformance/history"
FORMAT_VERSION = 1

Event = dict[str, Any]


SET_S = 0.015
"""Seconds by which the wall clock must be off at once to have been set; slewing does 0.5 ms in a second."""
_SURE_S = 0.001
"""Seconds that a reading of both clocks may take to be of use."""
_ASKED_BY = {"row": "callback", "task_row": "id", "event": "key", "effect": "probe"}
"""The field by which the events of a kind are asked for at each step, for each of maybe a hundred callbacks."""


class Clock:
    """Monotonic seconds since the run's origin, and the translation of the wall clock of databases to it.

    The wall clock may be slewed or set meanwhile: :meth:`follow` takes it up, and ``set_s`` says by how much it was set
    in all.
    """

    def __init__(self) -> None:
        self.origin = time.monotonic()
        self._ahead = time.time() - self.origin
        self.set_s = 0.0

    def now(self) -> float:
        """Seconds since the origin."""
        return time.monotonic() - self.origin

    def follow(self) -> None:
        """Look whether the wall clock has been moved since the last call."""
        for _ in range(3):
            before, wall, after = time.monotonic(), time.time(), time.monotonic()
            if after - before < _SURE_S:  # else this process had to wait between the two
                step = wall - before - self._ahead
                self._ahead += step
                self.set_s += abs(step) if abs(step) > SET_S else 0.0
                return

    def from_wall(self, wall: float) -> float:
        """Seconds since the origin for a Unix time of the same machine, as its clock went at the last look."""
        return wall - self._ahead - self.origin


class History:
    """The events of one case or of the time between cases; safe to append to from several threads.

    What cannot be written is kept in memory, and ``unwritten`` says why in a sentence.

    :raises HarnessError: the file cannot be made.
    """

    def __init__(self, clock: Clock, header: Event, path: Path | None = None) -> None:
        self.clock = clock
        self.path = path
        self.events: list[Event] = []
        self.changed = threading.Condition()
        self.unwritten = ""
        self._index: dict[tuple[str, Any], list[Event]] = {}
        self._size = 0
        try:
            self._file = path.open("ab", buffering=0) if path else None
        except OSError as error:
            raise HarnessError(f"The history {path} cannot be made ({error.strerror}).") from None
        self.append("header", format=FORMAT, version=FORMAT_VERSION, **header)
        if self.unwritten and path:
            with contextlib.suppress(OSError):
                path.unlink()  # without a header it is no history
            raise HarnessError(self.unwritten)

    def append(self, kind: str, *, t: float | None = None, **fields: Any) -> Event:
        """Add an event at ``t`` (seconds since the origin; now, if not given) and return it."""
        event: Event = {"t": round(self.clock.now() if t is None else t, 4), "kind": kind, **fields}
        with self.changed:
            self.events.append(event)
            self._index.setdefault((kind, None), []).append(event)
            if isinstance(value := event.get(_ASKED_BY.get(kind, "")), str):
                self._index.setdefault((kind, value), []).append(event)
            if self._file:
                self._write(
                    (json.dumps(event, default=str, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
                )
            self.changed.notify_all()
        return event

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        rest = line
        try:
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) or 0 :]
            self._size += len(line)
        except OSError as error:
            self.unwritten = f"The history {self.path} cannot be written on ({error.strerror})."
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)  # whole lines, so that it can be read
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def lost(self) -> str:
        """Why the file does not hold this history, in a sentence; empty if it does, or there is none."""
        if not self.unwritten and self._file and not os.fstat(self._file.fileno()).st_nlink:
            self.unwritten = f"The history {self.path} was removed while its case was on."
        return self.unwritten

    def of(self, kind: str, **fields: Any) -> list[Event]:
        """Events of ``kind`` whose fields equal those given, oldest first."""
        events = self._candidates(kind, fields.get(_ASKED_BY.get(kind, "")))
        return [event for event in events if all(event.get(name) == value for name, value in fields.items())]

    def _candidates(self, kind: str, value: Any) -> list[Event]:
        with self.changed:
            return list(self._index.get((kind, value if isinstance(value, str) else None), ()))

    def close(self) -> None:
        """Close the file; further appends are kept in memory only."""
        with self.changed:
            if self._file:
                self._file.close()
                self._file = None


class StoredHistory(History):
    """A history read back from a file, for the checker."""

    def __init__(self, events: list[Event], path: Path | None = None) -> None:
        self.clock = Clock()
        self.path = path
        self.events = events
        self.changed = threading.Condition()
        self.unwritten = ""
        self._file = None

    def _candidates(self, kind: str, value: Any) -> list[Event]:
        return [event for event in self.events if event["kind"] == kind]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines by number; a last one that was not written to its end, as after a power cut, is no line yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The history {path} cannot be read ({error}); give the path of a .jsonl file.") from None
    *lines, last = text.split("\n")
    for number, line in enumerate(lines if lines and not _whole(last) else [*lines, last], 1):
        if line.strip():
            yield number, line


def _whole(line: str) -> bool:
    try:
        json.loads(line or "0")
    except (ValueError, RecursionError):
        return False
    return True


def read_history(path: Path) -> StoredHistory:
    """Read and validate a stored history.

    :raises UsageError: the file is missing, truncated, edited into something else, or foreign.
    """
    import jsonschema

    schema = json.loads(
        resources.files("executor_conformance.harness").joinpath("history.schema.json").read_text("utf-8")
    )
    validator = jsonschema.Draft202012Validator(schema)
    events: list[Event] = []
    for number, line in _lines(path):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or with more nesting or digits than anything of ours
            raise UsageError(f"The history {path} is broken at line {number}: no JSON; run the case again.") from None
        problem = next(iter(validator.iter_errors(event)), None)
        if problem is not None:
            raise UsageError(f"The history {path} is not valid at line {number}: {problem.message}; was it edited?")
        events.append(event)
    if not events or events[0]["kind"] != "header" or events[0].get("format") != FORMAT:
        raise UsageError(f"The file {path} has no history header, so it is no history of this tool.")
    if events[0].get("version") != FORMAT_VERSION:
        raise UsageError(
            f"The history {path} has format version {events[0].get('version')}; this tool reads {FORMAT_VERSION}."
        )
    return StoredHistory(events, path)
