"""An executor for one machine: each workload is a process that runs Airflow's own worker command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

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
            return subprocess.Popen(command, stdin=workload_file)

    def sync(self) -> None:
        """Report the workers that have ended."""
        for key, worker in list(self.workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.workers[key]
            if code == 0:
                self.success(key)
            elif code > 0:
                self.fail(key)

    def revoke_task(self, *, ti: Any) -> None:
        """Stop a task and forget it, without an event."""
        key = self.get_task_key(ti)
        self.executor_queues[WorkloadType.EXECUTE_TASK].pop(key, None)
        self.running.discard(key)
        if worker := self.workers.pop(key, None):
            worker.kill()

    def end(self) -> None:
        """Wait for what is running."""
        for worker in self.workers.values():
            worker.wait()
        self.sync()

    def terminate(self) -> None:
        """Do not wait for what is running."""
        for worker in self.workers.values():
            worker.kill()
