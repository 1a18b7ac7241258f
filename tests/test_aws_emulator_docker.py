"""The docker runner: its calls against an engine of our own making, and, where one answers, a real engine.

For the real one EXECUTOR_CONFORMANCE_TEST_IMAGE names a local image with sh.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.aws.emulator.docker_runner import FOLDER_LABEL, DockerRunner, remove_leftovers
from executor_conformance.backends.aws.emulator.runner import Image, ImageMissing, StartFailed
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
        self.containers = self

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
    assert engine.existing == [foreign]  # what a former emulator left is gone
    image = Image("worker", {"A": "1"}, "/srv", reference="worker:local", volumes=("/a:/b:ro",))
    handle = runner.start(image, ["sh", "-c", "x"], {"A": "1"}, "ecs-1")
    options = engine.existing[-1].options
    assert (options["entrypoint"], options["command"]) == (["sh"], ["-c", "x"])
    assert (options["network_mode"], options["init"], options["working_dir"]) == ("host", True, "/srv")
    assert (options["environment"], options["volumes"]) == ({"A": "1"}, ["/a:/b:ro"])
    assert (handle.pid, handle.container_id) == (4711, "c" * 64)
    assert handle.wait(0) is None
    handle.kill(15)
    assert handle.wait(SECONDS) == 143
    assert engine.existing == [foreign]
    assert (tmp_path / "logs" / "ecs-1.log").read_bytes() == b"said\n"
    handle.kill(9)  # ignored
    with pytest.raises(ImageMissing):
        runner.start(Image("nowhere"), ["true"], {}, "ecs-2")
    with pytest.raises(StartFailed, match=r'^exec: "nope": not found: unknown$'):
        runner.start(image, ["nope"], {}, "ecs-3")
    assert engine.existing == [foreign]  # a failed start leaves nothing
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


@pytest.fixture
def image() -> Image:
    name = os.environ.get("EXECUTOR_CONFORMANCE_TEST_IMAGE")
    if not name:
        pytest.skip("EXECUTOR_CONFORMANCE_TEST_IMAGE names no local image with sh")
    return Image(name)


def test_a_real_engine(real: DockerRunner, image: Image, tmp_path: Path) -> None:
    handle = real.start(image, ["sh", "-c", "echo $A; exit 7"], {"A": "said"}, "one")
    assert handle.container_id
    assert handle.wait(SECONDS) == 7
    assert "said" in (tmp_path / "logs" / "one.log").read_text()
    for number, code in ((9, 137), (15, 143)):
        handle = real.start(image, ["sleep", "300"], {}, f"killed-{number}")
        handle.kill(number)
        assert handle.wait(SECONDS) == code
    with pytest.raises(ImageMissing):
        real.start(Image("executor-conformance-no-such-image"), ["true"], {}, "missing")
    real.start(image, ["sleep", "300"], {}, "left")
    assert remove_leftovers(tmp_path) == 1
