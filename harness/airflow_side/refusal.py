"""A workload of a type that no executor knows, offered to an instance of the subject that is not started."""

from __future__ import annotations

from enum import Enum
from typing import Any

from executor_conformance.harness.airflow_side.failures import raised


class UnknownType(str, Enum):  # noqa: UP042 - as Airflow's WorkloadType is made
    """What a later core may add to WorkloadType."""

    CONFORMANCE_UNKNOWN = "ConformanceUnknown"


def _workload() -> Any:
    from pathlib import Path

    from airflow.executors.workloads import BundleInfo
    from airflow.executors.workloads.base import BaseDagBundleWorkload
    from airflow.utils.state import CallbackState

    class ConformanceUnknown(BaseDagBundleWorkload):
        """Everything that a workload has, under a type of its own."""

        type: Any = UnknownType.CONFORMANCE_UNKNOWN

        @property
        def key(self) -> str:
            return "conformance-unknown"

        @property
        def display_name(self) -> str:
            return "conformance-unknown"

        @property
        def success_state(self) -> Any:
            return CallbackState.SUCCESS

        @property
        def failure_state(self) -> Any:
            return CallbackState.FAILED

    return ConformanceUnknown(
        token="", dag_rel_path=Path("none.py"), bundle_info=BundleInfo(name="conformance"), log_path="none"
    )


def _holdings(executor: Any, session: Any) -> dict[str, Any]:
    """What the executor holds, and what it would write: queues by name, ``running``, events, slots, rows."""
    queues = getattr(executor, "executor_queues", None)
    if queues is None:
        queues = {name: value for name, value in vars(executor).items() if name.startswith("queued_")}
    rows = [*session.new, *session.dirty, *session.deleted]
    return {
        "queues": {
            str(getattr(name, "value", name)): sorted(map(str, queue)) for name, queue in queues.items() if queue
        },
        "running": sorted(map(str, executor.running)),
        "events": sorted(map(str, executor.event_buffer)),
        "slots_occupied": executor.slots_occupied,
        "rows": sorted(type(row).__name__ for row in rows),
    }


def unknown_workload(cls: Any) -> dict[str, Any]:
    """Offer it; how it is refused, and what the executor holds before and after."""
    from airflow.utils.session import create_session

    executor, workload = cls(), _workload()
    refused: dict[str, Any] = {}
    with create_session() as session:
        try:
            before = _holdings(executor, session)
            try:
                executor.queue_workload(workload, session=session)
            except Exception as error:
                refused = raised(error)
            after = _holdings(executor, session)
        finally:
            session.rollback()
    names = [type(workload).__name__, workload.type.value, workload.type.name]
    return {"workload_type": list(dict.fromkeys(names)), "before": before, "after": after, **refused}
