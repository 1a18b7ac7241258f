from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from executor_conformance.backends.kubernetes.emulator.client import EmulatorClient
from executor_conformance.harness.errors import HarnessError

from tests.kubernetes_emulator.support import SECONDS, Server, Watcher, command, pod, serving, wait_for

pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")

PODS = 100
MOST_MEMORY = 100 << 20  # bytes
CPU_UNTIL_READY = 1.0  # seconds; of processor time, so that a loaded machine does not count


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "k8s") as server:
        yield server


def run(*arguments: str) -> tuple[int, str, str]:
    argv = [sys.executable, "-m", "executor_conformance.backends.kubernetes.emulator", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "--folder"),
        (("--folder", "{tmp}", "--port", "x"), "--port"),
        (("--folder", "{tmp}", "--port", "70000"), "70000"),
        (("--folder", "{tmp}", "--port", "{port}"), "can't be listened on"),
        (("--folder", "{tmp}", "--back-off", "0"), "back-off"),
        (("--folder", "{tmp}", "--images", "{tmp}/none"), "can't be read"),
        (("--folder", "{tmp}", "--images", "{tmp}/no.json"), "no JSON"),
        (("--folder", "{tmp}", "--images", "{tmp}/wrong.json"), "'working_dir'"),
        (("--folder", "{tmp}/no.json/x"), "can't be made"),
        (("--folder", "{tmp}", "--colour", "red"), "--colour"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "wrong.json").write_text('{"a": 1}')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out, err = run(*(part.replace("{tmp}", str(tmp_path)).replace("{port}", port) for part in arguments))
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1
    assert not (tmp_path / "ready.json").exists()


def test_what_is_written(server: Server) -> None:
    ready = json.loads((server.folder / "ready.json").read_text())
    assert ready.keys() == {"url", "admin_url", "admin_token", "kubeconfig", "ca", "pid"}
    assert ready["pid"] == server.process.pid
    assert ready["url"].startswith("https://127.0.0.1:")
    for name in ("kubeconfig", "ready.json"):
        assert ((server.folder / name).stat().st_mode & 0o777) == 0o600
    config = json.loads(server.kubeconfig.read_text())
    assert config["contexts"][0]["context"]["namespace"] == "default"
    for connection in psutil.Process(server.process.pid).net_connections("inet"):
        assert connection.laddr.ip == "127.0.0.1"
    times = psutil.Process(server.process.pid).cpu_times()
    assert times.user + times.system < CPU_UNTIL_READY


def test_the_control_needs_its_token(server: Server) -> None:
    with pytest.raises(HarnessError, match="401"):
        EmulatorClient({**server.control.ready, "admin_token": "wrong"}).pods()
    with pytest.raises(HarnessError, match=r"ready\.json"):
        EmulatorClient.from_folder(server.folder / "none")


def started_containers(server: Server) -> list[int]:
    core = server.core()
    core.create_namespaced_pod("default", pod("p", "trap '' TERM; setsid sleep 600 & sleep 601"))
    core.create_namespaced_pod("default", pod("q", "(setsid sleep 602 &) ; exec sleep 603"))
    emulator = psutil.Process(server.process.pid)
    found = wait_for(lambda: len(all_ := emulator.children(recursive=True)) >= 5 and all_, "the processes")
    return [process.pid for process in found]


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "k8s") as server:
        pids = started_containers(server)
        server.process.send_signal(number)
        assert server.process.wait(SECONDS) == 0
        wait_for(lambda: gone(pids), "no container is left")
        assert not (server.folder / "ready.json").exists()
        with pytest.raises(HarnessError, match="failed"):
            server.control.pods()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    folder = tmp_path / "k8s"
    code = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code, *command(folder)]) as parent:
        wait_for(lambda: (folder / "ready.json").exists(), "ready.json")
        pid = EmulatorClient.from_folder(folder).pid
        parent.kill()
        parent.wait(SECONDS)
    wait_for(lambda: gone([pid]), "the emulator has ended")


def test_a_hundred_pods_a_second(server: Server) -> None:
    """The bound on time is generous for loaded machines; what matters is that nothing is lost."""
    watcher = Watcher(server, resource_version="0")
    cores = [server.core() for _ in range(4)]
    started = time.monotonic()

    def create(number: int) -> None:
        cores[number % 4].create_namespaced_pod("default", pod(f"p{number}", "exec true"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, range(PODS)))
    created = time.monotonic() - started
    names = {f"p{number}" for number in range(PODS)}
    wait_for(
        lambda: {found["name"] for found in server.control.pods() if found["phase"] == "Succeeded"} == names, "all"
    )
    ended = time.monotonic() - started
    watcher.wait(lambda events: len(events) >= 6 * PODS, "all events")
    for name in names:
        assert watcher.kinds(name) == [
            "ADDED Pending",
            *["MODIFIED Pending"] * 2,
            "MODIFIED Running",
            *["MODIFIED Succeeded"] * 2,
        ]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in watcher.events]
    assert versions == sorted(set(versions))
    times = psutil.Process(server.process.pid).cpu_times()
    used = times.user + times.system
    print(f"{PODS} pods created in {created:.2f} s, all ended after {ended:.2f} s, {used:.2f} s of processor time")
    assert ended < SECONDS


def test_memory_with_200_pods(server: Server) -> None:
    core = server.core()
    env = [{"name": f"AIRFLOW__SECTION__KEY_{number}", "value": "value" * 8} for number in range(30)]
    for number in range(200):
        core.create_namespaced_pod("default", pod(f"p{number}", "exec true", container={"env": env}))
    wait_for(lambda: all(found["phase"] == "Succeeded" for found in server.control.pods()), "all have ended")
    used = psutil.Process(server.process.pid).memory_info().rss
    print(f"{used >> 20} MiB with 200 pods")
    assert used < MOST_MEMORY
