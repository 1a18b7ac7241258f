"""Metadata made the way Airflow makes it: bundle, serialized Dags, Dag runs, missed deadlines."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from executor_conformance.harness.codec import decode

BUNDLE = "conformance"
CALLBACKS_DAG = "conformance_callbacks"
DAG_FILE = "conformance_dag.py"


def save_job(job: Any) -> None:
    """Store the scheduler's job row, as ``run_job`` does."""
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(job)
        session.flush()
        session.refresh(job)
        session.expunge(job)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """What is done on a signal stays as it is.

    Airflow 3.3 reads a Dag file with a handler of SIGSEGV and leaves it behind. It reads them in a process of their
    own; left in the scheduler's, an executor that segfaults would hang there, and not be seen to die.
    """
    before = {each: signal.getsignal(each) for each in (signal.SIGSEGV, signal.SIGALRM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _dag_bag() -> Any:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag

    manager = DagBundlesManager()
    bundle = manager.get_bundle(BUNDLE)
    with _signals_kept():
        return BundleDagBag(dag_folder=bundle.path, bundle_path=Path(bundle.path), bundle_name=BUNDLE)


def seed_metadata() -> None:
    """Bundle, Dags, and the Connection and Variable that callables read."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models.connection import Connection
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session

    DagBundlesManager().sync_bundles_to_db()
    bag = _dag_bag()
    if bag.import_errors:
        raise RuntimeError(f"the conformance bundle does not import: {bag.import_errors}")
    sync_bag_to_db(bag, BUNDLE, None)
    with create_session() as session:
        session.add(Connection(conn_id="conformance", conn_type="http", host="conformance.example", port=8443))
        Variable.set("conformance", "a value", session=session)
    create_dag_run(CALLBACKS_DAG, state="success", run_id=CALLBACKS_DAG)


def create_dag_run(dag_id: str, state: str = "running", run_id: str | None = None) -> dict[str, Any]:
    """Create a Dag run; returns its id, its run id and its task instances' ids by task id."""
    from airflow.models.dagbag import DBDagBag
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    now = dt.datetime.now(dt.UTC)
    run_id = run_id or f"manual__{uuid.uuid4().hex[:12]}"
    with create_session() as session:
        dag = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
        run = dag.create_dagrun(
            run_id=run_id,
            logical_date=now,
            data_interval=(now, now),
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState(state),
            session=session,
        )
        session.flush()
        return {
            "dag_run_id": run.id,
            "run_id": run_id,
            "task_instances": {ti.task_id: str(ti.id) for ti in run.get_task_instances(session=session)},
            "callbacks": [str(deadline.callback_id) for deadline in run.deadlines],
        }


def _callback_path(path: str) -> str:
    """A path ``dag-file:NAME`` is what Dag serialization would make of a function of the Dag file."""
    if not path.startswith("dag-file:"):
        return path
    function = path.removeprefix("dag-file:")
    _dag_bag()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).endswith(DAG_FILE) and hasattr(module, function):
            return f"{name}.{function}"
    raise LookupError(f"the Dag file {DAG_FILE} has no function {function}")


def submit_callback(
    path: str,
    kwargs: dict[str, Any],
    executor: str | None = None,
    data: dict[str, Any] | None = None,
    queue: str | None = None,
    dag_id: str = CALLBACKS_DAG,
    run_id: str = CALLBACKS_DAG,
) -> dict[str, Any]:
    """Make the row of a callback as a missed deadline of a Dag run makes it; it is PENDING afterwards."""
    from airflow.models.dagrun import DagRun
    from airflow.models.deadline import Deadline
    from airflow.sdk.definitions.callback import SyncCallback
    from airflow.utils.session import create_session
    from sqlalchemy import select

    # The constructor imports what the path names; that happens where Dags are parsed, not in the scheduler
    more: dict[str, Any] = {"queue": queue} if queue else {}
    definition = SyncCallback("builtins.print", kwargs=decode(kwargs), executor=executor, **more)
    definition.path = _callback_path(path)
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).one()
        deadline = Deadline(
            deadline_time=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1),
            callback=definition,
            dagrun_id=run.id,
            deadline_alert_id=None,
            dag_id=dag_id,
            bundle_name=BUNDLE,
        )
        session.add(deadline)
        session.flush()
        if data:
            deadline.callback.data = {**deadline.callback.data, **data}
        deadline.handle_miss(session)
        return {"callback": str(deadline.callback_id), "path": deadline.callback.data["path"]}
