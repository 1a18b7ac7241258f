"""The history of a case: append-only, one JSON line per event, one monotonic origin.

A history file starts with a ``header`` line and holds, in the order of their occurrence, events of the kinds
in ``history.schema.json``. The checker reads nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from executor_conformance.harness.errors import UsageError

FORMAT = "executor-conformance/history"
FORMAT_VERSION = 1

Event = dict[str, Any]


class Clock:
    """Monotonic seconds since the run's origin, and the translation of the wall clock of databases to it."""

    def __init__(self) -> None:
        self.origin = time.monotonic()
        self.wall_origin = time.time()

    def now(self) -> float:
        """Seconds since the origin."""
        return time.monotonic() - self.origin

    def from_wall(self, wall: float) -> float:
        """Seconds since the origin for a Unix time of the same machine."""
        return wall - self.wall_origin


class History:
    """The events of one case or of the time between cases; safe to append to from several threads."""

    def __init__(self, clock: Clock, header: Event, path: Path | None = None) -> None:
        self.clock = clock
        self.path = path
        self.events: list[Event] = []
        self.changed = threading.Condition()
        self._file = path.open("a", encoding="utf-8") if path else None
        self.append("header", format=FORMAT, version=FORMAT_VERSION, **header)

    def append(self, kind: str, *, t: float | None = None, **fields: Any) -> Event:
        """Add an event at ``t`` (seconds since the origin; now, if not given) and return it."""
        event: Event = {"t": round(self.clock.now() if t is None else t, 4), "kind": kind, **fields}
        with self.changed:
            self.events.append(event)
            if self._file:
                self._file.write(json.dumps(event, default=str, ensure_ascii=False) + "\n")
                self._file.flush()
            self.changed.notify_all()
        return event

    def of(self, kind: str, **fields: Any) -> list[Event]:
        """Events of ``kind`` whose fields equal those given, oldest first."""
        with self.changed:
            events = list(self.events)
        return [
            event
            for event in events
            if event["kind"] == kind and all(event.get(name) == value for name, value in fields.items())
        ]

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
        self._file = None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The history {path} cannot be read ({error}); give the path of a .jsonl file.") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


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
        except json.JSONDecodeError:
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
