"""The state machine of a callback's row: which sequences of executor events are tried on it, from which states."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

STATES = ("scheduled", "pending", "queued", "running", "success", "failed")
"""The states of a callback's row, as Airflow's CallbackState has them, oldest first."""
RANKS = {state: min(rank, STATES.index("success")) for rank, state in enumerate(STATES)}
"""How far a row has come by its state; both terminal states are equally far."""
EVENTS = ("queued", "running", "success", "failed")
"""What an executor may say of a callback; see STATE-3."""
CALLBACK_STATE = "CallbackState"
FORMS = (CALLBACK_STATE, "TaskInstanceState")
"""The classes of an event's state: the right one, and the one that an executor written for tasks sends.

Both are strings, so core takes the one for the other; see ROUTE-6.
"""


class Sequence(NamedTuple):
    """One or two executor events for a row in the state ``start``.

    Events that are ``together`` are in the event buffer in the same turn of the scheduler loop, the others are put
    there one per turn.
    """

    start: str
    events: tuple[str, ...]
    form: str = CALLBACK_STATE
    together: bool = False

    @property
    def turns(self) -> tuple[tuple[str, ...], ...]:
        """What is put into the event buffer for each turn of the scheduler loop."""
        return (self.events,) if self.together else tuple((event,) for event in self.events)

    def __str__(self) -> str:
        said = (" and " if self.together else " then ").join(event.upper() for event in self.events)
        return f"{self.start.upper()} + {said}"


def sequences(start: str) -> Iterator[Sequence]:
    """Every single event and every ordered pair of events, in all forms, from the state ``start``."""
    for form in FORMS:
        for event in EVENTS:
            yield Sequence(start, (event,), form)
        for pair in product(EVENTS, EVENTS):
            yield Sequence(start, pair, form)
            yield Sequence(start, pair, form, together=True)
