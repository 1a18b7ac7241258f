"""From a method and a path to what is asked for, as the RequestInfo of kube-apiserver."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from executor_conformance.backends.kubernetes.emulator.logs import is_true
from executor_conformance.backends.kubernetes.emulator.resources import AUTHORIZATION, RESOURCES, REVIEWS, SUBRESOURCES
from executor_conformance.backends.kubernetes.emulator.selectors import field_terms
from executor_conformance.backends.kubernetes.emulator.status import ApiError, method_not_allowed, no_route

_ITEM_VERBS = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}


@dataclass(frozen=True)
class Route:
    """``verb`` is RBAC's (a log is a get), ``namespace`` None for all namespaces and for objects of the cluster."""

    verb: str
    resource: str
    namespace: str | None = None
    name: str = ""
    subresource: str = ""
    group: str = ""

    @property
    def full_resource(self) -> str:
        """With the subresource: pods/log."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    @property
    def fault_verb(self) -> str:
        """The verb that rules on faults know it by."""
        return "log" if self.subresource == "log" else self.verb


def _split(path: str) -> Route | None:
    """The resource that a path names, with an empty verb; None for another path."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[:3] == ["apis", AUTHORIZATION, "v1"] and len(parts) == 4 and parts[3] in REVIEWS:
        return Route("", parts[3], group=AUTHORIZATION)
    if parts[:2] != ["api", "v1"] or len(parts) < 3 or not all(parts):
        return None
    parts = parts[2:]
    namespace: str | None = None
    if parts[0] == "namespaces" and len(parts) >= 3 and parts[2] in RESOURCES and RESOURCES[parts[2]].namespaced:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "")[:3]
    if resource not in RESOURCES or len(parts) > 3:
        return None
    if RESOURCES[resource].namespaced and namespace is None and name:
        return None
    if subresource and (resource, subresource) not in SUBRESOURCES:
        return None
    return Route("", resource, namespace, name, subresource)


def route_of(method: str, path: str, query: dict[str, str]) -> Route:
    """What is asked for.

    :raises ApiError: 404 for an unknown path, 405 for a method that the path does not have.
    """
    route = _split(path)
    if route is None:
        raise no_route()
    if route.group:
        if method != "POST":
            raise method_not_allowed()
        return Route("create", route.resource, group=route.group)
    verb = (_ITEM_VERBS if route.name else _COLLECTION_VERBS).get(method, "")
    if route.subresource:
        allowed = SUBRESOURCES[route.resource, route.subresource]
    else:
        allowed = RESOURCES[route.resource].verbs
    if verb not in allowed or (verb == "create" and route.namespace is None and RESOURCES[route.resource].namespaced):
        raise method_not_allowed()
    name = route.name
    if verb == "list":
        if is_true(query, "watch"):
            verb = "watch"
        name = _selected_name(query)
    return Route(verb, route.resource, route.namespace, name, route.subresource)


def _selected_name(query: dict[str, str]) -> str:
    """The name of the one object that a field selector can select, or nothing."""
    try:
        terms = field_terms(query.get("fieldSelector"))
    except ApiError:
        return ""
    return next((value for field, op, value in terms if field == "metadata.name" and op == "="), "")
