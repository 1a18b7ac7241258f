"""Mutants of LocalExecutor whose defect is in the worker; ``table.py`` has the clauses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from subprocess import DEVNULL
from typing import Any

import orphan
from airflow.executors.workloads import ExecuteCallback
from local_base import Mutant, WorkerMutant, call, put_before
from local_mutants import nothing


def cut_off(original: str, **kwargs: Any) -> None:
    """Call ``original`` without a way to ask the supervisor."""
    from airflow.sdk.execution_time import task_runner

    task_runner.SUPERVISOR_COMMS = None
    call(original, kwargs)


def beside_an_orphan(original: str, callback: str, database: str, probe: str, **kwargs: Any) -> None:
    """Call ``original``; a process that nobody supervises has an effect once the row is terminal."""
    command = [sys.executable, orphan.__file__, database, callback, probe]
    # The supervisor waits for whoever has its sockets
    subprocess.Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)
    call(original, {"probe": probe, **kwargs})


def call_beside(workload: ExecuteCallback) -> None:
    """Call the callable in a process that nobody supervises, and leave nothing for the one that somebody does."""
    child = os.fork()
    if child == 0:
        try:
            call(workload.callback.data["path"], workload.callback.data["kwargs"])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    put_before(workload, nothing)


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
        call_beside(workload)


class RunsWhateverItsClaimIsAnswered(WorkerMutant):
    """CRASH-2, where somebody else's claim, or one whose answer was lost, has succeeded."""

    def before(self, workload: ExecuteCallback) -> None:
        request = urllib.request.Request(
            f"{os.environ['AIRFLOW__CORE__EXECUTION_API_SERVER_URL']}callbacks/{workload.callback.id}/run",
            headers={"Authorization": f"Bearer {workload.token}"},
            method="PATCH",
        )
        for _ in range(2):
            try:
                urllib.request.urlopen(request, timeout=30).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                continue
        call_beside(workload)


class AsksWithoutItsToken(WorkerMutant):
    """TOKEN-5."""

    def before(self, workload: ExecuteCallback) -> None:
        url = f"{os.environ['AIRFLOW__CORE__EXECUTION_API_SERVER_URL']}variables/conformance"
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=30).close()
