"""TASK: the control group. If it fails, the results of its environment accuse nobody."""

from executor_conformance.harness.case import Case
from executor_conformance.suites.marks import decides


@decides("TASK-1", smoke=True)
def test_control_group(case: Case) -> None:
    """A task that succeeds ends SUCCESS, one that raises ends FAILED."""
    case.control_task("conformance_task_succeeds", "succeeds")
    case.control_task("conformance_task_raises", "raises")
