"""ROUTE at a control plane that two deployments share."""

from __future__ import annotations

from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.suites.marks import decides


@decides("ROUTE-10", callbacks=False)
def test_leaves_others_alone(case: Case) -> None:
    """Beside results, jobs or pods of another deployment, the executor starts anew and runs two workloads."""
    backend = case.env.backend
    planted = backend.plant_foreign()
    if not planted:
        raise NotApplicable("This environment has no control plane that two deployments share.")
    try:
        # An executor looks for what a former scheduler has left when it starts
        case.env.start_scheduler()
        if case.env.refuses_callbacks():
            for _ in range(2):
                case.control_task("conformance_task_succeeds", "succeeds")
        else:
            for _ in range(2):
                case.submit("succeed")
            case.settle()
    finally:
        case.env.sink("probe", name="foreign", data={"planted": planted, "touched": backend.foreign_touched()})
        backend.remove_foreign()
