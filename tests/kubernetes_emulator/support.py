"""What the tests of the Kubernetes emulator share: one emulator process, its clients, cheap pods, bounded waits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.kubernetes.emulator.client import EmulatorClient

SECONDS = 30.0
BACK_OFF = 0.3
IMAGES: dict[str, Any] = {
    "shell:1": {
        "env": {"PATH": "/usr/bin:/bin", "FROM_IMAGE": "yes"},
        "entrypoint": ["sh", "-c"],
        "working_dir": "/tmp",
    },
    "bare:1": {},
}


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value of ``condition``; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return value


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "executor_conformance.backends.kubernetes.emulator", "--folder", str(folder), *more]


def client_configuration(kubeconfig: Path) -> Any:
    kubernetes = pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    configuration.retries = False
    return configuration


class Server:
    """A running emulator."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], ready_seconds: float) -> None:
        self.folder = folder
        self.process = process
        self.ready_seconds = ready_seconds
        self.control = EmulatorClient.from_folder(folder)

    @property
    def kubeconfig(self) -> Path:
        return self.control.kubeconfig

    def api_client(self) -> Any:
        import kubernetes

        return kubernetes.client.ApiClient(client_configuration(self.kubeconfig))

    def core(self) -> Any:
        import kubernetes

        return kubernetes.client.CoreV1Api(self.api_client())

    def forget(self) -> None:
        """Remove all rules and all pods, and cut all watches, at once."""
        self.control.add_fault(verb="watch", times=0, action={"type": "watch-drop"})
        self.control.clear_faults()
        self.control.set_access([])
        self.control.set_images(IMAGES)
        for pod in self.control.pods():
            with contextlib.suppress(Exception):
                self.control.delete(pod["namespace"], pod["name"], 0)

    def log(self, name: str, **options: Any) -> str:
        """A pod's log; as bytes, for the official client makes JSON or a repr of text."""
        answer = self.core().read_namespaced_pod_log(name, "default", _preload_content=False, **options)
        return answer.data.decode()

    def phase(self, name: str, phase: str) -> dict[str, Any]:
        """Wait for a pod of the namespace default to be in a phase."""

        def found() -> dict[str, Any] | None:
            return next((pod for pod in self.control.pods() if (pod["name"], pod["phase"]) == (name, phase)), None)

        return wait_for(found, f"{name} is {phase}")

    def gone(self, name: str) -> None:
        wait_for(lambda: name not in [pod["name"] for pod in self.control.pods()], f"{name} is gone")


@contextlib.contextmanager
def serving(folder: Path, *more: str) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images.json").write_text(json.dumps(IMAGES))
    started = time.monotonic()
    argv = command(folder, "--images", str(folder / "images.json"), "--back-off", str(BACK_OFF), *more)
    with (folder / "out.txt").open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "HOST_ONLY": "1"})
    try:
        wait_for(lambda: (folder / "ready.json").exists() or process.poll() is not None, "ready.json")
        yield Server(folder, process, time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(SECONDS)
    assert process.returncode == 0
    assert (folder / "out.txt").read_text() == ""


def pod(name: str, script: str = "true", **spec: Any) -> dict[str, Any]:
    """A pod with the container 'base', which runs a shell script."""
    metadata = {"name": name, **spec.pop("metadata", {})}
    container = {"name": "base", "image": "shell:1", "args": [script], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"restartPolicy": "Never", "containers": [container], **spec},
    }


class Watcher:
    """A watch in a thread, as raw events; ``ended`` is set at its end and ``error`` says what ended it."""

    def __init__(self, server: Server, **options: Any) -> None:
        import kubernetes

        self.events: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._core = server.core()
        self._options = {"timeout_seconds": 60, "_request_timeout": 60, **options}
        self._watch = kubernetes.watch.Watch()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            response = self._core.list_namespaced_pod("default", watch=True, _preload_content=False, **self._options)
            rest = b""
            for chunk in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                self.events += [json.loads(line) for line in lines if line.strip()]
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def kinds(self, name: str | None = None) -> list[str]:
        """The events so far: type and phase."""
        return [
            f"{event['type']} {event['object'].get('status', {}).get('phase', '')}".strip()
            for event in list(self.events)
            if name is None or event["object"]["metadata"].get("name") == name
        ]

    def wait(self, condition: Callable[[list[dict[str, Any]]], Any], what: str) -> Any:
        return wait_for(lambda: condition(list(self.events)), what)
