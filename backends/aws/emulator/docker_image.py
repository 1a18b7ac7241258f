"""The image of the workers on a docker engine: empty, with this host's programs mounted read-only.

There is nothing to pull and nothing to install into it: a worker in a container runs the same interpreter and the
same packages as one that is a host process.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

REPOSITORY = "executor-conformance-worker"
EDITION = "1"
"""Changes with what :func:`_layer` makes."""
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS = (("tmp", 0o1777), ("root", 0o700), ("usr", 0o755), ("etc", 0o755), ("dev", 0o755), ("proc", 0o555))
_HOST = (
    "/usr",
    "/opt",
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/ssl",
)
_PACKAGES = ("harness", "backends", "suites")


def ensure_image(client: Any) -> str:
    """The image's name at the engine of ``client`` (``docker.DockerClient``), which gets it if it has it not.

    :raises docker.errors.DockerException: the engine does not take it.
    """
    from docker.errors import ImageNotFound

    name = f"{REPOSITORY}:{EDITION}"
    try:
        client.images.get(name)
    except ImageNotFound:
        client.api.import_image_from_data(_layer(), repository=REPOSITORY, tag=EDITION)
    return name


def _layer() -> bytes:
    """The image's one layer: mount points, and the links from / to /usr that this host has."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode in _FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        for name in _LINKS:
            if Path("/", name).is_symlink():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
                archive.addfile(link)
    return buffer.getvalue()


def host_volumes() -> list[str]:
    """Bind mounts (``source:target:ro``) of all that this interpreter, and what it can import, consists of."""
    wanted = [*_HOST, *(f"/{name}" for name in _LINKS if not Path("/", name).is_symlink())]
    wanted += [sys.prefix, sys.base_prefix, *sys.path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    for package in _PACKAGES:  # an editable installation has them outside the path
        spec = importlib.util.find_spec(f"executor_conformance.{package}")
        wanted += [str(Path(place).resolve()) for place in (spec.submodule_search_locations if spec else None) or ()]
    kept: list[Path] = []
    for path in sorted({Path(entry).absolute() for entry in wanted if entry}, key=lambda path: len(path.parts)):
        if path.exists() and len(path.parts) > 1 and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return [f"{path}:{path}:ro" for path in kept]
