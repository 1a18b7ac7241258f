"""What the environments of the three AWS executors share: the emulator, the worker image, the faults."""

from __future__ import annotations

import importlib.metadata
import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from executor_conformance.backends.aws import containers
from executor_conformance.backends.emulation import (
    CALLABLE_TIMEOUT_S,
    Timers,
    Way,
    below,
    emulator_lost,
    image_env,
    start_emulator,
)
from executor_conformance.harness.backend import Backend, Options, Site, Variant, installed
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

if TYPE_CHECKING:
    from executor_conformance.backends.aws.emulator.client import EmulatorClient

CONNECT_S, READ_S = 2, 5
"""Timeouts of the executor's client; botocore's own 60 s would be one step of the scheduler's loop."""
STOP_TIMEOUT_S = 2
DEFAULT_ATTEMPTS = 3
"""What the provider does unless it is configured (``max_run_task_attempts`` and so on)."""
RETRY_BASE = 4
"""``calculate_next_attempt_delay`` of the provider waits RETRY_BASE ** attempt seconds."""
SLACK_S = 2.0
SEEN_S = 0.1
"""For how long what the emulator said is taken for the present."""
ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
WITHHELD = (
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__DATABASE__",
    "AIRFLOW__AWS_",
    "AIRFLOW_CONN_",
)
"""Settings that a worker's container has no use for."""
RESUBMITTED = (
    "test_callable_raises",
    "test_killed_before_claim",
    "test_killed_after_claim",
    "test_killed_after_effect",
    "test_stopped",
)
"""Cases that show what the provider's default number of attempts does; each takes up to 40 s."""


def variants_of(label: str, attempts_setting: str) -> tuple[Variant, ...]:
    """The two variants of an AWS executor; ``attempts_setting`` is the whole name of the environment variable."""
    return (
        Variant(label, note="one attempt for each workload", settings=((attempts_setting, "1"),)),
        Variant(
            f"{label}-default-attempts",
            smoke=True,
            also=RESUBMITTED,
            note=f"{DEFAULT_ATTEMPTS} attempts for each workload, the provider's default",
            settings=((attempts_setting, str(DEFAULT_ATTEMPTS)),),
            settle_s=90.0,  # waits of 4 s and 16 s between three containers
        ),
    )


class AwsBackend(Backend):
    """An AWS of our own on a loopback port; its containers are host processes, or an engine's on this host."""

    service: ClassVar[str]
    """'ecs', 'batch' or 'lambda', as the emulator names it."""
    title: ClassVar[str]
    """The service's name in the report."""
    submission: ClassVar[str]
    """The operation that hands over a workload."""
    ways: ClassVar[Mapping[str, Mapping[str, Way]]]
    needs: ClassVar[tuple[str, ...]] = ("apache-airflow-providers-amazon", "moto")
    """Distributions without which the environment cannot run."""
    stands_alone: ClassVar = True
    crowd: ClassVar = 10
    victims: ClassVar = frozenset({"child", "supervisor", "unit"})
    callable_timeout_s: ClassVar[int] = CALLABLE_TIMEOUT_S

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._emulator: ManagedProcess | None = None
        self._client: EmulatorClient | None = None
        self._folder = self.site.folder / "aws"
        self._runs: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._ended: dict[str, float] = {}
        self._remembered: dict[str, str] = {}
        self._timers = Timers()
        self._last_call = 0
        self._refused_at = 0.0
        self._parents = containers.Parents()

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The amazon provider and what the emulator is made of."""
        for distribution in cls.needs:
            if not installed(distribution):
                return (
                    f"the distribution {distribution} is not installed; "
                    f"install it with pip install 'airflow-executor-conformance[{cls.name}]'"
                )
        if options.substrate == "docker":
            return containers.missing()
        if options.substrate != "process":
            return f"this backend runs on host processes and on docker, not on the substrate '{options.substrate}'"
        return None

    @property
    def control_plane(self) -> str:
        """The emulator and the moto below it."""
        return f"emulated {self.title} (moto {importlib.metadata.version('moto')})"

    @property
    def data_plane(self) -> str:
        """The emulator's runner."""
        return containers.description() if self.in_containers else "containers as host processes"

    @property
    def in_containers(self) -> bool:
        """Whether workers run in containers of an engine."""
        return self.site.options.substrate == "docker"

    @property
    def client(self) -> EmulatorClient:
        """The emulator's own control."""
        assert self._client is not None
        return self._client

    @property
    def resources(self) -> dict[str, Any]:
        """What the emulator made for this service: names and addresses."""
        found: dict[str, Any] = self.client.resources[self.service]
        return found

    @property
    def attempts(self) -> int:
        """How often the executor tries a workload in the present variant."""
        values = [int(value) for name, value in self.site.variant.settings if name.endswith("_ATTEMPTS")]
        return values[0] if values else DEFAULT_ATTEMPTS

    # -- start ----------------------------------------------------------------------------------------------

    @abstractmethod
    def executor_settings(self) -> dict[str, str]:
        """The executor's own ``AIRFLOW__…`` settings, from :attr:`resources`."""

    def config(self) -> dict[str, str]:
        """Start the emulator, for its address is part of the configuration."""
        if self._emulator is None:
            self._start_emulator()
        extra = {
            "region_name": self.client.resources["region"],
            "endpoint_url": self.client.url,
            "config_kwargs": {
                "connect_timeout": CONNECT_S,
                "read_timeout": READ_S,
                "retries": {"total_max_attempts": 1},
            },
        }
        connection = {"conn_type": "aws", "login": "conformance", "password": "conformance", "extra": extra}
        return {
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
            "AWS_EC2_METADATA_DISABLED": "true",
            **self.executor_settings(),
            **dict(self.site.variant.settings),
        }

    def _start_emulator(self) -> None:
        module = "executor_conformance.backends.aws.emulator"
        more: tuple[str, ...] = ("--services", self.service, "--stop-timeout", str(STOP_TIMEOUT_S))
        if self.in_containers:
            more += ("--runner", "docker")
        self._emulator = start_emulator(self.site, "AWS", module, self._folder, *more)
        from executor_conformance.backends.aws.emulator.client import EmulatorClient

        self._client = EmulatorClient.from_folder(self._folder)

    def start(self) -> None:
        """Give the worker's image its interpreter, its paths and the deployment's settings, but no secret."""
        settings = {name: value for name, value in self.site.env.items() if not name.startswith(WITHHELD)}
        image: dict[str, Any] = {"env": {**settings, **image_env()}}
        if self.in_containers:
            image |= containers.image(self.site)
            image["env"]["TMPDIR"] = "/tmp"
        self.client.set_images({self.resources["image"]: image})

    def stand_alone(self) -> list[str]:
        """The executor's setting, and where the API is for another client."""
        return [
            f"export AIRFLOW__CORE__EXECUTOR={self.executor}",
            f"AWS_ACCESS_KEY_ID=conformance AWS_SECRET_ACCESS_KEY=conformance "
            f"AWS_DEFAULT_REGION={self.client.resources['region']} aws --endpoint-url {self.client.url} …",
        ]

    # -- seeing ---------------------------------------------------------------------------------------------

    def nodes(self) -> list[ManagedProcess]:
        """The emulator."""
        return [self._emulator] if self._emulator and self._emulator.alive else []

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """All that runs below the guardian of the emulator's containers."""
        assert self._emulator is not None
        if self.in_containers:
            return below(processes, self.roots())
        guardians = {pid for pid, process in processes.items() if process.ppid == self._emulator.pid}
        return below(processes, guardians)

    def roots(self) -> list[int]:
        """The engine's processes that are the parents of containers."""
        if not self.in_containers or self._client is None or self.lost():
            return []
        return self._parents.of(run["pid"] for run in self.runs() if run["pid"])

    def runs(self) -> list[dict[str, Any]]:
        """Runs as the emulator knows them, at most a tenth of a second old."""
        seen, runs = self._runs
        if time.monotonic() - seen > SEEN_S:
            runs = self.client.runs()
            self._runs = (time.monotonic(), runs)
            for run in runs:
                if run["status"] in ENDED:
                    self._ended.setdefault(run["id"], time.monotonic())
        return runs

    def run_of(self, callback: str) -> dict[str, Any] | None:
        """The newest run of a callback, whose id its executor's events tell; else the newest that is not over."""
        told = {event["info"] for event in self.site.events_of(callback)} | {self._remembered.get(callback)}
        runs = self.runs()
        mine = [run for run in runs if run["id"] in told] or [run for run in runs if run["status"] not in ENDED]
        return mine[-1] if mine else None

    def remember(self, callback: str) -> None:
        """Keep the id of its run, which the events of not every executor tell."""
        if run := self.run_of(callback):
            self._remembered[callback] = run["id"]

    def accepted(self, callback: str) -> bool:
        """It has a run."""
        return self.run_of(callback) is not None

    def succeeded(self, callback: str) -> bool:
        """A container of its ended with exit code 0, whatever the control plane says of it."""
        told = {event["info"] for event in self.site.events_of(callback)}
        return any(run["exit_code"] == 0 for run in self.runs() if run["id"] in told)

    def pending(self, callback: str) -> list[str]:
        """What the data plane will still do by itself, and the executor's own delays before its next attempt."""
        found = [run["next"] for run in self.runs() if run["next"]] + self._timers.pending()
        if any(event["state"] in ("success", "failed") for event in self.site.events_of(callback)):
            return found
        return found + self._retries(callback) + self.messages()

    def _retries(self, callback: str) -> list[str]:
        """A retry that may be due: the executor's queue cannot be seen, its longest delay is known."""
        if self.attempts < 2:
            return []
        for call in self.client.calls(self._last_call):
            self._last_call = max(self._last_call, call["n"]) if call["status"] else self._last_call
            if call["operation"] == self.submission and (call["fault"] or (call["status"] or 500) >= 400):
                self._refused_at = time.monotonic()
        told = {event["info"] for event in self.site.events_of(callback)}
        last = max([self._refused_at, *(at for run, at in self._ended.items() if run in told)])
        longest = RETRY_BASE ** (self.attempts - 1) + SLACK_S
        if last and time.monotonic() - last < longest:
            return [f"a retry may be due within {last + longest - time.monotonic():.0f} s"]
        return []

    def messages(self) -> list[str]:
        """Messages that the executor has not taken yet, where it is told by messages."""
        return []

    # -- faults ---------------------------------------------------------------------------------------------

    def inject(self, point: str, way: str, callback: str) -> str:
        """See the ways of the class."""
        done = self.ways[point][way]
        self._runs = (0.0, [])
        self._timers.note(done)
        for rule in done.rules:
            self.client.add_fault(**rule)
        if done.act:
            if (run := self.run_of(callback)) is None:
                raise HarnessError(f"There is no run of the callback {callback} to be {way}.")
            act: Callable[..., Any] = getattr(self.client, done.act)
            act(run["id"], **done.arguments)
            self._runs = (0.0, [])
        return done.text

    def heal(self) -> None:
        """Remove every rule."""
        self.client.clear_faults()
        self._timers.clear()

    def lost(self) -> str:
        """The emulator, if it has ended."""
        return emulator_lost(self._emulator)

    def repair(self, thorough: bool) -> bool:
        """Stop every run; a new scheduler forgets what it waits for."""
        for run in self.client.runs():
            if run["status"] not in ENDED:
                self.end_run(run["id"])
        self._runs = (0.0, [])
        self._refused_at = 0.0
        return thorough

    def stop(self) -> None:
        """Let the emulator remove its containers; a killed one leaves that to its reaper."""
        if self.in_containers and self._emulator is not None and self._emulator.alive:
            self._emulator.terminate(grace=containers.END_S)

    def end_run(self, identity: str) -> None:
        """End a run that a case has left behind."""
        self.client.stop(identity, "left behind")
