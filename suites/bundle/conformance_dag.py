"""The Dags of a conformance environment: a home for callbacks, the control group, a real deadline."""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk import (  # type: ignore[attr-defined]
    DAG,
    DeadlineAlert,
    DeadlineReference,
    SyncCallback,
    task,
)
from executor_conformance.suites import callables


def in_the_dag_file(probe: str | None = None, **kwargs: object) -> None:
    """A callable that only the Dag file defines."""
    callables.report("enter", probe, kwargs=kwargs)
    callables.report("return", probe)


with DAG("conformance_callbacks", schedule=None):

    @task
    def nothing() -> None:
        pass

    nothing()

with DAG("conformance_task_succeeds", schedule=None):

    @task
    def succeeds() -> None:
        callables.report("enter", "task-succeeds")

    succeeds()

with DAG("conformance_task_raises", schedule=None):

    @task
    def raises() -> None:
        callables.report("enter", "task-raises")
        raise ValueError("the task raised on purpose")

    raises()

with DAG("conformance_task_remembers", schedule=None):

    @task(retries=1, retry_delay=dt.timedelta(0))
    def remembers(**context: Any) -> None:
        callables.remember("task-remembers", context.get("task_state_store"), context["ti"].try_number)

    remembers()

with DAG("conformance_task_holds", schedule=None):

    @task
    def holds() -> None:
        callables.hold("task-holds")

    holds()


def when_the_run_succeeds(context: object = None) -> None:
    """What the Dag processor calls today, and an executor may call once such callbacks are given to it."""
    callables.report("enter", "dag-attribute")
    callables.report("return", "dag-attribute")


with DAG("conformance_dag_attribute", schedule=None, on_success_callback=when_the_run_succeeds):

    @task
    def ends_the_run() -> None:
        pass

    ends_the_run()

with DAG(
    "conformance_deadline",
    schedule=None,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=dt.timedelta(seconds=-1),  # missed as soon as a scheduler looks at it
        callback=SyncCallback(callables.succeed, kwargs={"probe": "deadline"}),
    ),
):

    @task
    def on_time() -> None:
        pass

    on_time()
