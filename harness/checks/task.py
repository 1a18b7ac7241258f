"""TASK: the control group."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.view import TASK_ENDED, HistoryView, line

REMEMBERS = "task-remembers"
"""The probe of the task that writes into its state store."""
EXPECTED = {"conformance_task_succeeds": "success", "conformance_task_raises": "failed"}


@decides("TASK-1")
def tasks_end_as_they_should(view: HistoryView) -> Found:
    """A task that succeeds ends SUCCESS, one that raises ends FAILED."""
    decided = 0
    missing = set(EXPECTED)
    for run in view.of("note", what="dag run"):
        expected = EXPECTED.get(run["dag_id"])
        if expected is None:
            continue
        missing.discard(run["dag_id"])
        waited = any(f"task {run['dag_id']}." in str(bound.get("waiting_for")) for bound in view.of("bound"))
        for task, ti in run["task_instances"].items():
            rows = view.task_rows(ti)
            decided += 1
            if not waited and (not rows or rows[-1]["new"] not in TASK_ENDED):
                return Unproven(f"the case was cut short before the task '{task}' had ended")
            if not rows or rows[-1]["new"] != expected:
                state = str(rows[-1]["new"]).upper() if rows else "never started"
                return Broken(
                    f"The task '{task}' is {state} instead of {expected.upper()}",
                    tuple(line(row, "old", "new") for row in rows[-5:]),
                )
    if not decided:
        return Undecided("no task of the control group ran")
    if missing:
        return Unproven(f"only a part of the control group ran, without {', '.join(sorted(missing))}")
    return Kept(f"{decided} tasks")


@decides("TASK-2")
def state_outlives_its_worker(view: HistoryView) -> Found:
    """What a killed try wrote into the state store was found by the next."""
    written = view.of("effect", probe=REMEMBERS, what="kept")
    if not written:
        return Undecided("no task of this case wrote into its state store")
    killed = [fault for fault in view.faults() if fault["name"] == "task-killed" and fault["t"] >= written[0]["t"]]
    if not killed:
        return Unproven("the worker of the task that wrote into its state store was not killed")
    first = written[0]["data"]["try_number"]
    later = [
        event
        for event in view.of("effect", probe=REMEMBERS, what="found")
        if event["t"] > killed[0]["t"] and event["data"]["try_number"] > first
    ]
    if not later:
        return Undecided("the task was not tried again after its worker was killed")
    if later[0]["data"]["value"] != "kept":
        return Broken(
            "What the task wrote into its state store was not there on the next try",
            tuple(line(event, "what", "pid", "data") for event in (written[0], later[0])),
        )
    return Kept(f"written in try {first}, found in try {later[0]['data']['try_number']}")


@decides("TASK-3")
def refused_start_ends_the_task(view: HistoryView) -> Found:
    """The task whose start was refused ended without a run of its code, and the next task succeeded."""
    runs = view.of("note", what="dag run")
    refused = [run for run in runs if run.get("role") == "start refused"]
    if not refused:
        return Undecided("the start of no task of this case is refused")
    if not any(answer.get("by") == "rule" for answer in view.of("wire", api="execution", phase="response")):
        return Unproven("the worker's start met no odd answer")
    waited = any("task conformance_task_succeeds." in str(bound.get("waiting_for")) for bound in view.of("bound"))
    for run in runs:
        wanted = TASK_ENDED if run in refused else ("success",)
        for task, ti in run["task_instances"].items():
            rows = view.task_rows(ti)
            state = rows[-1]["new"] if rows else None
            if state in wanted:
                continue
            if not waited and state not in TASK_ENDED:
                return Unproven(f"the case was cut short before the task '{task}' had ended")
            which = "whose start was refused" if run in refused else "after it"
            return Broken(
                f"The task {which} is {str(state or 'none').upper()}",
                tuple(line(row, "old", "new") for row in rows[-5:]),
            )
    ran = view.of("effect", what="enter", probe="task-succeeds")
    if len(ran) > len(runs) - len(refused):
        return Broken(
            "The code of a task ran although its start was not granted",
            tuple(line(event, "what", "pid") for event in ran),
            owner="core",
        )
    return Kept()
