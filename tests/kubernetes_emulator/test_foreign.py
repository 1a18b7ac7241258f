"""Pods of another deployment: clients see them as theirs, nothing runs in them, and each change is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from executor_conformance.harness.errors import HarnessError

from tests.kubernetes_emulator.support import Server, wait_for

kubernetes = pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")


@pytest.fixture
def planted(server: Server) -> Iterator[dict[str, list[str]]]:
    yield server.control.plant_foreign("default")
    server.control.remove_foreign()


def listed(core: Any, **selectors: str) -> list[Any]:
    return list(core.list_namespaced_pod("default", **selectors).items)


def test_pods_of_another_deployment(server: Server, core: Any, planted: dict[str, list[str]]) -> None:
    assert planted["planted"] == [
        "6 pods of another deployment's tasks in the same namespace: Failed, Pending, Running, Succeeded",
        "2 pods of another deployment's callbacks",
    ]
    tasks = listed(core, label_selector="kubernetes_executor=True,airflow-worker=4711")
    assert sorted(pod.status.phase for pod in tasks) == [
        "Failed",
        "Pending",
        "Running",
        "Running",
        "Succeeded",
        "Succeeded",
    ]
    one = tasks[0]
    assert {"dag_id", "task_id", "run_id", "try_number", "airflow_version"} < one.metadata.labels.keys()
    assert {"dag_id", "task_id", "run_id", "try_number", "task_instance_id"} == one.metadata.annotations.keys()
    identity = one.metadata.annotations["task_instance_id"]
    assert json.loads(one.spec.containers[0].args[-1])["ti"]["id"] == identity
    assert identity in planted["keys"]
    assert len(listed(core, label_selector="airflow-callback")) == 2
    # The harness's own look at the pods leaves them out: nothing runs there, and nothing is to be cleaned up
    assert server.control.pods() == server.control.manifests() == []
    assert server.control.deliveries(identity) == []
    assert server.control.foreign_touched() == []


def test_they_are_removed(server: Server, core: Any) -> None:
    server.control.plant_foreign("default")
    server.control.remove_foreign()
    assert listed(core) == []
    assert server.control.foreign_touched() == []


def test_a_deleted_pod_is_told(server: Server, core: Any, planted: dict[str, list[str]]) -> None:
    (over, *_) = listed(core, field_selector="status.phase=Succeeded")
    core.delete_namespaced_pod(over.metadata.name, "default")
    told = f"The pod {over.metadata.name} of another deployment (Succeeded) was deleted."
    assert server.control.foreign_touched() == [told]
    (running, *_) = listed(core, field_selector="status.phase=Running")
    core.delete_namespaced_pod(running.metadata.name, "default")
    told = f"The pod {running.metadata.name} of another deployment (Running) was deleted."
    wait_for(lambda: told in server.control.foreign_touched(), "the end of a pod that is deleted with grace")


def test_a_patched_pod_is_told(server: Server, core: Any, planted: dict[str, list[str]]) -> None:
    (pod, *_) = listed(core, field_selector="status.phase=Succeeded")
    body = {"metadata": {"labels": {"airflow-worker": "1"}, "annotations": {"mine": "yes"}}}
    core.patch_namespaced_pod(pod.metadata.name, "default", body)
    assert server.control.foreign_touched() == [
        f"The pod {pod.metadata.name} of another deployment (Succeeded) was changed: label airflow-worker is '1', no "
        "longer '4711'; annotation mine is 'yes', no longer None."
    ]


def test_the_namespace_must_be_there(server: Server) -> None:
    with pytest.raises(HarnessError, match="not found"):
        server.control.plant_foreign("nowhere")
