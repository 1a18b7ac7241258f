"""One execution environment of a Lambda function: a runtime process and the Runtime API that feeds it.

Paths, headers and answers: "Using the Lambda runtime API" (version 2018-06-01) of the developer guide. Each
runtime has an address of its own, so that whoever asks is known.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from executor_conformance.backends.aws.emulator.runner import Handle

_PREFIX = "/2018-06-01/runtime/"
_INIT_SECONDS = 10.0
"""AWS's bound on an initialisation apart from the function's own timeout."""
_END_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """What an invocation came to: the handler's result, or an error object with ``errorType`` and so on."""

    payload: bytes
    error: bool = False

    @property
    def message(self) -> str:
        """The ``errorMessage``; empty for a result."""
        if not self.error:
            return ""
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(self.payload).get("errorMessage", ""))
        return ""


def failure(kind: str, message: str) -> Answer:
    """An error object of the service's own, for what no handler could report."""
    return Answer(json.dumps({"errorType": kind, "errorMessage": message}).encode(), error=True)


@dataclass(frozen=True)
class Call:
    """An invocation as a runtime sees it; ``timeout`` in seconds."""

    request_id: str
    arn: str
    event: bytes
    timeout: float


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    runtime: Runtime

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A runtime that was killed leaves its connection broken; that is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one segment; apart, the peer's delayed ACK would cost 40 ms
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the calls of a runtime are no calls of a client."""

    def do_GET(self) -> None:
        if self.path != f"{_PREFIX}invocation/next":
            return self._answer(404, {"errorType": "InvalidPath", "errorMessage": self.path})
        call = self.server.runtime.next_call()
        if call is None:  # it is being shut down
            self.close_connection = True
            return None
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(call.event)))
        self.send_header("Lambda-Runtime-Aws-Request-Id", call.request_id)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + call.timeout) * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", call.arn)
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-00000000-000000000000000000000000;Sampled=0")
        self.end_headers()
        self.wfile.write(call.event)
        self.wfile.flush()
        return None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.removeprefix(_PREFIX).split("/")
        runtime = self.server.runtime
        if parts == ["init", "error"]:
            runtime.note_init_error(Answer(body, error=True))
        elif len(parts) == 3 and parts[0] == "invocation" and parts[2] in ("response", "error"):
            if not runtime.note_answer(parts[1], Answer(body, error=parts[2] == "error")):
                return self._answer(400, {"errorType": "InvalidRequestID", "errorMessage": "Invalid request ID"})
        else:
            return self._answer(404, {"errorType": "InvalidPath", "errorMessage": self.path})
        return self._answer(202, {"status": "OK"})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


class Runtime:
    """A runtime process; carries out one call at a time."""

    def __init__(self, start: Callable[[str], Handle]) -> None:
        """Start the process; ``start`` gets the value of AWS_LAMBDA_RUNTIME_API.

        :raises ImageMissing, StartFailed: as ``Runner.start``.
        """
        self._changed = threading.Condition()
        self._call: Call | None = None
        self._delivered = False
        self._answer: Answer | None = None
        self._init_error: Answer | None = None
        self._exit_code: int | None = None
        self._closed = False
        self.out_of_memory = False
        self._overdue = False
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.runtime = self
        threading.Thread(target=self._server.serve_forever, args=[0.1], daemon=True, name="runtime-api").start()
        try:
            self.handle = start(f"127.0.0.1:{self._server.server_address[1]}")
        except BaseException:
            self._stop_serving()
            raise
        threading.Thread(target=self._watch, daemon=True, name=f"runtime-{self.handle.pid}").start()

    @property
    def alive(self) -> bool:
        """Whether it can take a call."""
        with self._changed:
            return self._exit_code is None and self._init_error is None and not self._closed

    def carry_out(self, call: Call) -> Answer:
        """Let the process handle a call; one that fails for it as a whole (timeout, exit) is not alive after it."""
        with self._changed:
            self._call, self._delivered, self._answer, self._overdue = call, False, None, False
            self._changed.notify_all()
            over = lambda: self._answer or self._init_error or self._exit_code is not None  # noqa: E731
            self._changed.wait_for(lambda: self._delivered or over(), _INIT_SECONDS + call.timeout)
            delivered = self._delivered
            if delivered:
                self._changed.wait_for(lambda: over() or self._overdue, call.timeout)
            answer, exit_code, init_error = self._answer, self._exit_code, self._init_error
            self._call = None
        if answer is not None:
            return answer
        if init_error is not None:
            self.close()
            return init_error
        if exit_code is None:
            self.close()
            now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
            text = f"{now}.000Z {call.request_id} Task timed out after {call.timeout:.2f} seconds"
            return failure("Sandbox.Timedout", text)
        self.close()
        kind = "Runtime.OutOfMemory" if self.out_of_memory else "Runtime.ExitError"
        return failure(kind, f"RequestId: {call.request_id} Error: Runtime exited {_how(exit_code)}")

    def time_out(self) -> None:
        """Let the present call be taken for one that has lasted for the function's timeout."""
        with self._changed:
            self._overdue = True
            self._changed.notify_all()

    def close(self) -> None:
        """Kill the process with all that it started, and stop serving it."""
        with self._changed:
            closed, self._closed = self._closed, True
            self._changed.notify_all()
        if not closed:
            self.handle.kill(signal.SIGKILL)
            self.handle.wait(_END_SECONDS)
            self._stop_serving()

    # --- of the Runtime API ---

    def next_call(self) -> Call | None:
        """Wait for a call that has not been delivered; None once there will be none."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._exit_code is not None or (self._call is not None and not self._delivered)
            )
            if self._closed or self._exit_code is not None:
                return None
            self._delivered = True
            self._changed.notify_all()
            return self._call

    def note_answer(self, request_id: str, answer: Answer) -> bool:
        """Take the result of the present call; False if it is of another one."""
        with self._changed:
            if self._call is None or self._call.request_id != request_id or not self._delivered:
                return False
            self._answer = answer
            self._changed.notify_all()
            return True

    def note_init_error(self, answer: Answer) -> None:
        """Take it that the process could not load its handler."""
        with self._changed:
            self._init_error = answer
            self._changed.notify_all()

    def _watch(self) -> None:
        code = self.handle.wait()
        with self._changed:
            self._exit_code = -1 if code is None else code
            self._changed.notify_all()

    def _stop_serving(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _how(exit_code: int) -> str:
    if exit_code == 0:
        return "without providing a reason"
    if exit_code > 128:
        names = {9: "killed", 15: "terminated", 11: "segmentation fault", 6: "aborted", 2: "interrupt"}
        return f"with error: signal: {names.get(exit_code - 128, str(exit_code - 128))}"
    return f"with error: exit status {exit_code}"
