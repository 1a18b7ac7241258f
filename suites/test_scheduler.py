"""The plain `airflow scheduler` command, a real Dag, its Deadline and its SyncCallback, end to end."""

from __future__ import annotations

from executor_conformance.harness.case import Case
from executor_conformance.harness.limits import LIMITS
from executor_conformance.suites.marks import decides


@decides("RUN-1", "RUN-2", "CRASH-1", "CRASH-4")
def test_missed_deadline_of_a_dag(case: Case) -> None:
    """A Dag run misses its deadline, and its callback runs."""
    case.plain_scheduler()
    case.run_dag_with_deadline("conformance_deadline", probe="deadline")
    case.settle(limit=LIMITS.plain_scheduler)
