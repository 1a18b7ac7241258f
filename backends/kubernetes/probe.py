"""The probe pod: shows, before the first case, that workers will start in the cluster and reach the Execution API."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import time
from collections.abc import Callable
from typing import Any

from executor_conformance.harness.errors import BoundReached, ConformanceError, HarnessError, UsageError

MARK = "conformance-probe: "
START_S = 300.0
"""A bound on the pull of a large image; what cannot be pulled is said by the kubelet long before."""
UNSCHEDULABLE_S = 10.0
"""For so long a pod may wait for a node: an autoscaler gets no more, for the executor's own bound is short."""
SCRIPT = """
import hashlib, importlib.metadata, importlib.util, json, os, sys, urllib.request
found = {"python": sys.version.split()[0]}
try:
    found["airflow"] = importlib.metadata.version("apache-airflow-core")
except importlib.metadata.PackageNotFoundError:
    found["airflow"] = None
try:
    spec = importlib.util.find_spec("executor_conformance.suites.callables")
    found["callables"] = hashlib.sha256(open(spec.origin, "rb").read()).hexdigest()
except Exception:
    found["callables"] = None
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    found["api"] = opener.open(os.environ["CONFORMANCE_PROBE_URL"], timeout=5).status
except Exception as error:
    found["api"] = str(getattr(error, "reason", None) or error) or type(error).__name__
print("MARK" + json.dumps(found), flush=True)
""".replace("MARK", MARK)
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_NO_START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_NO_PROGRAM = ("StartError", "ContainerCannotRun")


def callables_digest() -> str:
    """Of the callables that this installation has; the image must have the same."""
    from executor_conformance.suites import callables

    with open(inspect.getfile(callables), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def container(image: str, url: str) -> dict[str, Any]:
    """The container of the probe: ``args`` as workers have, so that the image's entrypoint is tried too."""
    return {
        "name": "base",
        "image": image,
        "args": ["python", "-c", SCRIPT],
        "env": [{"name": "CONFORMANCE_PROBE_URL", "value": f"{url}health"}],
    }


def wait_for_end(read: Callable[[], Any], image: str) -> Any:
    """The pod (V1Pod) once it is over; ``read`` gives it as it is.

    :raises UsageError: the image cannot be had.
    :raises HarnessError: there is no node for it, or it cannot start.
    :raises BoundReached: it did not end within START_S.
    """
    began = time.monotonic()
    while True:
        pod = read()
        if pod.status.phase in ("Succeeded", "Failed"):
            return pod
        waited = time.monotonic() - began
        if found := _why_stuck(pod, image, waited):
            raise found
        if waited > START_S:
            raise BoundReached(f"The probe pod with the image {image} was {pod.status.phase} for {START_S:g} s.")
        time.sleep(0.1)


def _why_stuck(pod: Any, image: str, waited: float) -> ConformanceError | None:
    for condition in pod.status.conditions or ():
        if (condition.type, condition.status) == ("PodScheduled", "False") and waited > UNSCHEDULABLE_S:
            return HarnessError(f"The cluster has no node for a worker pod: {condition.message or condition.reason}")
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason in _NO_IMAGE:
            said = (waiting.message or waiting.reason).splitlines()[0][:300].rstrip(".")
            return UsageError(
                f"The image {image} cannot be pulled in the cluster ({said}); correct --conformance-image, or load it."
            )
        if waiting and waiting.reason in _NO_START:
            return _no_python(image, f"{waiting.reason}: {waiting.message}")
    return None


def _no_python(image: str, said: str) -> UsageError:
    return UsageError(f"The image {image} cannot run python ({said.splitlines()[0][:300].rstrip('.')}).")


def judge(pod: Any, log: str, image: str, host: str) -> None:
    """Whether an ended probe found all that workers need.

    :param log: what it printed.
    :param host: by what pods reach this host.
    :raises UsageError: the image lacks something, or the API cannot be reached by ``host``.
    """
    lines = [line for line in log.splitlines() if line.startswith(MARK)]
    if not lines:
        ended = next((s.state.terminated for s in pod.status.container_statuses or () if s.state.terminated), None)
        if ended and (ended.reason in _NO_PROGRAM or ended.exit_code in (126, 127)):
            raise _no_python(image, ended.message or f"exit code {ended.exit_code}")
        code = f"exit code {ended.exit_code}" if ended else pod.status.reason or "no container ran"
        raise HarnessError(f"The probe pod with the image {image} ended without an answer ({code}): {log[-300:]}")
    found = json.loads(lines[-1].removeprefix(MARK))
    own = importlib.metadata.version("apache-airflow-core")
    if found["airflow"] is None:
        raise UsageError(f"The image {image} has no Airflow beside its python {found['python']}.")
    if found["airflow"] != own:
        raise UsageError(
            f"The image {image} has Airflow {found['airflow']} and this installation {own}; give one with the same."
        )
    if found["callables"] is None:
        raise UsageError(
            f"The image {image} lacks the suite's callables; install airflow-executor-conformance in it as here."
        )
    if found["callables"] != callables_digest():
        raise UsageError(
            f"The image {image} has another version of airflow-executor-conformance than this installation; "
            "install the same in it."
        )
    if found["api"] != 200:
        raise UsageError(
            f"Pods do not reach the Execution API at {host} ({found['api']}); correct --conformance-api-host."
        )
