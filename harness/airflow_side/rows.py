"""Rows that stand for callbacks in every state: for what the API server makes of a token, not for an executor.

They are committed, for the server must see them, and removed afterwards. No scheduler may take a step meanwhile.
"""

from __future__ import annotations

import uuid
from typing import Any

from executor_conformance.harness.airflow_side import events, seeding


def make(states: list[str]) -> dict[str, Any]:
    """A callback in each of ``states``, another that is RUNNING, and a task instance of a run of its own; their ids."""
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = {state: events.row_in(state) for state in states}
        other = events.row_in("running")
        session.add_all([*rows.values(), other])
        session.flush()
        ids = {state: str(row.id) for state, row in rows.items()}
        another = str(other.id)
    run = seeding.create_dag_run("conformance_task_holds", state="success")
    task_instance = next(iter(run["task_instances"].values()))
    return {"callbacks": ids, "another": another, "task_instance": task_instance, "dag_run_id": run["dag_run_id"]}


def remove(ids: list[str], dag_run_id: int) -> dict[str, Any]:
    """Remove what :func:`make` has made."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    events.delete_rows([uuid.UUID(one) for one in ids])
    with create_session() as session:
        if (run := session.get(DagRun, dag_run_id)) is not None:
            session.delete(run)
    return {"removed": len(ids)}
