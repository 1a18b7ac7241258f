"""TASK: the control group."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, decides
from executor_conformance.harness.view import HistoryView, line

EXPECTED = {"conformance_task_succeeds": "success", "conformance_task_raises": "failed"}


@decides("TASK-1")
def tasks_end_as_they_should(view: HistoryView) -> Found:
    """A task that succeeds ends SUCCESS, one that raises ends FAILED."""
    decided = 0
    for run in view.of("note", what="dag run"):
        expected = EXPECTED.get(run["dag_id"])
        if expected is None:
            continue
        for task, ti in run["task_instances"].items():
            rows = view.of("task_row", id=ti)
            decided += 1
            if not rows or rows[-1]["new"] != expected:
                state = str(rows[-1]["new"]).upper() if rows else "never started"
                return Broken(
                    f"The task '{task}' is {state} instead of {expected.upper()}",
                    tuple(line(row, "old", "new") for row in rows[-5:]),
                )
    return Kept(f"{decided} tasks") if decided else Undecided("no task of the control group ran")
