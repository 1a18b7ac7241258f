"""Reading a history for a picture: what can be read is taken, and what cannot is said in one sentence.

The checker must not use this; it reads with :func:`harness.history.read_history`, which refuses a broken file.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from executor_conformance.harness.history import FORMAT, Event

MAX_BYTES = 16_000_000
"""More of a history is not read for a picture."""


class Reading(NamedTuple):
    """The events that could be read, up to the ``end`` of the case, and a sentence if something was wrong."""

    events: list[Event]
    problem: str


def read_events(folder: Path, name: str) -> Reading:
    """The events of the history ``name`` (a path relative to the report's ``folder``); never raises."""
    if not name:
        return Reading([], "The case has no history.")
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return Reading([], f"The history {name} is outside the report's folder, so it was not read.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Reading([], f"The history {name} is not beside the report.")
    except (OSError, ValueError, RuntimeError) as error:
        return Reading([], f"The history {name} cannot be read ({getattr(error, 'strerror', '') or error}).")
    lines = data[:MAX_BYTES].decode("utf-8", "replace").split("\n")
    found = [event for line in lines if line.strip() for event in [_event(line)]]
    events = [event for event in found if event is not None]
    if not events or not any(event.get("format") == FORMAT for event in events[:1]):
        return Reading([], f"The file {name} is no history of this tool, or is broken from its first line on.")
    ends = [number for number, event in enumerate(events) if event["kind"] == "end"]
    problems = []
    if broken := len(found) - len(events):
        problems.append(f"{broken} of its {len(found)} lines cannot be read")
    if len(data) > MAX_BYTES:
        problems.append(f"only its first {MAX_BYTES // 1_000_000} MB were read")
    elif not ends:
        problems.append("it has no end, so it was cut off")
    # what follows is the repair of the environment
    events = events[: ends[0] + 1] if ends else events
    return Reading(events, f"The history {name} is incomplete: {'; '.join(problems)}." if problems else "")


def _event(line: str) -> Event | None:
    try:
        event: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return None
    t = event.get("t")
    if isinstance(t, bool) or not isinstance(t, int | float) or not math.isfinite(t) or abs(t) > 1e9:
        return None
    return event
