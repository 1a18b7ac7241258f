"""The plain `airflow scheduler` command, a real Dag, its Deadline and its SyncCallback, end to end."""

from __future__ import annotations

import pytest
from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.settings import PARALLELISM
from executor_conformance.suites.marks import decides


@decides("RUN-1", "RUN-2", "CRASH-1", "CRASH-4")
def test_missed_deadline_of_a_dag(case: Case) -> None:
    """A Dag run misses its deadline, and its callback runs."""
    case.plain_scheduler()
    case.run_dag_with_deadline("conformance_deadline", probe="deadline")
    case.settle(limit=LIMITS.plain_scheduler)


@decides("DECL-2", smoke=True, callbacks=False)
def test_callback_that_nobody_can_run(case: Case) -> None:
    """A callback is routed to an executor that declares none: the scheduler lives, before and after a restart."""
    if not case.env.refuses_callbacks():
        raise NotApplicable("The executor takes callbacks.")
    case.whole_afterwards = False  # the row that no scheduler survives stays in this environment's database
    case.plain_scheduler()
    callback = case.run_dag_with_deadline("conformance_deadline", probe="deadline")
    case.scheduler_survives(lambda: case.state(callback) == "failed", "the plain scheduler", LIMITS.plain_scheduler)
    case.env.stop_plain_scheduler()
    case.plain_scheduler()
    case.scheduler_survives(lambda: case.state(callback) == "failed", "the next one", LIMITS.plain_scheduler)


RELEASED_AFTER_S = 1.5
"""How long callables are held after the scheduler has begun to end: an executor that waits for them is seen to wait."""


@decides("CRASH-11")
@pytest.mark.parametrize("how", ["end", "terminate"])
def test_ends_with_work_in_flight(case: Case, how: str) -> None:
    """The scheduler ends politely while a callable runs in each slot; the callables return a moment later."""
    callbacks = [case.submit("hold", expect="terminal") for _ in range(PARALLELISM)]
    holds = [case.stop_at(callback, "enter") for callback in callbacks]
    case.until(lambda: all(hold.reached for hold in holds), "full slots")
    for callback in callbacks:
        case.until_running_or_quiet(callback)
    with case.released_after(RELEASED_AFTER_S, holds):
        case.end_scheduler(how, case.env.settle_s)
    case.settle()
