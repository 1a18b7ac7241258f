"""The environment of CeleryExecutor and its subclasses."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from executor_conformance.backends.celery.brokers import Broker, check_choice, make_broker
from executor_conformance.backends.celery.foreign import ForeignWork, purge
from executor_conformance.backends.celery.relay import ANSWER_LOST, AWAY, AWAY_ONCE, CLOSED, HANG
from executor_conformance.backends.celery.results import READY, Results
from executor_conformance.harness.backend import OTHER_QUEUE, Backend, Delivery, Options, Variant, installed
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

QUEUES = ("default", OTHER_QUEUE)
"""The queues that the worker listens to."""
SYNC_PARALLELISM = 2
"""``[celery] sync_parallelism``: above 1 the executor publishes several workloads by a pool of processes.

The default is a CPU less than the machine has, so on two the pool would never run.
"""
OPERATION_TIMEOUT_S, PUBLISH_RETRIES = 3.0, 3
"""``[celery] operation_timeout``, 1 s by default, and ``task_publish_max_retries``, the default.

A publish that is only slow, on a loaded machine, would be repeated, which is what a fault is to bring about.
"""
LOST_WAIT_S = 2.0
"""Celery's ``worker_lost_wait``, 10 s by default."""
REDELIVERY_S = 10.0
"""Seconds between the visibility timeout and the end of a redelivered callback, on a loaded machine."""

_numbers = itertools.count(1)


class CeleryBackend(Backend):
    """A broker, a database result backend, and one ``airflow celery worker``."""

    name: ClassVar[str] = "celery"
    executor: ClassVar[str] = "airflow.providers.celery.executors.celery_executor.CeleryExecutor"
    variants: ClassVar = (Variant("celery"),)
    has_queues: ClassVar = True
    crowd = 100  # a pool of workers forks for each
    faults: ClassVar[Mapping[str, Sequence[str]]] = {
        "submit-refused": (AWAY, AWAY_ONCE, CLOSED, ANSWER_LOST),
        "accepted-lost": ("no-consumer",),
        "redelivery": ("message-copied",),
        "hang": (HANG,),
    }
    """The ways of all brokers together; an environment has those of its own broker."""
    further: ClassVar = {"submit-refused": {AWAY_ONCE, CLOSED}}
    unreachable: ClassVar = {"redelivery": "This broker shows nobody a message that a worker has taken."}
    callable_timeout_s: ClassVar[int] = 20  # below VISIBILITY_TIMEOUT_S: a message is acknowledged late
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
        able = {**self.broker.ways, "accepted-lost": self.faults["accepted-lost"]}
        able |= {"redelivery": self.faults["redelivery"]} if self.broker.repeats else {}
        self.faults = able  # type: ignore[misc]
        self.unreachable = {**self.unreachable, **self.broker.unreachable}  # type: ignore[misc]
        if timeout := self.broker.visibility_timeout_s:
            self.settle_s = timeout + REDELIVERY_S
        self._nodes: list[ManagedProcess] = []
        self._queues: Sequence[str] = QUEUES
        self._purged: set[str] = set()
        """Celery tasks whose messages a fault has removed."""
        self._since = 0.0
        """When the worker began to listen to other queues than usual."""
        self._results = Results(self.site.folder)
        self._foreign: ForeignWork | None = None
        self._started = False

    def config(self) -> dict[str, str]:
        """Broker, result backend, and options of the transport."""
        if not self._started:
            self.broker.start()  # its address is part of the configuration
            self._started = True
        return {
            "AIRFLOW__CELERY__BROKER_URL": self.broker.publisher_url,
            "AIRFLOW__CELERY__RESULT_BACKEND": self._results.url,
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(self.worker_concurrency),
            "AIRFLOW__CELERY__SYNC_PARALLELISM": str(SYNC_PARALLELISM),
            "AIRFLOW__CELERY__OPERATION_TIMEOUT": str(OPERATION_TIMEOUT_S),
            "AIRFLOW__CELERY__TASK_PUBLISH_MAX_RETRIES": str(PUBLISH_RETRIES),
            "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps({"worker_lost_wait": LOST_WAIT_S}),
            **{
                f"AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__{name}": value
                for name, value in self.broker.options().items()
            },
        }

    def start(self) -> None:
        """Start a worker."""
        number = next(_numbers)
        argv = [sys.executable, "-m", "airflow", "celery", "worker", "--skip-serve-logs", "--without-mingle"]
        argv += ["--without-gossip", "--queues", ",".join(self._queues)]
        argv += ["--concurrency", str(self.worker_concurrency)]
        argv += ["--pid", str(self.site.folder / f"celery-{number}.pid")]
        env = self.site.env | {
            "AIRFLOW__CELERY__BROKER_URL": self.broker.url
        }  # past the relay, whose faults are for the executor
        self._nodes.append(self.site.supervisor.spawn("celery-worker", argv, env, self.site.folder))

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

    def timers(self) -> Mapping[str, float]:
        """Return the timeouts of a hanging publish, a dead pool process and the broker."""
        found = {
            "[celery] operation_timeout, each of task_publish_max_retries": OPERATION_TIMEOUT_S * (PUBLISH_RETRIES + 1),
            "worker_lost_wait": LOST_WAIT_S,
        }
        if timeout := self.broker.visibility_timeout_s:
            found["[celery_broker_transport_options] visibility_timeout"] = timeout
        return found

    # -- accepted messages and their results ---------------------------------------------------------------------

    def _told(self, key: str) -> list[str]:
        """Return the ids of the Celery tasks that the executor's events name for a workload."""
        return [
            str(event["info"]) for event in self.site.events_of(key) if event["state"] == "queued" and event["info"]
        ]

    def _sent(self, key: str) -> dict[str, str | None]:
        """Return the ids of a workload's Celery tasks, oldest first, each with its queue if the broker tells it."""
        accepted = self.broker.published.of(key) if self.broker.published else []
        sent: dict[str, str | None] = {each.task_id: each.queue for each in accepted}
        for task_id in self._told(key):
            sent.setdefault(task_id, self.broker.queue_of(task_id))
        return sent

    def deliveries(self, workload: str) -> list[Delivery] | None:
        """Return the messages that the broker has accepted from the scheduler side; a redelivery adds none."""
        if self.broker.published is None:
            return None
        found = []
        for each in self.broker.published.of(workload):
            ended = self._results.ended(each.task_id)
            found.append(Delivery(each.task_id, each.at, None if ended is None else max(each.at, ended)))
        return found

    def calls(self) -> Mapping[str, int] | None:
        """Return the requests of the scheduler side to the broker."""
        return self.broker.calls()

    def accepted(self, callback: str) -> bool:
        """Return whether the broker has its message, or the executor has named one."""
        return bool(self._sent(callback))

    def remember(self, callback: str) -> None:
        """Keep the message."""
        for task_id in self._told(callback)[-1:]:
            self.broker.keep(task_id)

    def queue_of(self, callback: str) -> str | None:
        """Return the queue that the broker tells."""
        return next(iter(reversed(self._sent(callback).values())), None)

    def pending(self, callback: str) -> list[str]:
        """Return each message without a result that a live worker has, or that waits where one listens."""
        if not self.nodes():
            return []
        accepted = self.broker.published.of(callback) if self.broker.published else []
        gone = self._purged | (self.broker.dropped - {each.task_id for each in accepted})
        found = []
        for task_id, queue in self._sent(callback).items():
            if task_id in gone or (queue is not None and queue not in self._queues):
                continue
            status = self._results.state(task_id)
            if status not in READY:
                found.append(f"the Celery task {task_id[:8]} is {status or 'sent'} and the worker lives")
        return found

    def succeeded(self, callback: str) -> bool:
        """Return whether the result backend has one of its Celery tasks as a success."""
        return any(self._results.state(task_id) == "SUCCESS" for task_id in self._sent(callback))

    # -- faults ---------------------------------------------------------------------------------------------------

    def inject(self, point: str, way: str, callback: str) -> str:
        """Publish the message once more, let nobody listen to the default queue, or let the broker fail."""
        if point == "redelivery":
            if not (told := self._told(callback)):
                raise HarnessError(f"The executor named no Celery task for the callback {callback}.")
            return self.broker.repeat(told[-1])
        if point == "accepted-lost":
            self._listen((OTHER_QUEUE,))
            return f"the worker is started again, and listens to the queue '{OTHER_QUEUE}' only"
        return self.broker.inject(way)

    def _listen(self, queues: Sequence[str]) -> None:
        self._queues, self._since = queues, time.monotonic()
        self.lose_node()

    def hits(self) -> int | None:
        """Return what the broker counts, or how many messages wait where nobody listens."""
        if self._queues == QUEUES:
            return self.broker.hits()
        return len(self._unheard()) if self.broker.published else None

    def _unheard(self) -> list[str]:
        """Return the ids of the Celery tasks whose messages wait where nobody listens."""
        published = self.broker.published.since(self._since) if self.broker.published else []
        return [each.task_id for each in published if each.queue not in self._queues]

    def heal(self) -> None:
        """Let the broker take everything again; messages that waited where nobody listened stay lost."""
        self.broker.heal()
        if self._queues != QUEUES:
            self._purged |= set(self._unheard())
            for queue in set(QUEUES) - set(self._queues):
                purge(self.broker, queue)
            self._listen(QUEUES)

    def _foreign_work(self) -> ForeignWork:
        if self._foreign is None:
            self._foreign = ForeignWork(self.broker, self._results.url)
        return self._foreign

    def plant_foreign(self) -> list[str]:
        """Put messages into a queue of the same broker, and results into the same result backend."""
        return self._foreign_work().plant()

    def foreign_touched(self) -> list[str]:
        """Return one sentence for each message or result that is not as it was."""
        return self._foreign_work().touched()

    def remove_foreign(self) -> None:
        """Take the messages and results away."""
        self._foreign_work().remove()

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
