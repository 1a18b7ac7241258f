"""Tables that the server prints for ``kubectl get`` (meta.k8s.io/v1 Table)."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from executor_conformance.backends.kubernetes.emulator.objects import moment_of
from executor_conformance.backends.kubernetes.emulator.status import Obj

Column = tuple[str, int]
"""Name and priority; columns with a priority above 0 are shown by ``-o wide`` alone."""


def age(text: str | None) -> str:
    """How long ago a timestamp was, as kubectl words it: 5s, 3m20s, 2h5m, 4d."""
    if not text:
        return "<unknown>"
    seconds = int((datetime.datetime.now(datetime.UTC) - moment_of(text)).total_seconds())
    if seconds < 0:
        return "0s"
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def pod_reason(pod: Obj) -> str:
    """The column Status of a pod (printPod of kube-apiserver)."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase") or "Unknown"
    initializing = False
    init = status.get("initContainerStatuses") or []
    for number, entry in enumerate(init):
        state = entry.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended and ended.get("exitCode") == 0:
            continue
        if ended:
            reason = f"Init:{ended.get('reason') or _exit(ended)}"
        elif waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{number}/{len(init)}"
        initializing = True
        break
    if not initializing:
        running = False
        for entry in reversed(status.get("containerStatuses") or []):
            state = entry.get("state") or {}
            if (state.get("waiting") or {}).get("reason"):
                reason = state["waiting"]["reason"]
            elif state.get("terminated"):
                reason = state["terminated"].get("reason") or _exit(state["terminated"])
            elif entry.get("ready") and state.get("running") is not None:
                running = True
        if reason == "Completed" and running:
            reason = "Running"
    if (pod["metadata"]).get("deletionTimestamp"):
        reason = "Terminating"
    return reason


def _exit(ended: Obj) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode')}"


def _pod(pod: Obj) -> list[Any]:
    status, spec = pod.get("status") or {}, pod.get("spec") or {}
    entries = status.get("containerStatuses") or []
    ready = sum(1 for entry in entries if entry.get("ready"))
    restarts = sum(entry.get("restartCount", 0) for entry in entries)
    return [
        pod["metadata"]["name"],
        f"{ready}/{len(spec.get('containers') or [])}",
        pod_reason(pod),
        str(restarts),
        age(pod["metadata"].get("creationTimestamp")),
        status.get("podIP") or "<none>",
        spec.get("nodeName") or "<none>",
        "<none>",
        "<none>",
    ]


def _event(event: Obj) -> list[Any]:
    about, source = event.get("involvedObject") or {}, event.get("source") or {}
    return [
        age(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp")),
        event.get("type", ""),
        event.get("reason", ""),
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""),
        ", ".join(part for part in (source.get("component"), source.get("host")) if part),
        str(event.get("message", "")).strip(),
        age(event.get("firstTimestamp")),
        event.get("count", 1),
        event["metadata"]["name"],
    ]


def _namespace(namespace: Obj) -> list[Any]:
    metadata = namespace["metadata"]
    return [metadata["name"], namespace["status"]["phase"], age(metadata.get("creationTimestamp"))]


def _node(node: Obj) -> list[Any]:
    status, metadata = node["status"], node["metadata"]
    created, information = age(metadata.get("creationTimestamp")), status["nodeInfo"]
    head = [metadata["name"], "Ready", "<none>", created, information["kubeletVersion"]]
    network = [status["addresses"][0]["address"], "<none>"]
    return [*head, *network, information["osImage"], "<unknown>", information["containerRuntimeVersion"]]


def _account(account: Obj) -> list[Any]:
    secrets = len(account.get("secrets") or [])
    return [account["metadata"]["name"], secrets, age(account["metadata"].get("creationTimestamp"))]


def _data(obj: Obj) -> list[Any]:
    return [obj["metadata"]["name"], len(obj.get("data") or {}), age(obj["metadata"].get("creationTimestamp"))]


def _columns(shown: str, wide: str = "") -> list[Column]:
    return [(name, 0) for name in shown.split(",")] + [(name, 1) for name in wide.split(",") if name]


_PRINTERS: dict[str, tuple[list[Column], Callable[[Obj], list[Any]]]] = {
    "pods": (_columns("Name,Ready,Status,Restarts,Age", "IP,Node,Nominated Node,Readiness Gates"), _pod),
    "events": (
        [
            *_columns("Last Seen,Type,Reason,Object", "Subobject,Source"),
            *_columns("Message", "First Seen,Count,Name"),
        ],
        _event,
    ),
    "namespaces": (_columns("Name,Status,Age"), _namespace),
    "nodes": (
        _columns("Name,Status,Roles,Age,Version", "Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime"),
        _node,
    ),
    "serviceaccounts": (_columns("Name,Secrets,Age"), _account),
    "configmaps": (_columns("Name,Data,Age"), _data),
    "secrets": (_columns("Name,Data,Age"), _data),
}


def table(
    resource: str, objects: list[Obj], metadata: Obj, version: str, include: str, definitions: bool = True
) -> Obj:
    """A Table of ``objects``.

    :param metadata: of the list.
    :param version: v1 or v1beta1, as the client asked.
    :param include: ``includeObject`` of the request: Metadata, Object or None.
    :param definitions: whether to describe the columns; a watch does so once.
    """
    columns, row_of = _PRINTERS[resource]
    rows = []
    for obj in objects:
        row: Obj = {"cells": row_of(obj)}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = partial(obj)
        rows.append(row)
    described = [
        {
            "name": name,
            "type": "integer" if name in ("Data", "Count", "Secrets") else "string",
            "format": "name" if name == "Name" else "",
            "description": "",
            "priority": priority,
        }
        for name, priority in columns
    ]
    result: Obj = {"kind": "Table", "apiVersion": f"meta.k8s.io/{version}", "metadata": metadata}
    return {**result, "columnDefinitions": described if definitions else [], "rows": rows}


def partial(obj: Obj, version: str = "v1") -> Obj:
    """An object reduced to its metadata."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj["metadata"],
    }
