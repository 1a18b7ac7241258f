"""An executor for one machine: each workload is a process that runs Airflow's own worker command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import psutil
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import WorkloadType


class MyExecutor(BaseExecutor):
    """Starts one worker process for each workload and reports how it ended."""

    is_local = True
    supported_workload_types = frozenset({WorkloadType.EXECUTE_TASK, WorkloadType.EXECUTE_CALLBACK})

    def start(self) -> None:
        """Called once, before the first workload."""
        self.workers: dict[Any, subprocess.Popen[bytes]] = {}

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        for workload in workload_items:
            key = self.get_workload_key(workload)
            del self.executor_queues[workload.type][key]
            self.running.add(key)
            self.workers[key] = self._start_worker(workload)

    def _start_worker(self, workload: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "airflow.sdk.execution_time.execute_workload", "--json-path", "/dev/stdin"]
        # Not as an argument: other users can see a command line, and the workload has a token
        with tempfile.TemporaryFile() as workload_file:
            workload_file.write(workload.model_dump_json().encode())
            workload_file.seek(0)
            # A session of its own, so that all that is left of it can be found when it dies
            return subprocess.Popen(command, stdin=workload_file, start_new_session=True)

    def sync(self) -> None:
        """Report the workers that have ended."""
        for key, worker in list(self.workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.workers[key]
            if code == 0:
                self.success(key)
            else:
                self._kill(worker)  # a worker that was killed leaves the callable behind, which would go on
                self.fail(key, info=_cause(code))

    def revoke_task(self, *, ti: Any) -> None:
        """Stop a task and forget it, without an event."""
        key = self.get_task_key(ti)
        self.executor_queues[WorkloadType.EXECUTE_TASK].pop(key, None)
        self.running.discard(key)
        if worker := self.workers.pop(key, None):
            self._kill(worker)

    def end(self) -> None:
        """Wait for what is running."""
        for worker in self.workers.values():
            worker.wait()
        self.sync()

    def terminate(self) -> None:
        """Do not wait for what is running."""
        for worker in self.workers.values():
            self._kill(worker)

    def _kill(self, worker: subprocess.Popen[bytes]) -> None:
        """Kill what is left of a worker: the processes of its session, whichever of them lives."""
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == worker.pid:
                    os.kill(pid, signal.SIGKILL)


def _cause(code: int) -> str:
    if code < 0:  # as Popen.returncode says that a signal ended the process
        return f"The worker was killed by {signal.Signals(-code).name}."
    return f"The worker ended with exit code {code}; see the log of the callback or the task."
