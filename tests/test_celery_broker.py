"""Brokers of the Celery environment: what they accept, how they fail towards a publisher, whose work they keep."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from amqp.basic_message import Message
from celery import Celery
from executor_conformance.backends.celery.base import Broker
from executor_conformance.backends.celery.folders import FilesystemBroker
from executor_conformance.backends.celery.foreign import QUEUE, ForeignWork, purge
from executor_conformance.backends.celery.messages import REMEMBERED, Publication, Publications, workload_of
from executor_conformance.backends.celery.relay import ANSWER_LOST, AWAY, AWAY_ONCE, CLOSED, HANG
from executor_conformance.backends.celery.requests import AmqpRequests, RedisRequests, Request
from executor_conformance.backends.celery.servers import GivenBroker, LocalServer, find_binary
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.supervisor import Supervisor

WORKLOAD = json.dumps({"callback": {"id": "cb-1"}, "type": "ExecuteCallback"})
TIMEOUT_S = 1.0
"""The default of ``[celery] operation_timeout``."""
PATIENT_S = 30.0
"""A bound on a publish that comes to its end, on a loaded machine too."""
ID = 36
"""Length of a Celery task's id."""


class TimedOut(BaseException):
    """Not an Exception, like Airflow's timeout: no retry of a library catches it."""


@contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """Bound a publish by a signal, like the executor."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimedOut

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


class Publisher:
    """Publishes like the executor."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        options = {name.lower(): value for name, value in broker.options().items()}
        self._app = Celery("publisher", broker=broker.publisher_url, set_as_current=False)
        self._app.conf.broker_transport_options = options

    def publish(self, within: float = PATIENT_S) -> str:
        """Return the id of the Celery task, or the name of what was raised."""
        try:
            with timeout(within):
                return str(self._app.send_task("execute_workload", args=[WORKLOAD], queue="default").id)
        except (Exception, TimedOut) as error:
            return type(error).__name__

    def publish_for_sure(self) -> None:
        """Publish until the broker has accepted it, which by AMQP shows later."""
        assert self.broker.published is not None
        until = time.monotonic() + 60  # a server that listens may not let anybody in yet
        while True:
            sent = self.publish()
            seen = time.monotonic() + 2
            while len(sent) == ID and time.monotonic() < seen:
                if sent in [each.task_id for each in self.broker.published.of("cb-1")]:
                    return
                time.sleep(0.01)
            assert time.monotonic() < until

    def close(self) -> None:
        self._app.close()


@pytest.fixture(scope="module", params=["redis", "amqp"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    if find_binary(request.param) is None:
        pytest.skip("its binary is not on this machine")
    folder = tmp_path_factory.mktemp(request.param)
    supervisor = Supervisor(folder / "run")
    broker = LocalServer(request.param, folder / "broker", supervisor, {"PATH": os.environ["PATH"]})
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
        supervisor.stop(remove=True)


@pytest.fixture
def publisher(server: LocalServer) -> Iterator[Publisher]:
    publisher = Publisher(server)
    publisher.publish_for_sure()
    yield publisher
    server.heal()
    publisher.close()


def until_true(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def until_published(broker: Broker, total: int) -> None:
    assert broker.published is not None
    published = broker.published
    until_true(lambda: published.total >= total)
    assert published.total == total


# -- what is accepted ---------------------------------------------------------------------------------------------


def test_a_server_has_accepted_what_went_through_its_relay(server: LocalServer, publisher: Publisher) -> None:
    assert server.published is not None
    assert server.publisher_url != server.url
    before, calls = server.published.total, server.calls() or {}
    began = time.monotonic()
    sent = [publisher.publish(), publisher.publish()]
    until_published(server, before + 2)
    accepted = server.published.of("cb-1")[-2:]
    assert [(each.task_id, each.queue) for each in accepted] == [(task_id, "default") for task_id in sent]
    assert began <= accepted[0].at <= accepted[1].at <= time.monotonic()
    operation = "LPUSH" if server.redis else "basic.publish"
    assert (server.calls() or {})[operation] - calls[operation] == 2


def test_folders_have_accepted_what_was_moved(tmp_path: Path) -> None:
    with folders(tmp_path) as broker:
        sent = Publisher(broker).publish()
        until_published(broker, 1)
        assert [(each.task_id, each.queue) for each in broker.published.of("cb-1")] == [(sent, "default")]
        assert broker.calls() == {"publish": 1}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (json.dumps([[WORKLOAD], {}, {}]), "cb-1"),
        (json.dumps([[json.dumps({"ti": {"id": "ti-1"}})], {}, {}]), "ti-1"),
        (json.dumps([[json.dumps({"connection": "c"})], {}, {}]), ""),
        (json.dumps([[], {}, {}]), ""),
        (json.dumps([["no JSON"], {}, {}]), ""),
        ("no JSON", ""),
    ],
)
def test_the_workload_of_a_message(body: str, found: str) -> None:
    assert workload_of(body) == found


def test_the_oldest_workloads_are_forgotten() -> None:
    published = Publications()
    for number in range(REMEMBERED + 1):
        published.add(Publication(f"t{number}", f"w{number}", "default", float(number)))
    published.add(Publication("again", f"w{REMEMBERED}", "default", 9e9))
    assert published.of("w0") == []
    assert [each.task_id for each in published.of(f"w{REMEMBERED}")] == [f"t{REMEMBERED}", "again"]
    assert [each.task_id for each in published.since(REMEMBERED - 0.5)] == [f"t{REMEMBERED}", "again"]
    assert published.total == REMEMBERED + 2


def redis_command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def amqp_message(body: bytes, queue: bytes = b"default", channel: int = 1) -> bytes:
    properties = Message(b"", application_headers={"id": "t1"})._serialize_properties()
    method = struct.pack(">HHH", 60, 40, 0) + b"\0" + bytes([len(queue)]) + queue + b"\0"
    half = len(body) // 2
    return b"".join(
        (
            frame(1, method, channel),
            frame(2, struct.pack(">HHQ", 60, 0, len(body)) + properties, channel),
            frame(3, body[:half], channel),
            frame(8, b"", 0),  # a heartbeat
            frame(3, body[half:], channel),
        )
    )


BODY = json.dumps([[WORKLOAD], {}, {}]).encode()
KOMBU = json.dumps({"body": BODY.decode(), "headers": {"id": "t1"}, "properties": {}}).encode()
REDIS = redis_command(b"PING") + redis_command(b"LPUSH", b"default\x06\x163", KOMBU) + redis_command(b"EXEC")
AMQP = b"AMQP\0\0\x09\1" + frame(1, struct.pack(">HH", 20, 10)) + amqp_message(BODY) + frame(1, b"\0\x3c\0\x50")


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("reader", "sent", "operations"),
    [
        (RedisRequests, REDIS, ["PING", "LPUSH", "EXEC"]),
        (AmqpRequests, AMQP, ["channel.open", "basic.publish", "60.80"]),
    ],
    ids=["redis", "amqp"],
)
def test_requests_are_read_however_they_are_cut(reader: Any, sent: bytes, operations: list[str], size: int) -> None:
    requests = reader()
    found: list[Request] = []
    for at in range(0, len(sent), size):
        found += requests.feed(sent[at : at + size])
    assert [request.operation for request in found] == operations
    [publication] = [request.publication for request in found if request.publication]
    assert (publication.task_id, publication.workload, publication.queue) == ("t1", "cb-1", "default")


@pytest.mark.parametrize("reader", [RedisRequests, AmqpRequests])
def test_what_is_not_understood_makes_a_reader_deaf(reader: Any) -> None:
    requests = reader()
    assert requests.feed(b"*x\r\n" if reader is RedisRequests else frame(1, b"")[:-1] + b"?") == []
    assert requests.feed(REDIS) == []


# -- how it fails towards who publishes -------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "published"), [(AWAY, 0), (AWAY_ONCE, 1), (CLOSED, 1), (ANSWER_LOST, 1), (HANG, 0)])
def test_a_server_fails_and_is_whole_again(server: LocalServer, publisher: Publisher, way: str, published: int) -> None:
    if not any(way in several for several in server.ways.values()):
        pytest.skip(f"not with {server.label}")
    assert server.published is not None
    before = server.published.total
    assert server.hits() is None
    assert server.inject(way)
    assert server.hits() == 0
    told = publisher.publish(TIMEOUT_S if way in (ANSWER_LOST, HANG) else PATIENT_S)
    until_true(lambda: server.hits() == 1)
    if way == CLOSED and not server.redis:
        published = 0  # nobody tells the publisher, so it does not try again
    until_published(server, before + published)
    assert (len(told) == ID) is (way in (AWAY_ONCE, CLOSED))
    server.heal()
    assert server.hits() is None
    publisher.publish_for_sure()
    assert server.published.total > before + published


def test_a_fault_meets_no_worker(server: LocalServer, publisher: Publisher) -> None:
    """A client that comes by the broker's own address is served while publishers are not."""
    server.inject(AWAY)
    publisher.publish()
    purge(server, "default")


def test_the_folder_of_publishers_is_away(tmp_path: Path) -> None:
    with folders(tmp_path) as broker:
        publisher = Publisher(broker)
        broker.inject(AWAY)
        assert publisher.publish() == "OperationalError"
        broker.heal()
        assert len(publisher.publish()) == ID
        until_published(broker, 1)
        with pytest.raises(HarnessError, match="cannot fail by way of 'answer-lost'"):
            broker.inject(ANSWER_LOST)


@pytest.mark.parametrize(
    ("url", "relayed"),
    [
        ("redis://h/0", True),
        ("amqp://user:secret@h:5000//", True),
        ("rediss://h/0", False),
        ("amqps://h//", False),
        ("sqs://h", False),
        ("amqp://a//;amqp://b//", False),
    ],
)
def test_which_brokers_have_a_relay(url: str, relayed: bool) -> None:
    broker = GivenBroker(url)
    assert broker.relayed is relayed
    assert bool(broker.ways) is relayed
    assert relayed or set(broker.unreachable) == {"submit-refused", "hang"}


# -- whose work it keeps ----------------------------------------------------------------------------------------------


@contextmanager
def folders(path: Path) -> Iterator[FilesystemBroker]:
    broker = FilesystemBroker(path)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def look_after_foreign_work(broker: Broker, results: Path) -> None:
    foreign = ForeignWork(broker, f"db+sqlite:///{results}")
    assert foreign.touched() == []
    assert len(foreign.plant()) == 2
    assert foreign.touched() == []
    purge(broker, "default")
    assert foreign.touched() == []
    purge(broker, QUEUE)
    Celery("mine", backend=f"db+sqlite:///{results}").backend.forget("f0e1d2c3-0000-4000-8000-000000000003")
    queue, result = foreign.touched()
    assert "has 0 messages instead of 3" in queue
    assert "f0e1d2c3-0000-4000-8000-000000000003" in result
    foreign.remove()
    assert foreign.touched() == []


def test_foreign_work_at_a_server(server: LocalServer, publisher: Publisher, tmp_path: Path) -> None:
    look_after_foreign_work(server, tmp_path / "results.db")


def test_foreign_work_in_folders(tmp_path: Path) -> None:
    with folders(tmp_path / "broker") as broker:
        look_after_foreign_work(broker, tmp_path / "results.db")
        assert list((tmp_path / "broker" / "in").iterdir()) == []
