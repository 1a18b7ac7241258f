"""The front of the emulator: WSGI middleware with the call log, the API faults and the way to the admin API."""

from __future__ import annotations

import contextlib
import io
import json
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from executor_conformance.backends.aws.emulator import protocols
from executor_conformance.backends.aws.emulator.dataplane import DataPlane
from executor_conformance.backends.aws.emulator.faults import Fault
from executor_conformance.backends.aws.emulator.moto_seams import REQUEST_ID_HEADER
from executor_conformance.backends.aws.emulator.protocols import Operation, Reply

StartResponse = Callable[..., Any]
_PHRASES = {200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
CREDENTIALS_PATH = "/_credentials"
"""Where clients whose credentials change ask for those of their next request, by ``service`` and ``operation``."""
_CALLS_KEPT = 100_000
_HANG_SLICE = 0.1
_SUBMISSIONS = frozenset({"RunTask", "SubmitJob", "Invoke"})
_SUBMISSIONS_KEPT = 64


class CallLog:
    """What was asked of the API: never bodies, headers or tokens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[dict[str, Any]] = []
        self._first = 1
        self._counts: Counter[str] = Counter()

    def begin(self, operation: Operation) -> dict[str, Any]:
        """Note a request; its ``status`` is None until it is answered, and stays so if it never is."""
        with self._lock:
            call = {
                "n": self._first + len(self._calls),
                "at": time.monotonic(),
                "service": operation.service,
                "operation": operation.name,
                "status": None,
                "fault": None,
            }
            self._calls.append(call)
            self._counts[operation.name or operation.service or "unknown"] += 1
            if len(self._calls) > _CALLS_KEPT:
                del self._calls[0]
                self._first += 1
            return call

    def counts(self) -> dict[str, int]:
        """How many requests there have been, by operation; those that were refused too."""
        with self._lock:
            return dict(self._counts)

    def since(self, number: int) -> list[dict[str, Any]]:
        """Calls with a greater ``n``, oldest first."""
        with self._lock:
            return [dict(call) for call in self._calls[max(0, number - self._first + 1) :]]


class Front:
    """Passes requests on to moto, unless a fault says otherwise."""

    def __init__(self, app: Any, plane: DataPlane, admin: Callable[..., Reply], region: str, account: str) -> None:
        self.app, self.plane, self.admin = app, plane, admin
        self.region, self.account = region, account
        self.calls = CallLog()
        self.submissions: deque[Any] = deque(maxlen=_SUBMISSIONS_KEPT)
        """The last requests that handed over a workload, as their JSON has them."""

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI; raises ConnectionError where the client gets no answer."""
        length = environ.get("CONTENT_LENGTH") or "0"
        body = environ["wsgi.input"].read(int(length)) if length.isdigit() and int(length) else b""
        if environ.get("PATH_INFO", "").startswith("/_admin/"):
            return _send(self.admin(environ, body), start_response)
        if environ.get("PATH_INFO") == CREDENTIALS_PATH:
            return _send(self._credentials(environ), start_response)
        operation = protocols.operation_of(environ, body)
        call = self.calls.begin(operation)
        if operation.name in _SUBMISSIONS:
            with contextlib.suppress(ValueError):
                self.submissions.append(json.loads(body))
        fault = self.plane.faults.take(operation.service, operation.name)
        if fault is None:
            return self._carry_out(environ, body, operation, call, start_response)
        call["fault"] = fault.id
        return self._apply(fault, environ, body, operation, call, start_response)

    def _credentials(self, environ: dict[str, Any]) -> Reply:
        """The credentials with which a client signs its next request; 404: there are none."""
        query = parse_qs(environ.get("QUERY_STRING", ""))
        service, operation = (query.get(name, [""])[0] for name in ("service", "operation"))
        fault = self.plane.faults.take(service, operation, "credentials")
        status = {"": 200, "missing": 404, "failing": 500}[fault.type if fault else ""]
        given = {"AccessKeyId": "conformance", "SecretAccessKey": "conformance"} if status == 200 else {}
        return Reply(status, json.dumps(given).encode(), (("Content-Type", "application/json"),))

    def _apply(
        self,
        fault: Fault,
        environ: dict[str, Any],
        body: bytes,
        operation: Operation,
        call: dict[str, Any],
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        action, kind = fault.action, fault.type
        reply: Reply | None = None
        if kind == "close":
            _close(environ)
        elif kind == "hang":
            self._hang(fault, environ)
        elif kind == "delay":
            fault.removed.wait(float(action["seconds"]))
        elif kind == "drop-response":
            self._carry_out(environ, body, operation, call, lambda *_: None)
            call["status"] = None
            _close(environ)
        elif kind == "error":
            reply = protocols.error_reply(operation, action["code"], action["message"], action["status"])
        elif kind in ("failures", "empty"):
            reason = str(action.get("reason", "RESOURCE:MEMORY")) if kind == "failures" else None
            reply = protocols.run_task_reply(reason, self.region, self.account)
        elif kind == "lose":
            reply = protocols.message_sent_reply(operation, body)
        elif kind == "duplicate":
            self._carry_out(dict(environ), body, operation, call, lambda *_: None)
        elif kind == "delay-delivery":
            body = protocols.with_delay(operation, body, float(action["seconds"]))
        if reply is not None:
            call["status"] = reply.status
            return _send(reply, start_response)
        return self._carry_out(environ, body, operation, call, start_response)

    def _hang(self, fault: Fault, environ: dict[str, Any]) -> None:
        """Return when the fault is removed; a client that goes away meanwhile asked for nothing."""
        connection: socket.socket = environ["werkzeug.socket"]
        while not fault.removed.wait(_HANG_SLICE):
            if _is_gone(connection):
                raise ConnectionAbortedError("the client has gone")
        if _is_gone(connection):
            raise ConnectionAbortedError("the client has gone")

    def _carry_out(
        self,
        environ: dict[str, Any],
        body: bytes,
        operation: Operation,
        call: dict[str, Any],
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))

        def responding(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            call["status"] = int(status.partition(" ")[0])
            if given := [value for name, value in headers if name.lower() == REQUEST_ID_HEADER]:
                dropped = (REQUEST_ID_HEADER, "x-amzn-requestid")
                headers = [entry for entry in headers if entry[0].lower() not in dropped]
                headers.append(("x-amzn-requestid", given[0]))
            return start_response(status, headers, *rest)

        lock = None if protocols.waits(operation, body) else self.plane.locks.get(operation.service)
        with lock or contextlib.nullcontext():
            result = self.app(environ, responding)
            try:
                return list(result)
            finally:
                if hasattr(result, "close"):
                    result.close()


def _send(reply: Reply, start_response: StartResponse) -> Iterable[bytes]:
    headers = [*reply.headers, ("Content-Length", str(len(reply.body)))]
    start_response(f"{reply.status} {_PHRASES.get(reply.status, 'Error')}", headers)
    return [reply.body]


def _close(environ: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    # what werkzeug takes as a dropped connection
    raise ConnectionAbortedError("closed by a fault")


def _is_gone(connection: socket.socket) -> bool:
    try:
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True
