"""The messages of SQS as moto keeps them: what can be seen of them, and in which order they are received."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection
from threading import RLock
from typing import Any

from executor_conformance.backends.aws.emulator.moto_seams import ACCOUNT


def install_turns(lock: RLock) -> None:  # type: ignore[valid-type]
    """Let messages that were received wait behind those that were not.

    A standard queue of SQS has no order. moto has one: it would hand out the first ten for ever, if a client makes
    them visible again.

    :param lock: what requests that change a queue hold.
    """
    from moto.sqs.models import SQSBackend

    receive = SQSBackend.receive_message

    @functools.wraps(receive)
    def receiving(self: Any, queue_name: str, *args: Any, **kwargs: Any) -> Any:
        received = receive(self, queue_name, *args, **kwargs)
        queue = self.get_queue(queue_name)
        if received and not queue.fifo_queue:
            ids = {message.id for message in received}
            with lock, queue._messages_lock:  # type: ignore[attr-defined]
                queue._messages = sorted(queue._messages, key=lambda message: message.id in ids)
        return received

    SQSBackend.receive_message = receiving  # type: ignore[method-assign]


def queues(region: str) -> dict[str, Any]:
    """moto's queues by name."""
    from moto.sqs.models import sqs_backends

    return dict(sqs_backends[ACCOUNT][region].queues)


def contents(region: str, without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """By queue name: ``visible`` (a number), ``delayed`` and ``in_flight`` (lists of seconds left).

    :param without: ids of messages that are not counted.
    """
    now = time.time() * 1000
    found = {}
    for name, queue in queues(region).items():
        messages = [message for message in queue._messages if message.id not in without]
        delayed = [round((m.delayed_until - now) / 1000, 3) for m in messages if m.delayed_until > now]
        in_flight = [round((m.visible_at - now) / 1000, 3) for m in messages if m.visible_at > now]
        visible = sum(m.visible_at <= now and m.delayed_until <= now for m in messages)
        found[name] = {"visible": visible, "delayed": sorted(delayed), "in_flight": sorted(in_flight)}
    return found


def purge(region: str) -> None:
    """Delete all messages of all queues."""
    from moto.sqs.models import sqs_backends

    backend = sqs_backends[ACCOUNT][region]
    for name, queue in queues(region).items():
        queue.last_purged_at = None  # PurgeQueue may be called once a minute; this is no call
        backend.purge_queue(name)


def hidden_s(region: str, queue: str, identity: str) -> float | None:
    """For how many seconds a message is hidden beyond what the queue hides each one that is received.

    None: it is gone.
    """
    kept = queues(region)[queue]
    message = next((message for message in kept._messages if message.id == identity), None)
    if message is None:
        return None
    left = (message.visible_at - time.time() * 1000) / 1000
    return round(left, 1) if left > kept.visibility_timeout else 0.0


def remove(region: str, queue: str, identity: str) -> None:
    """Delete a message, if it is there."""
    kept = queues(region)[queue]
    with kept._messages_lock:
        for message in [message for message in kept._messages if message.id == identity]:
            kept.pending_messages.discard(message)
            kept._messages.remove(message)
