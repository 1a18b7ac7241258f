"""What the environments of the three AWS executors share: the substrate, what is seen of it, the faults."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from executor_conformance.backends.aws.account import ExistingAccount
from executor_conformance.backends.aws.account_services import ACCOUNTS
from executor_conformance.backends.aws.containers import ContainedAws, missing_engine
from executor_conformance.backends.aws.emulated import EmulatedAws
from executor_conformance.backends.aws.localstack.process import LocalStackProcess
from executor_conformance.backends.aws.substrate import ENDED, AwsSubstrate
from executor_conformance.backends.emulation import Timers, Way, reported_of
from executor_conformance.harness.backend import EMULATOR, Backend, Delivery, Options, Site, Variant, installed
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

DEFAULT_ATTEMPTS = 3
"""What the provider does unless it is configured (``max_run_task_attempts`` and so on)."""
RETRY_BASE = 4
"""``calculate_next_attempt_delay`` of the provider waits RETRY_BASE ** attempt seconds."""
SLACK_S = 2.0
RESUBMITTED = ("test_callable_raises", "test_killed_before_claim", "test_killed_after_claim")
RESUBMITTED_TOO = ("test_killed_after_effect", "test_stopped")
"""Cases that show what the provider's default number of attempts does; each takes up to 40 s."""


def variants_of(label: str, attempts_setting: str) -> tuple[Variant, ...]:
    """The two variants of an AWS executor; ``attempts_setting`` is the whole name of the environment variable."""
    return (
        Variant(label, note="one attempt for each workload", settings=((attempts_setting, "1"),)),
        Variant(
            f"{label}-default-attempts",
            smoke=True,
            also=RESUBMITTED,
            further=RESUBMITTED_TOO,
            note=f"{DEFAULT_ATTEMPTS} attempts for each workload, the provider's default",
            settings=((attempts_setting, str(DEFAULT_ATTEMPTS)),),
            settle_s=90.0,  # waits of 4 s and 16 s between three containers
        ),
    )


class AwsBackend(Backend):
    """ECS, Batch or Lambda: by default an emulated one, whose containers are host processes."""

    service: ClassVar[str]
    """'ecs', 'batch' or 'lambda', as the emulator names it."""
    title: ClassVar[str]
    """The service's name in the report."""
    runner: ClassVar[str] = "containers as host processes"
    """What carries out a workload on host processes, for the report."""
    submission: ClassVar[str]
    """The operation that hands over a workload."""
    ways: ClassVar[Mapping[str, Mapping[str, Way]]]
    needs: ClassVar[tuple[str, ...]] = ("moto",)
    """Distributions that the emulator needs beside the provider."""
    stands_alone: ClassVar = True
    crowd = 10
    victims: ClassVar = frozenset({"child", "supervisor", "unit"})

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        kind = self.substrate_of(site.options)
        emulated = ContainedAws if site.options.substrate == "docker" else EmulatedAws
        self.substrate: AwsSubstrate = kind(site, self.ways) if kind else emulated(site, self.service)
        self.on_this_host = self.substrate.on_this_host
        self.patience_s = self.substrate.patience_s
        self.victims = self.substrate.victims  # type: ignore[misc]
        if kind:
            self.faults = self.substrate.ways  # type: ignore[misc]
        if self.substrate.callable_timeout_s:
            self.callable_timeout_s = self.substrate.callable_timeout_s  # type: ignore[misc]
        self._runs: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._ended: dict[str, float] = {}
        self._remembered: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self._timers = Timers()
        self._refused_at = 0.0
        self._foreign_keys: list[str] = []

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The amazon provider, and what the emulator is made of or what a look at the account finds.

        :raises UsageError: the file that names the account lacks something, or names what is not there.
        """
        kind = cls.substrate_of(options)
        for distribution in ("apache-airflow-providers-amazon", *(cls.needs if kind is None else ())):
            if not installed(distribution):
                return (
                    f"the distribution {distribution} is not installed; "
                    f"install it with pip install 'airflow-executor-conformance[{cls.name}]'"
                )
        if kind:
            return kind.missing(options)
        if options.control_plane != EMULATOR:
            return f"LocalStack has no {cls.title} in its open version; only the backend lambda runs there"
        return missing_engine() if options.substrate == "docker" else None

    @classmethod
    def substrate_of(cls, options: Options) -> type[ExistingAccount] | type[LocalStackProcess] | None:
        """Where the user wants the workers; None: at the emulator."""
        if options.substrate == "cluster" and options.control_plane == EMULATOR:
            return ACCOUNTS[cls.service]
        return None

    @property
    def settle_s(self) -> float:  # type: ignore[override]
        """Of the substrate, which may come to know it late."""
        return self.substrate.settle_s

    @property
    def control_plane(self) -> str:
        """Of the substrate."""
        return self.substrate.control_plane(self.title)

    @property
    def data_plane(self) -> str:
        """Of the substrate."""
        return self.substrate.data_plane(self.runner)

    @property
    def resources(self) -> dict[str, Any]:
        """What the substrate has for this service: names and addresses."""
        return self.substrate.resources

    @property
    def attempts(self) -> int:
        """How often the executor tries a workload in the present variant."""
        values = [int(value) for name, value in self.site.variant.settings if name.endswith("_ATTEMPTS")]
        return values[0] if values else DEFAULT_ATTEMPTS

    # -- start ----------------------------------------------------------------------------------------------

    @abstractmethod
    def executor_settings(self) -> dict[str, str]:
        """The executor's own ``AIRFLOW__…`` settings, from :attr:`resources`."""

    def api_host(self) -> str | None:
        """Of the substrate."""
        return self.substrate.api_host()

    def config(self) -> dict[str, str]:
        """Start the substrate, for its addresses are part of the configuration."""
        self.substrate.start()
        return {
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps({"conn_type": "aws", **self.substrate.connection()}),
            **self.substrate.environ(),
            **self.executor_settings(),
            **dict(self.site.variant.settings),
        }

    def start(self) -> None:
        """Give workers the deployment's settings, but no secret."""
        self.substrate.prepare_workers()

    def wait_ready(self) -> None:
        """Of the substrate."""
        self.substrate.wait_ready()

    def stop(self) -> None:
        """Of the substrate."""
        self.substrate.stop()

    def stand_alone(self) -> list[str]:
        """The executor's setting, and where the API is for another client."""
        extra = self.substrate.connection()["extra"]
        return [
            f"export AIRFLOW__CORE__EXECUTOR={self.executor}",
            f"AWS_ACCESS_KEY_ID=conformance AWS_SECRET_ACCESS_KEY=conformance "
            f"AWS_DEFAULT_REGION={extra['region_name']} aws --endpoint-url {extra['endpoint_url']} …",
        ]

    # -- seeing ---------------------------------------------------------------------------------------------

    def nodes(self) -> list[ManagedProcess]:
        """Of the substrate."""
        return self.substrate.nodes()

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Of the substrate."""
        return self.substrate.units(processes)

    def roots(self) -> list[int]:
        """Of the substrate."""
        return self.substrate.roots()

    def runs(self) -> list[dict[str, Any]]:
        """Runs as the control plane knows them, almost as they are now."""
        seen, runs = self._runs
        if time.monotonic() - seen > self.substrate.seen_s:
            runs = self.substrate.runs()
            self._runs = (time.monotonic(), runs)
            for run in runs:
                if run["status"] in ENDED:
                    self._ended.setdefault(run["id"], time.monotonic())
        return runs

    def submissions(self) -> list[tuple[str, Any]] | None:
        """The requests that handed over workloads, where the substrate can tell them."""
        found = self.substrate.submissions()
        return None if found is None else [(self.submission, body) for body in found]

    def _told(self, callback: str) -> set[Any]:
        """The runs that the executor's events name; one that is new makes what was seen old."""
        events = self.site.events_of(callback)
        if self.substrate.know(event["info"] for event in events if event["state"] == "running" and event["info"]):
            self._runs = (0.0, [])
        return {event["info"] for event in events}

    def run_of(self, callback: str) -> dict[str, Any] | None:
        """The newest run of a callback, whose id its executor's events tell; else the newest that is not over."""
        told = self._told(callback) | {self._remembered.get(callback)}
        runs = self.runs()
        mine = [run for run in runs if run["id"] in told] or [run for run in runs if run["status"] not in ENDED]
        return mine[-1] if mine else None

    def deliveries(self, workload: str) -> list[Delivery] | None:
        """By the substrate."""
        return self.substrate.deliveries(workload)

    def calls(self) -> Mapping[str, int] | None:
        """By the substrate."""
        return self.substrate.calls()

    def plant_foreign(self) -> list[str]:
        """By the substrate."""
        planted, self._foreign_keys = self.substrate.plant_foreign()
        return planted

    def foreign_touched(self) -> list[str]:
        """By the substrate; and what the executor has reported of the other deployment's workloads."""
        return self.substrate.foreign_touched() + reported_of(self._foreign_keys, self.site)

    def remove_foreign(self) -> None:
        """By the substrate."""
        self.substrate.remove_foreign()

    def timers(self) -> Mapping[str, float]:
        """Of the substrate, and the executor's waits."""
        waits = sum(RETRY_BASE**attempt for attempt in range(1, self.attempts))
        own = {"the executor's waits between its attempts": float(waits)} if waits else {}
        return {**self.substrate.timers(), "the executor's wait for a new connection": float(RETRY_BASE), **own}

    def remember(self, callback: str) -> None:
        """Keep the id of its run, which the events of not every executor tell."""
        if run := self.run_of(callback):
            self._remembered[callback] = run["id"]

    def accepted(self, callback: str) -> bool:
        """It has a run."""
        return self.run_of(callback) is not None

    def succeeded(self, callback: str) -> bool:
        """A container of its ended with exit code 0, whatever the control plane says of it."""
        told = self._told(callback)
        return any(run["exit_code"] == 0 for run in self.runs() if run["id"] in told)

    def pending(self, callback: str) -> list[str]:
        """What the data plane will still do by itself, and the executor's own delays before its next attempt."""
        told = self._told(callback)
        found = [run["next"] for run in self.runs() if run["next"]]
        if any(event["state"] in ("success", "failed") for event in self.site.events_of(callback)):
            return found
        return found + self._timers.pending() + self._retries(callback, told) + self.messages()

    def _retries(self, callback: str, told: set[Any]) -> list[str]:
        """A retry that may be due: the executor's queue cannot be seen, its longest delay is known."""
        if self.attempts < 2:
            return []
        refused = self.substrate.refused(self.submission)
        if refused:
            self._refused_at = time.monotonic()
        last = max([self._refused_at, *(at for run, at in self._ended.items() if run in told)])
        longest = RETRY_BASE ** (self.attempts - 1) + SLACK_S
        if refused is None:  # any of its submissions may have been refused, and all delays come one after the other
            last = max(last, self._asked.setdefault(callback, time.monotonic()))
            longest = sum(RETRY_BASE**attempt for attempt in range(1, self.attempts)) + SLACK_S
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
        run = self.run_of(callback) if done.act else None
        if done.act and run is None:
            raise HarnessError(f"There is no run of the callback {callback} to be {way}.")
        self.substrate.inject(done, run)
        self._runs = (0.0, [])
        return done.text

    def execute_workers(self, always: bool) -> None:
        """By the substrate."""
        self.substrate.execute_workers(always)

    def renew_workers(self) -> bool | None:
        """By the substrate."""
        return self.substrate.renew_workers()

    def hits(self) -> int | None:
        """By the substrate."""
        return self.substrate.hits()

    def heal(self) -> None:
        """Take back every fault."""
        self.substrate.heal()
        self._timers.clear()

    def lost(self) -> str:
        """Of the substrate."""
        return self.substrate.lost()

    def repair(self, thorough: bool) -> bool:
        """End every run; a new scheduler forgets what it waits for."""
        self.substrate.clear()
        self._runs = (0.0, [])
        self._refused_at = 0.0
        return thorough
