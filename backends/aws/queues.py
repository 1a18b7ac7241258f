"""What SQS tells of messages that nobody can see at present."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def hidden_messages(sqs: Any, resources: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By queue: ``delayed`` and ``in_flight``, with the longest time for each message, since SQS tells none."""
    names = {"delayed": "ApproximateNumberOfMessagesDelayed", "in_flight": "ApproximateNumberOfMessagesNotVisible"}
    found = {}
    for kind in ("queue_url", "dead_letter_queue_url"):
        url = resources[kind]
        told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names.values()))["Attributes"]
        numbers = {name: int(told.get(attribute, 0)) for name, attribute in names.items()}
        found[url.rpartition("/")[2]] = {name: [30.0] * number for name, number in numbers.items()}
    return found
