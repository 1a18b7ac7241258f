"""Mutants of LocalExecutor whose defect is in the worker; ``table.py`` has the clauses."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import urllib.error
import urllib.request
from typing import Any

from airflow.executors.workloads import ExecuteCallback
from executor_conformance.suites.callables import report
from local_base import Mutant, WorkerMutant, call, put_before
from local_mutants import nothing

ORPHAN_S = 60.0


def cut_off(original: str, **kwargs: Any) -> None:
    """Call ``original`` without a way to ask the supervisor."""
    from airflow.sdk.execution_time import task_runner

    task_runner.SUPERVISOR_COMMS = None
    call(original, kwargs)


def beside_an_orphan(original: str, callback: str, database: str, probe: str, **kwargs: Any) -> None:
    """Call ``original``; a process that nobody supervises has an effect once the row is terminal."""
    if os.fork() == 0:
        try:
            os.setsid()
            os.closerange(0, 1024)  # the supervisor waits for the end of its sockets
            end = time.monotonic() + ORPHAN_S
            rows = sqlite3.connect(database, timeout=ORPHAN_S)
            while time.monotonic() < end:
                found = rows.execute("SELECT state FROM callback WHERE id = ?", [callback.replace("-", "")]).fetchone()
                if found and found[0] in ("success", "failed"):
                    time.sleep(0.2)  # later than what the clocks of rows and reports may differ by
                    report("late", probe)
                    break
                time.sleep(0.05)
        finally:
            os._exit(0)
    call(original, {"probe": probe, **kwargs})


class CutOffFromItsSupervisor(Mutant):
    """RUN-7."""

    def alter(self, workload: ExecuteCallback) -> None:
        put_before(workload, cut_off)


class LeavesAnOrphan(Mutant):
    """CRASH-8."""

    def alter(self, workload: ExecuteCallback) -> None:
        database = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].partition("///")[2].partition("?")[0]
        put_before(workload, beside_an_orphan, callback=str(workload.callback.id), database=database)


class RunsBeforeTheClaim(WorkerMutant):
    """CRASH-2."""

    def before(self, workload: ExecuteCallback) -> None:
        child = os.fork()
        if child == 0:
            try:
                call(workload.callback.data["path"], workload.callback.data["kwargs"])
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        put_before(workload, nothing)


class AsksWithoutItsToken(WorkerMutant):
    """TOKEN-5."""

    def before(self, workload: ExecuteCallback) -> None:
        url = f"{os.environ['AIRFLOW__CORE__EXECUTION_API_SERVER_URL']}variables/conformance"
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=30).close()
