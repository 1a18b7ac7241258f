"""The interface of a broker of the Celery environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from typing import Any

from executor_conformance.backends.celery.messages import Publications
from executor_conformance.harness.errors import HarnessError

VISIBILITY_TIMEOUT_S = 32
"""Seconds after which a Redis delivers an unacknowledged message again.

Clearly above a callable's timeout and the five seconds until its supervisor kills it, on a loaded machine.
"""


class Broker(ABC):
    """A carrier of messages between executor and worker."""

    label: str
    url: str
    """Address for workers."""
    redelivers: bool = True
    """True if another worker gets a lost worker's messages."""
    visibility_timeout_s: float = 0.0
    """Seconds until the broker delivers a message again that nobody acknowledges; 0: it has no such timer."""
    repeats: bool = False
    """True if the harness can publish a message once more."""
    ways: Mapping[str, tuple[str, ...]] = {}
    """Fault points at which it can fail towards the publisher, each with its ways."""
    unreachable: Mapping[str, str] = {}
    """The reason why it cannot fail in other ways, in one sentence: point to reason."""
    published: Publications | None = None
    """The messages that it has accepted; None: nothing tells that."""
    dropped: Set[str] = frozenset()
    """Ids of the Celery tasks whose message a fault has kept from the broker, at least once."""

    @property
    def publisher_url(self) -> str:
        """Address for the scheduler side."""
        return self.url

    def calls(self) -> Mapping[str, int] | None:
        """Return how many requests of each operation the scheduler side has made; None: nothing counts them."""
        return None

    def inject(self, way: str) -> str:
        """Fail towards the publisher until :meth:`heal`; return one sentence on what was done.

        :raises HarnessError: the broker cannot.
        """
        raise HarnessError(f"The broker {self.label} cannot fail by way of '{way}'.")

    def hits(self) -> int | None:
        """Return how many requests met the fault in force; None: there is none, or nothing counts them."""
        return None

    def heal(self) -> None:  # noqa: B027
        """Take back the fault in force."""

    def client_options(self) -> dict[str, Any]:
        """Return the transport options for a client of the harness itself."""
        return {}

    def keep(self, task_id: str) -> None:  # noqa: B027
        """Keep a copy of the message of this Celery task, which a worker is working on and has not acknowledged."""

    def queue_of(self, task_id: str) -> str | None:
        """The queue that the message of this Celery task went to; None if the broker does not tell."""
        return None

    def repeat(self, task_id: str) -> str:
        """Publish the message of this Celery task once more; returns one sentence on what was done.

        :raises HarnessError: there is no copy of it.
        """
        raise HarnessError(f"The broker {self.label} cannot publish a message again.")

    @abstractmethod
    def start(self) -> None:
        """Make it ready to be connected to."""

    def options(self) -> dict[str, str]:
        """``[celery_broker_transport_options]``."""
        return {}

    def lost(self) -> str:
        """Return a sentence if the broker was started here and has ended; empty otherwise."""
        return ""

    def stop(self) -> None:  # noqa: B027
        """Release what is not a process of the supervisor."""
