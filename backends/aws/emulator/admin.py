"""The admin API: what the harness sees of the emulator, and the faults it asks for.

All paths are below ``/_admin``; each request carries ``Authorization: Bearer <admin_token>``. Answers are JSON;
an error is ``{"error": "one sentence"}``.

* ``GET /runs``: ``[{"service", "id", "status", "pid", "container_id", "attempt", "exit_code", "env_names", "next"}]``
* ``GET /runtimes``: ``{"idle": [pid]}``, the Lambda runtimes that wait for work
* ``GET /messages``: ``{queue: {"visible": n, "delayed": [seconds], "in_flight": [seconds]}}``
* ``DELETE /messages``: all of them, those in flight too -> ``{}``
* ``GET /calls?since=N``: ``[{"n", "at", "service", "operation", "status", "fault"}]``
* ``GET /counts``: ``{operation: n}``, all requests so far
* ``GET /deliveries?workload=ID``: ``[{"id", "accepted", "ended"}]``, the accepted requests that carry this id
* ``POST /foreign {"service"}`` -> ``{"planted": [sentence], "keys": [key]}``, ``GET /foreign`` ->
  ``{"touched": [sentence]}``, ``DELETE /foreign``: what another deployment has at the account
* ``GET /submissions``: ``[BODY]``, the last requests RunTask, SubmitJob and Invoke, as their JSON has them
* ``GET /faults``, ``POST /faults`` -> ``{"id"}``, ``DELETE /faults``, ``DELETE /faults/ID``
* ``POST /runs/ID/kill {"signal": 9}``, ``/runs/ID/stop {"reason"}``, ``/runs/ID/vanish``, ``/runs/ID/oom``,
  ``/runs/ID/repeat`` and ``/runs/ID/timeout`` (Lambda) -> ``{}``;
  ID is the (quoted) task ARN or its last part, the job id or the request id
* ``PUT /images``: the images file's content
"""

from __future__ import annotations

import hmac
import json
import signal
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from executor_conformance.backends.aws.emulator.dataplane import DataPlane
from executor_conformance.backends.aws.emulator.foreign import Foreign
from executor_conformance.backends.aws.emulator.lambda_service import LambdaService
from executor_conformance.backends.aws.emulator.protocols import Reply
from executor_conformance.backends.aws.emulator.runner import parse_images
from executor_conformance.harness.errors import UsageError


class NotFound(Exception):
    """There is no such thing; the argument says what."""


class Admin:
    """Answers requests below ``/_admin/``."""

    def __init__(
        self,
        plane: DataPlane,
        token: str,
        messages: Callable[[], dict[str, Any]],
        lambdas: LambdaService | None,
        purge: Callable[[], None],
    ) -> None:
        self.plane, self.token, self.messages, self.lambdas = plane, token, messages, lambdas
        self.purge = purge
        self.submissions: Callable[[], list[Any]] = lambda: []
        self.calls_since: Callable[[int], list[dict[str, Any]]] = lambda number: []
        self.counts: Callable[[], dict[str, int]] = dict
        self.foreign: Foreign | None = None

    def __call__(self, environ: dict[str, Any], body: bytes) -> Reply:
        """The reply to one request."""
        given = environ.get("HTTP_AUTHORIZATION", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self.token}".encode()):
            return _json(401, {"error": "The admin API needs its bearer token."})
        try:
            data = json.loads(body) if body else {}
        except ValueError:
            return _json(400, {"error": "The request's body is not JSON."})
        path = environ["PATH_INFO"].removeprefix("/_admin/").rstrip("/")
        query = parse_qs(environ.get("QUERY_STRING", ""))
        try:
            return _json(200, self._answer(environ["REQUEST_METHOD"], path, query, data))
        except UsageError as error:
            return _json(400, {"error": str(error)})
        except NotFound as error:
            return _json(404, {"error": str(error)})
        except Exception as error:  # the caller says where it happened
            return _json(500, {"error": f"{type(error).__name__}: {error}"})

    def _answer(self, method: str, path: str, query: dict[str, list[str]], data: Any) -> Any:
        head, _, rest = path.partition("/")
        if method == "GET" and not rest:
            if head == "runs":
                return [run.describe() for run in self.plane.runs()]
            if head == "runtimes":
                return {"idle": self.lambdas.idle_pids() if self.lambdas else []}
            if head == "messages":
                return self.messages()
            if head == "faults":
                return self.plane.faults.describe()
            if head == "submissions":
                return self.submissions()
            if head == "counts":
                return self.counts()
            if head == "deliveries":
                if not (workload := query.get("workload", [""])[0]):
                    raise UsageError("'workload' is the id of a callback or of a task instance.")
                return self.plane.deliveries(workload)
            if head == "calls":
                since = query.get("since", ["0"])[0]
                if not since.isdigit():
                    raise UsageError("'since' is the number of a call.")
                return self.calls_since(int(since))
        if head == "foreign" and not rest and self.foreign is not None:
            return self._foreign(method, data)
        if (method, head, rest) == ("DELETE", "messages", ""):
            self.purge()
            return {}
        if (method, head, rest) == ("POST", "faults", ""):
            return {"id": self.plane.faults.add(data).id}
        if (method, head) == ("DELETE", "faults"):
            if not self.plane.faults.remove(rest or None) and rest:
                raise NotFound(f"There is no fault '{rest}'.")
            return {}
        if (method, head, rest) == ("PUT", "images", ""):
            self.plane.images.replace(parse_images(data, "The request"))
            return {}
        if method == "POST" and head == "runs" and "/" in rest:
            identity, _, verb = rest.rpartition("/")
            self._act(identity, verb, data if isinstance(data, dict) else {})
            return {}
        raise NotFound(f"There is no {method} /_admin/{path}.")

    def _foreign(self, method: str, data: Any) -> Any:
        assert self.foreign is not None
        if method == "POST":
            return self.foreign.plant(str(data.get("service")) if isinstance(data, dict) else "")
        if method == "GET":
            return {"touched": self.foreign.touched()}
        if method == "DELETE":
            self.foreign.remove()
            return {}
        raise NotFound(f"There is no {method} /_admin/foreign.")

    def _act(self, identity: str, verb: str, data: dict[str, Any]) -> None:
        run = self.plane.get(identity)
        if run is None:
            raise NotFound(f"There is no run '{identity}'.")
        if verb == "kill":
            number = data.get("signal", 9)
            if not isinstance(number, int) or number not in signal.valid_signals():
                raise UsageError(f"There is no signal {number!r}.")
            self.plane.kill(run, number)
        elif verb == "stop":
            if run.service not in self.plane.stop:
                raise UsageError(f"A run of {run.service} cannot be stopped from outside.")
            reason = data.get("reason", "Stopped from outside")
            if not isinstance(reason, str) or not reason:
                raise UsageError("'reason' is a text.")
            self.plane.stop[run.service](run.id, reason)
        elif verb == "vanish":
            self.plane.lose(run)
        elif verb == "oom":
            if run.service == "lambda" and self.lambdas is not None:
                self.lambdas.exhaust_memory(run)
            else:
                self.plane.exhaust_memory(run)
        elif verb == "timeout" and run.service == "lambda" and self.lambdas is not None:
            self.lambdas.time_out(run)
        elif verb == "repeat" and run.service == "lambda" and self.lambdas is not None:
            self.lambdas.repeat(run)
        else:
            raise NotFound(
                f"A run has no '{verb}'; it has kill, stop, vanish and oom, and in Lambda repeat and timeout."
            )


def _json(status: int, body: Any) -> Reply:
    return Reply(status, json.dumps(body).encode(), (("Content-Type", "application/json"),))
