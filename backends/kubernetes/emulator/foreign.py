"""Pods of another deployment in the same namespace: entries without containers, which the subject has to leave."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from executor_conformance.backends.kubernetes.emulator.kubelet import Kubelet
from executor_conformance.backends.kubernetes.emulator.objects import timestamp
from executor_conformance.backends.kubernetes.emulator.registry import DeleteOptions, Registry
from executor_conformance.backends.kubernetes.emulator.status import ApiError, Obj

PHASES = ("Pending", "Running", "Running", "Succeeded", "Succeeded", "Failed")
CALLBACK_PHASES = ("Running", "Succeeded")
DAG, RUN = "other-deployment", "scheduled__2026-01-01T00-00-00"
WORKER = "4711"
"""The other scheduler's job; it has no row here."""
_TERMINATED = {"Succeeded": ("Completed", 0), "Failed": ("Error", 1)}


@dataclass(frozen=True)
class Planted:
    """A pod as it was when it was planted."""

    namespace: str
    name: str
    was: Obj


class Foreign:
    """Plants pods, tells what became of them, and removes them."""

    def __init__(self, registry: Registry, kubelet: Kubelet) -> None:
        self._registry, self._kubelet = registry, kubelet
        self._planted: list[Planted] = []

    def plant(self, namespace: str) -> Obj:
        """Plant pods as another KubernetesExecutor, and one that takes callbacks, have created them.

        :returns: ``planted``, a sentence for each kind, and ``keys``, the keys of their workloads.
        :raises ApiError: There is no such namespace.
        """
        keys = []
        for number, phase in enumerate(PHASES):
            identity, task = str(uuid.uuid4()), f"task_{number}"
            at = f"dag_id='{DAG}', task_id='{task}', run_id='{RUN}', try_number=1, map_index=-1"
            keys += [identity, f"TaskInstanceKey({at})"]  # Airflow 3.4, and before
            coordinates = {"dag_id": DAG, "task_id": task, "run_id": RUN, "try_number": "1"}
            labels = {**coordinates, "kubernetes_executor": "True", "airflow_version": "3.3.0"}
            content = {"type": "ExecuteTask", "ti": {"id": identity, **coordinates}}
            self._create(namespace, task, phase, labels, {**coordinates, "task_instance_id": identity}, content)
        for number, phase in enumerate(CALLBACK_PHASES):
            identity = str(uuid.uuid4())
            keys.append(identity)
            coordinates = {"dag_id": "callback", "task_id": identity, "try_number": "1"}
            labels = {**coordinates, "airflow-callback": identity}  # as the reference executor names it
            content = {"type": "ExecuteCallback", "callback": {"id": identity}}
            self._create(namespace, f"callback-{number}", phase, labels, coordinates, content)
        planted = [
            f"{len(PHASES)} pods of another deployment's tasks in the same namespace: {', '.join(sorted(set(PHASES)))}",
            f"{len(CALLBACK_PHASES)} pods of another deployment's callbacks",
        ]
        return {"planted": planted, "keys": keys}

    def _create(self, namespace: str, title: str, phase: str, labels: Obj, annotations: Obj, content: Obj) -> None:
        name = f"other-deployment-{title.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
        command = ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", json.dumps(content)]
        metadata = {"name": name, "labels": {**labels, "airflow-worker": WORKER}, "annotations": annotations}
        spec = {"restartPolicy": "Never", "containers": [{"name": "base", "image": "other:1", "args": command}]}
        self._kubelet.leave_alone(namespace, name)
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self._registry.create("pods", namespace, body)

        def set_phase(pod: Obj) -> None:
            pod["status"] |= {"phase": phase, "containerStatuses": [_container_status(phase)]}
            if phase != "Pending":
                pod["spec"]["nodeName"] = "other-node"
                pod["status"]["startTime"] = timestamp()

        pod = self._registry.change("pods", namespace, name, set_phase)
        assert pod is not None
        self._planted.append(Planted(namespace, name, pod))

    def touched(self) -> list[str]:
        """A sentence for each pod that is not as it was."""
        found = []
        for pod in self._planted:
            title = f"The pod {pod.name} of another deployment ({pod.was['status']['phase']})"
            try:
                now = self._registry.get("pods", pod.namespace, pod.name)
            except ApiError:
                found.append(f"{title} was deleted.")
                continue
            if now["metadata"].get("deletionTimestamp"):
                found.append(f"{title} is being deleted.")
            elif now["metadata"]["resourceVersion"] != pod.was["metadata"]["resourceVersion"]:
                found.append(
                    f"{title} was changed: {'; '.join(_changes(pod.was, now)) or 'its specification or status'}."
                )
        return found

    def remove(self) -> None:
        """Take away all that is still there."""
        for pod in self._planted:
            try:
                self._registry.delete("pods", pod.namespace, pod.name, DeleteOptions(grace=0))
            except ApiError:
                continue
        self._planted.clear()


def _changes(was: Obj, now: Obj) -> list[str]:
    found = []
    for kind in ("labels", "annotations"):
        before, after = (obj["metadata"].get(kind) or {} for obj in (was, now))
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                found.append(f"{kind[:-1]} {name} is {after.get(name)!r}, no longer {before.get(name)!r}")
    return found


def _container_status(phase: str) -> Obj:
    state: Obj = {"waiting": {"reason": "ContainerCreating"}}
    if phase == "Running":
        state = {"running": {"startedAt": timestamp()}}
    elif phase in _TERMINATED:
        reason, code = _TERMINATED[phase]
        state = {
            "terminated": {"exitCode": code, "reason": reason, "startedAt": timestamp(), "finishedAt": timestamp()}
        }
    return {
        **{"name": "base", "image": "other:1", "imageID": "", "restartCount": 0, "lastState": {}},
        **{"state": state, "ready": phase == "Running", "started": phase == "Running"},
    }
