"""The plain `airflow scheduler` command, a real Dag, its Deadline and its SyncCallback, end to end."""

from __future__ import annotations

from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.limits import LIMITS
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
