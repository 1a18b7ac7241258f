"""RUN: the callable succeeds."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.effects import Breakpoint
from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.journal import canonical
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.rules import Hold, WireRule
from executor_conformance.suites.dag_attribute import QUERY, CallbackRow, made_for_an_executor
from executor_conformance.suites.marks import decides

NESTED = {"a": [1, 2.5, None, True, {"b": "c"}], "empty": {}, "list": []}
UNICODE = {"text": "žluťoučký kůň 馬 🐎 \u2028 \" \\ ' </script>"}
LARGE = {"blob": "x" * 65536}
TYPED = {
    "when": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    "set": {"a", "b"},
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
}


@decides("RUN-1", "RUN-2", "RUN-6", "TOKEN-1", "TOKEN-3", "TOKEN-9", "CRASH-2", "CRASH-9", "ROUTE-8", smoke=True)
def test_success(case: Case) -> None:
    """A callback runs once, in a process of its own, with its own token, and its row says so."""
    callback = case.submit("hold")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.until_running_or_quiet(callback)
    case.env.sink("note", what="in flight", callback=callback.id)
    entered.release()
    case.settle()


@decides("RUN-11", "RUN-12", "STATE-5")
@pytest.mark.parametrize("end", ["success", "failure"])
def test_end_is_reported(case: Case, end: str) -> None:
    """The worker itself reports the end, and the row stays as reported whatever the executor says later."""
    case.needs_state_route()
    callback = case.submit("succeed" if end == "success" else "raise_error", expect=end)
    case.settle()
    case.linger()
    state, output = case.env.journal.state(callback.id), case.env.journal.output(callback.id)
    case.env.sink("probe", name="row", callback=callback.id, state=state, output=output)


@decides("RUN-3", "RUN-1")
@pytest.mark.parametrize("kwargs", ["nested", "unicode", "empty", "64-KiB", "typed"])
def test_kwargs(case: Case, kwargs: str) -> None:
    """kwargs arrive as they were sent."""
    values: dict[str, dict[str, Any]] = {
        "nested": NESTED,
        "unicode": UNICODE,
        "empty": {},
        "64-KiB": LARGE,
        "typed": TYPED,
    }
    if kwargs == "typed" and not case.env.offers.has_claim:
        raise NotApplicable("The edition stores kwargs as JSON, without an encoding for datetime, set and UUID.")
    case.submit("succeed", values[kwargs])
    case.settle()


@decides("RUN-4", "RUN-1", "RUN-2")
@pytest.mark.parametrize("callable_", ["with_context", "without_context", "Notifier"])
def test_context(case: Case, callable_: str) -> None:
    """`context` goes to those who accept it."""
    case.submit(callable_)
    case.settle()


@decides("RUN-5", "RUN-1")
def test_callable_of_the_dag_file(case: Case) -> None:
    """A callable that only the bundle has is found on the worker."""
    case.submit("dag-file:in_the_dag_file")
    case.settle()


@decides("RUN-7", "TOKEN-5", "TOKEN-9")
def test_reads_connection_and_variable(case: Case) -> None:
    """The callable reads a Connection and a Variable."""
    expect = "success" if case.env.offers.has_claim else "terminal"
    case.submit("read_secrets", expect=expect)
    case.settle()


@decides("RUN-8")
def test_log(case: Case) -> None:
    """The log is where `log_path` says and holds what the callable printed."""
    if not case.env.backend.on_this_host:
        raise NotApplicable(
            "The workers write their logs on machines or in containers that the harness cannot look into."
        )
    words = f"spoken-{uuid.uuid4().hex}"
    callback = case.submit("speak", {"words": words})
    case.settle()
    queued = case.env.history.of("workload", key=callback.id)
    log_path = str(queued[0]["log_path"]) if queued else ""
    files = [path for path in case.env.folder.glob(f"*logs*/{log_path}*") if path.is_file()] if log_path else []
    found = [path for path in files if words in path.read_text("utf-8", "replace")]
    case.env.sink(
        "probe",
        name="log",
        data={
            "log_path": log_path,
            "files": [_short(path, case) for path in files],
            "found": _short(found[0], case) if found else "",
        },
    )


def _short(path: Path, case: Case) -> str:
    return str(path.relative_to(case.env.folder))


@decides("RUN-9", "RUN-1", "RUN-2")
def test_many_at_once(case: Case) -> None:
    """100 callbacks are sent at once, or as many as the environment can bear."""
    count = case.env.crowd
    case.env.sink("note", what="crowd", count=count)
    for _ in range(count):
        case.submit("succeed")
    case.settle(limit=LIMITS.crowd)


@decides("RUN-10")
@pytest.mark.parametrize("question", ["variable_set", "variable_delete", "xcom", "missing_variable"])
def test_asks_its_supervisor(case: Case, question: str) -> None:
    """Whatever a callable asks is answered."""
    callback = case.submit(f"ask_{question}", expect="terminal")
    entered = case.stop_at(callback, "enter")
    child = case.reach(entered, "the start of the callable")
    entered.release()
    try:
        case.until(
            lambda: case.effects(callback, "answered") or case.state(callback) in ("success", "failed"),
            f"an answer to {question}",
            LIMITS.supervisor_answer,
        )
    except BoundReached:
        case.env.sink("note", what="unanswered", waited_s=LIMITS.supervisor_answer)
        if case.env.backend.on_this_host:  # elsewhere the callable waits for its time limit
            case.kill([child["pid"]], "unanswered", "child")
    case.settle()


@decides("RUN-1", "RUN-6")
def test_callback_of_the_dag(case: Case) -> None:
    """A Dag's own `on_success_callback` runs once, where the running core gives it to an executor."""

    def rows() -> dict[str, CallbackRow]:
        found = [CallbackRow(*(canonical(str(value)) for value in row)) for row in case.env.journal.query(QUERY)]
        return {row.id: row for row in found}

    before = rows()
    run = case.run_dag("conformance_dag_attribute")
    query = "SELECT state FROM dag_run WHERE run_id = ?"
    case.until(lambda: case.env.journal.query(query, (run.run_id,))[0][0] in ("success", "failed"), "the Dag run's end")
    found = made_for_an_executor(row for name, row in rows().items() if name not in before)
    if isinstance(found, str):
        raise NotApplicable(found)
    case.adopt(found.id, "dag-attribute", "dag_attribute")
    case.settle()


LONG_S = 12.0
"""Longer than timers that are common in an executor or its transport: 5 s and 10 s."""
LEAST_LEFT_S = 2.0
"""A callable is let go at least so long before its own timeout."""


@decides("RUN-1", "RUN-6")
def test_slow_start_and_long_run(case: Case) -> None:
    """A worker whose start takes 12 s, and beside it a callable that runs for 12 s: both succeed."""
    long = case.submit("hold")
    running = case.stop_at(long, "enter")
    if not case.env.offers.has_claim:
        slow = case.submit("executor_conformance.suites.slow_import.function")
        start: Breakpoint | WireRule = case.env.effects.stop_at(None, "import")
    else:
        slow = case.submit("hold")
        start = case.rule(WireRule(Hold(), path=f"/callbacks/{slow.id}/run", times=1))
    began = time.monotonic()
    case.reach(start, "the start of the slow worker")
    case.reach(running, "the start of the callable")
    case.until_running_or_quiet(long)
    case.linger(LONG_S)
    if time.monotonic() - began > case.env.backend.callable_timeout_s - LEAST_LEFT_S:
        raise NotApplicable("The machine was too slow: the callable was held for as long as it may run at all.")
    for callback in (long, slow):
        case.env.sink("note", what="in flight", callback=callback.id)
    start.release()
    running.release()
    case.settle()


ROUND = 8
"""Workloads between two looks at what the scheduler's process holds."""


@decides("RUN-13", "ROUTE-11")
def test_leaves_no_residue(case: Case) -> None:
    """After 8, 16 and 24 callbacks the scheduler's process holds as much, and each has cost the same calls."""
    for number in range(1, 4):
        for _ in range(ROUND):
            case.submit("succeed")
        case.settle(limit=LIMITS.crowd)
        case.env.sink("probe", name="holdings", data=case.holdings(number * ROUND))
