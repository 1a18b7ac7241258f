"""Rows that stand for callbacks in every state: for what the API server makes of a token, not for an executor.

They are committed, for the server must see them, and removed afterwards. No scheduler may take a step meanwhile. What
a case leaves waiting is removed in the same way.
"""

from __future__ import annotations

import uuid
from typing import Any

from executor_conformance.harness.airflow_side import events, seeding

DAG = "conformance_task_holds"
"""A run of it, which no scheduler looks at, has the task instance, and missed the deadlines of all the callbacks."""


def make(states: list[str]) -> dict[str, Any]:
    """A callback in each of ``states``, another that is RUNNING, and a task instance, all of one Dag run; their ids."""
    run = seeding.create_dag_run(DAG, state="success")
    callbacks = {state: _callback(state, run["run_id"]) for state in states}
    return {
        "callbacks": callbacks,
        "another": _callback("running", run["run_id"]),
        "task_instance": next(iter(run["task_instances"].values())),
        "dag_id": DAG,
        "run_id": run["run_id"],
        "dag_run_id": run["dag_run_id"],
    }


def _callback(state: str, run_id: str) -> str:
    from airflow.models.callback import Callback
    from airflow.utils.session import create_session
    from airflow.utils.state import CallbackState

    made: str = seeding.submit_callback("builtins.print", {}, dag_id=DAG, run_id=run_id)["callback"]
    with create_session() as session:
        row = session.get(Callback, uuid.UUID(made))
        assert row is not None
        row.state = CallbackState(state)
        row.output = events.FIRST_OUTPUT if state in ("success", "failed") else None
    return made


def withdraw(ids: list[str]) -> dict[str, Any]:
    """Remove callbacks, so that no scheduler takes them up."""
    from airflow.models.deadline import Deadline
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    callbacks = [uuid.UUID(one) for one in ids]
    with create_session() as session:
        session.execute(delete(Deadline).where(Deadline.callback_id.in_(callbacks)))
    events.delete_rows(callbacks)
    return {"removed": len(ids)}


def remove(ids: list[str], dag_run_id: int) -> dict[str, Any]:
    """Remove what :func:`make` has made."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    withdraw(ids)
    with create_session() as session:
        if (run := session.get(DagRun, dag_run_id)) is not None:
            session.delete(run)
    return {"removed": len(ids)}
