"""The control API of the emulator: pods, faults, access, images and the record of calls; for the harness."""

from __future__ import annotations

import hmac
import json
import signal
from collections.abc import Callable
from typing import Any

from aiohttp import web
from executor_conformance.backends.kubernetes.emulator.access import Access, BadAccess
from executor_conformance.backends.kubernetes.emulator.calls import Calls
from executor_conformance.backends.kubernetes.emulator.faults import BadRule, Faults
from executor_conformance.backends.kubernetes.emulator.foreign import Foreign
from executor_conformance.backends.kubernetes.emulator.images import BadImages, parse_images
from executor_conformance.backends.kubernetes.emulator.kubelet import Kubelet
from executor_conformance.backends.kubernetes.emulator.registry import Registry
from executor_conformance.backends.kubernetes.emulator.status import ApiError
from executor_conformance.backends.kubernetes.emulator.views import dumps

_PREFIX = "/_admin/"
_EVICTED = "The node was low on resource: memory. "


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _object(body: Any, *fields: str) -> dict[str, Any]:
    """A body that is an object with no other fields than these."""
    if not isinstance(body, dict):
        raise _Refused(400, "the body is no JSON object")
    if unknown := sorted(body.keys() - set(fields)):
        raise _Refused(400, f"the body has unknown fields: {', '.join(unknown)}")
    return body


class Admin:
    """The handler of the control API; errors are ``{"error": "one sentence"}``."""

    def __init__(
        self, registry: Registry, kubelet: Kubelet, faults: Faults, access: Access, calls: Calls, token: str
    ) -> None:
        self._store = registry.store
        self._kubelet = kubelet
        self._foreign = Foreign(registry, kubelet)
        self._faults = faults
        self._access = access
        self._calls = calls
        self._bearer = f"Bearer {token}".encode()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self._bearer):
                raise _Refused(401, "the admin token is missing or wrong")
            if not request.path.startswith(_PREFIX):
                raise _Refused(404, f"there is nothing at {request.path}")
            text = await request.read()
            try:
                body = json.loads(text) if text.strip() else {}
            except ValueError as error:
                raise _Refused(400, f"the body is no JSON: {error}") from None
            answer = self._answer(request.method, request.path[len(_PREFIX) :].split("/"), body, dict(request.query))
        except _Refused as refused:
            return self._error(refused.status, str(refused))
        except (BadRule, BadAccess, BadImages) as error:
            return self._error(400, str(error))
        except ApiError as error:
            return self._error(error.code, error.message)
        return web.Response(body=dumps(answer), content_type="application/json")

    @staticmethod
    def _error(status: int, message: str) -> web.Response:
        return web.Response(status=status, body=dumps({"error": message}), content_type="application/json")

    def _answer(self, method: str, parts: list[str], body: Any, query: dict[str, str]) -> Any:
        actions: dict[tuple[str, str], Callable[[], Any]] = {
            ("GET", "pods"): self._kubelet.documents,
            ("GET", "manifests"): self._kubelet.manifests,
            ("GET", "faults"): lambda: [fault.document() for fault in self._faults.rules.values()],
            ("POST", "faults"): lambda: {"id": self._faults.add(body).id},
            ("DELETE", "faults"): self._faults.clear,
            ("POST", "compact"): self._compact,
            ("POST", "access"): lambda: self._access.set(body),
            ("GET", "access"): self._access.document,
            ("PUT", "images"): lambda: self._kubelet.set_images(parse_images(body)),
            ("GET", "calls"): lambda: self._calls.since(self._since(query)),
            ("GET", "counts"): self._calls.counts,
            ("GET", "deliveries"): lambda: self._kubelet.ledger.deliveries(self._workload(query)),
            ("POST", "foreign"): lambda: self._foreign.plant(str(_object(body, "namespace").get("namespace", ""))),
            ("GET", "foreign"): lambda: {"touched": self._foreign.touched()},
            ("DELETE", "foreign"): self._foreign.remove,
        }
        action = actions.get((method, "/".join(parts)))
        if action is not None:
            answer = action()
            return {} if answer is None else answer
        if method == "DELETE" and len(parts) == 2 and parts[0] == "faults":
            if not self._faults.remove(parts[1]):
                raise _Refused(404, f"there is no fault {parts[1]}")
            return {}
        if method == "POST" and len(parts) == 4 and parts[0] == "pods":
            return self._pod_action(parts[1], parts[2], parts[3], body)
        raise _Refused(404, f"there is no {method} {_PREFIX}{'/'.join(parts)}")

    def _since(self, query: dict[str, str]) -> int:
        try:
            return int(query.get("since") or 0)
        except ValueError:
            raise _Refused(400, f"'since' is the number of a call, not {query['since']!r}") from None

    def _workload(self, query: dict[str, str]) -> str:
        if not query.get("workload"):
            raise _Refused(400, "'workload' is the id of a callback or of a task instance")
        return query["workload"]

    def _compact(self) -> dict[str, Any]:
        self._store.compact()
        return {"resourceVersion": str(self._store.revision)}

    def _pod_action(self, namespace: str, name: str, action: str, body: Any) -> dict[str, Any]:
        if action == "kill":
            given = _object(body, "signal", "container")
            number, container = given.get("signal", signal.SIGKILL), given.get("container")
            if not isinstance(number, int) or number not in set(signal.Signals):
                raise _Refused(400, f"'signal' is the number of a signal, not {number!r}")
            if not isinstance(container, str | None):
                raise _Refused(400, "'container' is a name or null")
            return {"pid": self._kubelet.kill(namespace, name, number, container)}
        if action == "oom":
            container = _object(body, "container").get("container")
            if not isinstance(container, str | None):
                raise _Refused(400, "'container' is a name or null")
            return {"pid": self._kubelet.kill(namespace, name, signal.SIGKILL, container, "OOMKilled")}
        if action == "evict":
            message = _object(body, "message").get("message") or _EVICTED
            self._kubelet.evict(namespace, name, str(message))
            return {}
        if action == "delete":
            grace = _object(body, "grace").get("grace")
            if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool) or grace < 0):
                raise _Refused(400, "'grace' is a whole number of seconds or null")
            self._kubelet.delete(namespace, name, grace)
            return {}
        raise _Refused(404, f"a pod has no action {action!r}; it has kill, oom, evict and delete")
