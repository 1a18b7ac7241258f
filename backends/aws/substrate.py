"""What the workers of an AWS executor run on: the members that each substrate has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from executor_conformance.backends.emulation import Way
from executor_conformance.harness.backend import Delivery, Site
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

CONNECT_S, READ_S = 2, 5
"""Timeouts of the executor's client; botocore's own 60 s would be one step of the scheduler's loop."""
ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
WITHHELD = (
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__DATABASE__",
    "AIRFLOW__AWS_",
    "AIRFLOW_CONN_",
    "AWS_",
)
"""Settings that a worker's container has no use for."""


class AwsSubstrate(ABC):
    """An account, and what can be seen and done there for one service.

    ``resources`` (names and addresses for the executor's settings) holds once ``start`` has returned. A run is a dict
    with ``id``, ``status``, ``exit_code``, and ``next``: what will still happen to it by itself, or empty.
    """

    on_this_host: bool
    victims: frozenset[str]
    ways: Mapping[str, Sequence[str]]
    """The fault points and ways that are possible here."""
    seen_s: float
    """For how long what was seen is taken for the present."""
    settle_s: float = 0.0
    patience_s: float = 0.0
    callable_timeout_s: int = 0
    """As the backend's, if it must be longer here."""
    region: str
    resources: dict[str, Any]

    def __init__(self, site: Site, service: str) -> None:
        self.site = site
        self.service = service
        self.folder = site.folder / "aws"

    @abstractmethod
    def control_plane(self, title: str) -> str:
        """For the report; ``title`` is the service's name."""

    @abstractmethod
    def data_plane(self, own: str) -> str:
        """For the report; ``own`` is what runs on host processes."""

    @abstractmethod
    def start(self) -> None:
        """Make everything ready that the executor's settings name; safe to call twice."""

    @abstractmethod
    def connection(self) -> dict[str, Any]:
        """The Airflow connection ``aws_default``, without its type."""

    @abstractmethod
    def environ(self) -> dict[str, str]:
        """Further variables of the scheduler's processes."""

    @abstractmethod
    def prepare_workers(self) -> None:
        """Give workers the deployment's settings, but no secret; called once those are complete."""

    def renew_workers(self) -> bool | None:
        """As :meth:`Backend.renew_workers`."""
        return None

    def execute_workers(self, always: bool) -> None:  # noqa: B027
        """As :meth:`Backend.execute_workers`."""

    def wait_ready(self) -> None:  # noqa: B027
        """Return once a worker would do its work; called when the API server answers."""

    def api_host(self) -> str | None:
        """By what workers reach this host; asked before ``start``."""
        return self.site.options.api_host

    def nodes(self) -> list[ManagedProcess]:
        """Processes that it consists of."""
        return []

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Pids of all that runs in containers, as far as those are processes of this host."""
        return []

    def roots(self) -> list[int]:
        """As :meth:`Backend.roots`."""
        return []

    def idle(self) -> set[int]:
        """Pids of processes that only wait to be used again."""
        return set()

    def lost(self) -> str:
        """As :meth:`Backend.lost`."""
        return ""

    def stop(self) -> None:  # noqa: B027
        """Remove what was made."""

    @abstractmethod
    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first."""

    def submissions(self) -> list[Any] | None:
        """The bodies of the last requests that handed over a workload; None: they cannot be told."""
        return None

    def deliveries(self, workload: str) -> list[Delivery] | None:
        """As :meth:`Backend.deliveries`."""
        return None

    def calls(self) -> Mapping[str, int] | None:
        """As :meth:`Backend.calls`."""
        return None

    def plant_foreign(self) -> tuple[list[str], list[str]]:
        """As :meth:`Backend.plant_foreign`; and the keys of the other deployment's workloads."""
        return [], []

    def foreign_touched(self) -> list[str]:
        """As :meth:`Backend.foreign_touched`."""
        return []

    def remove_foreign(self) -> None:  # noqa: B027
        """As :meth:`Backend.remove_foreign`."""

    @abstractmethod
    def timers(self) -> Mapping[str, float]:
        """As :meth:`Backend.timers`, but for the executor's own attempts."""

    def know(self, told: Iterable[str]) -> bool:
        """Take note of runs that the executor's events name; whether one of them is new."""
        return False

    @abstractmethod
    def refused(self, submission: str) -> bool | None:
        """Whether a submission has been refused since this was asked last; None: it cannot be told."""

    @abstractmethod
    def messages(self) -> dict[str, dict[str, Any]]:
        """By queue: ``delayed`` and ``in_flight``, lists of seconds left."""

    @abstractmethod
    def inject(self, way: Way, run: dict[str, Any] | None) -> None:
        """Do what ``way`` says, to ``run`` if it is about one.

        :raises HarnessError: it was refused.
        """

    def hits(self) -> int | None:
        """To how many requests the faults in force were applied; None: it cannot be told, or none is in force."""
        return None

    @abstractmethod
    def heal(self) -> None:
        """Take back what ``inject`` left in force."""

    @abstractmethod
    def clear(self) -> None:
        """End what is not over, and empty the queues."""
