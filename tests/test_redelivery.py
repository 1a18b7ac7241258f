"""A message that a broker delivers again, and the place where a scheduler is stopped after it took an event."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from executor_conformance.backends.celery.brokers import FilesystemBroker, GivenBroker, make_broker
from executor_conformance.backends.celery.messages import RedisMessages, again
from executor_conformance.harness.airflow_side.scheduler import EventRecorder, SchedulerSide
from executor_conformance.harness.api_server import free_port
from executor_conformance.harness.checks.crash import SLACK
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.points import while_it_matters


def message(task_id: str) -> dict[str, Any]:
    """As kombu's virtual transports write it."""
    return {
        "body": "W10=",
        "headers": {"id": task_id, "task": "execute_workload"},
        "properties": {"delivery_tag": "first", "delivery_info": {"exchange": "", "routing_key": "default"}},
    }


def test_a_message_comes_again_under_a_tag_of_its_own() -> None:
    first = message("t1")
    second, third = again(first), again(first)
    assert first == message("t1")
    assert second["body"] == first["body"]
    assert second["headers"]["redelivered"] is True
    assert second["properties"]["delivery_info"] == {"exchange": "", "routing_key": "default", "redelivered": True}
    assert len({each["properties"]["delivery_tag"] for each in (first, second, third)}) == 3


def test_the_folders_deliver_a_message_again(tmp_path: Path) -> None:
    broker = FilesystemBroker(tmp_path)
    broker.start()
    try:
        (tmp_path / "out" / "1_a.other.msg").write_text(json.dumps(message("t1")))
        (tmp_path / "out" / "2_b.default.msg").write_text("no JSON")
        deadline = time.monotonic() + 10
        while len(list((tmp_path / "in").iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert broker.queue_of("t1") == "other"
        assert broker.queue_of("t2") is None
        (tmp_path / "in" / "1_a.other.msg").unlink()  # a worker has taken it
        broker.repeat("t1")
        fresh = next((tmp_path / "in").glob("*.other.msg"))
        assert fresh.name.partition(".")[2] == "other.msg"
        assert json.loads(fresh.read_text())["headers"]["id"] == "t1"
        with pytest.raises(HarnessError, match="No message of the Celery task t2"):
            broker.repeat("t2")
    finally:
        broker.stop()


def test_the_recorder_sees_every_way_into_an_event_buffer() -> None:
    notes: list[dict[str, Any]] = []
    buffer = EventRecorder(notes, "e", {"k0": ("queued", None)})
    buffer["k1"] = ("running", "i")
    buffer.setdefault("k2", ("failed", None))
    buffer.setdefault("k2", ("success", None))
    buffer.update({"k3": ("success", None)}, k4=("failed", None))
    buffer |= {"k5": ("success", None)}
    assert [(note["key"], note["state"]) for note in notes] == [
        ("k0", "queued"),
        ("k1", "running"),
        ("k2", "failed"),
        ("k3", "success"),
        ("k4", "failed"),
        ("k5", "success"),
    ]
    assert isinstance(buffer, EventRecorder)
    assert list(buffer) == ["k0", "k1", "k2", "k3", "k4", "k5"]


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not on this machine")
    port = free_port()
    argv = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


def test_redis_delivers_again_what_was_kept(redis_url: str) -> None:
    import redis

    server = redis.Redis.from_url(redis_url)
    server.hset("unacked", "first", json.dumps([message("t1"), "", "default"]))
    messages = RedisMessages(redis_url)
    messages.keep("t1")
    messages.keep("t2")
    server.delete("unacked")  # it has been acknowledged
    messages.repeat("t1")
    assert messages.queue_of("t1") == "default"
    assert [json.loads(each)["headers"]["id"] for each in server.lrange("default", 0, -1)] == ["t1"]
    with pytest.raises(HarnessError, match="no unacknowledged message of the Celery task t2"):
        messages.repeat("t2")


@pytest.mark.parametrize(("url", "repeats"), [("redis://h/0", True), ("rediss://h/0", True), ("amqp://h//", False)])
def test_which_brokers_can(url: str, repeats: bool, tmp_path: Path) -> None:
    broker = make_broker(url, tmp_path, None, {})  # type: ignore[arg-type]
    assert isinstance(broker, GivenBroker)
    assert broker.repeats is repeats
    assert broker.queue_of("t1") is None


class Stopped(Exception):
    """Where the real process would wait to be killed."""


class FakeChannel:
    """Takes what is sent, and stops whoever waits for an answer."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, answer: dict[str, Any]) -> None:
        self.sent.append(answer)

    def receive(self) -> None:
        raise Stopped


class Key:
    """As a CallbackKey is."""

    def __init__(self, id: str) -> None:
        self.id = id


@pytest.mark.parametrize(
    ("buffer", "stops"),
    [
        ({"c1": ("success", None)}, True),
        ({"c2": ("running", None), "c1": ("failed", "why")}, True),
        ({"c1": ("running", None)}, False),
        ({"c2": ("success", None)}, False),
        ({}, False),
    ],
    ids=["success", "failed-among-others", "running", "of-another", "nothing"],
)
def test_the_scheduler_stops_where_core_has_taken_the_terminal_event(
    buffer: dict[str, tuple[str, Any]], stops: bool
) -> None:
    side = SchedulerSide.__new__(SchedulerSide)
    channel = FakeChannel()
    side.channel = channel  # type: ignore[assignment]
    side._seen = lambda error: {"events": [], "error": error}  # type: ignore[method-assign]
    drained = {Key(id): value for id, value in buffer.items()}
    committed = False

    def get_event_buffer() -> dict[Key, tuple[str, Any]]:
        return drained

    sys.setprofile(side._stop_at_drain("c1"))
    try:
        get_event_buffer()
        committed = True
    except Stopped:
        pass
    finally:
        sys.setprofile(None)
    assert committed is not stops
    assert [answer["drained"] for answer in channel.sent] == (["c1"] if stops else [])


def test_what_goes_on_after_the_row_has_ended_is_clearly_later() -> None:
    """Within ``SLACK`` of the row's end, CRASH-8 cannot tell before from after."""
    states = iter(["running", "running", "failed"])
    case = Mock(**{"env.units.return_value": [1], "env.poll_s.side_effect": lambda at_least: at_least})
    case.state.side_effect = lambda callback: next(states)
    while_it_matters(case, Mock(), [])
    assert case.pump.call_count == 2
    ((seconds,), _) = case.linger.call_args
    assert seconds >= 5 * SLACK
