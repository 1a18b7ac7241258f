"""The checks of STATE-1 and STATE-4 on written observations of cores, good and bad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from executor_conformance.harness.state_machine import EVENTS, STATES, Sequence, sequences

from tests.written import Written, assert_decides, history

PASS, FINDING, ERROR, NA = "pass", "finding", "error", "not applicable"
TERMINAL = ("success", "failed")
Row = tuple[str | None, str | None]
Core = Callable[[str, str | None, str, str], Row | str]
"""What becomes of a row: its state, its output, an event and its form make state and output, or what is raised."""


def ideal(state: str, output: str | None, event: str, form: str) -> Row | str:
    """Takes what a row that is under way has come to, and nothing else."""
    if state in TERMINAL or event == "queued":
        return state, output
    return event, "the cause" if event == "failed" else None


def with_claim(state: str, output: str | None, event: str, form: str) -> Row | str:
    """As where the claim sets RUNNING: the event is ignored."""
    return (state, output) if event == "running" else ideal(state, output, event, form)


def without_guard(state: str, output: str | None, event: str, form: str) -> Row | str:
    """As Airflow 3.3.2: whatever is said is written."""
    if event == "queued":
        return state, output
    return event, "the cause" if event == "failed" else output


def broken(on: tuple[str, str], to: Row | str, form: str | None = None, core: Core = ideal) -> Core:
    """``core``, but for one state and event, and for one form if given."""

    def altered(state: str, output: str | None, event: str, its: str) -> Row | str:
        return to if (state, event) == on and form in (None, its) else core(state, output, event, its)

    return altered


def told(core: Core, sequence: Sequence) -> dict[str, Any]:
    """What the inspection tells of a sequence."""
    output = "before" if sequence.start in TERMINAL else None
    state: str | None = sequence.start
    after = []
    start = output
    for turn in sequence.turns:
        came = core(state, output, turn[-1], sequence.form) if state else (None, None)
        if isinstance(came, str):
            after.append({"state": state, "output": output, "raised": came})
            continue
        state, output = came
        after.append({"state": state, "output": output})
    return {**sequence._asdict(), "events": list(sequence.events), "output": start, "after": after}


def matrix(core: Core) -> dict[str, Any]:
    """The whole inspection."""
    return {
        "states": list(STATES),
        "own_drains": [],
        "transitions": [told(core, sequence) for start in STATES for sequence in sequences(start)],
    }


def cut(at: int) -> dict[str, Any]:
    """A matrix without one of its sequences."""
    data = matrix(ideal)
    del data["transitions"][at]
    return data


MATRICES = [
    ("ideal", matrix(ideal), PASS, "432 sequences"),
    ("running-is-ignored", matrix(with_claim), PASS, "432 sequences"),
    (
        "success-then-failed",
        matrix(broken(("success", "failed"), ("failed", "x"))),
        FINDING,
        "SUCCESS + FAILED: the te",
    ),
    ("late-running", matrix(broken(("failed", "running"), ("running", None))), FINDING, "row becomes RUNNING"),
    ("late-queued", matrix(broken(("success", "queued"), ("queued", None))), FINDING, "row becomes QUEUED"),
    ("written-over", matrix(broken(("failed", "failed"), ("failed", "x"))), FINDING, "output is written over"),
    ("goes-back", matrix(broken(("running", "queued"), ("queued", None))), FINDING, "the row goes back to QUEUED"),
    ("another-end", matrix(broken(("running", "failed"), ("success", None))), FINDING, "the row becomes SUCCESS"),
    ("too-far", matrix(broken(("pending", "running"), ("failed", None))), FINDING, "the row becomes FAILED"),
    ("queued-stays", matrix(broken(("queued", "failed"), ("queued", None))), FINDING, "QUEUED + FAILED: the row stays"),
    ("running-stays", matrix(broken(("running", "success"), ("running", None))), FINDING, "the row stays RUNNING"),
    ("not-handed-stays", matrix(broken(("pending", "failed"), ("pending", None))), PASS, ""),
    ("gone", matrix(broken(("queued", "success"), (None, None))), FINDING, "the row is gone"),
    (
        "raises",
        matrix(broken(("failed", "success"), "TypeError: no")),
        FINDING,
        "FAILED + SUCCESS: raises TypeError: no",
    ),
    ("refuses-another-form", matrix(broken(("queued", "success"), "TypeError: no", "TaskInstanceState")), PASS, ""),
    (
        "ignores-another-form",
        matrix(broken(("queued", "success"), ("queued", None), "TaskInstanceState")),
        PASS,
        "432 sequences",
    ),
    (
        "one-form-only",
        matrix(broken(("failed", "success"), ("success", None), "TaskInstanceState")),
        FINDING,
        "FAILED + SUCCESS as TaskInstanceState",
    ),
    ("first-missing", cut(0), ERROR, "1 of 432 sequences were not tried, such as SCHEDULED + QUEUED"),
    ("last-missing", cut(-1), ERROR, "such as FAILED + FAILED and FAILED"),
    ("new-state", {**matrix(ideal), "states": [*STATES, "paused"]}, ERROR, "differ in the states paused"),
    ("state-lost", {**matrix(ideal), "states": list(STATES[1:])}, ERROR, "differ in the states scheduled"),
    (
        "own-drain",
        {**matrix(without_guard), "own_drains": ["get_event_buffer"]},
        NA,
        "the executor has overridden get_event_buffer",
    ),
    ("inspection-failed", {"failed": "it hung"}, ERROR, "did not work: it hung"),
]


@pytest.mark.parametrize(("data", "verdict", "reason"), [pytest.param(*row[1:], id=row[0]) for row in MATRICES])
def test_forward_only(data: dict[str, Any], verdict: str, reason: str) -> None:
    assert_decides(history().inspection("transitions", data), "STATE-1", verdict, reason)


def test_a_core_without_a_guard_is_told_each_thing_that_it_breaks() -> None:
    decision = history("claimless").inspection("transitions", matrix(without_guard)).decide("STATE-1")
    assert decision.verdict == FINDING
    told = [line.partition(";")[0] for line in decision.evidence]
    assert sorted(told) == [
        "FAILED + FAILED: the terminal row's output is written over",
        "FAILED + RUNNING: the terminal row becomes RUNNING",
        "FAILED + SUCCESS: the terminal row becomes SUCCESS",
        "SUCCESS + FAILED: the terminal row becomes FAILED",
        "SUCCESS + RUNNING: the terminal row becomes RUNNING",
    ]
    late = next(line for line in decision.evidence if line.startswith("SUCCESS + RUNNING"))
    assert "; seen in SUCCESS + RUNNING, " in late
    assert "QUEUED + SUCCESS then RUNNING" in late
    # In one buffer under one key the last event is all that core sees, so no terminal row was there
    assert "QUEUED + SUCCESS and RUNNING" not in late


@pytest.mark.parametrize("start", STATES)
def test_every_changed_end_of_a_terminal_row_is_found(start: str) -> None:
    """Each single sequence that is altered in its last turn, from a terminal row on, is a finding that names it."""
    for sequence in sequences(start):
        data = matrix(ideal)
        found = next(told for told in data["transitions"] if _is(told, sequence))
        before = found["after"][-2] if len(found["after"]) > 1 else {"state": start}
        if before["state"] not in TERMINAL:
            continue
        found["after"][-1]["state"] = "running"
        decision = history().inspection("transitions", data).decide("STATE-1")
        assert decision.verdict == FINDING, sequence
        assert f"seen in {sequence}" in decision.evidence[0]


def _is(told: dict[str, Any], sequence: Sequence) -> bool:
    return (told["start"], tuple(told["events"]), told["form"], told["together"]) == tuple(sequence)


def test_a_turn_that_was_not_looked_at_accuses_nobody() -> None:
    data = matrix(ideal)
    data["transitions"][-2]["after"].pop()
    assert_decides(history().inspection("transitions", data), "STATE-1", ERROR, "the check of STATE-1 broke")


def test_sequences_are_the_whole_matrix() -> None:
    for start in STATES:
        tried = list(sequences(start))
        assert len(set(tried)) == len(tried) == 2 * (4 + 16 + 16)
        pairs = {sequence.events for sequence in tried if len(sequence.events) == 2 and not sequence.together}
        assert pairs == {(first, second) for first in EVENTS for second in EVENTS}
        assert {sequence.start for sequence in tried} == {start}
    assert str(Sequence("queued", ("success", "running"))) == "QUEUED + SUCCESS then RUNNING"


# -- STATE-4 ----------------------------------------------------------------------------------------------


def batch(event: str | None, **more: Any) -> dict[str, Any]:
    """A turn that went as it should."""
    others = {name: {"wanted": "x", "got": "x"} for name in ("the callback after it", "the task")}
    return {"event": event, "gone": True, "row": None, "others": others, "raised": None, **more}


def deletion(on: str | None = "failed", **more: Any) -> dict[str, Any]:
    """All turns, one of which differs."""
    batches = [batch(event, **(more if event == on else {})) for event in (None, *EVENTS)]
    return {"own_drains": [], "batches": batches}


LOST = {"the task": {"wanted": "success", "got": "running"}}
DELETED = [
    ("kept", deletion(), PASS, "QUEUED, RUNNING, SUCCESS, FAILED were ignored"),
    ("raises", deletion(raised="AttributeError: None"), FINDING, "FAILED: the turn raises AttributeError: None"),
    ("made-anew", deletion("success", row="success"), FINDING, "SUCCESS: the row is there again, SUCCESS"),
    ("loses-others", deletion("running", others=LOST), FINDING, "RUNNING: the task came to running instead of success"),
    ("control-lost", deletion(None, others=LOST), ERROR, "without an event for a deleted callback"),
    ("control-raises", deletion(None, raised="OSError: x"), ERROR, "was not processed either: the turn raises OSError"),
    ("not-deleted", deletion("queued", gone=False), ERROR, "not deleted before the events queued"),
    ("own-drain", {**deletion(raised="OSError"), "own_drains": ["get_event_buffer"]}, NA, "has overridden get_event"),
    ("one-missing", {**deletion(), "batches": deletion()["batches"][:-1]}, ERROR, "for the events failed"),
    ("control-missing", {**deletion(), "batches": deletion()["batches"][1:]}, ERROR, "for the events None"),
    ("inspection-failed", {"failed": "it hung"}, ERROR, "did not work: it hung"),
]


@pytest.mark.parametrize(("data", "verdict", "reason"), [pytest.param(*row[1:], id=row[0]) for row in DELETED])
def test_deleted_callback(data: dict[str, Any], verdict: str, reason: str) -> None:
    assert_decides(history().inspection("deletion", data), "STATE-4", verdict, reason)


@pytest.mark.parametrize("clause", ["STATE-1", "STATE-4"])
def test_without_an_inspection(clause: str) -> None:
    written: Written = history().callback().succeeded()
    assert_decides(written, clause, NA, "does not inspect")
