"""The environments of the AWS executors: their faults are ones that the emulator knows, and no timer is forgotten."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from executor_conformance.backends.aws.base import RETRY_BASE, AwsBackend
from executor_conformance.backends.aws.batch import BatchBackend
from executor_conformance.backends.aws.ecs import EcsBackend
from executor_conformance.backends.aws.emulated import EmulatedAws
from executor_conformance.backends.aws.emulator.client import EmulatorClient
from executor_conformance.backends.aws.emulator.faults import Faults
from executor_conformance.backends.aws.lambda_ import LambdaBackend
from executor_conformance.backends.aws.substrate import ENDED, WITHHELD
from executor_conformance.harness.backend import Delivery, Options, Site, Variant
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.processes import ProcessInfo

from tests.written import history

BACKENDS = [EcsBackend, BatchBackend, LambdaBackend]


class Client:
    """An emulator that says what a test tells it."""

    url = "http://127.0.0.1:1"
    resources: ClassVar[dict[str, Any]] = {"region": "us-east-1", "ecs": {"image": "worker"}}

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.called: list[dict[str, Any]] = []
        self.waiting: dict[str, dict[str, Any]] = {}
        self.idle: list[int] = []
        self.changed: list[str] = []
        self.done: list[tuple[Any, ...]] = []

    def runs(self) -> list[dict[str, Any]]:
        return self.said

    def calls(self, since: int) -> list[dict[str, Any]]:
        return [call for call in self.called if call["n"] > since]

    def messages(self) -> dict[str, dict[str, Any]]:
        return self.waiting

    def idle_runtimes(self) -> list[int]:
        return self.idle

    def add_fault(self, **rule: Any) -> None:
        self.done.append(("fault", rule))

    def clear_faults(self) -> None:
        self.done.append(("clear",))

    def stop(self, identity: str, reason: str = "") -> None:
        self.done.append(("stop", identity))

    def vanish(self, identity: str) -> None:
        self.done.append(("vanish", identity))

    def purge(self) -> None:
        self.done.append(("purge",))

    def deliveries(self, workload: str) -> list[dict[str, Any]]:
        again = {"id": "again", "accepted": 3.0, "ended": None}
        return [{"id": workload, "accepted": 1.0, "ended": 2.0}, again]

    def counts(self) -> dict[str, int]:
        return {"RunTask": 2}

    def plant_foreign(self, service: str) -> dict[str, list[str]]:
        return {"planted": ["two jobs"], "keys": ["k1", "k2"]}

    def foreign_touched(self) -> list[str]:
        return self.changed

    def remove_foreign(self) -> None:
        self.done.append(("removed",))

    def set_images(self, images: dict[str, Any]) -> None:
        self.done.append(("images", images))


def made(
    kind: type[AwsBackend], tmp_path: Path, variant: Variant | None = None, events: list[dict[str, Any]] | None = None
) -> tuple[AwsBackend, Client]:
    site = Site(tmp_path, None, Options(), variant or kind.variants[0])  # type: ignore[arg-type]
    site.events_of = lambda key: events or []
    backend, client = kind(site), Client()
    assert isinstance(backend.substrate, EmulatedAws)
    backend.substrate._client = client  # type: ignore[assignment]
    backend.substrate._emulator = SimpleNamespace(pid=10, alive=True)  # type: ignore[assignment]
    return backend, client


def a_run(identity: str, status: str, following: str = "") -> dict[str, Any]:
    return {"id": identity, "status": status, "next": following}


def process(pid: int, ppid: int) -> ProcessInfo:
    return ProcessInfo(pid, ppid, "", "S", 0, 0)


@pytest.mark.parametrize("kind", BACKENDS)
def test_each_way_is_one_that_the_emulator_knows(kind: type[AwsBackend]) -> None:
    assert kind.ways.keys() == kind.faults.keys()
    for ways in kind.ways.values():
        for way in ways.values():
            for rule in way.rules:
                Faults().add(rule)
            assert not way.act or callable(getattr(EmulatorClient, way.act))
            assert way.rules or way.act


@pytest.mark.parametrize("kind", BACKENDS)
def test_variants(kind: type[AwsBackend], tmp_path: Path) -> None:
    """The first has one attempt, the second the provider's default, and shows the cases of a resubmission."""
    first, second = kind.variants
    assert first.label == kind.name
    assert made(kind, tmp_path, first)[0].attempts == 1
    assert made(kind, tmp_path, second)[0].attempts == 3
    assert first.runs("test_callable_fails", smoke=False)
    assert second.runs("test_callable_raises", smoke=False)
    assert second.runs("test_control_group", smoke=True)
    assert not second.runs("test_callable_fails", smoke=False)
    # the waits between three attempts, and three containers
    assert second.settle_s > RETRY_BASE + RETRY_BASE**2 + 30


def test_run_of_a_callback(tmp_path: Path) -> None:
    """What the executor's events name; before there is one, the newest run that is not over."""
    backend, client = made(EcsBackend, tmp_path)
    client.said = [a_run("old", "STOPPED")]
    assert backend.run_of("c") is None
    assert not backend.accepted("c")
    backend._runs = (0.0, [])
    client.said = [a_run("old", "STOPPED"), a_run("new", "PENDING")]
    assert backend.run_of("c") == client.said[1]
    backend.site.events_of = lambda key: [{"state": "running", "info": "old"}]
    assert backend.run_of("c") == client.said[0]


def test_a_worker_has_succeeded_by_its_exit_code(tmp_path: Path) -> None:
    """Whatever became of the record at the control plane."""
    backend, client = made(EcsBackend, tmp_path, None, [{"state": "running", "info": "a"}])
    client.said = [a_run("a", "STOPPED") | {"exit_code": 1}, a_run("b", "STOPPED") | {"exit_code": 0}]
    assert not backend.succeeded("c")
    backend._runs = (0.0, [])
    client.said[0]["exit_code"] = 0
    assert backend.succeeded("c")


@pytest.mark.parametrize(("end", "verdict"), [("failed", "fail"), ("success", "pass")])
def test_a_success_that_only_the_data_plane_knows(end: str, verdict: str) -> None:
    written = history().callback("c1", "terminal").effect("c1", "enter", "effect", "return")
    written.note("worker succeeded", callback="c1").event("c1", end).row("c1", "running", end)
    assert written.decide("CRASH-9").verdict.value == verdict


def test_pending_is_what_a_run_will_still_do(tmp_path: Path) -> None:
    backend, client = made(BatchBackend, tmp_path)
    client.said = [a_run("a", "RUNNING", "stop timeout ends in 1.0 s"), a_run("b", "RUNNABLE")]
    assert backend.pending("c") == ["stop timeout ends in 1.0 s"]


def test_no_retry_with_one_attempt(tmp_path: Path) -> None:
    backend, client = made(EcsBackend, tmp_path, None, [{"state": "running", "info": "a"}])
    client.said = [a_run("a", "STOPPED")]
    client.called = [{"n": 1, "operation": "RunTask", "status": 400, "fault": "fault-1"}]
    assert backend.pending("c") == []


@pytest.mark.parametrize(
    ("status", "fault"), [(400, "fault-1"), (200, "fault-1"), (None, "fault-1"), (None, None), (500, None)]
)
def test_a_refused_submission_is_tried_again(tmp_path: Path, status: int | None, fault: str | None) -> None:
    backend, client = made(EcsBackend, tmp_path, EcsBackend.variants[1])
    client.called = [{"n": 1, "operation": "RunTask", "status": status, "fault": fault}]
    (why,) = backend.pending("c")
    assert why == "a retry may be due within 18 s"
    backend.site.events_of = lambda key: [{"state": "failed", "info": None}]
    assert backend.pending("c") == []


def test_an_ended_run_is_tried_again_until_the_longest_delay_is_over(tmp_path: Path) -> None:
    events = [{"state": "running", "info": "a"}]
    backend, client = made(BatchBackend, tmp_path, BatchBackend.variants[1], events)
    client.said = [a_run("a", "FAILED"), a_run("of another callback", "SUCCEEDED")]
    assert len(backend.pending("c")) == 1
    backend._ended["a"] = time.monotonic() - RETRY_BASE**2 - 3
    assert backend.pending("c") == []


def test_an_accepted_submission_is_no_reason_for_a_retry(tmp_path: Path) -> None:
    backend, client = made(EcsBackend, tmp_path, EcsBackend.variants[1])
    client.called = [{"n": 1, "operation": "RunTask", "status": 200, "fault": None}]
    client.called += [{"n": 2, "operation": "DescribeTasks", "status": 400, "fault": "fault-1"}]
    assert backend.pending("c") == []


def test_messages_that_will_appear_are_pending_until_the_executor_has_said_its_word(tmp_path: Path) -> None:
    backend, client = made(LambdaBackend, tmp_path)
    client.waiting = {"results": {"visible": 1, "delayed": [2.0], "in_flight": [29.5]}}
    assert len(backend.pending("c")) == 2
    backend.site.events_of = lambda key: [{"state": "success", "info": None}]
    assert backend.pending("c") == []


def test_units_are_below_the_guardian_and_no_idle_runtimes(tmp_path: Path) -> None:
    processes = {
        pid: process(pid, parent) for pid, parent in [(10, 1), (11, 10), (20, 11), (21, 20), (30, 11), (99, 1)]
    }
    assert made(EcsBackend, tmp_path)[0].units(processes) == [20, 21, 30]
    backend, client = made(LambdaBackend, tmp_path)
    client.idle = [30]
    assert backend.units(processes) == [20, 21]


@pytest.mark.parametrize("way", ["credentials-missing", "credentials-failing"])
def test_a_try_after_the_fault_is_declared_once_it_is_healed(way: str, tmp_path: Path) -> None:
    """A subject that keeps its workload has a while for the next try; one that has given it up is not waited for."""
    backend, _ = made(LambdaBackend, tmp_path)
    backend.inject("submit-refused", way, "")
    assert backend.pending("c") == []
    backend.heal()
    assert backend.pending("c") == ["a retry is due within 6 s"]
    backend.site.events_of = lambda key: [{"state": "failed", "info": None}]
    assert backend.pending("c") == []
    backend.site.events_of = lambda key: []
    backend.heal()
    assert backend.pending("c") == []


@pytest.mark.parametrize("kind", BACKENDS)
def test_ways_without_credentials(kind: type[AwsBackend], tmp_path: Path) -> None:
    """One for ever at the submission and one at the poll are of the core level; the others are further ones."""
    for point, prefix in (("submit-refused", ""), ("observation", "poll-")):
        ways = [f"{prefix}credentials-{kind}" for kind in ("missing", "missing-once", "failing", "failing-once")]
        assert set(ways) <= set(kind.faults[point])
        assert [way for way in ways if way not in kind.further[point]] == [f"{prefix}credentials-missing"]
    (rule,) = kind.ways["observation"]["poll-credentials-missing-once"].rules
    polled = {"ecs": "DescribeTasks", "batch": "DescribeJobs", "lambda": "ReceiveMessage"}[kind.name]
    assert (rule["credentials"], rule["times"]) == (polled, 1)
    assert rule["service"] == ("sqs" if kind is LambdaBackend else kind.name)


def test_the_session_factory_is_for_the_schedulers_of_the_harness(tmp_path: Path) -> None:
    """A user's scheduler, to which the control plane is shown alone, may not have the class."""
    backend, _ = made(EcsBackend, tmp_path)
    assert "credentials_url" not in backend.substrate.connection()["extra"]
    assert backend.substrate.environ() == {"AWS_EC2_METADATA_DISABLED": "true"}
    backend.site.api_url = "http://127.0.0.1:2"
    assert backend.substrate.connection()["extra"]["credentials_url"] == "http://127.0.0.1:1/_credentials"
    module, _, name = backend.substrate.environ()["AIRFLOW__AWS__SESSION_FACTORY"].rpartition(".")
    assert f"class {name}(" in Path(str(importlib.util.find_spec(module).origin)).read_text()  # type: ignore[union-attr]
    # No worker gets it: its container has no use for the credentials
    assert "AIRFLOW__AWS__SESSION_FACTORY".startswith(WITHHELD)


def test_what_is_reported_of_another_deployment_is_touched(tmp_path: Path) -> None:
    backend, client = made(BatchBackend, tmp_path)
    assert backend.foreign_touched() == []
    assert backend.plant_foreign() == ["two jobs"]
    assert backend.foreign_touched() == []
    client.changed = ["The job was terminated."]
    backend.site.events_of = lambda key: [{"state": "failed", "info": None}] if key == "k2" else []
    told = "The executor reported 'failed' for k2, which is another deployment's."
    assert backend.foreign_touched() == ["The job was terminated.", told]
    backend.remove_foreign()
    assert client.done[-1] == ("removed",)


def test_deliveries_and_calls_are_the_emulators(tmp_path: Path) -> None:
    backend, _ = made(EcsBackend, tmp_path)
    assert backend.deliveries("c") == [Delivery("c", 1.0, 2.0), Delivery("again", 3.0)]
    assert backend.calls() == {"RunTask": 2}


@pytest.mark.parametrize("kind", BACKENDS)
def test_timers_are_those_that_are_configured(kind: type[AwsBackend], tmp_path: Path) -> None:
    backend, _ = made(kind, tmp_path)
    configured = backend.substrate.connection()["extra"]["config_kwargs"]
    timers = backend.timers()
    assert timers["timeout of a request"] == configured["connect_timeout"] + configured["read_timeout"]
    assert "the executor's waits between its attempts" not in timers
    assert ("visibility timeout" in timers) == ("timeout of the function" in timers) == (kind is LambdaBackend)
    again, _ = made(kind, tmp_path, kind.variants[1])
    assert again.timers()["the executor's waits between its attempts"] == 4 + 16
    # What the variant itself gives a callback is no shorter than any of them
    assert max(again.timers().values()) <= kind.variants[1].settle_s


def test_injected_retry_is_declared_and_healed(tmp_path: Path) -> None:
    backend, client = made(EcsBackend, tmp_path)
    backend.inject("observation", "poll-expired-token", "")
    assert len(backend.pending("c")) == 1
    backend.heal()
    assert backend.pending("c") == []
    assert client.done[-1] == ("clear",)


def test_a_fault_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    backend, _ = made(EcsBackend, tmp_path)
    with pytest.raises(HarnessError, match="There is no run"):
        backend.inject("stopped", "by-a-user", "c")


@pytest.mark.parametrize(("kind", "end"), [(EcsBackend, "stop"), (BatchBackend, "stop"), (LambdaBackend, "vanish")])
def test_repair_leaves_no_run(kind: type[AwsBackend], end: str, tmp_path: Path) -> None:
    backend, client = made(kind, tmp_path)
    client.said = [a_run("over", status) for status in ENDED] + [a_run("left", "PENDING")]
    assert backend.repair(thorough=True)
    assert client.done[0] == (end, "left")
    assert (("purge",) in client.done) == (kind is LambdaBackend)
    assert not backend.repair(thorough=False)


def test_a_worker_gets_settings_and_no_secret(tmp_path: Path) -> None:
    backend, client = made(EcsBackend, tmp_path)
    backend.site.env = {
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:2/execution/",
        "AIRFLOW_CONN_AWS_DEFAULT": "{}",
        "AIRFLOW__API_AUTH__JWT_SECRET": "secret",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://",
        "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": "c",
    }
    backend.start()
    ((_, images),) = client.done
    env = images["worker"]["env"]
    assert "AIRFLOW__CORE__EXECUTION_API_SERVER_URL" in env
    assert [name for name in env if name.startswith(WITHHELD)] == []


def test_what_is_missing() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
        assert "No docker engine answers" in (EcsBackend.missing(Options(substrate="docker")) or "")
