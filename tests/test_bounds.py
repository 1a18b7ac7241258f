"""No bound of the harness is shorter than a timer that its environment is configured with."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness import bounds
from executor_conformance.harness.backend import Backend, Options, Site, Variant
from executor_conformance.harness.limits import KILL_S, LIMITS
from executor_conformance.harness.session import backends
from executor_conformance.harness.settings import base_environ
from executor_conformance.suites.test_run import LEAST_LEFT_S, LONG_S

from tests.test_aws_account import written

WAITED_FOR = re.compile(r"_(TIMEOUT|INTERVAL|THRESHOLD|WAIT|WAIT_MAX|FREQUENCY)$")
POLLED = re.compile(r"(RECONCILE|POLL)_INTERVAL$")
REPEATED = re.compile(r"__MAX_\w+_ATTEMPTS$")
RETRY_BASE = 4
"""The AWS executors wait 4 s, 16 s, 64 s … between their attempts (utils/exponential_backoff_retry.py)."""
EXISTING = {"kubeconfig": "k", "image": "registry.example/worker:3", "api_host": "192.0.2.1", "aws": "account.toml"}
ACCOUNT = Options(substrate="cluster", **EXISTING)  # type: ignore[arg-type]
SUBSTRATES: dict[str, list[Options]] = {
    "ecs": [ACCOUNT],
    "batch": [ACCOUNT],
    "celery": [Options(broker="redis://192.0.2.1/0"), Options(broker="amqp://192.0.2.1//")],
    "kubernetes": [Options(substrate="docker", **EXISTING), Options(substrate="cluster", **EXISTING)],  # type: ignore[arg-type]
    "lambda": [Options(control_plane="localstack"), ACCOUNT],
}


def environments() -> Iterator[Any]:
    for name, kind in sorted(backends().items()):
        for variant in kind.variants:
            for options in [Options(), *SUBSTRATES.get(name, [])]:
                what = options.broker or f"{options.substrate}-{options.control_plane}"
                yield pytest.param(kind, variant, options, id=f"{variant.label}-{what}")


@pytest.fixture
def backend(
    kind: type[Backend], variant: Variant, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Backend:
    """A backend whose control plane is not started: its settings are known without it."""
    if options.aws:
        options = dataclasses.replace(options, aws=written(tmp_path))
    supervisor: Any = SimpleNamespace(spawn=lambda *given, **named: SimpleNamespace(alive=True))
    site = Site(tmp_path, supervisor, options, variant)
    site.recorders["edge"] = SimpleNamespace(url="http://192.0.2.1")  # type: ignore[assignment]
    backend = kind(site)
    for name in ("broker", "substrate"):
        if part := getattr(backend, name, None):
            monkeypatch.setattr(type(part), "start", lambda part: None)
            owner = part if "resources" in vars(part) else type(part)
            monkeypatch.setattr(owner, "resources", collections.defaultdict(str), raising=False)
            monkeypatch.setattr(type(part), "connection", lambda part: {}, raising=False)
    return backend


def configured(backend: Backend, folder: Path) -> dict[str, float]:
    """Return the timers in a deployment's settings as an executor or a worker reads them, in seconds by name."""
    env = base_environ(folder, backend.executor, backend.callable_timeout_s, "key") | backend.config()
    found: dict[str, float] = {}
    for name, value in env.items():
        if WAITED_FOR.search(name):
            found[name] = float(value)
        elif REPEATED.search(name):
            found[name] = float(sum(RETRY_BASE**attempt for attempt in range(1, int(value))))
        elif name.endswith("KUBE_CLIENT_REQUEST_ARGS"):
            found[name] = float(sum(json.loads(value)["_request_timeout"]))
        elif name.endswith("EXTRA_CELERY_CONFIG"):
            found[name] = float(json.loads(value)["worker_lost_wait"])
    return found


@pytest.mark.parametrize(("kind", "variant", "options"), environments())
def test_no_bound_is_shorter_than_a_configured_timer(backend: Backend, variant: Variant, tmp_path: Path) -> None:
    timers = configured(backend, tmp_path)
    assert "AIRFLOW__CALLBACKS__CALLBACK_EXECUTION_TIMEOUT" in timers
    settle = bounds.settle_s(backend, variant)
    assert {name: value for name, value in timers.items() if value + LIMITS.beyond_a_timer > settle} == {}
    told = bounds.timers_of(backend)
    assert {name: value for name, value in timers.items() if value > max(told.values())} == {}
    assert {name: value for name, value in told.items() if value + LIMITS.beyond_a_timer > settle} == {}
    assert bounds.hold_s(backend) > backend.callable_timeout_s + KILL_S


@pytest.mark.parametrize(("kind", "variant", "options"), environments())
def test_something_may_come_of_a_poll_for_longer_than_two_of_them(backend: Backend, tmp_path: Path) -> None:
    polls = {name: value for name, value in configured(backend, tmp_path).items() if POLLED.search(name)}
    assert {name: value for name, value in polls.items() if 2 * value >= bounds.poll_s(backend, 0.0)} == {}


@pytest.mark.parametrize("name", sorted(backends()))
def test_a_long_callable_fits_into_its_timeout(name: str) -> None:
    start_s = 5.0  # of the worker beside it, on a busy machine
    assert LONG_S + LEAST_LEFT_S + start_s <= backends()[name].callable_timeout_s


class Slow(LocalBackend):
    callable_timeout_s = 600
    polls_s = 60.0

    def timers(self) -> dict[str, float]:
        return {"launch timeout": 900.0}


@pytest.mark.parametrize(("kind", "variant", "options"), [(Slow, Slow.variants[0], Options())])
def test_a_timer_of_a_backend_lengthens_the_bounds(backend: Backend, variant: Variant) -> None:
    assert bounds.settle_s(backend, variant) == 900.0 + LIMITS.beyond_a_timer
    assert bounds.hold_s(backend) == 600 + KILL_S + LIMITS.beyond_a_timer
    assert bounds.poll_s(backend, 5.0) == 144.0
    assert bounds.poll_s(backend, 500.0) == 500.0
