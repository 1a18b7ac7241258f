"""The choice of a broker for the Celery environment."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from executor_conformance.backends.celery.base import VISIBILITY_TIMEOUT_S, Broker
from executor_conformance.backends.celery.folders import FilesystemBroker
from executor_conformance.backends.celery.servers import (
    BINARIES,
    ContainerBroker,
    GivenBroker,
    LocalServer,
    find_binary,
)
from executor_conformance.harness.backend import installed
from executor_conformance.harness.errors import UsageError

if TYPE_CHECKING:
    from executor_conformance.harness.supervisor import Supervisor

__all__ = [
    "VISIBILITY_TIMEOUT_S",
    "Broker",
    "FilesystemBroker",
    "GivenBroker",
    "check_choice",
    "find_binary",
    "has_docker",
    "make_broker",
]

ALIASES = {"redis": "redis", "rabbitmq": "amqp", "amqp": "amqp"}


def has_docker() -> bool:
    """Whether a docker engine answers."""
    if not Path("/var/run/docker.sock").exists() and not os.environ.get("DOCKER_HOST"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect("/var/run/docker.sock")
        return True
    except OSError:
        return bool(os.environ.get("DOCKER_HOST"))


def check_choice(choice: str | None) -> str | None:
    """What is missing for a value of ``--conformance-broker``, in one sentence.

    :raises UsageError: the value means nothing.
    """
    if choice in (None, "filesystem") or "://" in str(choice):
        return None
    scheme = ALIASES.get(str(choice))
    if scheme is None:
        raise UsageError(
            f"The broker '{choice}' is unknown; give 'filesystem', 'redis', 'rabbitmq', or an address such as redis://host:6379/0."
        )
    if find_binary(scheme):
        return None
    if not has_docker():
        return (
            f"neither {BINARIES[scheme]} nor a docker engine is on this machine; "
            "install one or give the broker's address"
        )
    if not installed("testcontainers"):
        return (
            f"{BINARIES[scheme]} is not on this machine, and a container needs the distribution testcontainers; "
            "install that with pip install 'airflow-executor-conformance[containers]'"
        )
    return None


def make_broker(choice: str | None, folder: Path, supervisor: Supervisor, env: dict[str, str]) -> Broker:
    """The broker for a value of ``--conformance-broker``: None, 'filesystem', 'redis', 'rabbitmq' or an address."""
    if choice in (None, "filesystem"):
        return FilesystemBroker(folder / "broker")
    assert choice is not None
    if "://" in choice:
        return GivenBroker(choice)
    scheme = ALIASES[choice]
    if find_binary(scheme):
        return LocalServer(scheme, folder / "broker", supervisor, env)
    return ContainerBroker(scheme)
