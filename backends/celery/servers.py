"""Brokers that are servers: given by address, or started here."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
import urllib.parse
from abc import abstractmethod
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor_conformance.backends.celery.base import VISIBILITY_TIMEOUT_S, Broker
from executor_conformance.backends.celery.messages import Publications, RedisMessages
from executor_conformance.backends.celery.relay import (
    ANSWER_LOST,
    AWAY,
    AWAY_ONCE,
    CLOSED,
    HANG,
    BrokerRelay,
)
from executor_conformance.backends.celery.requests import READERS
from executor_conformance.harness.api_server import free_port
from executor_conformance.harness.errors import BoundReached, EnvironmentUnavailable, HarnessError, UsageError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.peers import LOOPBACK
from executor_conformance.harness.pressure import Deadline

if TYPE_CHECKING:
    from executor_conformance.harness.supervisor import ManagedProcess, Supervisor


class ServerBroker(Broker):
    """A server; one that is a Redis shows the messages that a worker has taken.

    The scheduler side reaches it through a relay, so that faults meet the publisher.
    """

    scheme: str
    _messages: RedisMessages | None = None
    _relay: BrokerRelay | None = None

    def start(self) -> None:
        """Start or find the server, and put a relay before it."""
        self._messages = None
        self._launch()
        if self.relayed:
            parts = urllib.parse.urlsplit(self.url)
            self._relay = BrokerRelay(self.scheme, parts.hostname or "", parts.port or _default_port(self.scheme))
            self._relay.start()

    @abstractmethod
    def _launch(self) -> None:
        """Return once the server answers."""

    @property
    def redis(self) -> bool:
        """True for a Redis."""
        return self.scheme in ("redis", "rediss")

    @property
    def relayed(self) -> bool:
        """True if a relay can read the connections: one server, a known protocol, no encryption."""
        return self.scheme in READERS and ";" not in self.url

    @property
    def publisher_url(self) -> str:
        """The relay's address, if there is one."""
        if self._relay is None:
            return self.url
        parts = urllib.parse.urlsplit(self.url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{LOOPBACK}:{self._relay.port}").geturl()

    @property
    def published(self) -> Publications | None:  # type: ignore[override]
        """The messages that went through the relay."""
        return self._relay.published if self._relay else None

    @property
    def dropped(self) -> Set[str]:  # type: ignore[override]
        """The messages that the relay has dropped."""
        return self._relay.dropped if self._relay else frozenset()

    def calls(self) -> Mapping[str, int] | None:
        """Return the requests that went through the relay, by operation."""
        return self._relay.calls if self._relay else None

    @property
    def ways(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        """The relay's ways; only a Redis answers a publish."""
        if not self.relayed:
            return {}
        answered = (ANSWER_LOST,) if self.redis else ()
        return {"submit-refused": (AWAY, AWAY_ONCE, CLOSED, *answered), "hang": (HANG,)}

    @property
    def unreachable(self) -> Mapping[str, str]:  # type: ignore[override]
        """The reason why the other ways are missing."""
        if not self.relayed:
            why = "The harness has no relay before this broker, as it has where the address is redis://… or amqp://…."
            return {"submit-refused": why, "hang": why}
        return {} if self.redis else {"submit-refused": "A publish by AMQP has no answer that could be lost."}

    def inject(self, way: str) -> str:
        """Let the relay fail."""
        return self._relay.inject(way) if self._relay else super().inject(way)

    def hits(self) -> int | None:
        """Return what the relay counts."""
        return self._relay.hits if self._relay else None

    def heal(self) -> None:
        """Let the relay pass everything on."""
        if self._relay:
            self._relay.heal()

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        """True for a Redis, which shows unacknowledged messages."""
        return self.redis

    @property
    def visibility_timeout_s(self) -> float:  # type: ignore[override]
        """Seconds; 0 for others than a Redis, which deliver again as soon as a worker's connection is gone."""
        return VISIBILITY_TIMEOUT_S if self.redis else 0.0

    def options(self) -> dict[str, str]:
        """Redis delivers again after the visibility timeout; others by their own protocol."""
        if not self.redis:
            return {}
        # kombu looks for messages to restore only every 100th time, 10 s apart, unless told otherwise
        return {
            "VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT_S),
            "UNACKED_RESTORE_INTERVAL": "1",
            "UNACKED_RESTORE_THROTTLE": "1",
        }

    def keep(self, task_id: str) -> None:
        """Copy the message, if the server shows it."""
        if not self.repeats:
            return
        self._messages = self._messages or RedisMessages(self.url)
        self._messages.keep(task_id)

    def queue_of(self, task_id: str) -> str | None:
        """Return the queue that was kept with the message."""
        return self._messages.queue_of(task_id) if self._messages else None

    def repeat(self, task_id: str) -> str:
        """Push it onto its queue again."""
        return (self._messages or RedisMessages(self.url)).repeat(task_id)

    def stop(self) -> None:
        """Stop the relay."""
        if self._relay:
            self._relay.stop()


class GivenBroker(ServerBroker):
    """A broker that runs somewhere already."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme = urllib.parse.urlsplit(url).scheme
        parts = urllib.parse.urlsplit(url)
        self.label = f"{parts.scheme} at {parts.hostname}:{parts.port or _default_port(parts.scheme)} (address given)"

    def _launch(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        address = (parts.hostname or "", parts.port or _default_port(parts.scheme))
        try:
            socket.create_connection(address, timeout=5).close()
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"Nothing answers at the broker's address {address[0]}:{address[1]} ({error}); "
                "start the broker or correct --conformance-broker."
            ) from None


class LocalServer(ServerBroker):
    """A server started from a binary of this machine."""

    def __init__(self, scheme: str, folder: Path, supervisor: Supervisor, env: dict[str, str]) -> None:
        self.scheme, self.folder, self.supervisor, self.env = scheme, folder, supervisor, env
        self._process: ManagedProcess | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0" if scheme == "redis" else f"amqp://127.0.0.1:{self.port}//"
        self.label = f"{BINARIES[scheme]} of this machine"

    def _launch(self) -> None:
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


class ContainerBroker(ServerBroker):
    """A container through testcontainers."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.url = ""
        self.label = f"{CONTAINERS[scheme][0]} in a container"
        self._container: Any = None

    def _launch(self) -> None:
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

    def stop(self) -> None:
        """Stop the relay, and remove the container."""
        super().stop()
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
"""Servers by scheme: image (as in docker-compose.yml), port, the user's part of the address, and environment."""
BINARIES = {"redis": "redis-server", "amqp": "rabbitmq-server"}


def _default_port(scheme: str) -> int:
    return {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}.get(scheme, 0)


def find_binary(scheme: str) -> str | None:
    """The server's binary on this machine."""
    name = BINARIES[scheme]
    # Debian's /usr/sbin/rabbitmq-server is a wrapper that changes to a user of its own, whom our folder shuts out
    unwrapped = shutil.which(name, path="/usr/lib/rabbitmq/bin")
    return unwrapped or shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
