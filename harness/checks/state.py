"""STATE: the state machine."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator
from typing import Any, NamedTuple

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.checks.inspected import inspection
from executor_conformance.harness.state_machine import CALLBACK_STATE, EVENTS, FORMS, RANKS, STATES, Sequence, sequences
from executor_conformance.harness.view import TERMINAL, HistoryView, line

SEQUENCE = re.compile(r"(queued )?(running )?((success|failed) )?")


class Step(NamedTuple):
    """One turn of the scheduler loop with one event for a row; ``after`` None: there is no row any more."""

    before: str
    event: str
    after: str | None
    output_before: str | None
    output: str | None
    form: str
    raised: str | None

    def wrong(self) -> str:
        """What of it breaks STATE-1, in a few words; empty if nothing does."""
        if self.raised:
            # An event that is no CallbackState breaks ROUTE-6, so core may refuse it
            return f"raises {self.raised}" if self.form == CALLBACK_STATE else ""
        if self.after is None:
            return "the row is gone"
        if self.before in TERMINAL:
            if self.after != self.before:
                return f"the terminal row becomes {self.after.upper()}"
            return "" if self.output == self.output_before else "the terminal row's output is written over"
        if RANKS[self.after] < RANKS[self.before]:
            return f"the row goes back to {self.after.upper()}"
        if self.after not in (self.before, self.event):
            return f"the row becomes {self.after.upper()}"
        taken = self.after == self.event or self.event not in TERMINAL or self.form != CALLBACK_STATE
        # A row that was not handed to an executor yet may ignore what is said of it
        return "" if taken or self.before not in ("queued", "running") else f"the row stays {self.after.upper()}"


def _steps(observed: dict[str, Any], sequence: Sequence) -> Iterator[Step]:
    """The turns of a sequence; of several events that are in the buffer under one key the last is left."""
    state, output = sequence.start, observed["output"]
    for turn, after in zip(sequence.turns, observed["after"], strict=True):
        yield Step(state, turn[-1], after["state"], output, after["output"], sequence.form, after.get("raised"))
        if after["state"] is None:
            return
        state, output = after["state"], after["output"]


@decides("STATE-1")
def rows_go_forward_only(view: HistoryView) -> Found:
    """No turn of any sequence changes a terminal row, takes a row back, or keeps a handed row from its end."""
    data = _of_core(view, "transitions")
    if not isinstance(data, dict):
        return data
    if unknown := sorted(set(data["states"]) ^ set(STATES)):
        return Unproven(f"the matrix and the running core differ in the states {', '.join(unknown)}")
    observed = {
        Sequence(found["start"], tuple(found["events"]), found["form"], found["together"]): found
        for found in data["transitions"]
    }
    wanted = [sequence for start in STATES for sequence in sequences(start)]
    if missing := [sequence for sequence in wanted if sequence not in observed]:
        return Unproven(f"{len(missing)} of {len(wanted)} sequences were not tried, such as {missing[0]}")
    broken: dict[str, dict[Sequence, list[str]]] = {}
    for sequence in wanted:
        for step in _steps(observed[sequence], sequence):
            if wrong := step.wrong():
                found = broken.setdefault(f"{step.before.upper()} + {step.event.upper()}: {wrong}", {})
                forms = found.setdefault(sequence._replace(form=CALLBACK_STATE), [])
                forms += [sequence.form] if sequence.form not in forms else []
    if broken:
        return Broken(
            f"Executor events do what they must not to a row in {len(broken)} ways: {'; '.join(broken)}",
            tuple(f"{step}; seen in {_named(found)}" for step, found in broken.items()),
        )
    return Kept(f"{len(wanted)} sequences of events")


def _of_core(view: HistoryView, name: str) -> dict[str, Any] | Found:
    """As :func:`inspection`; an executor that empties its event buffer its own way shows nothing about core."""
    data = inspection(view, name)
    if isinstance(data, dict) and data["own_drains"]:
        return Undecided(f"the executor has overridden {' and '.join(data['own_drains'])}, so this is not core's alone")
    return data


def _named(found: dict[Sequence, list[str]]) -> str:
    """The sequences, the short ones first; with the forms of the events where not all of them do it."""
    names = sorted(found.items(), key=lambda item: len(item[0].events))
    return ", ".join(
        f"{sequence}" + ("" if len(forms) == len(FORMS) else f" as {' or '.join(forms)}") for sequence, forms in names
    )


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


@decides("STATE-4")
def event_of_a_deleted_callback_is_ignored(view: HistoryView) -> Found:
    """The turn does not raise, makes no row anew, and processes the other events of its batch."""
    data = _of_core(view, "deletion")
    if not isinstance(data, dict):
        return data
    batches = {batch["event"]: batch for batch in data["batches"]}
    if missing := [str(event) for event in (None, *EVENTS) if event not in batches]:
        return Unproven(f"no batch was tried for the events {', '.join(missing)}")
    if there := [event for event, batch in batches.items() if not batch["gone"]]:
        return Unproven(f"the callback was not deleted before the events {', '.join(map(str, there))}")
    if lost := _harm(batches.pop(None)):
        return Unproven(f"a batch without an event for a deleted callback was not processed either: {'; '.join(lost)}")
    wrong = tuple(f"{event.upper()}: {harm}" for event, batch in batches.items() for harm in _harm(batch))
    if wrong:
        return Broken("An event for a callback that was deleted is not ignored", wrong)
    return Kept(f"{', '.join(map(str.upper, batches))} were ignored, and all else was processed")


def _harm(batch: dict[str, Any]) -> list[str]:
    """What became of a turn beside what should have."""
    harm = [f"the turn raises {batch['raised']}"] if batch.get("raised") else []
    if batch["row"] is not None:
        harm.append(f"the row is there again, {batch['row'].upper()}")
    others = batch["others"].items()
    return harm + [
        f"{name} came to {other['got']} instead of {other['wanted']}"
        for name, other in others
        if other["got"] != other["wanted"]
    ]
