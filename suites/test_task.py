"""TASK: the control group. If it fails, the results of its environment accuse nobody."""

import pytest
from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.rules import WireRule
from executor_conformance.suites.answers import CORE, UNEXPECTED
from executor_conformance.suites.marks import decides, extended
from executor_conformance.suites.test_crash import pids_of


@decides("TASK-1", smoke=True, callbacks=False)
def test_control_group(case: Case) -> None:
    """A task that succeeds ends SUCCESS, one that raises ends FAILED."""
    case.control_task("conformance_task_succeeds", "succeeds")
    case.control_task("conformance_task_raises", "raises")


@decides("TASK-2", callbacks=False)
@pytest.mark.parametrize("victim", ["child", "unit"])
def test_state_of_a_killed_task(case: Case, victim: str) -> None:
    """A task writes into its state store, its worker is killed, and the next try looks."""
    case.needs_victim(victim)
    run = case.run_dag("conformance_task_remembers")
    kept = case.env.effects.stop_at("task-remembers", "kept")

    def reports(what: str) -> int:
        return len(case.env.history.of("effect", probe="task-remembers", what=what))

    written = "the task to write into its state store"
    case.until(lambda: kept.reached or reports("return"), written, tasks=[(run, "remembers")])
    if not kept.hit:
        raise NotApplicable("The running core gives a task no state store.")
    case.env.effects.breakpoints.remove(kept)  # the next try runs through
    case.kill(pids_of(case, victim, kept.hit["pid"], kept.hit["ppid"]), "task-killed", victim)
    kept.release()
    try:
        case.until(lambda: reports("return"), "the next try of the killed task", tasks=[(run, "remembers")])
        case.until(lambda: not case.env.units(), "the end of the next try", tasks=[(run, "remembers")])
    except BoundReached as none:
        case.env.sink("note", what="no further try", message=str(none))
    case.scheduling = False


@decides("TASK-3", callbacks=False)
@pytest.mark.parametrize("way", [way if way in CORE else pytest.param(way, marks=extended) for way in UNEXPECTED])
def test_start_error(case: Case, way: str) -> None:
    """start-error: a task's start is answered with what nobody expects of an API server; the next task succeeds."""
    run = case.run_dag("conformance_task_succeeds", role="start refused")
    case.rule(WireRule(UNEXPECTED[way], path=f"/task-instances/{run.task_instances['succeeds']}/run"))
    case.fault("start-error", way=way)
    case.settle_task(run, "conformance_task_succeeds", "succeeds")
    case.env.wire.clear_rules()
    case.control_task("conformance_task_succeeds", "succeeds")
