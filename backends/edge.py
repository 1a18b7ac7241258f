"""EdgeExecutor: jobs in the metadata database, fetched over HTTP by ``airflow edge worker``."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from executor_conformance.backends.moments import monotonic_at, monotonic_of
from executor_conformance.harness import journal
from executor_conformance.harness.backend import OTHER_QUEUE, Backend, Delivery, Options, Variant, installed
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.rules import Answer, WireRule
from executor_conformance.harness.supervisor import ManagedProcess

POLL_S = 1
HEARTBEAT_S = 5
API_RETRIES, API_RETRY_WAIT_MAX_S = 10, 0.4
ORPHANED_AFTER_S = 32
"""Well above what a callback may take here (its timeout, the kill, a loaded machine), or the executor takes a
running job for an orphan."""
OVER = frozenset({"success", "failed", "removed", None})
"""Final states of a job; None: its row is gone."""

_numbers = itertools.count(1)


class EdgeBackend(Backend):
    """Environment of EdgeExecutor and its subclasses."""

    name: ClassVar[str] = "edge"
    executor: ClassVar[str] = "airflow.providers.edge3.executors.edge_executor.EdgeExecutor"
    api_apps: ClassVar[str] = "all"
    chooses: ClassVar[str] = "worker"
    callable_timeout_s: ClassVar[int] = 20  # below ORPHANED_AFTER_S: a job tells nothing of itself while it runs
    apis: ClassVar = {"edge": "/edge_worker/v1/rpcapi"}
    variants: ClassVar = (
        Variant("edge", smoke=True, note="as released"),
        Variant(
            "edge-log-push-stubbed",
            note="the worker's log push is answered with 204 at the wire, so that the rest can be decided",
        ),
        Variant(
            "edge-without-log-push",
            smoke=True,
            extended=True,
            also=("test_callable_raises", "test_killed_before_claim"),
            settings=(("AIRFLOW__EDGE__PUSH_LOGS", "False"),),
            note="as released, with [edge] push_logs = False",
        ),
    )
    carriers: ClassVar = {"table:edge_job": "the job in the database, which the worker fetches over HTTP"}
    victims: ClassVar = frozenset({"child", "supervisor", "unit", "node", "idle"})
    has_queues: ClassVar = True
    # a poll, then its log twice (while the job runs, after it) and the job's state
    gives_up_s: ClassVar = POLL_S + 3 * API_RETRIES * API_RETRY_WAIT_MAX_S
    crowd = 20
    faults: ClassVar = {"redelivery": ("fetched-twice",)}

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The edge3 provider."""
        if not installed("apache-airflow-providers-edge3"):
            return (
                "the provider apache-airflow-providers-edge3 is not installed; "
                "install it with pip install 'airflow-executor-conformance[edge]'"
            )
        if options.substrate != "process":
            return f"this backend runs on host processes only, not on the substrate '{options.substrate}'"
        return None

    @property
    def control_plane(self) -> str:
        """The API server's edge app."""
        return "edge app of the API server"

    @property
    def data_plane(self) -> str:
        """One worker on this host."""
        return "airflow edge worker on host processes"

    def config(self) -> dict[str, str]:
        """Edge's own API, its polling and its patience."""
        return {
            "AIRFLOW__EDGE__API_ENABLED": "True",
            "AIRFLOW__EDGE__API_URL": f"{self.site.recorders['edge'].url}/edge_worker/v1/rpcapi",
            "AIRFLOW__EDGE__JOB_POLL_INTERVAL": str(POLL_S),
            "AIRFLOW__EDGE__HEARTBEAT_INTERVAL": str(HEARTBEAT_S),
            "AIRFLOW__EDGE__API_RETRIES": str(API_RETRIES),
            "AIRFLOW__EDGE__API_RETRY_WAIT_MIN": "0.1",
            "AIRFLOW__EDGE__API_RETRY_WAIT_MAX": str(API_RETRY_WAIT_MAX_S),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(ORPHANED_AFTER_S),
        }

    def start(self) -> None:
        """Nothing yet: the worker registers with the API server, which is not up."""
        self._again: WireRule | None = None
        self._nodes: list[ManagedProcess] = []
        if self.site.options.database == "sqlite":
            # It locks no rows: of two fetches at once, as when the server is slow, each would get the same job
            self.site.recorders["edge"].in_turn = re.compile(r"/jobs/fetch/")
        self.use_variant(self.site.variant)

    def use_variant(self, variant: Variant) -> None:
        """Stub the log push, or do not; the worker that suffered from the former state is replaced."""
        super().use_variant(variant)
        recorder = self.site.recorders["edge"]
        recorder.clear_rules()
        if variant.label == "edge-log-push-stubbed":
            recorder.add_rule(WireRule(Answer(204, None, {}), method="POST", path=r"/logs/push/"))
        if self._nodes:
            self.lose_node()

    def _start_node(self) -> None:
        number = next(_numbers)
        logs = self.site.folder / f"edge-logs-{number}"
        env = self.site.env | dict(self.site.variant.settings) | {"AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs)}
        name = f"edge-{os.getpid()}-{number}"  # a killed worker's name is taken until its heartbeat is overdue
        argv = [sys.executable, "-m", "airflow", "edge", "worker", "--edge-hostname", name]
        argv += [
            "--pid",
            str(self.site.folder / f"{name}.pid"),
            "--concurrency",
            str(self.worker_concurrency),
        ]
        argv += ["--queues", f"default,{OTHER_QUEUE}"]
        self._name = name
        self._nodes.append(self.site.supervisor.spawn("edge-worker", argv, env, self.site.folder))

    def wait_ready(self) -> None:
        """Start the worker and wait until it is registered and idle."""
        if not any(node.alive for node in self._nodes):
            self._start_node()
        assert self.site.journal is not None
        deadline = Deadline(LIMITS.worker_start)
        while True:
            rows = self.site.journal.query("SELECT state FROM edge_worker WHERE worker_name = ?", (self._name,))
            if rows and rows[0][0] in ("idle", "running"):
                return
            node = self._nodes[-1]
            if not node.alive:
                raise HarnessError(f"The edge worker ended at its start: {node.log_tail(5)}")
            if deadline.over():
                raise BoundReached(f"The edge worker was not ready within {deadline}.")
            time.sleep(0.05)

    def nodes(self) -> list[ManagedProcess]:
        """The worker's main process."""
        return [node for node in self._nodes if node.alive]

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Children of the worker and what they forked; and what was left behind by a killed worker."""
        mains = {node.pid for node in self.nodes()}
        guardian = {process.ppid for pid, process in processes.items() if pid in mains}
        found = []
        for pid, process in processes.items():
            if pid in mains or not _is_edge(process):
                continue
            if process.ppid in mains or process.ppid in guardian or process.ppid in processes:
                found.append(pid)
        return found

    def pending(self, callback: str) -> list[str]:
        """A queued job that a live worker will fetch; a running one that the executor will take for orphaned."""
        assert self.site.journal is not None
        rows = self.site.journal.query(
            "SELECT state, edge_worker, command FROM edge_job WHERE task_id = ?", (callback,)
        )
        if not rows:
            rows = [
                row
                for row in self.site.journal.query(
                    "SELECT state, edge_worker, command FROM edge_job WHERE state IN "
                    "('queued', 'restarting', 'running')"
                )
                if _task_of(row[2]) == callback
            ]
        if self._again and not self._again.hits:
            return ["a worker's next fetch brings a job that was fetched before"]
        for state, _, _ in rows:
            alive = any(node.alive for node in self._nodes)
            if state == "queued" and alive:
                return ["the edge job is queued and a worker polls for it"]
            if state == "running":
                return [f"the executor takes a job without news for an orphan after {ORPHANED_AFTER_S} s"]
        return []

    def timers(self) -> Mapping[str, float]:
        """Return the timeout of an orphan, and the intervals of a worker's polls and heartbeats."""
        return {
            "[edge] job_poll_interval": float(POLL_S),
            "[edge] heartbeat_interval": float(HEARTBEAT_S),
            "[edge] api_retry_wait_max, each of api_retries": API_RETRIES * API_RETRY_WAIT_MAX_S,
            "[scheduler] task_instance_heartbeat_timeout": float(ORPHANED_AFTER_S),
        }

    def deliveries(self, workload: str) -> list[Delivery] | None:
        """Return the jobs that became queued: a callback's from the journal, a task's from its row.

        No foreign work is planted here: the jobs are in the deployment's own database, which no other one shares. And
        no calls are counted: an executor writes into that database, and the API's requests are the worker's.
        """
        assert self.site.journal is not None
        found: list[Delivery] = []
        statement = f"SELECT at, new FROM {journal.TABLE} WHERE tbl = 'edge_job' AND row_id = ? ORDER BY seq"
        for at, state in self.site.journal.query(statement, (workload,)):
            if state == "queued":
                found.append(Delivery(f"{workload}/{len(found) + 1}", monotonic_at(at)))
            elif state in OVER and found and found[-1].ended is None:
                found[-1] = replace(found[-1], ended=monotonic_at(at))
        if found:
            return found
        columns = "command, dag_id, task_id, run_id, map_index, try_number, state, queued_dttm, last_update"
        for command, *key, state, queued, updated in self.site.journal.query(f"SELECT {columns} FROM edge_job"):
            if _task_of(command) == workload:
                ended = monotonic_of(updated) if state in OVER and updated else None
                found.append(Delivery("/".join(map(str, key)), monotonic_of(queued), ended))
        return found

    def queue_of(self, callback: str) -> str | None:
        """As the job's row says."""
        assert self.site.journal is not None
        rows = self.site.journal.query("SELECT queue FROM edge_job WHERE task_id = ?", (callback,))
        return str(rows[0][0]) if rows else None

    def inject(self, point: str, way: str, callback: str) -> str:
        """Answer the next fetch with the callback's job, in the server's place."""
        assert self.site.journal is not None
        columns = "dag_id, task_id, run_id, map_index, try_number, concurrency_slots, command"
        rows = self.site.journal.query(f"SELECT {columns} FROM edge_job WHERE task_id = ?", (callback,))
        if not rows:
            raise HarnessError(f"There is no edge job of the callback {callback}.")
        job = dict(zip(columns.split(", "), rows[0], strict=True))
        job["command"] = json.loads(job["command"])
        self._again = WireRule(Answer(200, job, {}), method="POST", path=r"/jobs/fetch/", times=1)
        self.site.recorders["edge"].add_rule(self._again)
        return "the next fetch of a worker brings the job once more"

    def heal(self) -> None:
        """Let each fetch reach the server."""
        if self._again:
            self.site.recorders["edge"].remove_rule(self._again)
            self._again = None

    def succeeded(self, callback: str) -> bool:
        """The job's row says so; for a callback, only a worker writes that."""
        assert self.site.journal is not None
        rows = self.site.journal.query("SELECT state FROM edge_job WHERE task_id = ?", (callback,))
        return any(row[0] == "success" for row in rows)

    def lose_node(self) -> list[int]:
        """Kill the worker and start a new one under a new name."""
        killed = [pid for node in self.nodes() for pid in node.kill_tree()]
        self._start_node()
        self.wait_ready()
        return killed

    def renew_workers(self) -> bool:
        """A new worker."""
        self.lose_node()
        return False

    def repair(self, thorough: bool) -> bool:
        """A new worker if the old one is gone or suspect; jobs left behind are the executor's own to deal with."""
        if thorough:
            self.lose_node()
        elif not self.nodes():
            self.wait_ready()
        return thorough


def _is_edge(process: ProcessInfo) -> bool:
    title = process.title
    return "edge worker" in title or "edge supervisor" in title or title.startswith("airflow supervisor")


def _task_of(command: str) -> str:
    try:
        return str(json.loads(command).get("ti", {}).get("id", ""))
    except (ValueError, AttributeError):
        return ""
