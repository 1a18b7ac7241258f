"""The emulated account that the workers of an AWS executor run on by default."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from executor_conformance.backends.aws.substrate import CONNECT_S, ENDED, READ_S, WITHHELD, AwsSubstrate
from executor_conformance.backends.emulation import FORKED, Way, emulator_lost, image_env, in_containers, start_emulator
from executor_conformance.harness.backend import Delivery, Site
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

if TYPE_CHECKING:
    from executor_conformance.backends.aws.emulator.client import EmulatorClient

STOP_TIMEOUT_S = 2
FUNCTION_TIMEOUT_S, VISIBILITY_S = 60, 30
"""Of the emulated function, and of messages that were received from its queues."""
INVOCATION_RETRY_S, INVOCATION_RETRIES = 1.0, 2
"""Lambda tries a failed invocation again after so long, and after twice as long."""
SESSION_FACTORY = "executor_conformance.backends.aws.session_factory.CurrentSessionFactory"


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
        more: tuple[str, ...] = (
            "--services",
            self.service,
            "--stop-timeout",
            str(STOP_TIMEOUT_S),
            "--runner",
            self.runner,
        )
        more += ("--lambda-timeout", str(FUNCTION_TIMEOUT_S), "--lambda-retry-delay", str(INVOCATION_RETRY_S))
        more += ("--visibility-timeout", str(VISIBILITY_S))
        self._emulator = start_emulator(self.site, "AWS", module, self.folder, *more)
        from executor_conformance.backends.aws.emulator.client import EmulatorClient

        self._client = EmulatorClient.from_folder(self.folder)

    def connection(self) -> dict[str, Any]:
        """With the emulator's address, and where the session factory finds the credentials of each request."""
        timeouts = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"total_max_attempts": 1}}
        extra = {"region_name": self.region, "endpoint_url": self.client.url, "config_kwargs": timeouts}
        if self._has_factory:
            extra["credentials_url"] = f"{self.client.url}/_credentials"
        return {"login": "conformance", "password": "conformance", "extra": extra}

    @property
    def _has_factory(self) -> bool:
        """True for a scheduler of the harness. That of a user, with the control plane alone, may not have the class."""
        return bool(self.site.api_url)

    def environ(self) -> dict[str, str]:
        """No look for an instance's own credentials; the session factory."""
        found = {"AWS_EC2_METADATA_DISABLED": "true"}
        return found | ({"AIRFLOW__AWS__SESSION_FACTORY": SESSION_FACTORY} if self._has_factory else {})

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

    def deliveries(self, workload: str) -> list[Delivery]:
        """From the emulator's record of what it accepted."""
        return [Delivery(**delivery) for delivery in self.client.deliveries(workload)]

    def calls(self) -> Mapping[str, int]:
        """As the emulator counts; the requests of Lambda's handler are among them."""
        return self.client.counts()

    def plant_foreign(self) -> tuple[list[str], list[str]]:
        """By the emulator."""
        made = self.client.plant_foreign(self.service)
        return made["planted"], made["keys"]

    def foreign_touched(self) -> list[str]:
        """As the emulator compares."""
        return self.client.foreign_touched()

    def remove_foreign(self) -> None:
        """By the emulator."""
        self.client.remove_foreign()

    def timers(self) -> Mapping[str, float]:
        """Of the executor's client and of the emulator."""
        found: dict[str, float] = {"timeout of a request": CONNECT_S + READ_S, "stop timeout": STOP_TIMEOUT_S}
        if self.service == "lambda":
            waits = sum(INVOCATION_RETRY_S * attempt for attempt in range(1, INVOCATION_RETRIES + 1))
            found |= {"timeout of the function": FUNCTION_TIMEOUT_S, "visibility timeout": VISIBILITY_S}
            found["Lambda's waits before it tries an invocation again"] = waits
        return found

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
