"""Requests of a client to its broker, read from the bytes of a connection by Redis or AMQP 0-9-1."""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from executor_conformance.backends.celery.messages import Publication, publication_of, workload_of

END = b"\r\n"
PRIORITY = "\x06\x16"
"""The separator of kombu between a queue's name and a priority, in the key of a Redis list."""
GREETING = b"AMQP"
FRAME_END = 0xCE
METHOD, HEADER, BODY = 1, 2, 3
"""Types of AMQP frames."""
PUBLISH = (60, 40)
METHODS = {
    (10, 11): "connection.start-ok",
    (10, 31): "connection.tune-ok",
    (10, 40): "connection.open",
    (10, 50): "connection.close",
    (20, 10): "channel.open",
    (20, 40): "channel.close",
    (40, 10): "exchange.declare",
    (50, 10): "queue.declare",
    (50, 20): "queue.bind",
    (60, 40): "basic.publish",
    (85, 10): "confirm.select",
}
"""Names of the AMQP methods that a publisher uses, by class and method."""


@dataclass(frozen=True)
class Request:
    """One request: its operation, and the publication if it carries a Celery task's message to a queue."""

    operation: str
    publication: Publication | None = None


class Requests(ABC):
    """Reads requests as they come in; bytes that it does not understand make it deaf and do no harm."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._deaf = False

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that are complete now."""
        if self._deaf:
            return []
        self._buffer += data
        found = []
        try:
            while self._buffer and (request := self._next()) is not None:
                found += [request] if request.operation else []
        except (ValueError, LookupError, struct.error):
            self._deaf = True
            self._buffer.clear()
        return found

    @abstractmethod
    def _next(self) -> Request | None:
        """Take the next request out of the buffer; None: it is not complete."""


class RedisRequests(Requests):
    """Commands as arrays of strings; a message is published by LPUSH onto the list of its queue."""

    def _next(self) -> Request | None:
        words, start = [], 0
        line = self._line(start)
        if line is None:
            return None
        text, start = line
        if not text.startswith(b"*"):
            del self._buffer[:start]
            return Request(text.split(b" ")[0].decode("utf-8", "replace").upper())
        for _ in range(int(text[1:])):
            line = self._line(start)
            if line is None:
                return None
            text, start = line
            length = int(text[1:])
            if len(self._buffer) < start + length + len(END):
                return None
            words.append(bytes(self._buffer[start : start + length]))
            start += length + len(END)
        del self._buffer[:start]
        operation = words[0].decode("utf-8", "replace").upper()
        if operation != "LPUSH" or len(words) < 3:
            return Request(operation)
        queue = words[1].decode("utf-8", "replace").partition(PRIORITY)[0]
        return Request(operation, publication_of(words[2], queue, time.monotonic()))

    def _line(self, start: int) -> tuple[bytes, int] | None:
        end = self._buffer.find(END, start)
        return None if end < 0 else (bytes(self._buffer[start:end]), end + len(END))


class AmqpRequests(Requests):
    """Methods in frames; a message is basic.publish, a header with its properties, and its body."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[int, _Message] = {}
        """The message of each channel that is not complete."""

    def _next(self) -> Request | None:
        if bytes(self._buffer[:4]) == GREETING:
            if len(self._buffer) < 8:
                return None
            del self._buffer[:8]
            return Request("")
        if len(self._buffer) < 7:
            return None
        kind, channel, size = struct.unpack_from(">BHI", self._buffer)
        if len(self._buffer) < size + 8:
            return None
        if self._buffer[size + 7] != FRAME_END:
            raise ValueError("no frame of AMQP")
        payload = bytes(self._buffer[7 : size + 7])
        del self._buffer[: size + 8]
        return self._frame(kind, channel, payload)

    def _frame(self, kind: int, channel: int, payload: bytes) -> Request:
        if kind == METHOD:
            method = struct.unpack_from(">HH", payload)
            if method != PUBLISH:
                return Request(METHODS.get(method, f"{method[0]}.{method[1]}"))
            self._open[channel] = _Message(_strings(payload, 6, 2)[1])  # exchange, routing key
        elif kind == HEADER:
            self._open[channel].begin(payload)
        elif kind == BODY:
            self._open[channel].body += payload
        if channel in self._open and self._open[channel].complete:
            message = self._open.pop(channel)
            return Request(METHODS[PUBLISH], message.publication())
        return Request("")


class _Message:
    """A message of AMQP while it comes in."""

    def __init__(self, queue: str) -> None:
        self.queue, self.task_id, self.size, self.body = queue, "", -1, b""

    def begin(self, header: bytes) -> None:
        """Take the header: the body's size and the properties."""
        from amqp.serialization import decode_properties_basic

        (self.size,) = struct.unpack_from(">Q", header, 4)
        properties, _ = decode_properties_basic(header, 12)
        self.task_id = str(properties.get("application_headers", {}).get("id") or "")

    @property
    def complete(self) -> bool:
        return 0 <= self.size <= len(self.body)

    def publication(self) -> Publication | None:
        """Return the publication; None if the message is of no Celery task."""
        if not self.task_id:
            return None
        body = self.body.decode("utf-8", "replace")
        return Publication(self.task_id, workload_of(body), self.queue, time.monotonic())


def _strings(payload: bytes, start: int, count: int) -> list[str]:
    """Read short strings of AMQP, one after the other."""
    found = []
    for _ in range(count):
        length = payload[start]
        found.append(payload[start + 1 : start + 1 + length].decode("utf-8", "replace"))
        start += 1 + length
    return found


READERS: dict[str, type[Requests]] = {"redis": RedisRequests, "amqp": AmqpRequests}
"""Readers by the scheme of a broker's address; encrypted connections have none."""
