"""What the API server adds to objects at their creation: identity, timestamps, defaults; and the initial objects."""

from __future__ import annotations

import datetime
import itertools
import random
import time
import uuid
from typing import Any

from executor_conformance.backends.kubernetes.emulator.resources import VERSION
from executor_conformance.backends.kubernetes.emulator.status import Obj

NODE = "conformance-node"
NODE_IP = "127.0.0.1"
USER = "conformance"
DEFAULT_GRACE = 30  # seconds

_event_numbers = itertools.count(time.time_ns())  # so that the order of names is that of the events
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # of generated names: no vowels, nothing that looks like another
_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for key in ("not-ready", "unreachable")
]


def timestamp(moment: datetime.datetime | None = None) -> str:
    """RFC 3339 in UTC, whole seconds; of now if no moment is given."""
    return (moment or datetime.datetime.now(datetime.UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def after(seconds: float) -> str:
    """The timestamp that many seconds from now."""
    return timestamp(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds))


def moment_of(text: str) -> datetime.datetime:
    """The moment of a timestamp."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def generated_name(prefix: str) -> str:
    """A name from ``generateName``, at most 63 characters."""
    return prefix[:58] + "".join(random.choices(_ALPHABET, k=5))


def new_identity(obj: Obj) -> None:
    """Give a new object its uid and creation timestamp; what only the server may set is taken away."""
    metadata = obj["metadata"]
    for name in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"):
        metadata.pop(name, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = timestamp()


def _container_defaults(container: Obj) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    container.setdefault("imagePullPolicy", "Always" if tag in ("", "latest") and "@" not in image else "IfNotPresent")
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or []:
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")


def all_containers(spec: Obj) -> list[Obj]:
    """Init containers and containers, in this order."""
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def _qos(spec: Obj) -> str:
    resources = [container.get("resources") or {} for container in all_containers(spec)]
    if not any(entry.get("requests") or entry.get("limits") for entry in resources):
        return "BestEffort"
    for entry in resources:
        limits, requests = entry.get("limits") or {}, entry.get("requests") or {}
        if not {"cpu", "memory"} <= limits.keys() or any(
            requests.get(name, limits[name]) != limits[name] for name in limits
        ):
            return "Burstable"
    return "Guaranteed"


def default_pod(pod: Obj) -> None:
    """The defaults of a new pod's spec, and its first status."""
    spec: dict[str, Any] = pod["spec"]
    defaults: Obj = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": DEFAULT_GRACE,
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
    }
    for name, value in defaults.items():
        if spec.get(name) is None:
            spec[name] = value
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = account
    tolerations = spec.setdefault("tolerations", [])
    given = {entry.get("key") for entry in tolerations}
    tolerations += [dict(entry) for entry in _TOLERATIONS if entry["key"] not in given]
    for container in all_containers(spec):
        _container_defaults(container)
    pod["status"] = {"phase": "Pending", "qosClass": _qos(spec)}


def new_namespace(name: str) -> Obj:
    """A namespace without identity."""
    return {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}


def default_namespace(namespace: Obj) -> None:
    """The defaults of a new namespace."""
    labels = namespace["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = namespace["metadata"]["name"]
    namespace["spec"] = {"finalizers": ["kubernetes"]}
    namespace["status"] = {"phase": "Active"}


def new_service_account(namespace: str) -> Obj:
    """The service account 'default' of a namespace."""
    account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default", "namespace": namespace}}
    new_identity(account)
    return account


def new_node() -> Obj:
    """The one node, ready and with room for 10,000 pods."""
    now = timestamp()
    conditions = [
        {"type": name, "status": status, "reason": reason, "message": message}
        for name, status, reason, message in (
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        )
    ]
    for condition in conditions:
        condition |= {"lastHeartbeatTime": now, "lastTransitionTime": now}
    room = {"cpu": "64", "memory": "256Gi", "pods": "10000", "ephemeral-storage": "1Ti"}
    information = {
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kernelVersion": "",
        "osImage": "host processes",
        "containerRuntimeVersion": "process://1.0",
        "kubeletVersion": VERSION["gitVersion"],
        "kubeProxyVersion": VERSION["gitVersion"],
        "operatingSystem": "linux",
        "architecture": "amd64",
    }
    labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    node: Obj = {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": NODE, "labels": labels},
        "spec": {},
        "status": {
            "capacity": room,
            "allocatable": dict(room),
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": NODE_IP}, {"type": "Hostname", "address": NODE}],
            "nodeInfo": information,
        },
    }
    new_identity(node)
    return node


def new_event(about: Obj, type_: str, reason: str, message: str, component: str, field_path: str = "") -> Obj:
    """An Event about a pod or another object; ``component`` such as kubelet or default-scheduler."""
    metadata = about["metadata"]
    involved = {
        "kind": about["kind"],
        "namespace": metadata.get("namespace", ""),
        "name": metadata["name"],
        "uid": metadata["uid"],
        "apiVersion": "v1",
        "resourceVersion": metadata["resourceVersion"],
    }
    if field_path:
        involved["fieldPath"] = field_path
    now = timestamp()
    source = {"component": component} | ({"host": NODE} if component == "kubelet" else {})
    event: Obj = {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {
            "name": f"{metadata['name']}.{next(_event_numbers):x}",
            "namespace": metadata.get("namespace") or "default",
        },
        "involvedObject": involved,
        "reason": reason,
        "message": message,
        "source": source,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "type": type_,
        "eventTime": None,
        "reportingComponent": component,
        "reportingInstance": NODE if component == "kubelet" else "",
    }
    new_identity(event)
    return event
