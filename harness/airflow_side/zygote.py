"""A process that has imported Airflow once and forks the processes that need it.

Airflow's imports cost more than a second of CPU; a fork of this process costs milliseconds. The zygote itself
initialises no executor and opens no database connection, so each fork starts as a fresh process would.
Run as ``python -m executor_conformance.harness.airflow_side.zygote SOCKET``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Any

os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # what the scheduler sets about itself

from executor_conformance.harness.channel import Channel

ROLES = {
    "scheduler": "executor_conformance.harness.airflow_side.scheduler",
    "inspection": "executor_conformance.harness.airflow_side.inspection",
}


def _reap(signum: int, frame: FrameType | None) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _ended[pid] = status


_ended: dict[int, int] = {}
"""Wait statuses of forks by pid, for who asks."""
STATUS_S = 3.0


def _status_of(pid: int) -> int | None:
    """The exit status of a fork that has closed its channel, and so is about to end if it has not yet."""
    end = time.monotonic() + STATUS_S
    while pid not in _ended and time.monotonic() < end:
        _reap(0, None)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(_ended[pid]) if pid in _ended else None


WARM = (
    "airflow.api_fastapi.auth.tokens",
    "airflow.api_fastapi.core_api.datamodels.dag_run",
    "airflow.executors.executor_loader",
    "airflow.jobs.scheduler_job_runner",
    "airflow.models.deadline",
    "airflow.sdk.serde",
    "airflow.serialization.encoders",
)


def _preload() -> None:
    """Do what every fork needs and what depends on no setting, so that each environment pays for it once.

    Imports, the mappers that SQLAlchemy configures at a process's first query, and the metrics' registry.
    """
    for module in WARM:
        with contextlib.suppress(ImportError):  # where another core has it elsewhere, the fork imports it
            importlib.import_module(module)
    for module in ROLES.values():
        importlib.import_module(module)
    from airflow._shared.observability.metrics import stats
    from sqlalchemy.orm import configure_mappers

    configure_mappers()
    with contextlib.suppress(Exception):  # private, and only a matter of time
        stats._get_registry()
    if subject := os.environ.get("EXECUTOR_CONFORMANCE_PRELOAD"):
        importlib.import_module(subject)


def _serve_in_child(message: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.environ.update(message.get("env", {}))
    log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    code = 0
    try:
        importlib.import_module(ROLES[message["role"]]).serve(Channel.connect(message["socket"]))
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Import Airflow, then fork on request until the harness closes the connection."""
    channel = Channel.connect(sys.argv[1])
    try:
        _preload()
        import airflow

        version = airflow.__version__
    except BaseException as error:
        channel.send({"ready": False, "error": f"{type(error).__name__}: {error}"})
        raise
    signal.signal(signal.SIGCHLD, _reap)
    channel.send({"ready": True, "airflow": version, "pid": os.getpid()})
    while (message := channel.receive()) is not None:
        if message.get("op") == "status":
            channel.send({"status": _status_of(message["pid"])})
            continue
        pid = os.fork()
        _ended.pop(pid, None)  # of a former process with this pid
        if pid == 0:
            channel.close()
            _serve_in_child(message)
        channel.send({"pid": pid})


if __name__ == "__main__":
    main()
