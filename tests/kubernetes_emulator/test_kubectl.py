"""The command line client against the emulator; ``KUBECTL`` names another than the one in the PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kubernetes_emulator.support import SECONDS, Server, pod, wait_for

KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")

pytestmark = pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed (Debian: kubernetes-client)")


def argv(server: Server, *arguments: str) -> list[str]:
    assert KUBECTL
    home = str(server.folder / "home")
    return [KUBECTL, "--kubeconfig", str(server.kubeconfig), "--cache-dir", home, *arguments]


def kubectl(server: Server, *arguments: str, fails: bool = False, text: str | None = None) -> str:
    done = subprocess.run(
        argv(server, *arguments), input=text, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def create(server: Server, *pods: dict[str, object]) -> None:
    for body in pods:
        kubectl(server, "create", "-f", "-", text=json.dumps(body))


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_version_and_resources(server: Server) -> None:
    assert "Server Version" in kubectl(server, "version")
    names = {row[0] for row in rows(kubectl(server, "api-resources"))[1:]}
    assert {"pods", "namespaces", "events", "nodes", "selfsubjectaccessreviews"} <= names
    assert kubectl(server, "get", "--raw", "/readyz") == "ok"


def test_get(server: Server) -> None:
    assert kubectl(server, "get", "pods") == ""
    create(server, pod("good", metadata={"labels": {"w": "1"}}), pod("bad", "exit 2"), pod("up", "exec sleep 60"))
    create(server, pod("none", container={"image": "missing:1"}))
    for name, phase in (("good", "Succeeded"), ("bad", "Failed"), ("up", "Running")):
        server.phase(name, phase)
    wait_for(lambda: "ImagePullBackOff" in kubectl(server, "get", "pod", "none"), "the back-off")
    head, *found = rows(kubectl(server, "get", "pods"))
    assert head == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [row[:4] for row in found] == [
        ["bad", "0/1", "Error", "0"],
        ["good", "0/1", "Completed", "0"],
        ["none", "0/1", "ImagePullBackOff", "0"],
        ["up", "1/1", "Running", "0"],
    ]
    wide = rows(kubectl(server, "get", "pods", "-o", "wide", "-l", "w=1"))
    assert wide[0][5:7] == ["IP", "NODE"]
    assert wide[1][5:7] == ["127.0.0.1", "conformance-node"]
    selected = kubectl(server, "get", "pods", "-A", "--field-selector", "status.phase=Failed", "-o", "name")
    assert selected == "pod/bad\n"
    listed = json.loads(kubectl(server, "get", "pods", "-o", "json"))
    assert {item["kind"] for item in listed["items"]} == {"Pod"}
    assert "kind: Pod\n" in kubectl(server, "get", "pod", "up", "-o", "yaml")
    assert kubectl(server, "get", "pod", "up", "-o", "jsonpath={.status.phase}") == "Running"
    assert 'pods "x" not found' in kubectl(server, "get", "pod", "x", fails=True)
    assert "Active" in kubectl(server, "get", "namespaces")
    assert "Ready" in kubectl(server, "get", "nodes", "-o", "wide")


def test_describe_and_events(server: Server) -> None:
    create(server, pod("p", "exit 3"))
    server.phase("p", "Failed")
    text = kubectl(server, "describe", "pod", "p")
    for part in ("Exit Code:    3", "Status:       Failed", "Node:", "Events:", "Scheduled", "Started container base"):
        assert re.search(re.sub(r"\s+", r"\\s+", part), text), part
    assert any(row[2:4] == ["Started", "pod/p"] for row in rows(kubectl(server, "get", "events")))
    assert "Ready" in kubectl(server, "describe", "node", "conformance-node")


def test_logs(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    create(server, pod("p", f"echo one; echo two; while [ ! -e {gate} ]; do sleep 0.05; done; echo three"))
    server.phase("p", "Running")
    wait_for(lambda: kubectl(server, "logs", "p", "--tail=1") == "two\n", "the output")
    with subprocess.Popen(argv(server, "logs", "-f", "p"), stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert [follower.stdout.readline() for _ in range(2)] == ["one\n", "two\n"]
        gate.touch()
        assert follower.communicate(timeout=SECONDS)[0] == "three\n"
    assert kubectl(server, "logs", "p", "-c", "base", "--limit-bytes=3") == "one"
    assert "not valid for pod" in kubectl(server, "logs", "p", "-c", "none", fails=True)


def test_wait_and_delete(server: Server) -> None:
    create(server, pod("p", "trap 'exit 0' TERM; while :; do sleep 0.05; done"), pod("q", "exec sleep 60"))
    assert "condition met" in kubectl(server, "wait", "--for=condition=Ready", "pod/p", "--timeout=20s")
    with subprocess.Popen(
        argv(server, "wait", "--for=delete", "pod/p", "--timeout=20s"), stdout=subprocess.PIPE, text=True
    ) as waiter:
        assert 'pod "p" deleted' in kubectl(server, "delete", "pod", "p")
        assert waiter.communicate(timeout=SECONDS)[0] in ("pod/p condition met\n", "")
        assert waiter.returncode == 0
    server.gone("p")
    kubectl(server, "delete", "pod", "q", "--grace-period=0", "--force")
    server.gone("q")
    assert "condition met" in kubectl(server, "wait", "--for=condition=Ready", "node/conformance-node", "--timeout=5s")


def test_get_and_watch(server: Server) -> None:
    last = max((call["n"] for call in server.control.calls()), default=0)
    with subprocess.Popen(argv(server, "get", "pods", "-w"), stdout=subprocess.PIPE, text=True) as watcher:
        try:
            wait_for(lambda: any(call["verb"] == "watch" for call in server.control.calls(last)), "the watch")
            create(server, pod("p"))
            assert watcher.stdout is not None
            seen: list[str] = []
            while "Completed" not in seen:
                line = watcher.stdout.readline()
                assert line
                seen.append(re.split(r"\s{2,}", line.strip())[2])
        finally:
            watcher.kill()
    assert seen[0] == "STATUS"
    assert [state for n, state in enumerate(seen) if state != seen[n - 1]][1:] == [
        "Pending",
        "ContainerCreating",
        "Running",
        "Completed",
    ]


def test_changes(server: Server) -> None:
    body = json.dumps(pod("p", "exec sleep 60"))
    assert "created" in kubectl(server, "apply", "-f", "-", text=body)
    assert "unchanged" in kubectl(server, "apply", "-f", "-", text=body)
    labelled = json.dumps(pod("p", "exec sleep 60", metadata={"labels": {"a": "b"}}))
    assert "configured" in kubectl(server, "apply", "-f", "-", text=labelled)
    assert "labeled" in kubectl(server, "label", "pod", "p", "c=d")
    assert "annotated" in kubectl(server, "annotate", "pod", "p", "e=f")
    found = json.loads(kubectl(server, "get", "pod", "p", "-o", "json"))
    assert found["metadata"]["labels"] == {"a": "b", "c": "d"}
    kubectl(server, "run", "r", "--image=shell:1", "--restart=Never", "--", "exit 0")
    server.phase("r", "Succeeded")


def test_namespaces(server: Server) -> None:
    assert "created" in kubectl(server, "create", "namespace", "team")
    kubectl(server, "-n", "team", "run", "r", "--image=shell:1", "--restart=Never", "--", "exit 0")
    server.phase("r", "Succeeded")
    assert 'namespace "team" deleted' in kubectl(server, "delete", "namespace", "team")
    assert "NotFound" in kubectl(server, "get", "namespace", "team", fails=True)


def test_rights(server: Server) -> None:
    assert kubectl(server, "auth", "can-i", "create", "pods") == "yes\n"
    server.control.set_access([{"verb": "create", "resource": "pods", "namespace": None}])
    assert kubectl(server, "auth", "can-i", "list", "pods") == "yes\n"
    asked = argv(server, "auth", "can-i", "create", "pods")
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    assert answer.startswith("no")
    assert "pods/log" in kubectl(server, "auth", "can-i", "--list")
    refused = kubectl(server, "run", "r", "--image=shell:1", "--restart=Never", fails=True)
    assert 'User "conformance" cannot create resource "pods"' in refused
