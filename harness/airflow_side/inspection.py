"""Facts about an executor class that need no worker side: attributes, loading, commands, methods, events.

Runs in a fork of its own, so that loading it under several configurations disturbs nobody.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from executor_conformance.harness import processes
from executor_conformance.harness.airflow_side import construction, events, openapi, refusal, rows, seeding
from executor_conformance.harness.airflow_side.failures import failure, raised, trace
from executor_conformance.harness.airflow_side.origin import declares_callbacks
from executor_conformance.harness.channel import Channel

CLASS_ATTRIBUTES = (
    "is_local",
    "is_production",
    "serve_logs",
    "supports_ad_hoc_ti_run",
    "sentry_integration",
    "supports_multi_team",
    "supports_callbacks",
    "supports_connection_test",
    "pre_assigns_external_executor_id",
    "supports_task_instance_uuid",
    "supported_workload_types",
)
"""What core reads from the class without an instance; those that the running BaseExecutor has are checked."""


def _attempt(function: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
    try:
        value = function(*arguments, **keywords)
    except Exception as error:
        return {**raised(error), "traceback": trace()[-2000:]}
    return {"returned": repr(value)[:300], "type": type(value).__name__}


def attributes(cls: type) -> dict[str, Any]:
    """For each attribute of the running BaseExecutor: its type there, and the value and type here."""
    import warnings

    from airflow.executors.base_executor import BaseExecutor

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in CLASS_ATTRIBUTES:
            if not hasattr(BaseExecutor, name):
                continue
            expected = type(getattr(BaseExecutor, name)).__name__
            found[name] = {"expected": expected, **_attempt(getattr, cls, name)}
    return found


def load(path: str) -> dict[str, Any]:
    """Load the executor by its path, by an alias, alone and beside a second executor."""
    from airflow.executors import executor_loader
    from airflow.executors.executor_loader import ExecutorLoader

    def loaded(setting: str, name: str) -> dict[str, Any]:
        os.environ["AIRFLOW__CORE__EXECUTOR"] = setting
        for cache in (
            "_alias_to_executors_per_team",
            "_module_to_executors_per_team",
            "_classname_to_executors_per_team",
            "_team_name_to_executors",
        ):
            getattr(executor_loader, cache, {}).clear()
        if hasattr(executor_loader, "_executor_names"):
            executor_loader._executor_names.clear()
        executor = ExecutorLoader.load_executor(name)
        cls = type(executor)
        return {
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "name": executor.name.alias or executor.name.module_path,
        }

    second = "second:executor_conformance.backends.companion.CompanionExecutor"
    found = {}
    for label, setting, name in (
        ("by path", path, path),
        ("by alias", f"subject:{path}", "subject"),
        ("beside another, by path", f"{path},{second}", path),
        ("beside another, by alias", f"{second},subject:{path}", "subject"),
    ):
        try:
            found[label] = loaded(setting, name)
        except Exception as error:
            found[label] = raised(error)
    os.environ["AIRFLOW__CORE__EXECUTOR"] = path
    return found


def commands(cls: Any, path: str) -> dict[str, Any]:
    """The commands that the executor adds to the command line, and whether the merged parser builds."""
    from airflow.cli import cli_config, cli_parser

    try:
        groups = cls.get_cli_commands()
    except Exception as error:
        return raised(error)
    core = {command.name for command in cli_config.core_commands}
    parser = getattr(cli_parser, "get_parser", None)
    return {
        "commands": [{"name": getattr(group, "name", repr(group)), "type": type(group).__name__} for group in groups],
        "collides": sorted({getattr(group, "name", "") for group in groups} & core),
        "parser": _attempt(parser) if parser else None,
    }


def _real_task_instance() -> Any:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = seeding.create_dag_run("conformance_task_succeeds", state="success")
    with create_session(scoped=False) as session:
        ti = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run["run_id"])).one()
        _ = ti.dag_run, ti.key
        session.expunge_all()
    return ti


def methods(cls: Any) -> dict[str, Any]:
    """What happens when each method that core may call is called on a started executor."""
    ti = _real_task_instance()
    executor = cls()
    found: dict[str, Any] = {"start": _attempt(executor.start)}
    found["revoke_task"] = _attempt(executor.revoke_task, ti=ti)
    found["try_adopt_task_instances"] = _attempt(executor.try_adopt_task_instances, [ti])
    log = _attempt(executor.get_task_log, ti, 1)
    if "raised" not in log:
        value = executor.get_task_log(ti, 1)
        log["lists"] = isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, list) for part in value)
    found["get_task_log"] = log
    found["debug_dump"] = _attempt(executor.debug_dump)
    found["end"] = _attempt(executor.end)
    found["end again"] = _attempt(executor.end)
    other = cls()  # core calls terminate() on a running executor, not on an ended one
    _attempt(other.start)
    found["terminate"] = _attempt(other.terminate)
    return found


def offer(cls: Any) -> dict[str, Any]:
    """Offer an ExecuteCallback to a fresh instance: is it taken or refused, and in which words?"""
    import uuid
    from pathlib import Path

    from airflow.executors.workloads import ExecuteCallback
    from airflow.executors.workloads.callback import CallbackDTO
    from airflow.utils.session import create_session

    callback = CallbackDTO(
        id=str(uuid.uuid4()), fetch_method="import_path", data={"path": "conformance.none", "kwargs": {}}
    )
    workload = ExecuteCallback(
        callback=callback,
        dag_rel_path=Path("none.py"),
        token="",
        log_path="none",
        bundle_info={"name": "conformance"},
    )
    executor = cls()
    with create_session() as session:
        result = _attempt(executor.queue_workload, workload, session=session)
        session.rollback()
    taken = workload.key in executor.running or executor.slots_occupied > 0
    return {"declares": declares_callbacks(executor), "taken": taken, "workload_type": "ExecuteCallback", **result}


def callback_parameters() -> dict[str, Any]:
    """What a SyncCallback of the running core can be given."""
    import inspect

    from airflow.sdk.definitions.callback import SyncCallback

    return {"parameters": list(inspect.signature(SyncCallback).parameters)}


_OF_THE_CLASS = {
    "attributes": attributes,
    "methods": methods,
    "offer": offer,
    "unknown_workload": refusal.unknown_workload,
    "transitions": events.transitions,
    "deletion": events.deletion,
}

_OF_THE_ENVIRONMENT: dict[str, Callable[..., dict[str, Any]]] = {
    "callback_parameters": callback_parameters,
    "create_run": seeding.create_dag_run,
    "make_rows": rows.make,
    "openapi": openapi.describe,
    "remove_rows": rows.remove,
    "state_apis": openapi.state_apis,
    "withdraw": rows.withdraw,
}


def _answer(path: str, message: dict[str, Any]) -> dict[str, Any]:
    op = message["op"]
    if op in _OF_THE_ENVIRONMENT:
        return _OF_THE_ENVIRONMENT[op](**{name: value for name, value in message.items() if name != "op"})
    if op == "load":
        return load(path)
    if op == "construction":
        return construction.construction(path, message["own_settings"])
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    if op == "commands":
        return commands(cls, path)
    return _OF_THE_CLASS[op](cls)


def leave_nothing_running() -> None:
    """SIGKILL all below this process: workers of an instance that was looked at would outlive it.

    LocalExecutor of Airflow 3.3 starts its own with the executor, and its terminate() leaves them.
    """
    for pid in processes.children_of(os.getpid()):
        processes.kill_frozen(pid)


def serve(channel: Channel) -> None:
    """Answer inspections until the harness closes the connection."""
    from airflow.settings import configure_orm, dispose_orm

    dispose_orm(do_log=False)
    configure_orm()
    path = os.environ["EXECUTOR_CONFORMANCE_SUBJECT"]
    channel.send({"ready": True, "pid": os.getpid()})
    while (message := channel.receive()) is not None:
        try:
            answer = _answer(path, message)
        except Exception as error:
            answer = failure(error)
        leave_nothing_running()
        channel.send(answer)
    sys.stdout.flush()
