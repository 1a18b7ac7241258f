"""Executor events in the real ``SchedulerJobRunner._process_executor_events``, on rows of the real database.

The events are put into the event buffer of an instance of the subject that is not started. No method of Airflow is
replaced. Nothing that is made here is left behind.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from executor_conformance.harness.airflow_side import seeding
from executor_conformance.harness.state_machine import EVENTS, STATES, Sequence, sequences

FIRST_OUTPUT = "written when the row ended"


def _runner(executor: Any) -> Any:
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    return SchedulerJobRunner(job=Job(), executors=[executor])


def _own_drains(executor: Any) -> list[str]:
    """The methods by which core empties the event buffer that the subject has overridden."""
    from airflow.executors.base_executor import BaseExecutor

    names = ("get_event_buffer", "_drain_events_with_task_ids")
    return [name for name in names if getattr(type(executor), name, None) is not getattr(BaseExecutor, name, None)]


def row_in(state: str) -> Any:
    """A callback as a Dag's deadline makes it, not yet in the database, in ``state``."""
    from airflow.models.callback import Callback
    from airflow.sdk.definitions.callback import SyncCallback
    from airflow.utils.state import CallbackState

    callback = Callback.create_from_sdk_def(SyncCallback("builtins.print"), dag_id=seeding.CALLBACKS_DAG)
    callback.bundle_name = seeding.BUNDLE
    callback.state = CallbackState(state)
    callback.output = FIRST_OUTPUT if state in ("success", "failed") else None
    return callback


def _key(row_id: Any) -> Any:
    from airflow.models.callback import CallbackKey

    return CallbackKey(id=str(row_id))


def _look(session: Any, row_ids: list[Any]) -> list[dict[str, Any]]:
    """State and output of rows as the database holds them; a state of None: there is no such row."""
    from airflow.models.callback import Callback
    from sqlalchemy import select

    session.expunge_all()
    found = session.execute(select(Callback.id, Callback.state, Callback.output).where(Callback.id.in_(row_ids)))
    rows = {row_id: (str(getattr(state, "value", state)), output) for row_id, state, output in found}
    return [dict(zip(("state", "output"), rows.get(row_id, (None, None)), strict=True)) for row_id in row_ids]


def _raised_by(runner: Any, executor: Any, session: Any) -> str | None:
    """Let core process what is in the event buffer, which is empty afterwards; what it raised."""
    try:
        with session.begin_nested():
            runner._process_executor_events(executor=executor, session=session)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        executor.event_buffer.clear()
    return None


def _observe(runner: Any, executor: Any, tried: list[Sequence]) -> list[dict[str, Any]]:
    """What sequences make of a row each: its state, its output and what was raised, after each turn."""
    from airflow.utils import state as states
    from airflow.utils.session import create_session

    with create_session() as session:
        try:
            rows = [row_in(sequence.start) for sequence in tried]
            session.add_all(rows)
            session.flush()
            ids = [row.id for row in rows]
            before = _look(session, ids)
            found = [
                {**sequence._asdict(), "output": row["output"], "after": []}
                for sequence, row in zip(tried, before, strict=True)
            ]
            for number in range(max(len(sequence.turns) for sequence in tried)):
                for sequence, row_id in zip(tried, ids, strict=True):
                    form = getattr(states, sequence.form)
                    for event in sequence.turns[number] if number < len(sequence.turns) else ():
                        executor.event_buffer[_key(row_id)] = (form(event), f"{event} in turn {number + 1}")
                raised = _raised_by(runner, executor, session)
                for sequence, told, row in zip(tried, found, _look(session, ids), strict=True):
                    if number < len(sequence.turns):
                        told["after"].append({**row, "raised": raised} if raised else row)
        finally:
            session.rollback()
    return found


def transitions(cls: Any) -> dict[str, Any]:
    """The whole matrix: what each sequence of :mod:`~executor_conformance.harness.state_machine` makes of a row.

    The rows are never committed, so no other process sees them and none outlives this one.
    """
    from airflow.utils.state import CallbackState

    executor = cls()
    runner = _runner(executor)
    found: list[dict[str, Any]] = []
    for start in STATES:  # a transaction each, so that no other writer of the database waits for long
        tried = list(sequences(start))
        seen = _observe(runner, executor, tried)
        if any("raised" in after for told in seen for after in told["after"]):
            seen = [told for sequence in tried for told in _observe(runner, executor, [sequence])]  # which one was it?
        found += seen
    states = [state.value for state in CallbackState]
    return {"states": states, "own_drains": _own_drains(executor), "transitions": found}


# -- an event for a callback that is gone -----------------------------------------------------------------


@contextlib.contextmanager
def _rows(*states: str) -> Iterator[list[Any]]:
    """The ids of committed callbacks in ``states``, which are removed in the end."""
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = [row_in(state) for state in states]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
    try:
        yield ids
    finally:
        delete_rows(ids)


def delete_rows(ids: list[Any]) -> None:
    """Remove committed callbacks."""
    from airflow.models.callback import Callback
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session() as session:
        session.execute(delete(Callback).where(Callback.id.in_(ids)))


@contextlib.contextmanager
def _task_instance() -> Iterator[uuid.UUID]:
    """The id of a task instance of a Dag run that is removed in the end."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    run = seeding.create_dag_run("conformance_task_succeeds")
    try:
        yield uuid.UUID(next(iter(run["task_instances"].values())))
    finally:
        with create_session() as session:
            session.delete(session.get(DagRun, run["dag_run_id"]))


def _task_key(session: Any, ti_id: uuid.UUID) -> Any:
    """By what the running core finds a task instance's event: its id from 3.4 on, its coordinates before."""
    from airflow.executors.workloads import types
    from airflow.models.taskinstance import TaskInstance

    if hasattr(types, "TaskInstanceUuid"):
        return types.TaskInstanceUuid(ti_id)
    return session.get(TaskInstance, ti_id).key


def _external_id(ti_id: uuid.UUID) -> str | None:
    """What the last event of a running task has left in its row: the info of the event."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        value = session.scalar(select(TaskInstance.external_executor_id).where(TaskInstance.id == ti_id))
    return None if value is None else str(value)


def _batch(runner: Any, executor: Any, ti_id: uuid.UUID, event: str | None) -> dict[str, Any]:
    """One turn with events for a callback, one that is gone (``event``; None: without it), another, and a task."""
    from airflow.utils.session import create_session
    from airflow.utils.state import CallbackState, TaskInstanceState

    with _rows("running", "running", "running") as (before, gone, after):
        delete_rows([gone])
        with create_session() as session:
            was_gone = _look(session, [gone])[0]["state"] is None
            task_key = _task_key(session, ti_id)
        buffer = executor.event_buffer
        buffer[_key(before)] = (CallbackState.SUCCESS, None)
        if event:
            buffer[_key(gone)] = (CallbackState(event), "the callback is gone")
        buffer[_key(after)] = (CallbackState.FAILED, "on purpose")
        buffer[task_key] = (TaskInstanceState.RUNNING, info := f"beside {event}")
        with create_session() as session:
            raised = _raised_by(runner, executor, session)
        with create_session() as session:
            first, row, last = (look["state"] for look in _look(session, [before, gone, after]))
    others = {
        "the callback before it": {"wanted": "success", "got": first},
        "the callback after it": {"wanted": "failed", "got": last},
        "the task": {"wanted": info, "got": _external_id(ti_id)},
    }
    return {"event": event, "gone": was_gone, "row": row, "others": others, "raised": raised}


def deletion(cls: Any) -> dict[str, Any]:
    """For each event: a turn in which it is for a callback that was deleted; and a turn without it, as the control."""
    executor = cls()
    runner = _runner(executor)
    with _task_instance() as ti_id:
        batches = [_batch(runner, executor, ti_id, event) for event in (None, *EVENTS)]
    return {"own_drains": _own_drains(executor), "batches": batches}
