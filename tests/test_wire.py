from __future__ import annotations

import asyncio
import gc
import gzip
import http.client
import json
import os
import queue
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.history import Clock, History
from executor_conformance.harness.peers import pid_of_peer
from executor_conformance.harness.rules import (
    Answer,
    Delay,
    DropRequest,
    DropResponse,
    Hold,
    HoldResponse,
    ReplaceToken,
    WireRule,
    keyed_fingerprint,
    route_of,
    without_tokens,
)
from executor_conformance.harness.wire import WireRecorder
from executor_conformance.suites.answers import UNEXPECTED

from tests.calls import Call

KEY = "k" * 64
CLAIMS = {"sub": "0199c9a2-0000-7000-8000-000000000001", "scope": "execution", "exp": 4102444800, "jti": "a"}
TOKEN = jwt.encode({**CLAIMS, "secret_note": "kept out"}, KEY, algorithm="HS512")
REFRESHED = jwt.encode({**CLAIMS, "jti": "b"}, KEY, algorithm="HS512")
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SECONDS = 10.0
BYTES = bytes(range(256)) * 16


class Upstream:
    """A server that keeps what it got and answers by path."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.arrived: queue.Queue[str] = queue.Queue()
        self.may_answer = threading.Event()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(SECONDS)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.may_answer.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _open(self) -> None:
        server = web.Server(self._answer, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        self.received.append(
            {
                "method": request.method,
                "target": request.raw_path,
                "headers": [(name.decode(), value.decode()) for name, value in request.raw_headers],
                "body": body,
            }
        )
        path = request.path
        self.arrived.put(path)
        if path == "/slow":
            while not self.may_answer.is_set():
                await asyncio.sleep(0.005)
        if path == "/broken":
            assert request.transport is not None
            request.transport.abort()
        if path == "/missing":
            return web.json_response({"detail": f"no {TOKEN} here"}, status=404)
        if path == "/packed":
            return web.Response(
                status=409,
                body=gzip.compress(b'{"detail": "conflict"}'),
                headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
            )
        if path == "/moved":
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        if path == "/nothing":
            return web.Response(status=204)
        response = web.Response(status=201, reason="Made", body=BYTES, headers={"X-Odd": "caf\u00e9"})
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        if path == "/refresh":
            response.headers["Refreshed-API-Token"] = REFRESHED
        return response


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def history() -> History:
    return History(Clock(), {})


@pytest.fixture
def recorder(upstream: Upstream, history: History) -> Iterator[WireRecorder]:
    recorder = WireRecorder(
        "execution", upstream.url, history.append, keyed_fingerprint(), lambda: [1, 2**22 + 7, os.getpid()]
    )
    recorder.start()
    yield recorder
    recorder.stop()
    assert recorder.problems == []
    text = json.dumps(history.events)
    assert TOKEN not in text
    assert REFRESHED not in text
    assert "eyJ" not in text
    assert "kept out" not in text


@pytest.fixture
def client(recorder: WireRecorder) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=recorder.url, timeout=SECONDS, trust_env=False) as client:
        yield client


def await_event(history: History, **fields: Any) -> dict[str, Any]:
    with history.changed:
        assert history.changed.wait_for(lambda: history.of("wire", **fields), SECONDS), fields
    return history.of("wire", **fields)[0]


def actions(history: History) -> list[str]:
    return [event["action"] for event in history.of("wire", phase="fault")]


def test_forwarding_is_byte_exact(recorder: WireRecorder, upstream: Upstream) -> None:
    target = "/a%2Fb/%7e?x=%20+1&x=2&y=&z=%C3%A9&t=a%3Ab"
    connection = http.client.HTTPConnection("127.0.0.1", recorder.port, timeout=SECONDS)
    connection.putrequest("PATCH", target, skip_accept_encoding=True)
    sent = [
        ("X-Repeated", "1"),
        ("X-Repeated", "2"),
        ("Content-Encoding", "gzip"),
        ("Content-Length", str(len(BYTES))),
    ]
    for name, value in [*sent, ("Connection", "keep-alive, X-Hop"), ("X-Hop", "gone")]:
        connection.putheader(name, value)
    connection.endheaders(BYTES)
    answer = connection.getresponse()
    assert (answer.status, answer.reason, answer.read()) == (201, "Made", BYTES)
    assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert answer.headers["X-Odd"].encode("latin-1").decode() == "caf\u00e9"
    (got,) = upstream.received
    assert (got["method"], got["target"], got["body"]) == ("PATCH", target, BYTES)
    assert sorted(got["headers"]) == sorted([*sent, ("Host", f"127.0.0.1:{recorder.port}")])
    connection.close()


@pytest.mark.parametrize(("path", "status"), [("/missing", 404), ("/moved", 307), ("/nothing", 204)])
def test_statuses_pass(client: httpx.Client, upstream: Upstream, history: History, path: str, status: int) -> None:
    through, direct = client.get(path), httpx.get(upstream.url + path, trust_env=False)
    assert through.status_code == direct.status_code == status
    assert through.content == direct.content
    assert {**through.headers, "date": ""} == {**direct.headers, "date": ""}
    assert history.of("wire", phase="response")[0]["status"] == status


def test_head_and_empty_post(client: httpx.Client, upstream: Upstream) -> None:
    assert client.head("/x").headers["Content-Length"] == str(len(BYTES))
    assert client.post("/x").status_code == 201
    assert upstream.received[1]["body"] == b""


def test_large_and_chunked_bodies(client: httpx.Client, upstream: Upstream) -> None:
    large = os.urandom(3 << 20)
    client.post("/large", content=large)
    client.post("/chunked", content=iter([b"ab", b"cd"]))
    assert [got["body"] for got in upstream.received] == [large, b"abcd"]


def test_error_detail_is_readable_and_without_tokens(client: httpx.Client, history: History) -> None:
    client.get("/missing")
    client.get("/packed")
    details = [event["body_detail"] for event in history.of("wire", phase="response")]
    assert details == ['{"detail": "no <token> here"}', '{"detail": "conflict"}']


def test_tokens_are_recorded_by_claims_and_fingerprint(client: httpx.Client, history: History) -> None:
    client.get("/refresh", headers=BEARER)
    client.get("/refresh", headers={"Authorization": REFRESHED})
    client.get("/refresh", headers={"Authorization": "Bearer nonsense"})
    client.get("/refresh")
    first, bare, nonsense, none = history.of("wire", phase="request")
    assert first["token"]["claims"] == CLAIMS
    assert len(first["token"]["fingerprint"]) == 16
    assert bare["token"]["claims"] == {**CLAIMS, "jti": "b"}
    assert nonsense["token"]["claims"] is None
    assert none["token"] is None
    assert history.of("wire", phase="response", seq=1)[0]["refreshed"] == bare["token"]


def test_requests_and_rule_share_what_is_known(recorder: WireRecorder, client: httpx.Client, history: History) -> None:
    rule = recorder.add_rule(WireRule(Delay(0), match=lambda request: request.api == "execution"))
    client.get("/execution/task-instances/0199c9a2-0000-7000-8000-000000000001/tries/3?q=1", headers=BEARER)
    request = rule.wait_hit(SECONDS)
    (event,) = history.of("wire", phase="request")
    assert request.route == event["route"] == "/execution/task-instances/{id}/tries/{id}"
    assert (request.seq, request.t, request.pid) == (1, event["t"], os.getpid())
    assert request.claims == CLAIMS
    assert not request.held


@pytest.mark.parametrize("action", [Hold(), HoldResponse()])
def test_hold_and_release(
    recorder: WireRecorder, client: httpx.Client, upstream: Upstream, history: History, action: Any
) -> None:
    rule = recorder.add_rule(WireRule(action, api="execution", method="get", path="^/held$"))
    call = Call(lambda: client.get("/held"))
    held = rule.wait_applied(SECONDS)
    assert recorder.in_flight == [held]
    assert held.held
    assert len(upstream.received) == (1 if isinstance(action, HoldResponse) else 0)
    assert call.pending
    rule.release()
    assert call.result().status_code == 201
    assert recorder.in_flight == []
    assert actions(history) == [action.name, "released"]
    assert client.get("/held").status_code == 201
    assert len(rule.hits) == 1


@pytest.mark.parametrize("action", [Hold(), HoldResponse(), Delay(600)])
@pytest.mark.parametrize("clear", [True, False])
def test_release_with_drop(
    recorder: WireRecorder, client: httpx.Client, history: History, action: Any, clear: bool
) -> None:
    rule = recorder.add_rule(WireRule(action))
    call = Call(lambda: client.get("/held"))
    rule.wait_applied(SECONDS)
    if clear:
        recorder.clear_rules()
        assert recorder.in_flight == []
    else:
        rule.release(drop=True)
    with pytest.raises(httpx.NetworkError):
        call.result()
    assert actions(history) == [action.name, "dropped"]


def test_remove_rule_lets_pass(recorder: WireRecorder, client: httpx.Client) -> None:
    rule = recorder.add_rule(WireRule(Hold()))
    call = Call(lambda: client.get("/held"))
    rule.wait_hit(SECONDS)
    recorder.remove_rule(rule)
    recorder.remove_rule(rule)
    assert call.result().status_code == 201


def test_delay(recorder: WireRecorder, client: httpx.Client, history: History) -> None:
    recorder.add_rule(WireRule(Delay(0.2)))
    started = time.monotonic()
    assert client.get("/x").status_code == 201
    assert 0.2 <= time.monotonic() - started < 2
    assert actions(history) == ["delay"]
    assert history.of("wire", phase="response")[0]["duration_s"] >= 0.2


def test_answer(recorder: WireRecorder, client: httpx.Client, upstream: Upstream, history: History) -> None:
    recorder.add_rule(WireRule(Answer(503, {"detail": "busy"}, {"Retry-After": "1"})))
    answer = client.get("/x")
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (
        503,
        {"detail": "busy"},
        "1",
    )
    assert upstream.received == []
    assert actions(history) == ["answer"]
    (event,) = history.of("wire", phase="response")
    assert (event["status"], event["by"], event["body_detail"]) == (503, "rule", '{"detail": "busy"}')


@pytest.mark.parametrize("way", [way for way in UNEXPECTED if UNEXPECTED[way].cut_at is None])
def test_answer_that_nobody_expects(recorder: WireRecorder, client: httpx.Client, upstream: Upstream, way: str) -> None:
    meant = replace(UNEXPECTED[way], drip_s=0.05 if UNEXPECTED[way].drip_s else 0.0)
    recorder.add_rule(WireRule(meant))
    answer = client.get("/x")
    assert (answer.status_code, answer.text) == (meant.status, meant.body or "")
    assert {name: answer.headers.get(name) for name in meant.headers} == meant.headers
    assert upstream.received == []


def test_answer_that_is_cut_off(recorder: WireRecorder, client: httpx.Client, history: History) -> None:
    recorder.add_rule(WireRule(UNEXPECTED["200-truncated"]))
    with client.stream("GET", "/x") as answer:
        assert int(answer.headers["Content-Length"]) > 200
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()
    assert history.of("wire", phase="response")[0]["status"] == 200


def test_answer_that_comes_slowly(recorder: WireRecorder, client: httpx.Client) -> None:
    recorder.add_rule(WireRule(Answer(200, "x" * 100, drip_s=0.4)))
    started = time.monotonic()
    with client.stream("GET", "/x") as answer:
        pieces = list(answer.iter_raw())
    assert b"".join(pieces) == b"x" * 100
    assert len(pieces) > 1
    assert time.monotonic() - started >= 0.3


def test_replaced_token(recorder: WireRecorder, client: httpx.Client, history: History) -> None:
    """The worker gets the token of the rule, and the history tells it as the one that the worker was given."""
    other = jwt.encode({**CLAIMS, "jti": "c"}, KEY, algorithm="HS512")
    rule = recorder.add_rule(WireRule(ReplaceToken(other), times=1))
    assert client.get("/refresh").headers["Refreshed-API-Token"] == other
    assert client.get("/refresh").headers["Refreshed-API-Token"] == REFRESHED
    assert [event["refreshed"]["claims"]["jti"] for event in history.of("wire", phase="response")] == ["c", "b"]
    assert len(rule.applied) == 1
    assert other not in str(rule)
    assert other not in json.dumps(history.events)


def test_drop_request(recorder: WireRecorder, client: httpx.Client, upstream: Upstream, history: History) -> None:
    recorder.add_rule(WireRule(DropRequest(), times=1))
    with pytest.raises(httpx.NetworkError):
        client.get("/x")
    assert upstream.received == []
    assert actions(history) == ["drop-request"]
    assert recorder.in_flight == []
    assert client.get("/x").status_code == 201


def test_drop_response(recorder: WireRecorder, client: httpx.Client, upstream: Upstream, history: History) -> None:
    recorder.add_rule(WireRule(DropResponse()))
    with pytest.raises(httpx.NetworkError):
        client.put("/x", content=b"1")
    assert [got["body"] for got in upstream.received] == [b"1"]
    assert actions(history) == ["drop-response"]
    assert history.of("wire", phase="response")[0]["status"] == 201


def test_skip_times_and_order(recorder: WireRecorder, client: httpx.Client) -> None:
    first = recorder.add_rule(WireRule(Answer(418), skip=1, times=2))
    second = recorder.add_rule(WireRule(Answer(420), path="/x"))
    statuses = [client.get("/x").status_code for _ in range(4)] + [client.get("/y").status_code]
    assert statuses == [420, 418, 418, 420, 201]
    assert [request.seq for request in first.hits] == [2, 3]
    assert first.wait_hit(SECONDS, count=2).seq == 3
    assert [request.seq for request in second.hits] == [1, 4]


def test_error_of_a_condition_is_recorded(recorder: WireRecorder, client: httpx.Client, history: History) -> None:
    recorder.add_rule(WireRule(Hold(), match=lambda request: {}[TOKEN]))
    assert client.get("/x").status_code == 201
    (event,) = history.of("wire", action="rule-error")
    assert event["error"] == "KeyError('<token>')"


def test_wait_hit_says_what_was_waited_for(recorder: WireRecorder) -> None:
    rule = recorder.add_rule(WireRule(Hold(), method="PATCH", path="/state$"))
    with pytest.raises(BoundReached, match=r"hold on PATCH /state\$.*took 0 of 1"):
        rule.wait_hit(0.01)


def test_refuse_and_accept(recorder: WireRecorder, client: httpx.Client, upstream: Upstream, history: History) -> None:
    url, rule = recorder.url, recorder.add_rule(WireRule(Hold(), path="/held"))
    client.get("/x")
    call = Call(lambda: client.get("/held"))
    rule.wait_hit(SECONDS)
    recorder.refuse()
    assert recorder.in_flight == []
    with pytest.raises(httpx.NetworkError):
        call.result()
    assert actions(history) == ["hold", "refused"]
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", recorder.port), SECONDS)
    recorder.refuse()
    recorder.accept()
    recorder.accept()
    assert recorder.url == url
    assert client.get("/x").status_code == 201


def test_connected_as_it_refuses(recorder: WireRecorder) -> None:
    """A client whose connection is accepted at that moment is reset too: it would wait for its answer for ever."""
    assert recorder._loop is not None
    blocked, go_on = threading.Event(), threading.Event()
    recorder._loop.call_soon_threadsafe(lambda: (blocked.set(), go_on.wait(SECONDS)))
    assert blocked.wait(SECONDS)
    with socket.create_connection(("127.0.0.1", recorder.port), SECONDS) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        call = Call(recorder.refuse)  # is asked of the loop together with the connection
        time.sleep(0.05)
        gc.disable()
        try:
            go_on.set()
            call.result()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        finally:
            gc.enable()


def test_unreachable_and_broken_upstream(
    recorder: WireRecorder, client: httpx.Client, upstream: Upstream, history: History
) -> None:
    with pytest.raises(httpx.NetworkError):
        client.put("/broken")
    assert len(upstream.received) == 1
    upstream.close()
    with pytest.raises(httpx.NetworkError):
        client.get("/x")
    assert actions(history) == ["upstream-unreachable"] * 2
    assert recorder.in_flight == []


@pytest.mark.parametrize("action", [Hold(), HoldResponse(), Delay(600)])
def test_client_gone_while_held(recorder: WireRecorder, history: History, action: Any) -> None:
    rule = recorder.add_rule(WireRule(action))
    connection = http.client.HTTPConnection("127.0.0.1", recorder.port, timeout=SECONDS)
    connection.request("GET", "/held")
    rule.wait_applied(SECONDS)
    connection.close()
    await_event(history, phase="fault", action="client-gone")
    recorder.refuse()  # has passed through the loop, so the request has ended
    assert recorder.in_flight == []
    rule.release()
    assert actions(history) == [action.name, "client-gone"]


def test_server_goes_on_without_client(recorder: WireRecorder, upstream: Upstream, history: History) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", recorder.port, timeout=SECONDS)
    connection.request("PATCH", "/slow", body=b"state")
    assert upstream.arrived.get(timeout=SECONDS) == "/slow"
    connection.close()
    await_event(history, phase="fault", action="client-gone")
    assert [request.path for request in recorder.in_flight] == ["/slow"]
    upstream.may_answer.set()
    assert await_event(history, phase="response")["status"] == 201


@pytest.mark.parametrize("in_turn", [True, False])
def test_requests_in_turn(recorder: WireRecorder, upstream: Upstream, history: History, in_turn: bool) -> None:
    """The second reaches the server only after the first is answered; others pass meanwhile."""
    recorder.in_turn = re.compile(r"^/slow$") if in_turn else None
    with httpx.Client(base_url=recorder.url, timeout=SECONDS, trust_env=False) as client:
        calls = [Call(lambda: client.get("/slow")) for _ in range(2)]
        assert upstream.arrived.get(timeout=SECONDS) == "/slow"
        end = time.monotonic() + SECONDS
        while len(recorder.in_flight) < 2:
            assert time.monotonic() < end, "two requests are on their way"
            time.sleep(0.005)
        assert client.get("/nothing").status_code == 204
        arrived = [upstream.arrived.get(timeout=SECONDS) for _ in range(1 if in_turn else 2)]
        assert sorted(arrived) == (["/nothing"] if in_turn else ["/nothing", "/slow"])
        assert upstream.arrived.empty()
        upstream.may_answer.set()
        assert [call.result().status_code for call in calls] == [201, 201]
    assert len(upstream.received) == 3


def test_stop_while_held_is_quick_and_final(
    recorder: WireRecorder, client: httpx.Client, upstream: Upstream, history: History
) -> None:
    rule = recorder.add_rule(WireRule(Hold(), path="/held"))
    calls = [Call(lambda path=path: client.get(path)) for path in ("/held", "/slow")]
    rule.wait_hit(SECONDS)
    assert upstream.arrived.get(timeout=SECONDS) == "/slow"
    started = time.monotonic()
    recorder.stop()
    assert time.monotonic() - started < 3
    for call in calls:
        with pytest.raises(httpx.NetworkError):
            call.result()
    assert sorted(actions(history)) == ["hold", "stopped", "stopped"]
    assert recorder.in_flight == []
    rule.release()
    recorder.stop()
    with pytest.raises(HarnessError):
        recorder.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", recorder.port), SECONDS)


def test_sink_can_be_swapped(recorder: WireRecorder, client: httpx.Client, history: History) -> None:
    client.get("/one")
    later = History(history.clock, {})
    recorder.sink = later.append
    client.get("/two")
    assert [event["path"] for event in history.of("wire", phase="request")] == ["/one"]
    assert [event["path"] for event in later.of("wire", phase="response")] == ["/two"]


def test_broken_sink_and_pids_do_not_stop_the_proxy(upstream: Upstream) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError("disk full")

    recorder = WireRecorder("edge", upstream.url, broken, keyed_fingerprint(b"k"), broken)
    recorder.start()
    assert httpx.get(recorder.url, trust_env=False).status_code == 201
    recorder.stop()
    assert {problem.split(":")[0] for problem in recorder.problems} == {"sink", "pids"}


SENDER = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10)
for _ in range(2):
    connection.request("GET", "/from-child")
    connection.getresponse().read()
"""


def test_pid_of_a_subprocess(upstream: Upstream, history: History) -> None:
    children: list[int] = []
    recorder = WireRecorder("edge", upstream.url, history.append, keyed_fingerprint(), lambda: [os.getpid(), *children])
    recorder.start()
    rule = recorder.add_rule(WireRule(Hold(), times=1))
    with subprocess.Popen([sys.executable, "-c", "input();" + SENDER, str(recorder.port)], stdin=-1) as child:
        children.append(child.pid)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
        assert rule.wait_hit(SECONDS).pid == child.pid
        rule.release()
        assert child.wait(SECONDS) == 0
    recorder.stop()
    assert [event["pid"] for event in history.of("wire", phase="request")] == [child.pid] * 2
    assert recorder.problems == []


def test_peer_unknown() -> None:
    assert pid_of_peer(1, 2, [os.getpid()]) is None
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as end,
    ):
        ports = end.getsockname()[1], server.getsockname()[1]
        assert pid_of_peer(*ports, [1 << 22, os.getpid()]) == os.getpid()
        assert pid_of_peer(*ports, []) is None


def test_shared_socket_is_of_the_youngest() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as end,
    ):
        os.set_inheritable(end.fileno(), True)
        with subprocess.Popen(["cat"], stdin=-1, stdout=-1, close_fds=False) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"x")
            child.stdin.flush()
            assert select.select([child.stdout], [], [], SECONDS)[0]
            pids = [os.getpid(), child.pid]
            assert pid_of_peer(end.getsockname()[1], server.getsockname()[1], pids) == child.pid
            child.stdin.close()


def test_forked_children_do_not_keep_connections_open(recorder: WireRecorder, client: httpx.Client) -> None:
    rule = recorder.add_rule(WireRule(Hold(), path="/held"))
    call = Call(lambda: client.get("/held"))
    rule.wait_hit(SECONDS)
    until_closed, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(until_closed, 1)
        os._exit(0)
    try:
        rule.release(drop=True)
        with pytest.raises(httpx.NetworkError):
            call.result()
        recorder.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", recorder.port), SECONDS)
        recorder.accept()
        assert client.get("/x").status_code == 201
    finally:
        os.close(end)
        os.close(until_closed)
        os.waitpid(child, 0)


def test_routes_and_redaction() -> None:
    assert route_of("/a/12/b-1/0199c9a2-0000-7000-8000-00000000000A/-1") == "/a/{id}/b-1/{id}/{id}"
    assert without_tokens(f'"{TOKEN}" and {REFRESHED[:20]}') == '"<token>" and <token>'


def test_many_connections_at_once(recorder: WireRecorder, client: httpx.Client, history: History) -> None:
    calls = [Call(lambda number=number: client.get(f"/n/{number}")) for number in range(40)]
    assert [call.result().status_code for call in calls] == [201] * 40
    assert {event["path"] for event in history.of("wire", phase="response")} == {f"/n/{number}" for number in range(40)}
