"""The images that can be 'pulled': what a process container of each gets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor_conformance.harness.errors import UsageError


class BadImages(ValueError):
    """A description of images that means nothing; the message is one sentence."""


@dataclass(frozen=True)
class Image:
    """Environment, entrypoint and working directory (empty: the root) of an image's containers.

    ``warm``: Airflow's worker command may begin as a fork; see ``warm_starts``.
    """

    env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    working_dir: str = "/"
    warm: bool = False


def parse_images(document: Any) -> dict[str, Image]:
    """Images by ``repository:tag``, from ``{"repository:tag": {"env", "entrypoint", "working_dir"}}``.

    :raises BadImages: the document is of another shape.
    """
    if not isinstance(document, dict):
        raise BadImages("images are an object from 'repository:tag' to 'env', 'entrypoint' and 'working_dir'")
    images = {}
    for name, entry in document.items():
        if not isinstance(entry, dict) or entry.keys() - {"env", "entrypoint", "working_dir", "warm"}:
            raise BadImages(f"the image {name!r} is no object with 'env', 'entrypoint' and 'working_dir'")
        env, entrypoint = entry.get("env") or {}, entry.get("entrypoint") or []
        working_dir = entry.get("working_dir") or "/"
        if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
            raise BadImages(f"'env' of the image {name!r} is no object of strings")
        if not isinstance(entrypoint, list) or not all(isinstance(part, str) for part in entrypoint):
            raise BadImages(f"'entrypoint' of the image {name!r} is no list of strings")
        if not isinstance(working_dir, str) or not working_dir.startswith("/"):
            raise BadImages(f"'working_dir' of the image {name!r} is no absolute path")
        if not isinstance(warm := entry.get("warm", False), bool):
            raise BadImages(f"'warm' of the image {name!r} is neither true nor false")
        images[normalized(name)] = Image(env, entrypoint, working_dir, warm)
    return images


def read_images(path: Path) -> dict[str, Image]:
    """Images from a JSON file.

    :raises UsageError: it can't be read or is of another shape.
    """
    try:
        return parse_images(json.loads(path.read_text()))
    except OSError as error:
        raise UsageError(f"The images file {path} can't be read: {error.strerror}.") from None
    except BadImages as error:
        raise UsageError(f"The images file {path} is wrong: {error}.") from None
    except ValueError as error:
        raise UsageError(f"The images file {path} is no JSON: {error}.") from None


def normalized(name: str) -> str:
    """With the tag 'latest' where there is none."""
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"
