"""STATE: the state machine."""

from __future__ import annotations

import re
from bisect import bisect

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, decides
from executor_conformance.harness.view import HistoryView, line

SEQUENCE = re.compile(r"(queued )?(running )?((success|failed) )?")


@decides("STATE-3")
def events_come_in_order(view: HistoryView) -> Found:
    """Per key and life of a scheduler: QUEUED? RUNNING? terminal, one terminal, nothing after it.

    A scheduler that takes the place of a killed one cannot know which of its events were committed, so it may repeat
    them.
    """
    seen = False
    starts = [event["t"] for event in view.of("scheduler", what="started")]
    for callback in view.callbacks:
        seen = seen or bool(callback.events)
        lives: dict[int, list[str]] = {}
        for event in callback.events:
            lives.setdefault(bisect(starts, event["t"]), []).append(str(event["state"]))
        for states in lives.values():
            if not SEQUENCE.fullmatch("".join(f"{state} " for state in states)):
                return Broken(
                    f"The executor's events are {', '.join(state.upper() for state in states)}",
                    tuple(line(event, "executor", "state", "info") for event in callback.events),
                )
    return Kept() if seen else Undecided("the executor emitted no event for a callback")
