"""STATE: the state machine."""

from __future__ import annotations

import re

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, decides
from executor_conformance.harness.view import HistoryView, line

SEQUENCE = re.compile(r"(queued )?(running )?((success|failed) )?")


@decides("STATE-3")
def events_come_in_order(view: HistoryView) -> Found:
    """Per key: QUEUED? RUNNING? terminal, one terminal, nothing after it."""
    seen = False
    for callback in view.callbacks:
        states = [event["state"] for event in callback.events]
        seen = seen or bool(states)
        if not SEQUENCE.fullmatch("".join(f"{state} " for state in states)):
            return Broken(
                f"The executor's events are {', '.join(str(state).upper() for state in states)}",
                tuple(line(event, "executor", "state", "info") for event in callback.events),
            )
    return Kept() if seen else Undecided("the executor emitted no event for a callback")
