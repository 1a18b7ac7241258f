"""What a data plane needs of whatever carries out a container: images, handles, the ways a start can fail."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor_conformance.harness.errors import UsageError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH that a container runtime gives to an image without one."""


class ImageMissing(Exception):
    """There is no such image; the argument is its name."""


class StartFailed(Exception):
    """The image is there, the process could not be started; the argument is the runtime's reason."""


@dataclass(frozen=True)
class Image:
    """What a container of an image gets before overrides.

    ``reference`` and ``volumes`` (``source:target:mode``) are for the docker runner: the image's name at the
    engine, if it is another one, and bind mounts. ``warm``, for the process runner: Airflow's worker command may begin
    as a fork; see ``warm_starts``.
    """

    name: str
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    entrypoint: tuple[str, ...] = ()
    reference: str = ""
    volumes: tuple[str, ...] = ()
    warm: bool = False


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def parse_images(data: Any, source: str) -> dict[str, Image]:
    """Images by name from ``{"name": {"env", "working_dir", "entrypoint", "reference", "volumes"}}``.

    :raises UsageError: the data has another shape; ``source`` names it.
    """
    if not isinstance(data, dict):
        raise UsageError(f"{source} must hold a JSON object: image name to its properties.")
    images: dict[str, Image] = {}
    for name, entry in data.items():
        if not isinstance(entry, dict):
            raise UsageError(f"{source}: the image '{name}' must be an object.")
        if unknown := set(entry) - {"env", "working_dir", "entrypoint", "reference", "volumes", "warm"}:
            raise UsageError(f"{source}: the image '{name}' has the unknown property '{min(unknown)}'.")
        env = entry.get("env", {})
        if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
            raise UsageError(f"{source}: 'env' of the image '{name}' must map names to strings.")
        for key in ("entrypoint", "volumes"):
            if not _strings(entry.get(key, [])):
                raise UsageError(f"{source}: '{key}' of the image '{name}' must be a list of strings.")
        for key in ("working_dir", "reference"):
            if not isinstance(entry.get(key, ""), str):
                raise UsageError(f"{source}: '{key}' of the image '{name}' must be a string.")
        if not isinstance(entry.get("warm", False), bool):
            raise UsageError(f"{source}: 'warm' of the image '{name}' must be true or false.")
        images[name] = Image(
            name=name,
            env=dict(env),
            working_dir=entry.get("working_dir") or "/",
            entrypoint=tuple(entry.get("entrypoint", ())),
            reference=entry.get("reference", ""),
            volumes=tuple(entry.get("volumes", ())),
            warm=entry.get("warm", False),
        )
    return images


def load_images(path: Path) -> dict[str, Image]:
    """Images from a JSON file; see ``parse_images``.

    :raises UsageError: it cannot be read, or has another shape.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"The images file {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"The images file {path} is not JSON: {error}.") from None
    return parse_images(data, f"The images file {path}")


class Images:
    """The images that can be pulled; may be replaced at any time."""

    def __init__(self, images: dict[str, Image]) -> None:
        self._images = images
        self._lock = threading.Lock()

    def replace(self, images: dict[str, Image]) -> None:
        """Make ``images`` the only ones."""
        with self._lock:
            self._images = images

    def get(self, name: str) -> Image:
        """The image.

        :raises ImageMissing: there is none of that name.
        """
        with self._lock:
            if name not in self._images:
                raise ImageMissing(name)
            return self._images[name]


class Handle(ABC):
    """One started container."""

    pid: int
    """Of the container's main process, as the host sees it."""
    container_id: str | None = None
    """Of a container engine; None for a host process."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code of the main process (128 + n for signal n) once all of the container is gone.

        :param timeout: seconds; None if it still runs then.
        """

    @abstractmethod
    def kill(self, number: int) -> None:
        """Signal the main process; SIGKILL reaches everything in the container. Ignored after its end."""


class Runner(ABC):
    """Starts containers."""

    name: str

    @abstractmethod
    def start(self, image: Image, argv: list[str], env: dict[str, str], name: str, working_dir: str = "") -> Handle:
        """Start ``argv`` (complete: entrypoint and command) with exactly ``env``.

        :param name: unique; also of the log.
        :param working_dir: instead of the image's.
        :raises ImageMissing: the engine has no such image.
        :raises StartFailed: there is nothing to run, or it cannot be run.
        """

    @abstractmethod
    def close(self) -> None:
        """Kill and remove all that was started; bounded."""
