"""The docker runner: its calls against an engine of our own making, and, where one answers, a real engine."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.aws.emulator import docker_runner
from executor_conformance.backends.aws.emulator.docker_image import ensure_image, host_volumes
from executor_conformance.backends.aws.emulator.docker_runner import FOLDER_LABEL, DockerRunner
from executor_conformance.backends.aws.emulator.runner import Image, ImageMissing, StartFailed
from executor_conformance.harness import processes
from executor_conformance.harness.errors import EnvironmentUnavailable

docker = pytest.importorskip("docker")
SECONDS = 30.0


class Container:
    def __init__(self, engine: Engine, options: dict[str, Any]) -> None:
        self.engine, self.options = engine, options
        self.id, self.short_id = "c" * 64, "c" * 10
        self.attrs: dict[str, Any] = {"State": {"Pid": 0}}
        self.signals: queue.Queue[int] = queue.Queue()

    def start(self) -> None:
        if self.options["entrypoint"] == ["nope"]:
            text = 'failed: unable to start container process: exec: "nope": not found: unknown'
            raise docker.errors.APIError("400", explanation=text)
        self.attrs["State"]["Pid"] = 4711

    def reload(self) -> None: ...

    def kill(self, number: int) -> None:
        self.signals.put(number)

    def wait(self, timeout: float | None) -> dict[str, int]:
        return {"StatusCode": 128 + self.signals.get(timeout=SECONDS)}

    def logs(self, stream: bool) -> list[bytes]:
        return [b"said\n"]

    def remove(self, force: bool, v: bool) -> None:
        self.engine.existing.remove(self)


class Engine:
    """As much of ``docker.DockerClient`` as is used."""

    def __init__(self) -> None:
        self.existing: list[Container] = []
        self.containers = self.images = self

    def get(self, image: str) -> str:
        return image

    def run(self, image: str, **options: Any) -> None:
        assert (options["pid_mode"], options["detach"]) == ("host", True)
        self.create(image, **options)

    def create(self, image: str, **options: Any) -> Container:
        if image == "nowhere":
            raise docker.errors.ImageNotFound("404")
        self.existing.append(Container(self, options))
        return self.existing[-1]

    def list(self, all: bool, filters: dict[str, str], ignore_removed: bool) -> list[Container]:
        name, _, value = filters["label"].partition("=")
        return [container for container in self.existing if container.options["labels"].get(name) == value]


def test_what_the_engine_is_asked(tmp_path: Path) -> None:
    engine = Engine()
    engine.create("old", labels={FOLDER_LABEL: str(tmp_path)})
    foreign = engine.create("foreign", labels={})
    runner = DockerRunner(tmp_path, engine)
    reaper = engine.existing[-1]
    assert reaper.options["command"][2].endswith("docker_reaper.py")
    assert engine.existing == [foreign, reaper]  # what a former emulator left is gone
    image = Image("worker", {"A": "1"}, "/srv", reference="worker:local", volumes=("/a:/b:ro",))
    handle = runner.start(image, ["sh", "-c", "x"], {"A": "1"}, "ecs-1")
    options = engine.existing[-1].options
    assert (options["entrypoint"], options["command"]) == (["sh"], ["-c", "x"])
    assert (options["network_mode"], options["pid_mode"], options["working_dir"]) == ("host", "host", "/srv")
    assert (options["environment"], options["volumes"]) == ({"A": "1"}, ["/a:/b:ro"])
    assert (handle.pid, handle.container_id) == (4711, "c" * 64)
    assert handle.wait(0) is None
    handle.kill(15)
    assert handle.wait(SECONDS) == 143
    assert engine.existing == [foreign, reaper]
    assert (tmp_path / "logs" / "ecs-1.log").read_bytes() == b"said\n"
    handle.kill(9)  # ignored
    with pytest.raises(ImageMissing):
        runner.start(Image("nowhere"), ["true"], {}, "ecs-2")
    with pytest.raises(StartFailed, match=r'^exec: "nope": not found: unknown$'):
        runner.start(image, ["nope"], {}, "ecs-3")
    assert engine.existing == [foreign, reaper]  # a failed start leaves nothing
    runner.start(image, ["sh"], {}, "ecs-4")
    runner.close()
    assert engine.existing == [foreign]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[DockerRunner]:
    try:
        runner = DockerRunner(tmp_path)
    except EnvironmentUnavailable as error:
        pytest.skip(str(error))
    yield runner
    runner.close()
    client = docker_runner.engine()
    assert client.containers.list(all=True, filters={"label": f"{FOLDER_LABEL}={tmp_path}"}) == []
    client.close()


@pytest.fixture
def image(real: DockerRunner) -> Image:
    client = docker_runner.engine()
    reference = ensure_image(client)
    client.close()
    return Image("worker", reference=reference, volumes=tuple(host_volumes()))


def test_a_real_engine(real: DockerRunner, image: Image, tmp_path: Path) -> None:
    path = {"PATH": os.environ["PATH"]}
    handle = real.start(image, ["sh", "-c", "echo $A; exit 7"], {"A": "said", **path}, "one")
    assert handle.container_id
    assert handle.wait(SECONDS) == 7
    assert "said" in (tmp_path / "logs" / "one.log").read_text()
    for number, code in ((9, 137), (15, 143)):
        handle = real.start(image, ["sleep", "300"], path, f"killed-{number}")
        assert Path(f"/proc/{handle.pid}/cmdline").read_bytes() == b"sleep\x00300\x00"
        handle.kill(number)
        assert handle.wait(SECONDS) == code
    with pytest.raises(ImageMissing):
        real.start(Image("executor-conformance-no-such-image"), ["true"], {}, "missing")
    with pytest.raises(StartFailed, match=r'^exec: "nope": executable file not found in \$PATH: unknown$'):
        real.start(image, ["nope"], path, "no-such-program")
    real.start(image, ["sleep", "300"], path, "left")


def test_the_interpreter_and_its_packages_are_in_the_image(real: DockerRunner, image: Image, tmp_path: Path) -> None:
    program = "import executor_conformance.suites.callables, sys; print(sys.prefix)"
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    handle = real.start(image, ["python", "-c", program], env, "python")
    assert handle.wait(SECONDS) == 0, (tmp_path / "logs" / "python.log").read_text()
    assert (tmp_path / "logs" / "python.log").read_text().strip() == sys.prefix


def test_a_container_ends_with_all_of_its_processes(real: DockerRunner, image: Image) -> None:
    handle = real.start(image, ["sh", "-c", "sleep 314 & sleep 315"], {"PATH": os.environ["PATH"]}, "tree")
    deadline = time.monotonic() + SECONDS
    while len(tree := processes.tree_of(handle.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(tree) == 3
    handle.kill(9)
    assert handle.wait(SECONDS) == 137
    assert not [pid for pid in tree if processes.is_alive(pid)]


def test_the_reaper_clears_up_behind_a_killed_emulator(tmp_path: Path) -> None:
    try:
        client = docker_runner.engine()
    except EnvironmentUnavailable as error:
        pytest.skip(str(error))
    program = (
        "import pathlib, sys\n"
        "from executor_conformance.backends.aws.emulator.docker_image import ensure_image, host_volumes\n"
        "from executor_conformance.backends.aws.emulator.docker_runner import DockerRunner, engine\n"
        "from executor_conformance.backends.aws.emulator.runner import Image\n"
        "image = Image('worker', reference=ensure_image(engine()), volumes=tuple(host_volumes()))\n"
        "DockerRunner(pathlib.Path(sys.argv[1])).start(image, ['/bin/sleep', '300'], {}, 'left')\n"
        "print('started', flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path)]
    label = {"label": f"{FOLDER_LABEL}={tmp_path.resolve()}"}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as emulator:
        assert emulator.stdout is not None
        assert emulator.stdout.readline() == b"started\n"
        assert len(client.containers.list(all=True, filters=label)) == 2
        emulator.kill()
    deadline = time.monotonic() + SECONDS
    while client.containers.list(all=True, filters=label, ignore_removed=True) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.containers.list(all=True, filters=label) == []
    client.close()
