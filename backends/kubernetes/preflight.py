"""What must hold of a cluster before anything starts, asked in a process of its own.

``python -m executor_conformance.backends.kubernetes.preflight KUBECONFIG`` prints one JSON object: ``error`` (one
sentence, or null), ``usage`` (whether it is the user's input that is wrong) and ``leftovers`` (a sentence each). The
process that collects the cases never imports the Kubernetes client.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Any

from executor_conformance.backends.commands import look_beside
from executor_conformance.harness.errors import EnvironmentUnavailable, UsageError

MANAGED = "app.kubernetes.io/managed-by"
NAME = "executor-conformance"
"""The value of that label on all that a run makes in a cluster."""
NEEDED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("namespaces", ("create", "delete", "list")),
    ("pods", ("create", "delete", "get", "list", "patch", "watch")),
    ("pods/log", ("get",)),
)
"""The rules of ``rbac.yaml``."""
LEFT_OVER_HOURS = 1.0
"""A run takes minutes; a namespace of ours that is so old is the remains of one that was killed."""
TIMEOUT = (5, 15)
"""Seconds to connect, and to answer."""
PROCESS_SECONDS = 60


def check(kubeconfig: str) -> str | None:
    """What is missing in the cluster of ``kubeconfig``, in one sentence; leftovers of killed runs become warnings.

    :raises UsageError: there is no such file, or it is broken.
    """
    try:
        Path(kubeconfig).read_bytes()
    except OSError as error:
        raise UsageError(
            f"The kubeconfig {kubeconfig} cannot be read ({error.strerror}); correct --conformance-kubeconfig."
        ) from None
    try:
        place = f"the cluster of the kubeconfig {kubeconfig}"
        found = look_beside(__name__, place, PROCESS_SECONDS, kubeconfig)
    except EnvironmentUnavailable as error:
        return str(error)
    if found["error"] and found["usage"]:
        raise UsageError(found["error"])
    return found["error"]


def api_client(kubeconfig: str) -> Any:
    """A client of the cluster that the file's current context names; requests are not repeated.

    :raises UsageError: the file means nothing to the official client.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = False
    try:
        config.load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"The kubeconfig {kubeconfig} is broken: {why.rstrip('.')}.") from None
    return client.ApiClient(configuration)


def why_not(error: Exception) -> str:
    """What a failed request says, short and without a body that may quote what was sent."""
    status = getattr(error, "status", None)
    if status:
        try:
            message = json.loads(error.body)["message"]  # type: ignore[attr-defined]
        except (TypeError, ValueError, KeyError):
            message = ""
        return f"{status} {error.reason}" + (f": {message[:300]}" if message else "")  # type: ignore[attr-defined]
    reason = getattr(error, "reason", None) or error
    return f"{type(error).__name__}: {reason}"[:300]


def look(kubeconfig: str) -> dict[str, Any]:
    """What :func:`check` asks for."""
    from kubernetes import client

    try:
        api = api_client(kubeconfig)
    except UsageError as error:
        return {"error": str(error), "usage": True, "leftovers": []}
    try:
        missing = _denied(client.AuthorizationV1Api(api))
        if not missing:
            return {"error": None, "usage": False, "leftovers": _leftovers(client.CoreV1Api(api))}
        trouble = (
            f"the user of the kubeconfig {kubeconfig} may not {', '.join(missing)}; "
            "bind the ClusterRole of executor_conformance/backends/kubernetes/rbac.yaml to it"
        )
    except client.ApiException as refusal:
        if refusal.status == 401:
            trouble = f"the cluster refuses the credentials of the kubeconfig {kubeconfig} ({why_not(refusal)})"
        else:
            trouble = f"the API server {api.configuration.host} answers {why_not(refusal)}"
    except Exception as failure:
        trouble = f"the API server {api.configuration.host} of the kubeconfig {kubeconfig} cannot be reached"
        trouble += f" ({why_not(failure)})"
    return {"error": trouble, "usage": False, "leftovers": []}


def _denied(reviews: Any) -> list[str]:
    """What the user may not do, of what a run needs."""
    missing = []
    for resource, verbs in NEEDED:
        name, _, subresource = resource.partition("/")
        refused = []
        for verb in verbs:
            asked = {"verb": verb, "resource": name, **({"subresource": subresource} if subresource else {})}
            body = {"spec": {"resourceAttributes": asked}}
            if not reviews.create_self_subject_access_review(body, _request_timeout=TIMEOUT).status.allowed:
                refused.append(verb)
        if refused:
            missing.append(f"{'/'.join(refused)} {resource}")
    return missing


def _leftovers(core: Any) -> list[str]:
    found = core.list_namespace(label_selector=f"{MANAGED}={NAME}", _request_timeout=TIMEOUT).items
    now = dt.datetime.now(dt.UTC)
    sentences = []
    for namespace in found:
        hours = (now - namespace.metadata.creation_timestamp).total_seconds() / 3600
        if hours >= LEFT_OVER_HOURS and namespace.metadata.deletion_timestamp is None:
            name = namespace.metadata.name
            sentences.append(
                f"The namespace {name} was left {hours:.0f} h ago by a run that was killed; "
                f"delete it with: kubectl delete namespace {name}"
            )
    return sentences


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1])))
