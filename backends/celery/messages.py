"""Messages of Celery tasks, as they lie with a broker, and how one is delivered again."""

from __future__ import annotations

import json
import uuid
from typing import Any

from executor_conformance.harness.errors import HarnessError


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
