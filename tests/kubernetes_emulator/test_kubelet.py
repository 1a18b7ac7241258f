from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.harness.processes import children_of

from tests.kubernetes_emulator.support import IMAGES, Server, pod, wait_for

kubernetes = pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")
ApiException = kubernetes.client.ApiException


def ended(server: Server, core: Any, name: str, phase: str) -> Any:
    server.phase(name, phase)
    return core.read_namespaced_pod(name, "default").status


def terminated(status: Any) -> tuple[int, str]:
    state = status.container_statuses[0].state.terminated
    return state.exit_code, state.reason


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_environment_arguments_and_folder(server: Server, core: Any) -> None:
    env = [
        {"name": "PLAIN", "value": "1"},
        {"name": "BUILT", "value": "$(PLAIN)-$(NONE)-$$(PLAIN)"},
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in (
                ("NAME", "metadata.name"),
                ("SPACE", "metadata.namespace"),
                ("ID", "metadata.uid"),
                ("LABEL", "metadata.labels['app']"),
                ("NOTE", "metadata.annotations['x.io/n']"),
                ("ADDRESS", "status.podIP"),
                ("NODE", "spec.nodeName"),
            )
        ),
    ]
    body = pod(
        "p",
        container={
            "command": ["sh", "-c", "pwd; env; echo args: $0 $1"],
            "args": ["$(PLAIN)", "$(MISSING)"],
            "env": env,
        },
        metadata={"labels": {"app": "l"}, "annotations": {"x.io/n": "n"}},
    )
    made = core.create_namespaced_pod("default", body)
    server.phase("p", "Succeeded")
    folder, *lines, args = server.log("p").splitlines()
    assert (folder, args) == ("/tmp", "args: 1 $(MISSING)")
    seen = dict(line.split("=", 1) for line in lines)
    for name in ("PWD", "_", "SHLVL", "OLDPWD"):  # the shell's own
        seen.pop(name, None)
    assert seen == {
        "PATH": "/usr/bin:/bin",
        "HOSTNAME": "p",
        "FROM_IMAGE": "yes",
        "PLAIN": "1",
        "BUILT": "1-$(NONE)-$(PLAIN)",
        "NAME": "p",
        "SPACE": "default",
        "ID": made.metadata.uid,
        "LABEL": "l",
        "NOTE": "n",
        "ADDRESS": "127.0.0.1",
        "NODE": "conformance-node",
    }


@pytest.mark.parametrize(
    ("script", "phase", "expected"),
    [
        ("exit 0", "Succeeded", (0, "Completed")),
        ("exit 3", "Failed", (3, "Error")),
        ("kill -9 $$$$", "Failed", (137, "Error")),
        ("kill -15 $$$$", "Failed", (143, "Error")),
    ],
)
def test_exit_codes(server: Server, core: Any, script: str, phase: str, expected: tuple[int, str]) -> None:
    core.create_namespaced_pod("default", pod("p", script))
    status = ended(server, core, "p", phase)
    assert terminated(status) == expected
    (entry,) = status.container_statuses
    assert (entry.name, entry.ready, entry.started, entry.restart_count) == ("base", False, False, 0)
    assert entry.container_id
    assert entry.image == "shell:1"
    assert (status.pod_ip, status.host_ip) == ("127.0.0.1", "127.0.0.1")
    assert status.start_time


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"command": ["no-such-program"]}, (128, "StartError")),
        ({"command": ["/no/such/program"]}, (128, "StartError")),
        ({"image": "bare:1", "args": []}, (128, "StartError")),
        ({"command": ["/etc/passwd"]}, (126, "ContainerCannotRun")),
        ({"workingDir": "/no/such/folder"}, (126, "ContainerCannotRun")),
    ],
)
def test_what_can_not_be_started(
    server: Server, core: Any, container: dict[str, Any], expected: tuple[int, str]
) -> None:
    core.create_namespaced_pod("default", pod("p", container=container))
    assert terminated(ended(server, core, "p", "Failed")) == expected


def test_an_image_that_is_not_there(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", container={"image": "missing:1"}))

    def waiting() -> str | None:
        entries = core.read_namespaced_pod("p", "default").status.container_statuses
        return entries and entries[0].state.waiting and entries[0].state.waiting.reason

    wait_for(lambda: waiting() == "ImagePullBackOff", "ImagePullBackOff")
    (found,) = server.control.pods()
    assert (found["phase"], found["next"], found["pids"]) == ("Pending", "", {})
    reasons = [(event.type, event.reason) for event in core.list_namespaced_event("default").items]
    assert ("Warning", "Failed") in reasons
    assert ("Normal", "BackOff") in reasons
    server.control.set_images({**IMAGES, "missing:1": IMAGES["shell:1"]})
    server.phase("p", "Succeeded")


def test_a_reference_to_what_does_not_exist(server: Server, core: Any) -> None:
    env = [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]
    core.create_namespaced_pod("default", pod("p", container={"env": env}))

    def waiting() -> Any:
        entries = core.read_namespaced_pod("p", "default").status.container_statuses
        return entries and entries[0].state.waiting

    found = wait_for(lambda: (w := waiting()) and w.reason == "CreateContainerConfigError" and w, "the reason")
    assert found.message == 'configmap "none" not found'


def test_sigterm_then_sigkill(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "trap 'echo term' TERM; echo up; while :; do sleep 0.05; done"))
    server.phase("p", "Running")
    wait_for(lambda: server.log("p") == "up\n", "the trap")
    started = time.monotonic()
    core.delete_namespaced_pod("p", "default", grace_period_seconds=1)
    found = next(found for found in server.control.pods() if found["name"] == "p")
    assert found["deleting"]
    assert found["next"].startswith("grace period ends in")
    wait_for(lambda: server.log("p") == "up\nterm\n", "the signal")
    server.gone("p")
    assert 0.9 <= time.monotonic() - started < 10
    assert not alive(found["pids"]["base"])


def test_a_second_deletion_shortens_the_grace(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "trap '' TERM; while :; do sleep 0.05; done"))
    server.phase("p", "Running")
    core.delete_namespaced_pod("p", "default", grace_period_seconds=600)
    assert core.delete_namespaced_pod("p", "default").metadata.deletion_grace_period_seconds == 30
    assert core.delete_namespaced_pod("p", "default").metadata.deletion_grace_period_seconds == 30
    core.delete_namespaced_pod("p", "default", grace_period_seconds=1)
    server.gone("p")


def test_all_that_a_container_started_dies_with_it(server: Server, core: Any, tmp_path: Path) -> None:
    script = f"setsid sleep 600 & echo $! >{tmp_path}/a; (setsid sleep 601 & echo $! >{tmp_path}/b); sleep 602 & wait"
    for name, end in (("p", 9), ("q", 0)):
        core.create_namespaced_pod("default", pod(name, script if end else script.replace("wait", "exec sleep 0.3")))
        pids = wait_for(
            lambda: [int(text) for file in "ab" if (text := _text(tmp_path / file))][1:] and _pids(tmp_path), "the pids"
        )
        main = server.control.pods()[-1]["pids"].get("base")
        if end:
            assert server.control.kill("default", name) == main
        server.phase(name, "Failed" if end else "Succeeded")
        wait_for(lambda pids=pids: not any(map(alive, pids)), "no process is left")
        for file in "ab":
            (tmp_path / file).unlink()


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _pids(folder: Path) -> list[int]:
    return [int(_text(folder / file)) for file in "ab"]


def test_signals_from_outside(server: Server, core: Any) -> None:
    for name, act, expected in (
        ("killed", lambda: server.control.kill("default", "killed"), (137, "Error")),
        ("ended", lambda: server.control.kill("default", "ended", signal.SIGTERM, "base"), (143, "Error")),
        ("oom", lambda: server.control.oom("default", "oom"), (137, "OOMKilled")),
    ):
        core.create_namespaced_pod("default", pod(name, "exec sleep 60"))
        server.phase(name, "Running")
        assert act() > 0
        assert terminated(ended(server, core, name, "Failed")) == expected


def test_eviction(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "sleep 60"))
    server.phase("p", "Running")
    server.control.evict("default", "p")
    status = ended(server, core, "p", "Failed")
    assert (status.reason, terminated(status)) == ("Evicted", (137, "Error"))
    assert core.read_namespaced_pod("p", "default").metadata.deletion_timestamp is None


def test_deadline(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "exec sleep 60", activeDeadlineSeconds=1))
    found = server.phase("p", "Running")
    assert found["next"].startswith("active deadline ends in")
    assert ended(server, core, "p", "Failed").reason == "DeadlineExceeded"


def test_several_containers(server: Server, core: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = pod("p", "exit 0")
    body["spec"]["containers"].append(
        {"name": "other", "image": "shell:1", "args": [f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 1"]}
    )
    core.create_namespaced_pod("default", body)

    def one_ended() -> bool:
        entries = core.read_namespaced_pod("p", "default").status.container_statuses or []
        return [bool(entry.state.terminated) for entry in entries] == [True, False]

    wait_for(one_ended, "the first container's end")
    assert core.read_namespaced_pod("p", "default").status.phase == "Running"
    with pytest.raises(ApiException, match="choose one of"):
        core.read_namespaced_pod_log("p", "default")
    gate.touch()
    status = ended(server, core, "p", "Failed")
    assert [entry.state.terminated.exit_code for entry in status.container_statuses] == [0, 1]


def test_init_containers(server: Server, core: Any) -> None:
    init = [{"name": f"init{n}", "image": "shell:1", "args": [f"echo {n}; exit {n}"]} for n in (0, 1)]
    core.create_namespaced_pod("default", pod("good", "echo main", initContainers=init[:1]))
    core.create_namespaced_pod("default", pod("bad", "echo main", initContainers=init))
    assert ended(server, core, "good", "Succeeded").init_container_statuses[0].state.terminated.exit_code == 0
    assert server.log("good", container="init0") == "0\n"
    status = ended(server, core, "bad", "Failed")
    assert [entry.state.terminated.exit_code for entry in status.init_container_statuses] == [0, 1]
    assert status.container_statuses[0].state.waiting.reason == "PodInitializing"


def test_restarts(server: Server, core: Any, tmp_path: Path) -> None:
    script = f"echo run; echo x >>{tmp_path}/runs; [ $(wc -l <{tmp_path}/runs) -ge 3 ]"
    core.create_namespaced_pod("default", pod("p", script, restartPolicy="OnFailure"))
    status = ended(server, core, "p", "Succeeded")
    (entry,) = status.container_statuses
    assert (entry.restart_count, entry.last_state.terminated.exit_code) == (2, 1)
    assert server.log("p", previous=True) == "run\n"


def test_logs(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "echo one; echo two >&2; printf 'three'"))
    server.phase("p", "Succeeded")

    def log(**options: Any) -> str:
        return server.log("p", **options)

    assert log() == log(container="base", follow=False, tail_lines=100) == "one\ntwo\nthree"
    assert log(tail_lines=2) == "two\nthree"
    assert log(tail_lines=0) == ""
    assert log(limit_bytes=5) == "one\nt"
    assert log(since_seconds=600) == log()
    assert [line.split(" ")[1] for line in log(timestamps=True).splitlines()] == ["one", "two", "three"]
    for options in ({"container": "none"}, {"previous": True}, {"tail_lines": -1}):
        with pytest.raises(ApiException) as error:
            log(**options)
        assert error.value.status == 400


def test_a_log_is_followed(server: Server, core: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo one; while [ ! -e {gate} ]; do sleep 0.05; done; echo two"
    core.create_namespaced_pod("default", pod("p", script))
    server.phase("p", "Running")
    lines = kubernetes.watch.Watch().stream(core.read_namespaced_pod_log, "p", "default", _request_timeout=30)
    assert next(lines) == "one"
    gate.touch()
    assert list(lines) == ["two"]


def test_a_log_before_the_start(server: Server, core: Any) -> None:
    fault = server.control.add_fault(point="start", action={"type": "never"})
    core.create_namespaced_pod("default", pod("p", "echo up"))
    with pytest.raises(ApiException, match="is waiting to start: ContainerCreating"):
        core.read_namespaced_pod_log("p", "default")
    server.control.remove_fault(fault)
    server.phase("p", "Succeeded")


def test_many_at_once_leave_nothing(server: Server, core: Any) -> None:
    for number in range(10):
        core.create_namespaced_pod("default", pod(f"p{number}", "sleep 60 & sleep 60"))
    pods = wait_for(
        lambda: (found := [p for p in server.control.pods() if p["pids"]]) and len(found) == 10 and found, "all run"
    )
    core.delete_collection_namespaced_pod("default", grace_period_seconds=0)
    pids = [pid for found in pods for pid in found["pids"].values()]
    wait_for(lambda: not any(map(alive, pids)), "all are dead")
    (guardian,) = children_of(server.process.pid)
    wait_for(lambda: children_of(guardian) == [], "no child is left")
    assert os.path.exists(f"/proc/{server.process.pid}")
