"""What the emulator tells of its requests and of its pods: their number, and when each was accepted and ended."""

from __future__ import annotations

import time
from typing import Any

import pytest
from executor_conformance.harness.errors import HarnessError

from tests.kubernetes_emulator.support import Server, Watcher, pod, wait_for

kubernetes = pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")
ApiException = kubernetes.client.ApiException
WORKLOAD = "01a22695-d05d-744d-81db-bd6f68480f8e"


def carrying(name: str, script: str = "true") -> dict[str, Any]:
    return pod(name, container={"args": [script, "--json-string", f'{{"callback": {{"id": "{WORKLOAD}"}}}}']})


def test_a_delivery_has_a_beginning_and_an_end(server: Server, core: Any) -> None:
    assert server.control.deliveries(WORKLOAD) == []
    began = time.monotonic()
    core.create_namespaced_pod("default", carrying("first", "sleep 60"))
    core.create_namespaced_pod("default", pod("another"))
    (delivery,) = server.control.deliveries(WORKLOAD)
    assert delivery["id"] == "default/first"
    assert began < delivery["accepted"] < time.monotonic()
    server.phase("first", "Running")
    assert server.control.deliveries(WORKLOAD)[0]["ended"] is None
    core.delete_namespaced_pod("first", "default", grace_period_seconds=0)
    (gone,) = server.control.deliveries(WORKLOAD)
    assert delivery["accepted"] < gone["ended"] < time.monotonic()
    # One that has ended by itself ended then, not when it was deleted
    core.create_namespaced_pod("default", carrying("second"))
    server.phase("second", "Succeeded")
    ended = server.control.deliveries(WORKLOAD)[1]["ended"]
    assert ended < time.monotonic()
    server.control.delete("default", "second", 0)
    assert [(each["id"], each["ended"]) for each in server.control.deliveries(WORKLOAD)][1] == ("default/second", ended)


def test_what_was_refused_is_no_delivery(server: Server, core: Any) -> None:
    before = server.control.deliveries(WORKLOAD)
    server.control.add_fault(verb="create", resource="pods", times=1, action={"type": "status", "code": 500})
    with pytest.raises(ApiException):
        core.create_namespaced_pod("default", carrying("third"))
    assert server.control.deliveries(WORKLOAD) == before
    with pytest.raises(HarnessError, match="'workload' is the id of a callback or of a task instance"):
        server.control.deliveries("")


def test_requests_are_counted_also_those_that_are_refused(server: Server, core: Any) -> None:
    before = server.control.counts()
    core.create_namespaced_pod("default", pod("p"))
    server.control.add_fault(verb="delete", resource="pods", times=1, action={"type": "status", "code": 500})
    with pytest.raises(ApiException):
        core.delete_namespaced_pod("p", "default")
    core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
    watcher = Watcher(server)
    core.create_namespaced_pod("default", pod("q"))
    watcher.wait(lambda events: len(events) > 2, "events of the watch")
    core.list_namespaced_pod("default")
    kubernetes.client.VersionApi(core.api_client).get_code()

    def more() -> dict[str, int]:
        now = server.control.counts()
        return {name: number - before.get(name, 0) for name, number in now.items() if number != before.get(name)}

    wait_for(lambda: "watch pods" in more(), "the watch")
    assert more() == {"create pods": 2, "delete pods": 2, "watch pods": 1, "list pods": 1, "other": 1}
