"""The environment, the arguments and the program of a container, as the kubelet and a container runtime make them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from executor_conformance.backends.kubernetes.emulator.images import Image
from executor_conformance.backends.kubernetes.emulator.status import Obj

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(?:(\$)|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")
_RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed"


class ConfigError(Exception):
    """The container can't be configured (CreateContainerConfigError): it waits, and is tried again."""


class StartFailure(Exception):
    """The container's program can't be started: it has ended, with an exit code and a reason."""

    def __init__(self, reason: str, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


@dataclass(frozen=True)
class Command:
    """What to execute: ``program`` is the absolute path, ``argv`` begins with the name as given."""

    program: str
    argv: list[str]
    env: dict[str, str]
    working_dir: str


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)``; unknown names are left as they are, ``$$`` is one dollar sign."""

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        return variables.get(found[2], found[0])

    return _REFERENCE.sub(one, text)


def _field(path: str, pod: Obj) -> str:
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    if found := _SUBSCRIPT.fullmatch(path):
        return (metadata.get(found[1]) or {}).get(found[2], "")
    simple: dict[str, Any] = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName"),
        "spec.serviceAccountName": spec.get("serviceAccountName"),
        "status.podIP": status.get("podIP"),
        "status.podIPs": status.get("podIP"),
        "status.hostIP": status.get("hostIP"),
        "status.hostIPs": status.get("hostIP"),
    }
    if path not in simple:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return simple[path] or ""


def _from_source(source: Obj, pod: Obj) -> str | None:
    if (reference := source.get("fieldRef")) is not None:
        return _field(reference.get("fieldPath", ""), pod)
    for name, kind in (("configMapKeyRef", "configmap"), ("secretKeyRef", "secret")):
        if (reference := source.get(name)) is not None:
            if reference.get("optional"):
                return None
            raise ConfigError(f'{kind} "{reference.get("name", "")}" not found')
    raise ConfigError(f"valueFrom.{next(iter(source), '')} is not supported by this emulator")


def pod_env(container: Obj, pod: Obj) -> dict[str, str]:
    """The variables that the pod sets.

    :raises ConfigError: one refers to something that does not exist or is not supported.
    """
    for source in container.get("envFrom") or []:
        for name, kind in (("configMapRef", "configmap"), ("secretRef", "secret")):
            reference = source.get(name)
            if reference is not None and not reference.get("optional"):
                raise ConfigError(f'{kind} "{reference.get("name", "")}" not found')
    env: dict[str, str] = {}
    for variable in container.get("env") or []:
        source = variable.get("valueFrom")
        if source is None:
            env[variable["name"]] = expand(variable.get("value") or "", env)
        elif (value := _from_source(source, pod)) is not None:
            env[variable["name"]] = value
    return env


def _is_program(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _find(name: str, env: Mapping[str, str], working_dir: str) -> str:
    """:raises StartFailure: there is no such program, or it may not be executed."""
    if "/" in name:
        path = os.path.join(working_dir, name)
        if not _is_program(path):
            text = f'{_RUNC}: unable to start container process: exec: "{name}": stat {name}: no such file or directory'
            raise StartFailure("StartError", 128, f"{text}: unknown")
        candidates = [path]
    else:
        folders = env.get("PATH", DEFAULT_PATH).split(":")
        candidates = [path for folder in folders if folder and _is_program(path := os.path.join(folder, name))]
        if not candidates:
            text = f'exec: "{name}": executable file not found in $PATH'
            raise StartFailure("StartError", 128, f"{_RUNC}: unable to start container process: {text}: unknown")
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    text = f'{_RUNC}: unable to start container process: exec: "{name}": permission denied'
    raise StartFailure("ContainerCannotRun", 126, f"{text}: unknown")


def command_of(container: Obj, pod: Obj, image: Image) -> Command:
    """What to execute for a container.

    Besides the image's and the pod's variables there are those that every container runtime sets: PATH, if
    neither has it, and HOSTNAME, which is the pod's name.

    :raises ConfigError: a variable can't be had.
    :raises StartFailure: there is nothing to execute, or it can't be executed.
    """
    own = pod_env(container, pod)
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": pod["metadata"]["name"], **image.env, **own}
    given = [expand(part, own) for part in container.get("command") or []]
    argv = [*(given or image.entrypoint), *(expand(part, own) for part in container.get("args") or [])]
    if not argv:
        raise StartFailure("StartError", 128, f"{_RUNC}: no command specified: unknown")
    working_dir = expand(container.get("workingDir") or "", own) or image.working_dir
    if not os.path.isdir(working_dir):
        text = f'chdir to cwd ("{working_dir}") set in config.json failed: no such file or directory'
        raise StartFailure("ContainerCannotRun", 126, f"{_RUNC}: {text}: unknown")
    return Command(_find(argv[0], env, working_dir), argv, env, working_dir)
