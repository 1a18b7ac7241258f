"""Messages and results of another deployment, at the same broker and in the same result backend."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from executor_conformance.backends.celery.base import Broker

QUEUE = "conformance-foreign"
"""A queue that no worker of this deployment listens to."""
MESSAGES = 3
RESULTS = {"SUCCESS": "done elsewhere", "STARTED": {"hostname": "celery@elsewhere"}, "FAILURE": ValueError("elsewhere")}
"""Results of the other deployment's tasks, by state."""
TASK = "execute_workload"
"""The name of the Celery task, which is the same in every deployment of Airflow."""


def purge(broker: Broker, queue: str) -> None:
    """Remove all messages that wait in a queue."""
    with _channel(broker) as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False)
        channel.queue_purge(queue)


@contextlib.contextmanager
def _channel(broker: Broker) -> Iterator[Any]:
    from kombu import Connection

    options = broker.client_options()
    with Connection(broker.url, transport_options=options, connect_timeout=5) as client, client.channel() as channel:
        yield channel


class ForeignWork:
    """Work of another deployment at a broker and in a result backend.

    :param results: as ``[celery] result_backend``.
    """

    def __init__(self, broker: Broker, results: str) -> None:
        self._broker, self._results = broker, results
        self._tasks: dict[str, str] = {}
        """States by id of the Celery task."""

    def plant(self) -> list[str]:
        """Put messages and results there; return one sentence for each kind."""
        self.remove()
        self._tasks = {_id(number): state for number, state in enumerate(RESULTS, MESSAGES)}
        with _channel(self._broker) as channel:
            channel.queue_declare(QUEUE, durable=True, auto_delete=False)
            for number in range(MESSAGES):
                task_id = _id(number)
                body = json.dumps([[json.dumps({"ti": {"id": task_id}, "type": "ExecuteTask"})], {}, {}])
                headers = {"lang": "py", "task": TASK, "id": task_id, "root_id": task_id}
                kind, encoding = "application/json", "utf-8"
                message = channel.prepare_message(body, content_type=kind, content_encoding=encoding, headers=headers)
                channel.basic_publish(message, exchange="", routing_key=QUEUE)
        with self._backend() as backend:
            for task_id, state in self._tasks.items():
                backend.store_result(task_id, RESULTS[state], state)
        return [
            f"{MESSAGES} messages of another deployment are in the queue '{QUEUE}' of the broker",
            f"{len(RESULTS)} results of another deployment are in the result backend",
        ]

    def touched(self) -> list[str]:
        """Return one sentence for each thing that is not as it was; none if nothing was planted."""
        if not self._tasks:
            return []
        found = []
        with _channel(self._broker) as channel:
            there = channel.queue_declare(QUEUE, durable=True, auto_delete=False).message_count
        if there != MESSAGES:
            found.append(f"The queue '{QUEUE}' of another deployment has {there} messages instead of {MESSAGES}.")
        with self._backend() as backend:
            for task_id, state in self._tasks.items():
                now = backend.get_task_meta(task_id, cache=False)
                if now["status"] != state or str(now["result"]) != str(RESULTS[state]):
                    found.append(f"The result of the Celery task {task_id} of another deployment has changed.")
        return found

    def remove(self) -> None:
        """Take the messages and results away."""
        if not self._tasks:
            return
        with _channel(self._broker) as channel:
            channel.queue_declare(QUEUE, durable=True, auto_delete=False)
            channel.queue_purge(QUEUE)
            channel.queue_delete(QUEUE)
        with self._backend() as backend:
            for task_id in self._tasks:
                backend.forget(task_id)
        self._tasks = {}

    @contextlib.contextmanager
    def _backend(self) -> Iterator[Any]:
        from celery import Celery

        app = Celery("foreign", backend=self._results, set_as_current=False)
        try:
            yield app.backend
        finally:
            app.close()


def _id(number: int) -> str:
    return f"f0e1d2c3-0000-4000-8000-{number:012d}"
