"""What the workers of an AWS executor run on: the members that each substrate has, and the emulated account."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from executor_conformance.backends.emulation import FORKED, Way, emulator_lost, image_env, in_containers, start_emulator
from executor_conformance.harness.backend import Site
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

if TYPE_CHECKING:
    from executor_conformance.backends.aws.emulator.client import EmulatorClient

CONNECT_S, READ_S = 2, 5
"""Timeouts of the executor's client; botocore's own 60 s would be one step of the scheduler's loop."""
STOP_TIMEOUT_S = 2
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


class EmulatedAws(AwsSubstrate):
    """An AWS of our own on a loopback port; its containers are host processes."""

    on_this_host = True
    victims = frozenset({"child", "supervisor", "unit"})
    seen_s = 0.1
    runner = "process"
    """The emulator's."""

    def __init__(self, site: Site, service: str) -> None:
        super().__init__(site, service)
        self._emulator: ManagedProcess | None = None
        self._client: EmulatorClient | None = None
        self._image: dict[str, Any] = {}
        self._last_call = 0

    def control_plane(self, title: str) -> str:
        """The emulator and the moto below it."""
        return f"emulated {title} (moto {importlib.metadata.version('moto')})"

    def data_plane(self, own: str) -> str:
        """The emulator's runner; Lambda's handler starts the worker command itself."""
        return own + (FORKED if self.site.options.worker_start == "fork" else "")

    @property
    def client(self) -> EmulatorClient:
        """The emulator's own control."""
        assert self._client is not None
        return self._client

    @property
    def resources(self) -> dict[str, Any]:  # type: ignore[override]
        """What the emulator made for this service: names and addresses."""
        found: dict[str, Any] = self.client.resources[self.service]
        return found

    @property
    def region(self) -> str:  # type: ignore[override]
        """The emulator's."""
        return str(self.client.resources["region"])

    def start(self) -> None:
        """Start the emulator, and wait until it is ready."""
        if self._emulator is not None:
            return
        module = "executor_conformance.backends.aws.emulator"
        more = ("--services", self.service, "--stop-timeout", str(STOP_TIMEOUT_S), "--runner", self.runner)
        self._emulator = start_emulator(self.site, "AWS", module, self.folder, *more)
        from executor_conformance.backends.aws.emulator.client import EmulatorClient

        self._client = EmulatorClient.from_folder(self.folder)

    def connection(self) -> dict[str, Any]:
        """With the emulator's address."""
        timeouts = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"total_max_attempts": 1}}
        extra = {"region_name": self.region, "endpoint_url": self.client.url, "config_kwargs": timeouts}
        return {"login": "conformance", "password": "conformance", "extra": extra}

    def environ(self) -> dict[str, str]:
        """No look for an instance's own credentials."""
        return {"AWS_EC2_METADATA_DISABLED": "true"}

    def prepare_workers(self) -> None:
        """Give the worker's image its interpreter, its paths and the deployment's settings."""
        settings = {name: value for name, value in self.site.env.items() if not name.startswith(WITHHELD)}
        self._image = self.image({**settings, **image_env()})
        self.execute_workers(False)

    def renew_workers(self) -> bool:
        """By the workers' image."""
        self.prepare_workers()
        return False

    def execute_workers(self, always: bool) -> None:
        """By the workers' image."""
        warm = not always and self.site.options.worker_start == "fork"
        self.client.set_images({self.resources["image"]: {**self._image, "warm": warm}})

    def image(self, env: dict[str, str]) -> dict[str, Any]:
        """The workers' image with this environment, as the emulator's images file has it."""
        return {"env": env}

    def nodes(self) -> list[ManagedProcess]:
        """The emulator."""
        return [self._emulator] if self._emulator and self._emulator.alive else []

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """All that runs below the guardian of the emulator's containers."""
        assert self._emulator is not None
        return in_containers(processes, self._emulator.pid)

    def idle(self) -> set[int]:
        """Lambda runtimes without an invocation."""
        return set(self.client.idle_runtimes())

    def lost(self) -> str:
        """The emulator, if it has ended."""
        return emulator_lost(self._emulator)

    def runs(self) -> list[dict[str, Any]]:
        """As the emulator knows them."""
        return self.client.runs()

    def submissions(self) -> list[Any]:
        """As the emulator took them."""
        return self.client.submissions()

    def refused(self, submission: str) -> bool:
        """By the emulator's log of calls."""
        found = False
        for call in self.client.calls(self._last_call):
            self._last_call = max(self._last_call, call["n"]) if call["status"] else self._last_call
            found |= call["operation"] == submission and bool(call["fault"] or (call["status"] or 500) >= 400)
        return found

    def messages(self) -> dict[str, dict[str, Any]]:
        """As the emulator knows them."""
        return self.client.messages()

    def inject(self, way: Way, run: dict[str, Any] | None) -> None:
        """By the rules of the emulator, and by what its client can do to a run."""
        for rule in way.rules:
            self.client.add_fault(**rule)
        if way.act and run:
            act: Callable[..., Any] = getattr(self.client, way.act)
            act(run["id"], **way.arguments)

    def hits(self) -> int | None:
        """As the emulator counts."""
        rules = self.client.faults()
        return sum(rule["hits"] for rule in rules) if rules else None

    def heal(self) -> None:
        """Remove every rule."""
        self.client.clear_faults()

    def clear(self) -> None:
        """Stop every run; an invocation cannot be stopped, only forgotten, and its processes have been killed."""
        for run in self.client.runs():
            if run["status"] not in ENDED:
                if self.service == "lambda":
                    self.client.vanish(run["id"])
                else:
                    self.client.stop(run["id"], "left behind")
        if self.service == "lambda":
            # the executor puts back for ever what it does not know
            self.client.purge()
