"""The environment of KubernetesExecutor: what it tells of its control plane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.kubernetes.backend import SUBSTRATES, KubernetesBackend
from executor_conformance.backends.kubernetes.cluster import ExistingCluster
from executor_conformance.backends.kubernetes.kind import KindCluster
from executor_conformance.backends.kubernetes.substrate import EmulatedCluster
from executor_conformance.harness.backend import Delivery, Options, Site


class Client:
    """An emulator that says what a test tells it."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.removed = False

    def deliveries(self, workload: str) -> list[dict[str, Any]]:
        return [{"id": f"default/{workload}", "accepted": 1.0, "ended": None}]

    def counts(self) -> dict[str, int]:
        return {"delete pods": 2}

    def plant_foreign(self, namespace: str) -> dict[str, list[str]]:
        return {"planted": [f"two pods in {namespace}"], "keys": ["k1", "k2"]}

    def foreign_touched(self) -> list[str]:
        return self.changed

    def remove_foreign(self) -> None:
        self.removed = True


def made(tmp_path: Path, substrate: str = "process") -> KubernetesBackend:
    options = Options(substrate=substrate, kubeconfig="k", image="registry.example/worker:3")
    return KubernetesBackend(Site(tmp_path, None, options, KubernetesBackend.variants[0]))  # type: ignore[arg-type]


@pytest.fixture
def emulated(tmp_path: Path) -> tuple[KubernetesBackend, Client]:
    backend, client = made(tmp_path), Client()
    assert isinstance(backend.substrate, EmulatedCluster)
    backend.substrate._client = client  # type: ignore[assignment]
    return backend, client


def test_what_the_emulator_tells(emulated: tuple[KubernetesBackend, Client]) -> None:
    backend, _ = emulated
    assert backend.deliveries("c") == [Delivery("default/c", 1.0)]
    assert backend.calls() == {"delete pods": 2}


def test_what_is_reported_of_another_deployment_is_touched(emulated: tuple[KubernetesBackend, Client]) -> None:
    backend, client = emulated
    assert backend.plant_foreign() == ["two pods in default"]
    assert backend.foreign_touched() == []
    client.changed = ["The pod a was deleted."]
    backend.site.events_of = lambda key: [{"state": "success", "info": None}] if key == "k1" else []
    told = "The executor reported 'success' for k1, which is another deployment's."
    assert backend.foreign_touched() == ["The pod a was deleted.", told]
    backend.remove_foreign()
    assert client.removed


@pytest.mark.parametrize("substrate", ["docker", "cluster"])
def test_a_cluster_keeps_no_record(substrate: str, tmp_path: Path) -> None:
    backend = made(tmp_path, substrate)
    assert backend.deliveries("c") is None
    assert backend.calls() is None
    assert backend.plant_foreign() == backend.foreign_touched() == []
    backend.remove_foreign()


@pytest.mark.parametrize("substrate", sorted(SUBSTRATES))
def test_timers_are_those_that_are_configured(substrate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (EmulatedCluster, ExistingCluster, KindCluster):
        monkeypatch.setattr(kind, "start", lambda self: None)
    backend = made(tmp_path, substrate)
    section = "AIRFLOW__KUBERNETES_EXECUTOR__"
    config, timers = backend.config(), backend.timers()
    request = sum(json.loads(config[f"{section}KUBE_CLIENT_REQUEST_ARGS"])["_request_timeout"])
    assert timers["timeout of a request"] == request
    assert timers["all tries to create a pod"] == request * (1 + int(config[f"{section}TASK_PUBLISH_MAX_RETRIES"]))
    assert timers["launch timeout"] == int(config[f"{section}CALLBACK_LAUNCH_TIMEOUT"])
    assert timers["reconcile interval"] == int(config[f"{section}CALLBACK_RECONCILE_INTERVAL"])
    dead = int(config["AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD"])
    assert timers["adoption of the pods of a dead scheduler"] == dead + timers["reconcile interval"]
    # The executor compares pods and callbacks at the interval: it finds a pod that is late at the next comparison
    assert timers["end of a pod that does not start"] == timers["launch timeout"] + 2 * timers["reconcile interval"]
