"""Containers of a docker engine on this host, with the host's network and its process ids.

Needs the docker SDK (a dependency of ``moto[batch]``) and images that the engine has; nothing is pulled. Every
container carries the labels below; what a killed emulator left is removed by a reaper, which is a container of its
own (``docker_reaper``). An image's volumes are bind mounts, so the engine must be on this host.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

from executor_conformance.backends.aws.emulator import docker_reaper
from executor_conformance.backends.aws.emulator.docker_image import ensure_image, host_volumes
from executor_conformance.backends.aws.emulator.runner import Handle, Image, ImageMissing, Runner, StartFailed
from executor_conformance.harness import processes
from executor_conformance.harness.errors import EnvironmentUnavailable, HarnessError

FOLDER_LABEL = "executor-conformance.folder"
OWNER_LABEL = "executor-conformance.owner"
_CALL_SECONDS = 20
_END_SECONDS = 30.0


def engine(timeout: int | None = _CALL_SECONDS) -> Any:
    """A client (``docker.DockerClient``) of the engine that DOCKER_HOST names, or of the local socket.

    :raises EnvironmentUnavailable: there is no engine, or it is not on this host.
    """
    try:
        import docker
    except ImportError:
        raise EnvironmentUnavailable("The docker runner needs the Python package 'docker'.") from None
    try:
        client = docker.from_env(timeout=timeout)
        client.ping()
    except docker.errors.DockerException as error:
        raise EnvironmentUnavailable(f"No docker engine answers: {error}.") from None
    if not client.api.base_url.startswith("http+docker://"):  # what the SDK makes of a unix socket
        raise EnvironmentUnavailable(f"The docker engine at {client.api.base_url} is not on this host.")
    return client


def _remove_labelled(client: Any, folder: Path) -> int:
    label = f"{FOLDER_LABEL}={folder.resolve()}"
    found = client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
    for container in found:
        with contextlib.suppress(Exception):
            container.remove(force=True, v=True)
    return len(found)


class DockerHandle(Handle):
    """A container of the engine; removed once its end is known."""

    def __init__(self, container: Any, log: Path) -> None:
        self._container = container
        self.container_id = container.id
        container.reload()
        self.pid = int(container.attrs["State"].get("Pid") or 0)
        self._log = log
        self._ended = threading.Event()
        self._exit_code = -1
        threading.Thread(target=self._watch, daemon=True, name=f"docker-{container.short_id}").start()

    def wait(self, timeout: float | None = None) -> int | None:
        """As ``Handle.wait``."""
        return self._exit_code if self._ended.wait(timeout) else None

    def kill(self, number: int) -> None:
        """As ``Handle.kill``; the engine ends all of a container with its first process."""
        if not self._ended.is_set():
            with contextlib.suppress(Exception):  # it has just ended
                self._container.kill(number)

    def _watch(self) -> None:
        code = 128 + signal.SIGKILL  # of one that was removed by force
        with contextlib.suppress(Exception):
            code = int(self._container.wait(timeout=None)["StatusCode"])
        with contextlib.suppress(Exception), self._log.open("ab") as file:
            for chunk in self._container.logs(stream=True):
                file.write(chunk)
        with contextlib.suppress(Exception):
            self._container.remove(force=True, v=True)
        self._exit_code = code
        self._ended.set()


class DockerRunner(Runner):
    """Starts containers on the engine that the environment names (DOCKER_HOST, or the local socket)."""

    name = "docker"

    def __init__(self, folder: Path, client: Any = None) -> None:
        """Connect (or use ``client``, as of the SDK), remove what an emulator in this folder left, start the reaper.

        :raises EnvironmentUnavailable: no engine answers.
        :raises HarnessError: it does not run the reaper.
        """
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._client = client or engine()
        _remove_labelled(self._client, self.folder)
        self._start_reaper()

    def _start_reaper(self) -> None:
        from docker.errors import DockerException

        label = f"{FOLDER_LABEL}={self.folder}"
        own = processes.read_stat(os.getpid())
        name = f"executor-conformance-reaper-{uuid.uuid4().hex[:12]}"
        socket = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
        try:
            self._client.containers.run(
                ensure_image(self._client),
                command=["-I", "-S", docker_reaper.__file__, str(os.getpid()), str(own.started if own else 0), label],
                entrypoint=[sys.executable],
                name=name,
                environment={"HOSTNAME_OF_REAPER": name},
                volumes=[*host_volumes(), f"{socket.resolve()}:{docker_reaper.SOCKET}"],
                pid_mode="host",
                labels={FOLDER_LABEL: str(self.folder), OWNER_LABEL: str(os.getpid())},
                detach=True,
            )
        except DockerException as error:
            raise HarnessError(f"The docker engine does not run the reaper of containers: {error}") from None

    def start(self, image: Image, argv: list[str], env: dict[str, str], name: str, working_dir: str = "") -> Handle:
        """As ``Runner.start``; the image's own environment and entrypoint at the engine count below the given ones."""
        from docker.errors import APIError, ImageNotFound

        if not argv:
            raise StartFailed("no command specified")
        stem = re.sub(r"[^\w.-]+", "-", name)[-120:]
        try:
            container = self._client.containers.create(
                image.reference or image.name,
                command=argv[1:],
                entrypoint=argv[:1],
                environment=env,
                working_dir=working_dir or image.working_dir,
                volumes=[*image.volumes, *([f"{working_dir}:{working_dir}:ro"] if working_dir else [])],
                network_mode="host",
                pid_mode="host",  # the harness sees and kills processes by their pids
                user=f"{os.getuid()}:{os.getgid()}",
                labels={FOLDER_LABEL: str(self.folder), OWNER_LABEL: str(os.getpid())},
            )
        except ImageNotFound:
            raise ImageMissing(image.name) from None
        except APIError as error:
            raise StartFailed(_problem(error)) from None
        try:
            container.start()
        except APIError as error:
            with contextlib.suppress(Exception):  # the engine keeps a container that it could not start
                container.remove(force=True, v=True)
            raise StartFailed(_problem(error)) from None
        return DockerHandle(container, self.logs / f"{stem}.log")

    def close(self) -> None:
        """As ``Runner.close``."""
        done = threading.Thread(target=self._clear, daemon=True)
        done.start()
        done.join(_END_SECONDS)

    def _clear(self) -> None:
        with contextlib.suppress(Exception):
            _remove_labelled(self._client, self.folder)


def _problem(error: Any) -> str:
    text = str(error.explanation or error)
    return text.rpartition("unable to start container process: ")[2].strip()
