"""Brokers for the Celery environment: embedded, given by address, or started here."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import threading
import time
import urllib.parse
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor_conformance.backends.celery.messages import RedisMessages, again
from executor_conformance.harness.api_server import free_port
from executor_conformance.harness.backend import installed
from executor_conformance.harness.errors import BoundReached, EnvironmentUnavailable, HarnessError, UsageError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline

if TYPE_CHECKING:
    from executor_conformance.harness.supervisor import ManagedProcess, Supervisor

KEPT = 50
"""How many of the last messages can be published again."""
VISIBILITY_TIMEOUT_S = 20
"""Longer than a callback may run here; after it a broker that knows it delivers an unacknowledged message again."""


class Broker(ABC):
    """What carries the messages."""

    label: str
    url: str
    redelivers: bool = True

    repeats: bool = False
    """Whether a message can be published once more here."""

    def keep(self, task_id: str) -> None:  # noqa: B027
        """Keep a copy of the message of this Celery task, which a worker is working on and has not acknowledged."""

    def queue_of(self, task_id: str) -> str | None:
        """The queue that the message of this Celery task went to; None if the broker does not tell."""
        return None

    def repeat(self, task_id: str) -> str:
        """Publish the message of this Celery task once more; returns one sentence on what was done.

        :raises HarnessError: there is no copy of it.
        """
        raise HarnessError(f"The broker {self.label} cannot publish a message again.")

    @abstractmethod
    def start(self) -> None:
        """Make it ready to be connected to."""

    def options(self) -> dict[str, str]:
        """``[celery_broker_transport_options]``."""
        return {}

    def lost(self) -> str:
        """Whether it was started here and has ended, in a sentence; empty if not."""
        return ""

    def stop(self) -> None:  # noqa: B027
        """Release what is not a process of the supervisor."""


class FilesystemBroker(Broker):
    """kombu's filesystem transport: folders instead of a server; a lost worker's messages are lost.

    Publishers write into one folder and consumers read from another. A thread moves each message over once its
    writer has let go of it: kombu's consumer would otherwise now and then take a file that is still empty.
    """

    redelivers = False
    repeats = True
    url = "filesystem://"

    def __init__(self, folder: Path) -> None:
        self.label = "kombu filesystem transport (embedded)"
        self.folder = folder
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._copies: OrderedDict[str, tuple[str, bytes]] = OrderedDict()

    def start(self) -> None:
        """Make the folders and start moving."""
        for name in ("out", "in", "control"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._move_all, daemon=True, name="filesystem-broker")
        self._thread.start()

    def _move_all(self) -> None:
        while not self._done.wait(0.01):
            try:
                names = sorted(os.listdir(self.folder / "out"))
            except OSError:
                return
            for name in names:
                self._move(self.folder / "out" / name)

    def _move(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if path.stat().st_size:
                    self._note(path.name, file.read())
                    path.rename(self.folder / "in" / path.name)
        except OSError:
            pass  # still being written: next time

    def _note(self, name: str, content: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self._copies[json.loads(content)["headers"]["id"]] = (name.partition(".")[2], content)
        while len(self._copies) > KEPT:
            self._copies.popitem(last=False)

    def queue_of(self, task_id: str) -> str | None:
        """The name of the message's file holds it."""
        return self._copies[task_id][0].removesuffix(".msg") if task_id in self._copies else None

    def repeat(self, task_id: str) -> str:
        """Write the message's file once more."""
        if task_id not in self._copies:
            raise HarnessError(f"No message of the Celery task {task_id} went through the broker's folders.")
        suffix, content = self._copies[task_id]
        fresh = self.folder / f"{uuid.uuid4()}.{suffix}"
        fresh.write_text(json.dumps(again(json.loads(content))), "utf-8")
        fresh.rename(self.folder / "in" / fresh.name)
        return f"the message of the Celery task {task_id[:8]} is in the folder once more"

    def options(self) -> dict[str, str]:
        """The folders, and how often a consumer looks."""
        return {
            "DATA_FOLDER_IN": str(self.folder / "in"),
            "DATA_FOLDER_OUT": str(self.folder / "out"),
            "CONTROL_FOLDER": str(self.folder / "control"),
            "POLLING_INTERVAL": "0.05",
        }

    def stop(self) -> None:
        """Stop moving."""
        self._done.set()
        if self._thread:
            self._thread.join(timeout=2)


class ServerBroker(Broker):
    """A server; one that is a Redis shows the messages that a worker has taken."""

    scheme: str
    _messages: RedisMessages | None = None

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        """Only a Redis does."""
        return self.scheme in ("redis", "rediss")

    def start(self) -> None:
        """Nothing has been kept yet."""
        self._messages = None

    def keep(self, task_id: str) -> None:
        """As the server shows it, if it does."""
        if not self.repeats:
            return
        self._messages = self._messages or RedisMessages(self.url)
        self._messages.keep(task_id)

    def queue_of(self, task_id: str) -> str | None:
        """As kept with the message."""
        return self._messages.queue_of(task_id) if self._messages else None

    def repeat(self, task_id: str) -> str:
        """Push it onto its queue again."""
        return (self._messages or RedisMessages(self.url)).repeat(task_id)


class GivenBroker(ServerBroker):
    """A broker that runs somewhere already."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme = urllib.parse.urlsplit(url).scheme
        parts = urllib.parse.urlsplit(url)
        self.label = f"{parts.scheme} at {parts.hostname}:{parts.port or _default_port(parts.scheme)} (address given)"

    def start(self) -> None:
        """Check that something answers."""
        super().start()
        parts = urllib.parse.urlsplit(self.url)
        address = (parts.hostname or "", parts.port or _default_port(parts.scheme))
        try:
            socket.create_connection(address, timeout=5).close()
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"Nothing answers at the broker's address {address[0]}:{address[1]} ({error}); "
                "start the broker or correct --conformance-broker."
            ) from None

    def options(self) -> dict[str, str]:
        """Redis delivers again after the visibility timeout; others by their own protocol."""
        return _redis_options() if self.scheme in ("redis", "rediss") else {}


def _redis_options() -> dict[str, str]:
    # kombu looks for messages to restore only every 100th time, 10 s apart, unless told otherwise
    return {
        "VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT_S),
        "UNACKED_RESTORE_INTERVAL": "1",
        "UNACKED_RESTORE_THROTTLE": "1",
    }


class LocalServer(ServerBroker):
    """A server started from a binary of this machine."""

    def __init__(self, scheme: str, folder: Path, supervisor: Supervisor, env: dict[str, str]) -> None:
        self.scheme, self.folder, self.supervisor, self.env = scheme, folder, supervisor, env
        self._process: ManagedProcess | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0" if scheme == "redis" else f"amqp://127.0.0.1:{self.port}//"
        self.label = f"{BINARIES[scheme]} of this machine"

    def start(self) -> None:
        """Start it and wait until it listens."""
        super().start()
        self.folder.mkdir(parents=True, exist_ok=True)
        env = dict(self.env)
        if self.scheme == "redis":
            argv = [
                find_binary("redis") or "",
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(self.folder),
            ]
        else:
            argv = [find_binary("amqp") or ""]
            env |= {
                "RABBITMQ_NODE_PORT": str(self.port),
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": f"conformance{self.port}@localhost",
                "RABBITMQ_DIST_PORT": str(self.port + 1 if self.port < 65000 else self.port - 1),
                "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(self.folder / "log"),
                "RABBITMQ_PID_FILE": str(self.folder / "pid"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
                "ERL_EPMD_PORT": str(free_port()),  # an epmd of our own, which ends with us
                "HOME": str(self.folder),
            }
        self._process = process = self.supervisor.spawn(BINARIES[self.scheme], argv, env, self.folder)
        deadline = Deadline(LIMITS.worker_start)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if not process.alive:
                    raise HarnessError(f"{BINARIES[self.scheme]} ended at its start: {process.log_tail(3)}") from None
                if deadline.over():
                    raise BoundReached(f"{BINARIES[self.scheme]} did not listen within {deadline}.") from None
                time.sleep(0.05)

    def lost(self) -> str:
        """The server's process, if it has ended."""
        if self._process is None or self._process.alive:
            return ""
        return f"{BINARIES[self.scheme]} has ended: {self._process.log_tail(1)} (log: {self._process.log})."

    def options(self) -> dict[str, str]:
        """As for a broker given by address."""
        return _redis_options() if self.scheme == "redis" else {}


class ContainerBroker(ServerBroker):
    """A container through testcontainers."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.url = ""
        self.label = f"{CONTAINERS[scheme][0]} in a container"
        self._container: Any = None

    def start(self) -> None:
        """Start the container and wait until a client of the protocol is let in.

        :raises EnvironmentUnavailable: it does not start.
        """
        super().start()
        from kombu import Connection
        from testcontainers.core.container import DockerContainer

        image, port, user, environ = CONTAINERS[self.scheme]
        self._container = DockerContainer(image).with_exposed_ports(port).with_envs(**environ)
        try:
            self._container.start()
            address = f"{self._container.get_container_host_ip()}:{self._container.get_exposed_port(port)}"
            self.url = f"{self.scheme}://{user}{address}/{'0' if self.scheme == 'redis' else '/'}"
            with Connection(self.url) as connection:
                self._await(connection)
        except Exception as error:
            self.stop()
            raise EnvironmentUnavailable(
                f"A {self.scheme} container could not be started ({str(error)[:200]}); "
                "give the broker's address with --conformance-broker instead."
            ) from None

    @staticmethod
    def _await(connection: Any) -> None:
        from kombu.exceptions import OperationalError

        deadline = Deadline(LIMITS.worker_start)
        while True:
            try:
                connection.ensure_connection(timeout=deadline.slice_s(), interval_start=0.1, interval_max=0.5)
                return
            except OperationalError as error:
                if deadline.over():
                    raise BoundReached(f"it let nobody in within {deadline}: {error}") from None

    def options(self) -> dict[str, str]:
        """As for a broker given by address."""
        return _redis_options() if self.scheme == "redis" else {}

    def stop(self) -> None:
        """Remove the container."""
        if self._container is not None:
            with contextlib.suppress(Exception):  # an engine that is gone took the container along
                self._container.stop()


CONTAINERS: dict[str, tuple[str, int, str, dict[str, str]]] = {
    "redis": ("redis:7.4.1-alpine", 6379, "", {}),
    "amqp": (
        "rabbitmq:4.0.4-alpine",
        5672,
        "guest:guest@",
        {"RABBITMQ_DEFAULT_USER": "guest", "RABBITMQ_DEFAULT_PASS": "guest"},
    ),
}
"""By scheme: image (as in docker-compose.yml), port, the user's part of the address, and environment."""
BINARIES = {"redis": "redis-server", "amqp": "rabbitmq-server"}
ALIASES = {"redis": "redis", "rabbitmq": "amqp", "amqp": "amqp"}


def _default_port(scheme: str) -> int:
    return {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}.get(scheme, 0)


def find_binary(scheme: str) -> str | None:
    """The server's binary on this machine."""
    name = BINARIES[scheme]
    # Debian's /usr/sbin/rabbitmq-server is a wrapper that changes to a user of its own, whom our folder shuts out
    unwrapped = shutil.which(name, path="/usr/lib/rabbitmq/bin")
    return unwrapped or shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


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
