"""The wire recorder: a reverse proxy between Airflow's workers and the API server that notes and tampers.

It runs in a thread of its own and forwards requests unchanged, unless a rule says otherwise. Every request,
answer and tampering is an event of kind ``wire``; a token appears in events by claims and fingerprint only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from executor_conformance.harness.peers import STOP_SECONDS, Listener, ListeningThread, pid_of_peer, reset
from executor_conformance.harness.rules import (
    Answer,
    Delay,
    DropRequest,
    DropResponse,
    Hold,
    HoldResponse,
    ReplaceToken,
    WireRequest,
    WireRule,
    claims_of,
    reported_end,
    route_of,
    without_tokens,
)
from multidict import CIMultiDict
from yarl import URL

_PER_HOP = frozenset({"connection", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_OF_PROXIES = frozenset({"proxy-authenticate", "proxy-authorization", "proxy-connection"})
# aiohttp would add these where the other side left them out
_NEVER_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_DETAIL_LENGTH = 300
REFRESHED = "Refreshed-API-Token"
"""Header by which the server gives a worker a new token."""
DRIPS = 20
"""Pieces in which a slow answer is sent."""
_HEADER_BYTES = 65536
_CONNECT_SECONDS = 10.0
# below uvicorn's 5 s, so that no request goes out on a connection that the server is closing
_UPSTREAM_IDLE_SECONDS = 2.0
_CLIENT_IDLE_SECONDS = 3600.0


def _forwardable(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    named = {part.strip() for part in ",".join(kept.getall("Connection", [])).split(",")}
    for name in _PER_HOP | _OF_PROXIES | named:
        kept.popall(name, None)
    return kept


def _detail(body: bytes, headers: CIMultiDict[str]) -> str:
    if headers.get("Content-Encoding", "").lower() == "gzip":
        with contextlib.suppress(OSError, EOFError, ValueError):
            body = gzip.decompress(body)
    return without_tokens(body.decode("utf-8", "replace"))[:_DETAIL_LENGTH]


class _Relayed(web.Response):
    """A response with exactly the headers it was made with, apart from those of the connection."""

    async def _prepare_headers(self) -> None:
        given = set(self.headers) | {"Content-Length", "Connection", "Transfer-Encoding"}
        await super()._prepare_headers()
        for name in {"Content-Type", "Date", "Server"} - {name.title() for name in given}:
            self.headers.pop(name, None)


class _Dropped(Exception):
    """The client's connection is to be reset; what for has been recorded."""


@dataclass
class _Flight:
    request: WireRequest
    started: float
    cause: str | None = None  # why the recorder itself closes the connection
    says: str | None = None  # the state that a worker reports as its callback's end
    forward: asyncio.Task[web.Response] | None = field(default=None, repr=False)


class WireRecorder(ListeningThread):
    """A recording, tampering reverse proxy on a free port.

    :param api: label of events, "execution" or "edge".
    :param upstream: base URL of the API server, such as ``http://127.0.0.1:8080``.
    :param sink: takes events as ``History.append`` does; the attribute may be replaced between cases.
    :param fingerprint: from a token to what stands for it in events; see ``rules.keyed_fingerprint``.
    :param pids: gives the processes that may be the sender, asked once per connection.
    :param host: by what workers reach this host; None: they are processes of it, and it listens at loopback only.

    ``problems`` holds what went wrong in ``sink``, ``pids`` or the proxy itself, as text.
    """

    def __init__(
        self,
        api: str,
        upstream: str,
        sink: Callable[..., Any],
        fingerprint: Callable[[str], str],
        pids: Callable[[], Iterable[int]],
        host: str | None = None,
    ) -> None:
        super().__init__(f"wire recorder of the {api} API", host)
        self.api = api
        self.upstream = upstream.rstrip("/")
        self.sink = sink
        self.problems: list[str] = []
        self.kept: set[str] | None = None  # tokens that pass, in memory only, while a case looks for them elsewhere
        self.in_turn: re.Pattern[str] | None = None  # of the paths whose requests reach the server one after the other
        self._turn = asyncio.Lock()
        self._fingerprint = fingerprint
        self._pids = pids
        self._lock = threading.Lock()
        self._rules: list[WireRule] = []
        self._flights: list[_Flight] = []
        self._peers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._seq = 0
        self._session: aiohttp.ClientSession | None = None

    @property
    def in_flight(self) -> list[WireRequest]:
        """Requests received and not answered yet, held ones (``held``) included, oldest first."""
        with self._lock:
            return [flight.request for flight in self._flights]

    def add_rule(self, rule: WireRule) -> WireRule:
        """Append ``rule`` to those asked about every request from now on, and return it."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove_rule(self, rule: WireRule) -> None:
        """Take ``rule`` out, letting what it holds pass; one that is not there is ignored."""
        with self._lock:
            self._rules = [other for other in self._rules if other is not rule]
        rule.release()

    def clear_rules(self) -> None:
        """Take all rules out and reset the connections that they hold; these are gone at the return."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.release(drop=True)
        if self._thread is not None:
            self._command(self._nothing_held(), "clear its rules")

    def _make_listener(self) -> Listener:
        return Listener(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_CLIENT_IDLE_SECONDS,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )

    async def _opening(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_UPSTREAM_IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NEVER_ADDED,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        if hasattr(self._session, "_retry_connection"):
            # aiohttp would send a PUT again if the server broke the connection, unseen by client and history
            self._session._retry_connection = False

    def _ending(self, cause: str) -> None:
        for flight in self._flights:
            flight.cause = flight.cause or cause

    async def _closing(self) -> None:
        forwards = [flight.forward for flight in self._flights if flight.forward is not None]
        for forward in forwards:
            forward.cancel()
        if forwards:
            await asyncio.wait(forwards, timeout=STOP_SECONDS / 2)
        if self._session is not None:
            await self._session.close()

    async def _nothing_held(self) -> None:
        end = time.monotonic() + STOP_SECONDS
        while any(request.held for request in self.in_flight) and time.monotonic() < end:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # the resets

    # --- one request ---

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        transport = incoming.transport
        if transport is None or not self._listening:
            reset(transport)
            raise asyncio.CancelledError
        try:
            flight = self._admit(incoming, transport)
        except Exception as error:
            self.problems.append(f"request lost: {without_tokens(repr(error))}")
            reset(transport)
            raise asyncio.CancelledError from None
        self._busy += 1
        try:
            return await self._serve(incoming, flight)
        except _Dropped:
            reset(transport)
            # what aiohttp expects of a handler whose client has gone
            raise asyncio.CancelledError from None
        except (asyncio.CancelledError, ConnectionError, aiohttp.ClientError, web.RequestPayloadError):
            self._note(flight.request, "fault", action=flight.cause or "client-gone")
            raise asyncio.CancelledError from None
        except Exception as error:
            self.problems.append(without_tokens(repr(error)))
            self._note(flight.request, "fault", action="proxy-error", error=without_tokens(repr(error)))
            reset(transport)
            raise asyncio.CancelledError from None
        finally:
            self._busy -= 1
            flight.request.held = False
            if flight.forward is None or flight.forward.done():
                self._land(flight)
            else:  # the client has gone, the server has not answered yet
                flight.forward.add_done_callback(lambda _: self._land(flight))

    def _admit(self, incoming: web.BaseRequest, transport: asyncio.Transport) -> _Flight:
        path = incoming.raw_path.partition("?")[0].encode("utf-8", "backslashreplace").decode()
        token = incoming.headers.get("Authorization", "").rpartition(" ")[2]
        if token and self.kept is not None:
            self.kept.add(token)
        self._seq += 1
        request = WireRequest(
            seq=self._seq,
            api=self.api,
            method=incoming.method,
            path=path,
            route=route_of(path),
            pid=self._pid(transport),
            claims=claims_of(token) if token else None,
            fingerprint=self._fingerprint(token) if token else None,
            t=0.0,
        )
        flight = _Flight(request, time.monotonic())
        with self._lock:
            self._flights.append(flight)
        event = self._note(request, "request")
        request.t = event["t"] if isinstance(event, dict) and "t" in event else flight.started
        return flight

    def _land(self, flight: _Flight) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._flights.remove(flight)

    def _pid(self, transport: asyncio.Transport) -> int | None:
        pid = self._peers.get(transport)
        if pid is None:
            try:
                pid = pid_of_peer(transport.get_extra_info("peername")[1], self.port, self._pids())
            except Exception as error:
                self.problems.append(f"pids: {error!r}")
            if pid is not None:
                self._peers[transport] = pid
        return pid

    async def _serve(self, incoming: web.BaseRequest, flight: _Flight) -> web.StreamResponse:
        request = flight.request
        if incoming.headers.get("Expect", "").lower() == "100-continue":
            await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await incoming.content.read()
        flight.says = reported_end(request.route, body)
        rule = self._rule_for(request)
        action = rule.action if rule else None
        if rule and action:
            if not isinstance(action, HoldResponse | DropResponse):
                request.held = isinstance(action, Hold | Delay)
                self._note(request, "fault", action=action.name)
            rule.note_hit(request)
            if isinstance(action, Hold | Delay):
                await self._hold(rule, request, getattr(action, "seconds", None))
            elif isinstance(action, Answer):
                return await self._answer(incoming, rule, action, flight)
            elif isinstance(action, DropRequest):
                rule.note_applied(request)
                raise _Dropped
        # A server goes on with a request whose client has gone; so does this.
        replaced = action.token if rule and isinstance(action, ReplaceToken) else None
        flight.forward = asyncio.create_task(self._forward(incoming, body, flight, replaced))
        flight.forward.add_done_callback(lambda task: task.cancelled() or task.exception())
        response = await asyncio.shield(flight.forward)
        if rule and replaced:
            rule.note_applied(request)
        if rule and isinstance(action, HoldResponse | DropResponse):
            request.held = isinstance(action, HoldResponse)
            self._note(request, "fault", action=action.name)
            if isinstance(action, DropResponse):
                rule.note_applied(request)
                raise _Dropped
            await self._hold(rule, request, None)
        return response

    async def _hold(self, rule: WireRule, request: WireRequest, seconds: float | None) -> None:
        gate = rule.gate()
        rule.note_applied(request)
        try:
            drop = await asyncio.wait_for(gate, seconds)
        except TimeoutError:
            return
        finally:
            request.held = False
        self._note(request, "fault", action="dropped" if drop else "released")
        if drop:
            raise _Dropped

    def _rule_for(self, request: WireRequest) -> WireRule | None:
        with self._lock:
            rules = list(self._rules)
        for rule in rules:
            try:
                if rule.take(request):
                    return rule
            except Exception as error:
                text = without_tokens(repr(error))
                self._note(request, "fault", action="rule-error", rule=str(rule), error=text)
        return None

    async def _answer(
        self, incoming: web.BaseRequest, rule: WireRule, action: Answer, flight: _Flight
    ) -> web.StreamResponse:
        headers = CIMultiDict(action.headers)
        body = b""
        if isinstance(action.body, str):
            body = action.body.encode()
        elif action.body is not None:
            body = json.dumps(action.body).encode()
            headers.setdefault("Content-Type", "application/json")
        self._note_response(flight, action.status, headers, body, "rule")
        rule.note_applied(flight.request)
        if action.cut_at is None and not action.drip_s:
            return _Relayed(status=action.status, headers=headers, body=body)
        return await self._send_slowly(incoming, action, headers, body)

    async def _send_slowly(
        self, incoming: web.BaseRequest, action: Answer, headers: CIMultiDict[str], body: bytes
    ) -> web.StreamResponse:
        """Send a body in pieces, or only its beginning, after which the connection ends."""
        response = web.StreamResponse(status=action.status, headers=headers)
        response.content_length = len(body)
        await response.prepare(incoming)
        sent = body[: action.cut_at]
        size = max(1, len(sent) // DRIPS)
        for start in range(0, len(sent), size):
            await response.write(sent[start : start + size])
            await asyncio.sleep(action.drip_s / DRIPS)
        if action.cut_at is None:
            await response.write_eof()
        elif incoming.transport is not None:
            incoming.transport.close()
        return response

    async def _forward(
        self, incoming: web.BaseRequest, body: bytes, flight: _Flight, token: str | None = None
    ) -> web.Response:
        assert self._session is not None
        # aiohttp warns of large bodies that are bare bytes
        data: Any = io.BytesIO(body) if len(body) >= 1 << 20 else body or None
        waits = self.in_turn is not None and self.in_turn.search(flight.request.path)
        try:
            async with (
                self._turn if waits else contextlib.nullcontext(),
                self._session.request(
                    incoming.method,
                    URL(self.upstream + incoming.raw_path, encoded=True),
                    headers=_forwardable(incoming.headers.items()),
                    data=data,
                    allow_redirects=False,
                ) as answer,
            ):
                content = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            text = without_tokens(repr(error))
            self._note(flight.request, "fault", action="upstream-unreachable", error=text)
            raise _Dropped from None
        headers = _forwardable(answer.headers.items())
        if token and REFRESHED in headers:
            headers[REFRESHED] = token
        self._note_response(flight, answer.status, headers, content, "server")
        return _Relayed(status=answer.status, reason=answer.reason, headers=headers, body=content)

    # --- events ---

    def _note_response(self, flight: _Flight, status: int, headers: CIMultiDict[str], body: bytes, by: str) -> None:
        token = headers.get(REFRESHED)
        fields: dict[str, Any] = {
            "status": status,
            "by": by,
            "duration_s": round(time.monotonic() - flight.started, 4),
            "refreshed": None,
        }
        if token and self.kept is not None:
            self.kept.add(token)
        if token:
            fields["refreshed"] = {"claims": claims_of(token), "fingerprint": self._fingerprint(token)}
        if flight.says:
            fields["says"] = flight.says
        if status >= 400:
            fields["body_detail"] = _detail(body, headers)
        self._note(flight.request, "response", **fields)

    def _note(self, request: WireRequest, phase: str, **fields: Any) -> Any:
        token = None
        if request.fingerprint is not None:
            token = {"claims": request.claims, "fingerprint": request.fingerprint}
        try:
            return self.sink(
                "wire",
                seq=request.seq,
                phase=phase,
                api=request.api,
                method=request.method,
                path=request.path,
                route=request.route,
                pid=request.pid,
                token=token,
                **fields,
            )
        except Exception as error:
            self.problems.append(f"sink: {without_tokens(repr(error))}")
            return None
