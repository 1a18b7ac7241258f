"""A TCP relay between the scheduler side and the broker, so that faults meet the publisher and no worker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from typing import Any

from executor_conformance.backends.celery.messages import Publications
from executor_conformance.backends.celery.requests import READERS, Request
from executor_conformance.harness.peers import ListeningThread, reset

AWAY, AWAY_ONCE, CLOSED, ANSWER_LOST, HANG = (
    "broker-away",
    "broker-away-once",
    "connection-closed",
    "answer-lost",
    "publish",
)
"""The ways of :meth:`BrokerRelay.inject`."""
DONE = {
    AWAY: "the broker resets the publishers' connections and refuses new ones",
    AWAY_ONCE: "the broker resets the publishers' connections and the next new one",
    CLOSED: "the connection of the next publish is reset before the message has arrived",
    ANSWER_LOST: "the message of the next publish arrives, and its publisher is sent nothing more",
    HANG: "the broker resets the publishers' connections, accepts new ones and never answers",
}


class BrokerRelay(ListeningThread):
    """Passes connections on to a broker, reads what they publish, and fails as it is told.

    :param scheme: of the broker's address, 'redis' or 'amqp'.
    """

    def __init__(self, scheme: str, host: str, port: int) -> None:
        super().__init__("broker relay")
        self.scheme, self.broker = scheme, (host, port)
        self.published = Publications()
        self.dropped: set[str] = set()
        """Ids of the Celery tasks whose message a fault has dropped, at least once."""
        self.transports: dict[Any, asyncio.Transport] = {}
        self._calls: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._way = ""
        self._hits = 0

    @property
    def calls(self) -> dict[str, int]:
        """The number of requests that have reached the broker, by operation."""
        with self._counting:
            return dict(self._calls)

    @property
    def hits(self) -> int | None:
        """The number of connections or publishes that met the fault in force; None: there is none."""
        return self._hits if self._way else None

    def inject(self, way: str) -> str:
        """Fail in this way until :meth:`heal`; return one sentence on what was done."""
        self._command(self._begin(way), "inject a fault")
        return DONE[way]

    def heal(self) -> None:
        """Pass everything on again; reset the connections that got no answer."""
        if self._way:
            self._command(self._end(), "take back a fault")

    async def _begin(self, way: str) -> None:
        self._way, self._hits = way, 0
        if way in (AWAY, AWAY_ONCE, HANG):
            self._reset(tuple(self.transports))

    async def _end(self) -> None:
        self._way = ""
        self._reset([each for each in tuple(self.transports) if each.silent])
        await self._begin_listening()

    def _reset(self, connections: Any) -> None:
        for connection in connections:
            reset(self.transports.get(connection))

    def _make_listener(self) -> BrokerRelay:
        return self

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        return _Connection(self)

    def admit(self, connection: _Connection, transport: asyncio.Transport) -> bool:
        """Note a new connection; return whether the relay passes it on."""
        self.transports[connection] = transport
        if self._way == HANG:
            self._hits += 1
            connection.silent = True
            return False
        if self._way == AWAY or (self._way == AWAY_ONCE and not self._hits):
            self._hits += 1
            reset(transport)
            if self._way == AWAY:  # one that is refused by the kernel cannot be counted, so the first one is accepted
                self._refusing = asyncio.get_running_loop().create_task(self._end_listening("refused"))
            return False
        return True

    def take(self, connection: _Connection, request: Request) -> bool:
        """Note a request; return whether the relay passes it and the following ones on."""
        if request.publication and self._way in (CLOSED, ANSWER_LOST) and not self._hits:
            self._hits += 1
            if self._way == CLOSED:
                self.dropped.add(request.publication.task_id)
                reset(self.transports.get(connection))
                return False
            connection.silent = True
        with self._counting:
            self._calls[request.operation] += 1
        if request.publication:
            self.published.add(request.publication)
        return True


class _Connection(asyncio.Protocol):
    """A connection of a publisher, and the one to the broker that belongs to it."""

    def __init__(self, relay: BrokerRelay) -> None:
        self.relay = relay
        self.silent = False
        """True: the relay sends the publisher nothing more."""
        self.client: asyncio.Transport | None = None
        self._requests = READERS[relay.scheme]()
        self._server: asyncio.Transport | None = None
        self._waiting = bytearray()
        self._passed_on = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the broker."""
        assert isinstance(transport, asyncio.Transport)
        self.client = transport
        if self.relay.admit(self, transport):
            self._passed_on = True
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        assert self.client is not None
        try:
            server, _ = await asyncio.get_running_loop().create_connection(lambda: _Answers(self), *self.relay.broker)
        except OSError:
            reset(self.client)  # as the broker would have done
            return
        if self.client.is_closing():
            server.abort()
            return
        self._server = server
        server.write(bytes(self._waiting))
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        """Read the publisher's data and pass it on."""
        if not self._passed_on:
            return
        if not all(self.relay.take(self, request) for request in self._requests.feed(data)):
            self._passed_on = False
        elif self._server is None:
            self._waiting += data
        else:
            self._server.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the connection to the broker, too."""
        self.relay.transports.pop(self, None)
        if self._server is not None:
            self._server.close()


class _Answers(asyncio.Protocol):
    """The broker's side of a connection."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        """Pass data on to the publisher, unless the connection is silent."""
        client = self.connection.client
        if client is not None and not self.connection.silent:
            client.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Close the publisher's connection, too; a silent one stays open, for an answer would have to come by it."""
        client = self.connection.client
        if client is not None and not self.connection.silent:
            with contextlib.suppress(OSError):
                client.close()
