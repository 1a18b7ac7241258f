from __future__ import annotations

from typing import Any

import pytest

from tests.kubernetes_emulator.support import SECONDS, Server, Watcher, pod

kubernetes = pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")

# As recorded at a real cluster; of a pod's end there are one to three reports, here two
SUCCEEDS = ["ADDED Pending", "MODIFIED Pending", "MODIFIED Pending", "MODIFIED Running", *["MODIFIED Succeeded"] * 2]


def version(core: Any) -> str:
    return core.list_namespaced_pod("default").metadata.resource_version


def ends(watcher: Watcher) -> None:
    assert watcher.ended.wait(SECONDS)


def test_the_life_of_a_pod(server: Server, core: Any) -> None:
    watcher = Watcher(server, resource_version=version(core))
    core.create_namespaced_pod("default", pod("p"))
    watcher.wait(lambda events: len(events) >= len(SUCCEEDS), "the whole life")
    assert watcher.kinds("p") == SUCCEEDS
    objects = [event["object"] for event in watcher.events]
    versions = [int(obj["metadata"]["resourceVersion"]) for obj in objects]
    assert versions == sorted(set(versions))
    assert [obj["spec"].get("nodeName") for obj in objects[:2]] == [None, "conformance-node"]
    assert objects[2]["status"]["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert objects[3]["status"]["podIP"]
    ready = [
        {condition["type"]: condition["status"] for condition in obj["status"].get("conditions", [])}.get("Ready")
        for obj in objects
    ]
    assert ready == [None, None, "False", "True", "False", "False"]
    assert {obj["kind"] for obj in objects} == {"Pod"}


def test_version_0_and_none_show_what_is_there_first(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Succeeded")
    for options in ({}, {"resource_version": "0"}):
        watcher = Watcher(server, timeout_seconds=1, **options)
        ends(watcher)
        assert watcher.kinds() == ["ADDED Succeeded"]
        assert watcher.error is None


def test_from_a_version_on(server: Server, core: Any) -> None:
    start = version(core)
    core.create_namespaced_pod("default", pod("p"))
    watcher = Watcher(server, resource_version=start)
    watcher.wait(lambda events: len(events) >= len(SUCCEEDS), "what was missed")
    assert watcher.kinds() == SUCCEEDS
    middle = watcher.events[2]["object"]["metadata"]["resourceVersion"]
    again = Watcher(server, resource_version=middle, timeout_seconds=1)
    ends(again)
    assert again.kinds() == SUCCEEDS[3:]


def test_a_compacted_version(server: Server, core: Any) -> None:
    old = version(core)
    new = server.control.compact()
    watcher = Watcher(server, resource_version=old)
    ends(watcher)
    (event,) = watcher.events
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["message"].startswith("too old resource version")
    assert version(core) == new
    watcher = Watcher(server, resource_version=new, timeout_seconds=1)
    ends(watcher)
    assert watcher.events == []


def test_the_official_watch_raises_for_a_compacted_version(server: Server, core: Any) -> None:
    old = version(core)
    server.control.compact()
    with pytest.raises(kubernetes.client.ApiException) as error:
        list(
            kubernetes.watch.Watch().stream(
                core.list_namespaced_pod, "default", resource_version=old, timeout_seconds=5
            )
        )
    assert error.value.status == 410


def test_leaving_and_entering_a_selection(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", metadata={"labels": {"w": "1"}}))
    server.phase("p", "Succeeded")
    selected = Watcher(server, resource_version="0", label_selector="w=1,done!=True")
    selected.wait(lambda events: events, "the first event")
    core.patch_namespaced_pod("p", "default", {"metadata": {"labels": {"done": "True"}}})
    selected.wait(lambda events: len(events) == 2, "leaving")
    gone = selected.events[1]
    assert (gone["type"], gone["object"]["metadata"]["labels"]) == ("DELETED", {"w": "1"})
    assert "deletionTimestamp" not in gone["object"]["metadata"]
    assert gone["object"]["metadata"]["resourceVersion"] == version(core)
    core.patch_namespaced_pod("p", "default", {"metadata": {"labels": {"done": None}}})
    selected.wait(lambda events: len(events) == 3, "entering")
    assert selected.events[2]["type"] == "ADDED"


def test_by_field(server: Server, core: Any) -> None:
    watcher = Watcher(server, resource_version=version(core), field_selector="status.phase=Running")
    core.create_namespaced_pod("default", pod("p"))
    watcher.wait(lambda events: len(events) == 2, "running, and not any more")
    assert watcher.kinds() == ["ADDED Running", "DELETED Running"]


def test_bookmarks_at_the_end(server: Server, core: Any) -> None:
    watcher = Watcher(server, resource_version="0", allow_watch_bookmarks=True, timeout_seconds=1)
    ends(watcher)
    (event,) = watcher.events
    assert event["type"] == "BOOKMARK"
    assert event["object"]["metadata"]["resourceVersion"] == version(core)


def test_initial_events(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Succeeded")
    options = {"allow_watch_bookmarks": True, "resource_version_match": "NotOlderThan", "timeout_seconds": 5}
    watcher = Watcher(server, send_initial_events=True, **options)
    watcher.wait(lambda events: len(events) >= 2, "the initial events")
    assert [event["type"] for event in watcher.events[:2]] == ["ADDED", "BOOKMARK"]
    assert watcher.events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_all_namespaces_and_other_resources(server: Server, core: Any) -> None:
    stream = kubernetes.watch.Watch().stream(core.list_namespace, timeout_seconds=10)
    seen = {next(stream)["object"].metadata.name for _ in range(2)}
    assert seen == {"default", "kube-system"}
    core.create_namespaced_pod("default", pod("p"))
    event = next(kubernetes.watch.Watch().stream(core.list_pod_for_all_namespaces, timeout_seconds=10))
    assert event["object"].metadata.name == "p"


def test_graceful_deletion(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "trap 'exit 7' TERM; while :; do sleep 0.05; done"))
    server.phase("p", "Running")
    watcher = Watcher(server, resource_version=version(core))
    answer = core.delete_namespaced_pod("p", "default", body={})
    assert (answer.metadata.deletion_grace_period_seconds, answer.status.phase) == (30, "Running")
    watcher.wait(lambda events: any(event["type"] == "DELETED" for event in events), "the deletion")
    assert watcher.kinds()[0] == "MODIFIED Running"
    assert watcher.kinds()[-1] == "DELETED Failed"
    assert "MODIFIED Failed" in watcher.kinds()
    assert all(event["object"]["metadata"]["deletionTimestamp"] for event in watcher.events)
    last = watcher.events[-1]["object"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (7, "Error")


def test_deletion_by_force(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "trap '' TERM; sleep 60"))
    server.phase("p", "Running")
    watcher = Watcher(server, resource_version=version(core))
    core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
    watcher.wait(lambda events: any(event["type"] == "DELETED" for event in events), "the deletion")
    assert watcher.kinds() == ["MODIFIED Running", "DELETED Running"]
    assert watcher.events[-1]["object"]["metadata"]["deletionGracePeriodSeconds"] == 0


def test_deletion_of_a_pending_pod(server: Server, core: Any) -> None:
    server.control.set_images({})
    core.create_namespaced_pod("default", pod("p"))
    watcher = Watcher(server, resource_version="0")
    watcher.wait(lambda events: events, "the pod")
    core.delete_namespaced_pod("p", "default")
    watcher.wait(lambda events: events[-1]["type"] == "DELETED", "the deletion")
    assert watcher.kinds()[-1] == "DELETED Pending"
    assert watcher.events[-1]["object"]["metadata"]["deletionTimestamp"]
