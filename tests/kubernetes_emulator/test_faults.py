from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from executor_conformance.harness.errors import HarnessError

from tests.calls import Call
from tests.kubernetes_emulator.support import SECONDS, Server, Watcher, pod, wait_for

kubernetes = pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")
urllib3 = pytest.importorskip("urllib3", reason="urllib3 is not installed")
ApiException = kubernetes.client.ApiException
BROKEN = (urllib3.exceptions.HTTPError, ConnectionError)


def hits(server: Server, fault: str) -> int:
    return next(rule["hits"] for rule in server.control.faults() if rule["id"] == fault)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (400, "BadRequest"),
        (403, "Forbidden"),
        (409, "Conflict"),
        (422, "Invalid"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
    ],
)
def test_status(server: Server, core: Any, code: int, reason: str) -> None:
    action = {"type": "status", "code": code, "reason": reason, "message": "told to"}
    fault = server.control.add_fault(verb="create", resource="pods", times=1, action=action)
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", pod("p"))
    assert error.value.status == code
    assert f'"reason":"{reason}"' in error.value.body
    assert "told to" in error.value.body
    core.create_namespaced_pod("default", pod("p"))
    assert hits(server, fault) == 1
    assert [call["fault"] for call in server.control.calls()[-2:]] == [fault, None]


def test_too_many_requests(server: Server, core: Any) -> None:
    action = {"type": "status", "code": 429, "reason": "TooManyRequests", "message": "slow down", "retry_after": 1}
    server.control.add_fault(verb="*", resource="pods", action=action)
    with pytest.raises(ApiException) as error:
        core.list_namespaced_pod("default")
    assert (error.value.status, error.value.headers["Retry-After"]) == (429, "1")
    assert '"retryAfterSeconds":1' in error.value.body


def test_whom_it_concerns(server: Server, core: Any) -> None:
    action = {"type": "status", "code": 500}
    server.control.add_fault(verb="create", name="^bad", action=action)
    server.control.add_fault(verb="delete", selector="w=1", action=action)
    server.control.add_fault(verb="patch", skip=1, action=action)
    server.control.add_fault(verb="log", action=action)
    for name, label in (("a", "1"), ("b", "2")):
        core.create_namespaced_pod("default", pod(name, metadata={"labels": {"w": label}}))
        server.phase(name, "Succeeded")
    core.delete_namespaced_pod("b", "default")
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "y"}}})
    core.read_namespaced_pod("a", "default")
    for refused in (
        lambda: core.create_namespaced_pod("default", pod("bad-one")),
        lambda: core.delete_namespaced_pod("a", "default"),
        lambda: core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "z"}}}),
        lambda: core.read_namespaced_pod_log("a", "default"),
    ):
        with pytest.raises(ApiException) as error:
            refused()
        assert error.value.status == 500


def test_close(server: Server, core: Any) -> None:
    server.control.add_fault(verb="create", times=1, action={"type": "close"})
    with pytest.raises(BROKEN):
        core.create_namespaced_pod("default", pod("p"))
    assert server.control.pods() == []
    assert server.control.calls()[-1]["status"] == 0


def test_drop_response(server: Server, core: Any) -> None:
    server.control.add_fault(verb="create", times=1, action={"type": "drop-response"})
    with pytest.raises(BROKEN):
        core.create_namespaced_pod("default", pod("p"))
    assert [found["name"] for found in server.control.pods()] == ["p"]


def test_hang_until_it_is_removed(server: Server, core: Any) -> None:
    fault = server.control.add_fault(verb="create", action={"type": "hang"})
    call = Call(lambda: core.create_namespaced_pod("default", pod("p")))
    wait_for(lambda: hits(server, fault) == 1, "the request")
    assert call.pending
    assert server.control.calls()[-1]["status"] is None
    assert server.control.pods() == []
    server.control.remove_fault(fault)
    assert call.result().metadata.name == "p"


def test_a_client_that_gives_up_changes_nothing(server: Server, core: Any) -> None:
    fault = server.control.add_fault(verb="create", action={"type": "hang"})
    with pytest.raises(urllib3.exceptions.HTTPError):
        core.create_namespaced_pod("default", pod("p"), _request_timeout=(5, 0.5))
    wait_for(lambda: server.control.calls()[-1]["status"] == 0, "the server to notice")
    server.control.remove_fault(fault)
    assert core.list_namespaced_pod("default").items == []


def test_delay(server: Server, core: Any) -> None:
    server.control.add_fault(verb="list", times=1, action={"type": "delay", "seconds": 0.3})
    started = time.monotonic()
    core.list_namespaced_pod("default")
    assert time.monotonic() - started >= 0.3


def test_a_watch_that_is_refused(server: Server, core: Any) -> None:
    server.control.add_fault(verb="watch", times=1, action={"type": "status", "code": 500})
    with pytest.raises(ApiException) as error:
        next(kubernetes.watch.Watch().stream(core.list_namespaced_pod, "default", timeout_seconds=5))
    assert error.value.status == 500


@pytest.mark.parametrize("code", [410, 500])
@pytest.mark.parametrize("is_open", [True, False])
def test_watch_error(server: Server, core: Any, code: int, is_open: bool) -> None:
    def add() -> None:
        server.control.add_fault(verb="watch", times=1, action={"type": "watch-error", "code": code})

    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Succeeded")
    if not is_open:
        add()
    watcher = Watcher(server, resource_version="0")
    if is_open:
        watcher.wait(lambda events: events, "the watch is open")
        add()
    assert watcher.ended.wait(SECONDS)
    last = watcher.events[-1]
    assert (last["type"], last["object"]["kind"], last["object"]["code"]) == ("ERROR", "Status", code)
    assert len(watcher.events) == (2 if is_open else 1)


def test_watch_drop(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Succeeded")
    first = Watcher(server, resource_version="0")
    first.wait(lambda events: events, "the watch is open")
    fault = server.control.add_fault(verb="watch", times=1, action={"type": "watch-drop"})
    assert first.ended.wait(SECONDS)
    second = Watcher(server, resource_version="0")
    assert second.ended.wait(SECONDS)
    assert second.error is not None
    assert second.events == []
    assert hits(server, fault) == 2
    third = Watcher(server, resource_version="0")
    third.wait(lambda events: events, "the next one is left alone")


@pytest.mark.parametrize("is_open", [True, False])
def test_watch_hang(server: Server, core: Any, is_open: bool) -> None:
    server.control.add_fault(point="schedule", name="^seen$", action={"type": "never"})
    core.create_namespaced_pod("default", pod("seen"))
    if is_open:
        watcher = Watcher(server, resource_version="0")
        watcher.wait(lambda events: events, "the watch is open")
        fault = server.control.add_fault(verb="watch", action={"type": "watch-hang"})
    else:
        fault = server.control.add_fault(verb="watch", action={"type": "watch-hang"})
        watcher = Watcher(server, resource_version="0")
    wait_for(lambda: hits(server, fault) == 1, "the watch hangs")
    core.create_namespaced_pod("default", pod("missed"))
    server.phase("missed", "Succeeded")
    assert watcher.kinds("missed") == []
    assert not watcher.ended.is_set()
    server.control.remove_fault(fault)
    watcher.wait(lambda events: "MODIFIED Succeeded" in watcher.kinds("missed"), "what was held back")
    assert watcher.kinds("missed")[0] == "ADDED Pending"


def waiting(core: Any, name: str = "p") -> str:
    entries = core.read_namespaced_pod(name, "default").status.container_statuses or []
    return entries[0].state.waiting.reason if entries and entries[0].state.waiting else ""


@pytest.mark.parametrize("point", ["schedule", "pull", "start"])
def test_stuck(server: Server, core: Any, point: str) -> None:
    fault = server.control.add_fault(point=point, selector="w=1", action={"type": "never"})
    core.create_namespaced_pod("default", pod("p", metadata={"labels": {"w": "1"}}))
    core.create_namespaced_pod("default", pod("other", metadata={"labels": {"w": "2"}}))
    server.phase("other", "Succeeded")
    (found,) = [found for found in server.control.pods() if found["name"] == "p"]
    assert (found["phase"], found["next"], hits(server, fault)) == ("Pending", "", 1)
    if point != "schedule":
        assert waiting(core) == "ContainerCreating"
    server.control.remove_fault(fault)
    server.phase("p", "Succeeded")


def test_image_that_can_not_be_pulled_for_a_while(server: Server, core: Any) -> None:
    server.control.add_fault(point="pull", times=1, action={"type": "ErrImagePull"})
    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Succeeded")
    fault = server.control.add_fault(point="pull", action={"type": "ErrImagePull"})
    core.create_namespaced_pod("default", pod("q"))
    wait_for(lambda: waiting(core, "q") == "ImagePullBackOff", "the back-off")
    assert [found["next"] for found in server.control.pods()] == ["", ""]
    server.control.remove_fault(fault)
    server.phase("q", "Succeeded")


def test_start_error(server: Server, core: Any) -> None:
    server.control.add_fault(point="start", times=1, action={"type": "StartError"})
    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Failed")
    state = core.read_namespaced_pod("p", "default").status.container_statuses[0].state.terminated
    assert (state.exit_code, state.reason) == (128, "StartError")


@pytest.mark.parametrize("point", ["schedule", "pull", "start"])
def test_evicted_before_the_start(server: Server, core: Any, point: str) -> None:
    server.control.add_fault(point=point, times=1, action={"type": "Evicted"})
    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Failed")
    status = core.read_namespaced_pod("p", "default").status
    assert (status.reason, status.container_statuses) == ("Evicted", None)
    core.delete_namespaced_pod("p", "default")
    server.gone("p")


def test_deletion_from_outside(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "exec sleep 60"))
    server.phase("p", "Running")
    server.control.delete("default", "p", 5)
    server.gone("p")


def test_all_rules_at_once(server: Server) -> None:
    first = server.control.add_fault(verb="create", action={"type": "close"})
    server.control.add_fault(point="pull", action={"type": "never"})
    assert server.control.faults()[0]["id"] == first
    server.control.clear_faults()
    assert server.control.faults() == []


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda control: control.add_fault(verb="create", action={"type": "explode"}), "400.*'explode'"),
        (lambda control: control.remove_fault("f999"), "404.*f999"),
        (lambda control: control.kill("default", "none"), '404.*pods "none" not found'),
        (lambda control: control.set_access([{"verb": 1}]), "400.*'verb'"),
        (lambda control: control.set_images({"a": 1}), "400.*image 'a'"),
        (lambda control: control._call("GET", "nothing"), "404.*nothing"),
        (lambda control: control._call("POST", "pods/default/p/dance"), "404.*'dance'"),
    ],
)
def test_control_says_what_is_wrong(server: Server, act: Callable[[Any], Any], text: str) -> None:
    with pytest.raises(HarnessError, match=text):
        act(server.control)
