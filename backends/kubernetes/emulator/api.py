"""The API server: authenticates, routes, applies faults and access rules, and answers."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from executor_conformance.backends.kubernetes.emulator import lists, logs
from executor_conformance.backends.kubernetes.emulator.access import Access
from executor_conformance.backends.kubernetes.emulator.calls import Call, Calls
from executor_conformance.backends.kubernetes.emulator.faults import WATCH_ACTIONS, Fault, Faults, error_of
from executor_conformance.backends.kubernetes.emulator.protobuf import PROTOBUF, decode
from executor_conformance.backends.kubernetes.emulator.registry import DeleteOptions, Registry
from executor_conformance.backends.kubernetes.emulator.resources import discovery
from executor_conformance.backends.kubernetes.emulator.routes import Route, route_of
from executor_conformance.backends.kubernetes.emulator.status import (
    ApiError,
    Obj,
    bad_request,
    no_route,
    unauthorized,
    unsupported_media_type,
)
from executor_conformance.backends.kubernetes.emulator.views import dumps, view_of
from executor_conformance.backends.kubernetes.emulator.watches import Watch

_HEALTH = ("/healthz", "/livez", "/readyz")
_OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2"
_JSON = ("application/json", "")


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _error(error: ApiError) -> web.Response:
    response = _json(error.code, dumps(error.body()))
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _operation_of(request: web.BaseRequest) -> str:
    """Verb and resource of a request, such as 'delete pods'; a watch is one request, however long it lasts."""
    try:
        route = route_of(request.method, request.path, dict(request.query))
    except ApiError:
        return "other"
    return f"{route.verb} {route.full_resource}"


def _content_type(request: web.BaseRequest) -> str:
    """Without parameters; empty if the client names none, as kubectl does at times."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip()


def _decode(body: bytes, content_type: str) -> Any:
    if content_type == PROTOBUF:
        return decode(body)
    if content_type not in _JSON:
        raise unsupported_media_type(content_type, ["application/json"])
    try:
        return json.loads(body)
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None


class Api:
    """The handler of the HTTPS server.

    :param token: the bearer token of all clients.
    :param log_of: the file of a container's log and whether the container runs, for (pod, container, previous).
    """

    def __init__(
        self,
        registry: Registry,
        access: Access,
        faults: Faults,
        calls: Calls,
        token: str,
        log_of: Callable[[Obj, str, bool], tuple[Path, Callable[[], bool]]],
    ) -> None:
        self._registry = registry
        self._access = access
        self._faults = faults
        self._calls = calls
        self._bearer = f"Bearer {token}".encode()
        self._log_of = log_of
        self._watches: dict[Watch, Call] = {}
        self._ending = False
        faults.added.append(self._on_fault)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        call = self._calls.new()
        self._calls.count(_operation_of(request))
        query = dict(request.query)
        call.verb, call.name, call.query = request.method.lower(), request.path, query
        try:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self._bearer):
                raise unauthorized()
            response = await self._answer(request, call, query)
        except ApiError as error:
            response = _error(error)
        except web.HTTPRequestEntityTooLarge:
            response = _error(ApiError(413, "RequestEntityTooLarge", "the request is larger than 1 MiB"))
        except asyncio.CancelledError:
            call.status = call.status or 0
            raise
        if call.status is None or not isinstance(response, web.Response):
            call.status = response.status
        return response

    async def _answer(self, request: web.BaseRequest, call: Call, query: dict[str, str]) -> web.StreamResponse:
        if (plain := self._plain(request)) is not None:
            return plain
        route = route_of(request.method, request.path, query)
        call.verb, call.resource = route.verb, route.full_resource
        call.namespace, call.name = route.namespace or "", route.name
        if not route.group:
            namespace = route.name if route.resource == "namespaces" else route.namespace or ""
            self._access.check(route.verb, route.full_resource, namespace, route.name)
        body = await request.read()
        new = self._decoded_new(route, body, _content_type(request)) if route.verb == "create" else None
        if new is not None and not route.group:
            call.name = str(new["metadata"].get("name", ""))
        fault = self._faults.for_request(
            route.fault_verb, route.full_resource if route.subresource == "status" else route.resource, call.name,
            lambda: self._labels(route, new),
        )  # fmt: skip
        if fault is not None:
            call.fault = fault.id
            await self._before(request, call, fault)
        if "dryRun" in query:
            raise bad_request("dryRun is not supported by this emulator")
        response = await self._carry_out(request, call, route, query, body, new, fault)
        if fault is not None and fault.type == "drop-response":
            self._break(request, call)
        return response

    def _plain(self, request: web.BaseRequest) -> web.Response | None:
        """Health, version, discovery and the documents of OpenAPI; None for a resource."""
        path = request.path.rstrip("/") or "/"
        if path.startswith(_HEALTH):
            return web.Response(text="ok")
        document = discovery(path, request.host)
        if document is None and path == "/openapi/v2":
            if _OPENAPI_V2 in request.headers.get("Accept", ""):
                # an empty document: kubectl then leaves the validation to the server
                return web.Response(body=b"", content_type="application/octet-stream")
            document = {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": {}}
        elif document is None and path == "/openapi/v3":
            document = {"paths": {}}
        if document is None:
            return None
        if request.method != "GET":
            raise no_route()
        return _json(200, dumps(document))

    def _decoded_new(self, route: Route, body: bytes, content_type: str) -> Obj:
        decoded = _decode(body, content_type)
        if not route.group:
            return self._registry.prepare(route.resource, route.namespace or "", decoded)
        if not isinstance(decoded, dict):
            raise bad_request("couldn't get version/kind; json parse error: the body is not an object")
        return decoded

    def _labels(self, route: Route, new: Obj | None) -> Mapping[str, str] | None:
        if new is not None:
            return new.get("metadata", {}).get("labels") or {}
        if not route.name or route.verb in ("list", "watch"):
            return None
        obj = self._registry.store.get(route.resource, route.namespace or "", route.name)
        return None if obj is None else obj["metadata"].get("labels") or {}

    # --- faults ---

    async def _before(self, request: web.BaseRequest, call: Call, fault: Fault) -> None:
        if fault.type == "status":
            raise error_of(fault.action)
        if fault.type == "close":
            self._break(request, call)
        if fault.type == "hang":
            await fault.removed.wait()
        if fault.type == "delay":
            try:
                await asyncio.wait_for(fault.removed.wait(), fault.action["seconds"])
            except TimeoutError:
                return

    def _break(self, request: web.BaseRequest, call: Call) -> None:
        call.status = 0
        if request.transport is not None:
            request.transport.abort()
        # what aiohttp expects of a handler whose client has gone
        raise asyncio.CancelledError

    def _on_fault(self, fault: Fault) -> None:
        """A new rule on watches takes effect on those that are open, unless it lets some pass."""
        if fault.type not in WATCH_ACTIONS or fault.skip or fault.selector:
            return
        for watch in self._watches:
            selection = watch.selection
            if fault.resource in ("*", selection.resource) and fault.concerns(selection.name, None):
                watch.apply(fault)

    # --- verbs ---

    async def _carry_out(
        self,
        request: web.BaseRequest,
        call: Call,
        route: Route,
        query: dict[str, str],
        body: bytes,
        new: Obj | None,
        fault: Fault | None,
    ) -> web.StreamResponse:
        if route.group:
            return _json(201, dumps(self._access.review(route.resource, new or {})))
        if route.verb == "watch":
            return await self._watch(request, call, route, query, fault)
        resource, namespace, name = route.resource, route.namespace or "", route.name
        if route.subresource == "log":
            return await self._log(request, call, namespace, name, query)
        view = view_of(resource, request.headers.get("Accept", ""), query.get("includeObject", ""))
        if route.verb == "list":
            return _json(200, lists.answer(self._registry.store, route, query, view))
        if route.verb == "create":
            return _json(201, view.one(self._registry.create(resource, namespace, new or {})))
        if route.verb == "get":
            return _json(200, view.one(self._registry.get(resource, namespace, name)))
        if route.verb == "update":
            sent = _decode(body, _content_type(request))
            return _json(200, view.one(self._registry.replace(resource, namespace, name, sent, route.subresource)))
        if route.verb == "patch":
            type_ = _content_type(request)
            changed = self._registry.patch(resource, namespace, name, body, type_, route.subresource)
            return _json(200, view.one(changed))
        options = _delete_options(_decode(body, _content_type(request)) if body.strip() else {}, query)
        if route.verb == "delete":
            return _json(200, view.one(self._registry.delete(resource, namespace, name, options)))
        selected = lists.select(self._registry.store, lists.selection_of(route, query))
        for stored in selected:
            metadata = stored.obj["metadata"]
            self._registry.delete(resource, metadata.get("namespace", ""), metadata["name"], options)
        return _json(200, view.many([stored.version for stored in selected], {"resourceVersion": str(self._revision)}))

    @property
    def _revision(self) -> int:
        return self._registry.store.revision

    async def _watch(
        self, request: web.BaseRequest, call: Call, route: Route, query: dict[str, str], fault: Fault | None
    ) -> web.StreamResponse:
        view = view_of(route.resource, request.headers.get("Accept", ""), query.get("includeObject", ""))
        selection, options = lists.selection_of(route, query), lists.watch_options(query)

        def note(applied: Fault) -> None:
            call.fault = applied.id

        watch = Watch(self._registry.store, selection, view, options, fault, note)
        call.status = 200
        self._watches[watch] = call
        try:
            return await watch.run(request)
        finally:
            del self._watches[watch]

    async def _log(
        self, request: web.BaseRequest, call: Call, namespace: str, name: str, query: dict[str, str]
    ) -> web.StreamResponse:
        pod = self._registry.get("pods", namespace, name)
        options = logs.options_of(query)
        container = logs.container_name(pod, query.get("container", ""))
        path, is_live = self._log_of(pod, container, logs.is_true(query, "previous"))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        call.status = 200
        async for chunk in logs.read_log(path, options, is_live):
            await response.write(chunk)
        await response.write_eof()
        return response


def _delete_options(given: Any, query: dict[str, str]) -> DeleteOptions:
    """From the body; what it leaves out, from the query.

    :raises ApiError: 400.
    """
    if not isinstance(given, dict) or given.get("kind", "DeleteOptions") != "DeleteOptions":
        raise bad_request("the body of a DELETE is a DeleteOptions object")
    if given.get("dryRun"):
        raise bad_request("dryRun is not supported by this emulator")
    grace = given.get("gracePeriodSeconds")
    if grace is None and query.get("gracePeriodSeconds"):
        try:
            grace = int(query["gracePeriodSeconds"])
        except ValueError:
            raise bad_request(f"gracePeriodSeconds is no number: {query['gracePeriodSeconds']}") from None
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise bad_request("gracePeriodSeconds is no whole number")
    preconditions = given.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise bad_request("preconditions are an object")
    return DeleteOptions(grace, preconditions.get("uid"), preconditions.get("resourceVersion"))
