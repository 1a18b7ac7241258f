"""Messages of Celery tasks: their workloads, the record of accepted ones, and redelivery."""

from __future__ import annotations

import base64
import json
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from executor_conformance.harness.errors import HarnessError

REMEMBERED = 2000
"""The number of workloads whose publications are kept; more than any case sends."""


@dataclass(frozen=True)
class Publication:
    """A message that the broker has accepted, without its content, which holds a token."""

    task_id: str
    """Id of the Celery task."""
    workload: str
    """Id of the callback or of the task instance."""
    queue: str
    at: float
    """Seconds of ``time.monotonic()``."""


class Publications:
    """The broker's record of what it has accepted, oldest first; one thread writes it, others read it."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, list[Publication]] = OrderedDict()
        """Publications by the id of their workload."""
        self.total = 0
        """The number of all publications so far."""

    def add(self, publication: Publication) -> None:
        """Add one."""
        self._known.setdefault(publication.workload, []).append(publication)
        self.total += 1
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def of(self, workload: str) -> list[Publication]:
        """Return those that carry a workload."""
        return list(self._known.get(workload, ()))

    def since(self, moment: float) -> list[Publication]:
        """Return those that were accepted after a moment of ``time.monotonic()``."""
        return [each for several in list(self._known.values()) for each in list(several) if each.at >= moment]


def workload_of(body: str | bytes) -> str:
    """Return the id of the workload in a message's body, which is ``[args, kwargs, embed]`` as JSON; '' if none is."""
    try:
        workload = json.loads(json.loads(body)[0][0])
        return str((workload.get("callback") or workload.get("ti"))["id"])
    except (ValueError, TypeError, LookupError, AttributeError):
        return ""


def publication_of(content: str | bytes, queue: str, at: float) -> Publication | None:
    """Read a message of kombu's virtual transports; return None if it is of no Celery task."""
    try:
        message = json.loads(content)
        task_id = str(message["headers"]["id"])
        body = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    return Publication(task_id, workload_of(body), queue, at)


def again(message: dict[str, Any]) -> dict[str, Any]:
    """A message as kombu delivers it again: marked so, under a delivery tag of its own."""
    properties = message["properties"]
    info = {**properties.get("delivery_info", {}), "redelivered": True}
    fresh = {**properties, "delivery_info": info, "delivery_tag": str(uuid.uuid4())}
    return {**message, "headers": {**message["headers"], "redelivered": True}, "properties": fresh}


class RedisMessages:
    """Publishes messages again that a Redis holds as not acknowledged, as kombu does after the visibility timeout."""

    def __init__(self, url: str) -> None:
        import redis

        self._redis = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        self._copies: dict[str, tuple[str, dict[str, Any]]] = {}

    def keep(self, task_id: str) -> None:
        """Copy the message out of kombu's hash of unacknowledged messages."""
        for value in self._redis.hvals("unacked"):
            message, _, routing_key = json.loads(value)
            if message["headers"].get("id") == task_id:
                self._copies[task_id] = (routing_key, message)

    def queue_of(self, task_id: str) -> str | None:
        """The queue of a message that was kept."""
        return self._copies[task_id][0] if task_id in self._copies else None

    def repeat(self, task_id: str) -> str:
        """Push the message onto its queue again.

        :raises HarnessError: it was not kept.
        """
        if task_id not in self._copies:
            raise HarnessError(f"Redis held no unacknowledged message of the Celery task {task_id}.")
        queue, message = self._copies[task_id]
        self._redis.lpush(queue, json.dumps(again(message)))
        return f"the message of the Celery task {task_id[:8]} is in the queue '{queue}' once more"
