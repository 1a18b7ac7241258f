"""The emulator's command: a server of its own for each test module (used by the others), its start and its end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from executor_conformance.backends.aws.emulator.client import EmulatorClient
from executor_conformance.harness.errors import HarnessError

SECONDS = 30.0
WORKER = "conformance-worker"
REGION = "us-east-1"
COMMAND = [sys.executable, "-m", "executor_conformance.backends.aws.emulator"]
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """The first true value of ``condition``."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return value


class Server:
    """An emulator in a process of its own, and boto3 clients that know nothing of it but its address."""

    def __init__(self, folder: Path, *options: str, **images: Any) -> None:
        self.folder = folder
        env = {"PATH": PATH, "FROM_IMAGE": "yes"}
        file = folder.with_suffix(".images.json")
        file.write_text(json.dumps({WORKER: {"env": env, "working_dir": str(folder.parent)}, **images}))
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as log:
            argv = [*COMMAND, "--folder", str(folder), "--images", str(file), *options]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder.parent)
        ready = folder / "ready.json"
        try:
            wait_for(lambda: ready.exists() or self.process.poll() is not None, "ready.json", 120)
            assert ready.exists(), self.log.read_text()
        except BaseException:
            self.stop()
            raise
        self.admin = EmulatorClient.from_folder(folder)

    def client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.admin.url,
            aws_access_key_id="a",
            aws_secret_access_key="b",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=20, connect_timeout=5),
        )

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def stop(self) -> None:
        left = self.children()
        self.process.terminate()
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        _, alive = psutil.wait_procs(left, 10)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {alive}"


@contextlib.contextmanager
def serving(*options: str, **images: Any) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="aws-emulator-") as folder:
        server = Server(Path(folder) / "run", *options, **images)
        try:
            yield server
        finally:
            server.stop()


def script(text: str) -> list[str]:
    return ["sh", "-c", text]


# --- the command ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--services", "s3"], "--services takes one or more of ecs, batch, lambda, not 's3'."),
        (["--port", "70000"], "There is no port 70000."),
        (["--port", "x"], "invalid int value"),
        (["--lambda-timeout", "0"], "from 1 to 900"),
        (["--lambda-handler", "/nowhere.py"], "is not a file"),
        (["--images", "/nowhere.json"], "cannot be read"),
        (["--runner", "magic"], "invalid choice"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, options: list[str], message: str) -> None:
    result = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path / "run"), *options], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"env": {"X": 1}}}', '{"a": {"what": 1}}'])
def test_a_broken_images_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "images.json"
    file.write_text(content)
    argv = [*COMMAND, "--folder", str(tmp_path / "run"), "--images", str(file)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "images file" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_client_without_an_emulator_says_so(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="not ready"):
        EmulatorClient.from_folder(tmp_path)


def _task_with_children(server: Server) -> list[int]:
    marker = server.folder.parent / "pids"
    command = script(f"setsid sleep 300 & sleep 301 & echo $! > {marker}; wait")
    server.client("ecs").run_task(
        cluster="conformance",
        taskDefinition="conformance",
        launchType="FARGATE",
        overrides={"containerOverrides": [{"name": "conformance", "command": command}]},
    )
    wait_for(lambda: marker.exists() and marker.read_text().strip(), "the task's children")
    pids = [process.pid for process in server.children()]
    assert len(pids) == 4  # the guardian, the shell, two sleepers
    return pids


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_it_ends(number: signal.Signals) -> None:
    with serving("--services", "ecs") as server:
        assert (server.folder / "ready.json").stat().st_mode & 0o777 == 0o600
        ready = json.loads((server.folder / "ready.json").read_text())
        assert set(ready) == {"url", "admin_url", "admin_token", "pid", "resources"}
        pids = _task_with_children(server)
        server.process.send_signal(number)
        assert server.process.wait(SECONDS) == (-number if number == signal.SIGKILL else 0)
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the end of all containers")


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shell = f"{' '.join(COMMAND)} --services ecs --folder {folder} & wait"
    parent = subprocess.Popen(["sh", "-c", shell], cwd=tmp_path)
    try:
        wait_for((folder / "ready.json").exists, "ready.json", 120)
        pid = EmulatorClient.from_folder(folder).pid
        below = psutil.Process(pid)
    finally:
        parent.kill()
        parent.wait(SECONDS)
    with contextlib.suppress(psutil.NoSuchProcess):
        below.wait(SECONDS)
    assert not (folder / "ready.json").exists()


def test_it_imports_no_airflow_and_nothing_of_the_suites() -> None:
    code = (
        "import sys; from executor_conformance.backends.aws.emulator import server, __main__, process_runner;"
        "assert __main__.provider_handler() is not None;"
        "print([m for m in sys.modules if m.split('.')[0] in ('airflow', 'pytest')"
        " or m.startswith('executor_conformance.suites')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr
