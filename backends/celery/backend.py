"""The environment of CeleryExecutor and its subclasses."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from executor_conformance.backends.celery.brokers import (
    VISIBILITY_TIMEOUT_S,
    Broker,
    check_choice,
    make_broker,
)
from executor_conformance.harness.backend import OTHER_QUEUE, Backend, Options, Variant, installed
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

READY = ("SUCCESS", "FAILURE", "REVOKED")

_numbers = itertools.count(1)


class CeleryBackend(Backend):
    """A broker, a database result backend, and one ``airflow celery worker``."""

    name: ClassVar[str] = "celery"
    executor: ClassVar[str] = "airflow.providers.celery.executors.celery_executor.CeleryExecutor"
    variants: ClassVar = (Variant("celery"),)
    has_queues: ClassVar = True
    faults: ClassVar[Mapping[str, Sequence[str]]] = {"redelivery": ("message-copied",)}
    unreachable: ClassVar = {"redelivery": "This broker shows nobody a message that a worker has taken."}
    callable_timeout_s: ClassVar[int] = 8  # below VISIBILITY_TIMEOUT_S: a message is acknowledged late
    carriers: ClassVar = {"file:broker": "the broker's message"}

    @property
    def victims(self) -> frozenset[str]:  # type: ignore[override]
        """What the broker allows.

        A whole worker can be lost only where its messages are delivered again. With the filesystem transport Celery
        has no event loop, so its pool shares one locked queue, which a killed idle process can leave locked; with a
        real broker it does not, so nothing is to be said about the executor there.
        """
        found = {"child", "supervisor", "unit"}
        return frozenset(found | {"node", "idle"} if self.broker.redelivers else found)

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The celery provider, and the broker that was asked for."""
        if not installed("apache-airflow-providers-celery"):
            return (
                "the provider apache-airflow-providers-celery is not installed; "
                "install it with pip install 'airflow-executor-conformance[celery]'"
            )
        if options.substrate == "docker" and options.broker is None:
            return check_choice("redis")
        return check_choice(options.broker)

    @property
    def control_plane(self) -> str:
        """The broker."""
        return self.broker.label

    @property
    def data_plane(self) -> str:
        """One worker on this host."""
        return "airflow celery worker on host processes (prefork)"

    def __init__(self, site: object) -> None:
        super().__init__(site)  # type: ignore[arg-type]
        choice = self.site.options.broker or ("redis" if self.site.options.substrate == "docker" else None)
        self.broker: Broker = make_broker(
            choice, self.site.folder, self.site.supervisor, {"PATH": os.environ.get("PATH", "")}
        )
        if not self.broker.repeats:
            self.faults = {}  # type: ignore[misc]
        self._nodes: list[ManagedProcess] = []
        self._lost: set[str] = set()
        self._started = False

    def config(self) -> dict[str, str]:
        """Broker, result backend, and options of the transport."""
        if not self._started:
            self.broker.start()  # its address is part of the configuration
            self._started = True
        url = self.site.env.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")
        results = f"db+sqlite:///{self.site.folder / 'celery-results.db'}"
        if url.startswith("postgresql"):
            results = f"db+{url}"
        return {
            "AIRFLOW__CELERY__BROKER_URL": self.broker.url,
            "AIRFLOW__CELERY__RESULT_BACKEND": results,
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(self.worker_concurrency),
            "AIRFLOW__CELERY__SYNC_PARALLELISM": "1",
            "AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS": "executor_conformance.backends.celery.config.CONFIG",
            **{
                f"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__{name}": value
                for name, value in self.broker.options().items()
            },
        }

    def start(self) -> None:
        """Start a worker."""
        number = next(_numbers)
        argv = [sys.executable, "-m", "airflow", "celery", "worker", "--skip-serve-logs", "--without-mingle"]
        argv += ["--without-gossip", "--queues", f"default,{OTHER_QUEUE}"]
        argv += ["--concurrency", str(self.worker_concurrency)]
        argv += ["--pid", str(self.site.folder / f"celery-{number}.pid")]
        self._nodes.append(self.site.supervisor.spawn("celery-worker", argv, self.site.env, self.site.folder))

    def wait_ready(self) -> None:
        """The worker says in its log that it is ready."""
        node = self._nodes[-1]
        deadline = Deadline(LIMITS.worker_start)
        while " ready." not in node.log.read_text("utf-8", "replace"):
            if not node.alive:
                raise HarnessError(f"The celery worker ended at its start: {node.log_tail(5)}")
            if deadline.over():
                raise BoundReached(f"The celery worker was not ready within {deadline}.")
            time.sleep(0.05)

    def nodes(self) -> list[ManagedProcess]:
        """The worker's main process."""
        return [node for node in self._nodes if node.alive]

    def _pool(self, processes: Mapping[int, ProcessInfo]) -> set[int]:
        mains = {node.pid for node in self.nodes()}
        return {pid for pid, process in processes.items() if process.ppid in mains}

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Pool processes with a supervised child, those children, and orphans of killed pool processes."""
        pool = self._pool(processes)
        children = {pid for pid, process in processes.items() if process.ppid in pool}
        mains = {node.pid for node in self._nodes}
        orphans = {
            pid
            for pid, process in processes.items()
            if pid not in pool | children | mains
            and (process.title.startswith("airflow supervisor") or "celeryd" in process.title)
        }
        return sorted(children | {processes[pid].ppid for pid in children} | orphans)

    def idle_units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Pool processes without a child."""
        return sorted(self._pool(processes) - set(self.units(processes)))

    def _task_id(self, key: str) -> str | None:
        sent = [event for event in self.site.events_of(key) if event["state"] == "queued" and event["info"]]
        return str(sent[-1]["info"]) if sent else None

    def _status(self, task_id: str) -> str | None:
        import sqlite3

        if self.site.env["AIRFLOW__CELERY__RESULT_BACKEND"].startswith("db+sqlite"):
            try:
                with sqlite3.connect(f"file:{self.site.folder / 'celery-results.db'}?mode=ro", uri=True) as results:
                    rows = results.execute(
                        "SELECT status FROM celery_taskmeta WHERE task_id = ?", (task_id,)
                    ).fetchall()
            except sqlite3.OperationalError:
                return None
        else:
            assert self.site.journal is not None
            if not self.site.journal.query(
                "SELECT 1 FROM information_schema.tables WHERE table_name = 'celery_taskmeta'"
            ):
                return None
            rows = self.site.journal.query("SELECT status FROM celery_taskmeta WHERE task_id = ?", (task_id,))
        return rows[0][0] if rows else None

    def remember(self, callback: str) -> None:
        """Keep the message."""
        if task_id := self._task_id(callback):
            self.broker.keep(task_id)

    def queue_of(self, callback: str) -> str | None:
        """As the broker tells."""
        task_id = self._task_id(callback)
        return self.broker.queue_of(task_id) if task_id else None

    def inject(self, point: str, way: str, callback: str) -> str:
        """Publish the callback's message once more."""
        if (task_id := self._task_id(callback)) is None:
            raise HarnessError(f"The executor named no Celery task for the callback {callback}.")
        return self.broker.repeat(task_id)

    def pending(self, callback: str) -> list[str]:
        """A message that is with the broker or with a live worker, which has not reported its result."""
        task_id = self._task_id(callback)
        if task_id is None or not self.nodes():
            return []
        status = self._status(task_id)
        if status in READY:
            return []
        if task_id not in self._lost:
            return [f"the Celery task {task_id[:8]} is {status or 'sent'} and the worker lives"]
        if self.broker.redelivers:
            return [f"the broker delivers the message again within {VISIBILITY_TIMEOUT_S} s"]
        return []

    def succeeded(self, callback: str) -> bool:
        """The result backend has it as a success, whatever was there before."""
        task_id = self._task_id(callback)
        return task_id is not None and self._status(task_id) == "SUCCESS"

    def lose_node(self) -> list[int]:
        """Kill the worker and start a new one; what was not acknowledged is for the broker to deliver again."""
        killed = [pid for node in self.nodes() for pid in node.kill_tree()]
        self.start()
        self.wait_ready()
        return killed

    def renew_workers(self) -> bool:
        """A new worker."""
        self.lose_node()
        return False

    def lost(self) -> str:
        """The broker, if it is a server of our own that has ended."""
        return self.broker.lost()

    def repair(self, thorough: bool) -> bool:
        """A new worker if the old one is gone or suspect; a new scheduler forgets what it waits for."""
        if thorough or not self.nodes():
            self.lose_node()
        return thorough

    def stop(self) -> None:
        """Stop the broker."""
        self.broker.stop()
