"""FAIL: the callable fails."""

from __future__ import annotations

import re

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.view import TERMINAL, CallbackView, HistoryView

BARE = re.compile(
    r"((the|callback|callable|workload|task|job|execution|run|has|was|is|with|an?|error|errors|none|null"
    r"|failed|failure|failing|unsuccessful)\b|[\s.:!])*",
    re.IGNORECASE,
)
"""An ``output`` that says that it failed and no word of why."""
CALLABLES = "executor_conformance.suites."
"""Whose callables are known to report their own end."""
LAST_REPORTS = {"hold": "effect", "whole_way": "last"}
"""The last report of a callable of the suite by its name; of all others it is 'return'."""


def _failing(view: HistoryView) -> list[CallbackView]:
    return [callback for callback in view.subjects if callback.expect == "failure"]


@decides("FAIL-1")
def row_ends_failed(view: HistoryView) -> Found:
    """The row ended FAILED."""
    for callback in _failing(view):
        if not callback.settled:
            return Unproven("the case was cut short before the row had come to rest")
        late = [
            proof
            for proof in callback.proofs
            if proof["kind"] == "bound" and proof["states"][callback.id] not in TERMINAL
        ]
        if callback.final == "failed" and late:
            return Broken("The callable failed and the row became FAILED only after the bound", callback.story())
        if callback.final != "failed":
            return Broken(f"The callable failed and the row is {str(callback.final).upper()}", callback.story())
    return Kept() if _failing(view) else Undecided("no callable of this case fails")


@decides("FAIL-2")
def failed_code_is_not_repeated(view: HistoryView) -> Found:
    """The callable's code ran at most once."""
    for callback in _failing(view):
        if callback.ran_again:
            return Broken(f"The failed callable's code ran {callback.executions} times", callback.story())
    return Kept() if _failing(view) else Undecided("no callable of this case fails")


@decides("FAIL-3")
def environment_goes_on(view: HistoryView) -> Found:
    """The slot is free and the next callback succeeded."""
    if not _failing(view):
        return Undecided("no callable of this case fails")
    for callback in _failing(view):
        if callback.keeps_slot:
            return Broken("The failed callback still takes a slot", callback.story())
    if not view.follow_ups:
        return Undecided("no callback followed in this case")
    for follow_up in view.follow_ups:
        if not follow_up.settled:
            return Unproven("the case was cut short before the callback after the failed one had ended")
        if follow_up.final != "success":
            return Broken("The callback after the failed one did not succeed", follow_up.story())
    return Kept()


@decides("FAIL-4")
def output_tells_the_cause(view: HistoryView) -> Found:
    """``output`` is neither empty nor the bare 'Execution failed'."""
    told = []
    for callback in _failing(view):
        if callback.final != "failed":
            continue
        if BARE.fullmatch(callback.output):
            return Broken(f"`output` is '{callback.output}', which tells no cause", callback.story(3))
        told.append(callback.output[:200])
    return Kept("; ".join(told)) if told else Undecided("no row of this case ended FAILED")


@decides("FAIL-5")
def failure_is_never_success(view: HistoryView) -> Found:
    """Neither the row nor an event of a failed callback, or of one that was cut off, ever said SUCCESS."""
    failing = {callback.id: "that failed" for callback in _failing(view)}
    cut_off = {callback.id: "whose callable never came to its end" for callback in view.callbacks if _cut_off(callback)}
    how = cut_off | failing
    for callback in view.callbacks:
        if callback.id not in how:
            continue
        if any(row["new"] == "success" for row in callback.rows) and not callback.differs_from_report:
            return Broken(f"A callback {how[callback.id]} was SUCCESS in its row", callback.story())
        if any(event["state"] == "success" for event in callback.events):
            return Broken(f"The executor reported SUCCESS for a callback {how[callback.id]}", callback.story())
    return Kept() if how else Undecided("no callable of this case failed or was cut off")


def _cut_off(callback: CallbackView) -> bool:
    """Whether the callable was entered and never made its last report, which it waits for before it returns."""
    path = str(callback.submitted["path"])
    ends = {LAST_REPORTS.get(path.rpartition(".")[2], "return"), "return"}
    ended = any(callback.reported(what) for what in ends)
    return path.startswith(CALLABLES) and bool(callback.reported("enter")) and not ended
