"""The resources that are served: kinds, verbs and the fields that they can be selected by; discovery documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from executor_conformance.backends.kubernetes.emulator.status import Obj

VERSION: Obj = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+conformance-emulator",
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2024-12-11T00:00:00Z",
    "goVersion": "go1.23",
    "compiler": "gc",
    "platform": "linux/amd64",
}
AUTHORIZATION = "authorization.k8s.io"
REVIEWS = {"selfsubjectaccessreviews": "SelfSubjectAccessReview", "selfsubjectrulesreviews": "SelfSubjectRulesReview"}

_POD_FIELDS = (
    *("metadata.name", "metadata.namespace", "spec.nodeName", "spec.restartPolicy", "spec.schedulerName"),
    *("spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"),
)
_EVENT_FIELDS = (
    *("metadata.name", "metadata.namespace", "reason", "type", "reportingComponent", "source"),
    *(f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")),
    "involvedObject.resourceVersion",
)


def _at(obj: Obj, path: str) -> str:
    value: object = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _plain(fields: tuple[str, ...]) -> Callable[[Obj], dict[str, str]]:
    return lambda obj: {field: _at(obj, field) for field in fields}


def _event_fields(obj: Obj) -> dict[str, str]:
    component = _at(obj, "source.component") or _at(obj, "reportingComponent")
    return {**_plain(_EVENT_FIELDS)(obj), "source": component}


@dataclass(frozen=True)
class Resource:
    """One resource of the core group; ``fields`` are what a field selector may name."""

    name: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...]
    short: tuple[str, ...]
    fields: frozenset[str]
    fields_of: Callable[[Obj], Mapping[str, str]]

    def document(self) -> Obj:
        """The APIResource of discovery."""
        entry: Obj = {"name": self.name, "singularName": self.kind.lower(), "namespaced": self.namespaced}
        entry |= {"kind": self.kind, "verbs": sorted(self.verbs)}
        if self.short:
            entry["shortNames"] = list(self.short)
        if self.name == "pods":
            entry["categories"] = ["all"]
        return entry


_READ = ("get", "list", "watch")
_WRITE = ("create", "delete", "deletecollection", "patch", "update")


def _resource(
    name: str, kind: str, short: str, verbs: tuple[str, ...], fields: tuple[str, ...] = (), namespaced: bool = True
) -> Resource:
    of_all = ("metadata.name", "metadata.namespace") if namespaced else ("metadata.name",)
    fields = tuple(dict.fromkeys(of_all + fields))
    fields_of = _event_fields if name == "events" else _plain(fields)
    return Resource(name, kind, namespaced, verbs, (short,) if short else (), frozenset(fields), fields_of)


RESOURCES: dict[str, Resource] = {
    resource.name: resource
    for resource in (
        _resource("configmaps", "ConfigMap", "cm", _READ),
        _resource("events", "Event", "ev", _READ + _WRITE, _EVENT_FIELDS),
        _resource(
            *("namespaces", "Namespace", "ns", (*_READ, "create", "delete", "patch", "update"), ("status.phase",)),
            namespaced=False,
        ),
        _resource("nodes", "Node", "no", _READ, ("spec.unschedulable",), namespaced=False),
        _resource("pods", "Pod", "po", _READ + _WRITE, _POD_FIELDS),
        _resource("secrets", "Secret", "", _READ, ("type",)),
        _resource("serviceaccounts", "ServiceAccount", "sa", _READ),
    )
}

SUBRESOURCES: dict[tuple[str, str], tuple[str, ...]] = {
    ("pods", "log"): ("get",),
    ("pods", "status"): ("get", "patch", "update"),
}


def core_resources() -> Obj:
    """/api/v1"""
    entries = [resource.document() for resource in RESOURCES.values()]
    for (parent, name), verbs in SUBRESOURCES.items():
        entry: Obj = {"name": f"{parent}/{name}", "singularName": "", "namespaced": True, "kind": "Pod"}
        entries.append({**entry, "verbs": list(verbs)})
    entries.sort(key=lambda entry: entry["name"])
    return {"kind": "APIResourceList", "groupVersion": "v1", "resources": entries}


def _group() -> Obj:
    version = {"groupVersion": f"{AUTHORIZATION}/v1", "version": "v1"}
    return {"name": AUTHORIZATION, "versions": [version], "preferredVersion": version}


def discovery(path: str, address: str) -> Obj | None:
    """The discovery document at ``path``; None if there is none. ``address`` is the server's host:port."""
    if path == "/version":
        return VERSION
    if path == "/api":
        addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}
    if path == "/api/v1":
        return core_resources()
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}
    if path == f"/apis/{AUTHORIZATION}":
        return {"kind": "APIGroup", "apiVersion": "v1", **_group()}
    if path == f"/apis/{AUTHORIZATION}/v1":
        entries = [
            {"name": name, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["create"]}
            for name, kind in REVIEWS.items()
        ]
        group = f"{AUTHORIZATION}/v1"
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": entries}
    if path in ("/", ""):
        return {"paths": ["/api", "/api/v1", "/apis", f"/apis/{AUTHORIZATION}/v1", "/healthz", "/livez", "/version"]}
    return None
