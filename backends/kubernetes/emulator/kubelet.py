"""The kubelet (and the scheduler): follows the pods in the store and carries each of them out."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from executor_conformance.backends.kubernetes.emulator.images import Image
from executor_conformance.backends.kubernetes.emulator.ledger import Ledger
from executor_conformance.backends.kubernetes.emulator.processes import Processes
from executor_conformance.backends.kubernetes.emulator.registry import DeleteOptions
from executor_conformance.backends.kubernetes.emulator.status import Obj, bad_request, not_found
from executor_conformance.backends.kubernetes.emulator.store import Change, Key
from executor_conformance.backends.kubernetes.emulator.worker import Node, PodWorker, evicted

_STOP_SECONDS = 2.0


class Kubelet:
    """Workers of pods, by key; of a name that is used again the latest."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.ledger = Ledger()
        self._workers: dict[Key, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        node.registry.store.listeners += [self.ledger.note, self._on_change]

    @property
    def processes(self) -> Processes:
        """Of all containers."""
        return self._node.processes

    def set_images(self, images: dict[str, Image]) -> None:
        """Replace the images that can be pulled."""
        self._node.images = images

    def leave_alone(self, namespace: str, name: str) -> None:
        """Do nothing for a pod that is about to be created, but to let it go when it is deleted."""
        self.ledger.left_out.add((namespace, name))

    def _on_change(self, change: Change, obj: Obj) -> None:
        if change.resource != "pods":
            return
        metadata = obj["metadata"]
        if change.key in self.ledger.left_out:
            if change.type != "DELETED" and metadata.get("deletionTimestamp"):
                finish = self._node.registry.finish_pod
                asyncio.get_running_loop().call_soon(finish, *change.key, metadata["uid"])
            return
        if change.type == "ADDED":
            worker = self._workers[change.key] = PodWorker(self._node, obj)
            task = asyncio.ensure_future(self._run(worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        worker = self._workers[change.key]
        if change.type == "DELETED":
            del self._workers[change.key]
            worker.gone()
        elif metadata.get("deletionTimestamp"):
            worker.delete(metadata.get("deletionGracePeriodSeconds") or 0)

    async def _run(self, worker: PodWorker) -> None:
        try:
            await worker.run()
        except Exception:
            print(f"kubelet: the pod {worker.namespace}/{worker.name} is lost:", file=sys.stderr)
            traceback.print_exc()

    async def stop(self) -> None:
        """End all pods' tasks and kill all that their containers started."""
        self._node.registry.store.listeners.remove(self._on_change)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        self.processes.close()

    # --- for the API and the admin API ---

    def log_of(self, pod: Obj, container: str, previous: bool) -> tuple[Path, Callable[[], bool]]:
        """The file of a container's log, and whether it may still grow.

        :raises ApiError: 400, the container has not started, or has no former run.
        """
        metadata = pod["metadata"]
        worker = self._workers.get((metadata["namespace"], metadata["name"]))
        state = worker.container(container) if worker else None
        if worker is None or state is None:
            raise not_found("pods", metadata["name"])
        run = state.restarts
        if previous:
            if not state.last:
                text = f'previous terminated container "{container}" in pod "{metadata["name"]}" not found'
                raise bad_request(text)
            return worker.log_path(container, run - 1), lambda: False
        if "waiting" in state.state:
            if not state.last:
                reason = state.state["waiting"]["reason"]
                if reason in ("ErrImagePull", "ImagePullBackOff"):
                    text = "is waiting to start: trying and failing to pull image"
                    raise bad_request(f'container "{container}" in pod "{metadata["name"]}" {text}')
                raise bad_request(f'container "{container}" in pod "{metadata["name"]}" is waiting to start: {reason}')
            run -= 1
        return worker.log_path(container, run), lambda: state.running and state.restarts == run

    def documents(self) -> list[Obj]:
        """All pods in the order of their creation, for the admin API."""
        found = []
        for key, worker in self._workers.items():
            pod = self._node.registry.get("pods", *key)
            metadata = pod["metadata"]
            pids = {c.name: c.process.pid for c in worker.containers if c.running and c.process is not None}
            found.append(
                {
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "phase": pod["status"].get("phase", ""),
                    "labels": metadata.get("labels") or {},
                    "annotations": metadata.get("annotations") or {},
                    "pids": pids,
                    "deleting": bool(metadata.get("deletionTimestamp")),
                    "next": worker.next_step(),
                }
            )
        return found

    def manifests(self) -> list[Obj]:
        """All pods, whole, in the order of their creation."""
        return [self._node.registry.get("pods", *key) for key in self._workers]

    def _worker(self, namespace: str, name: str) -> PodWorker:
        worker = self._workers.get((namespace, name))
        if worker is None:
            raise not_found("pods", name)
        return worker

    def kill(self, namespace: str, name: str, number: int, container: str | None, reason: str = "") -> int:
        """Signal a container (None: the first that runs) from outside, and return its pid.

        :raises ApiError: 404 for no such pod, 400 for no such running container.
        """
        state = self._worker(namespace, name).container(container)
        if state is None or not state.running or state.process is None:
            raise bad_request(f"the pod {namespace}/{name} has no running container {container or ''}".rstrip())
        state.end_reason = reason
        state.process.signal(number)
        return state.process.pid

    def evict(self, namespace: str, name: str, message: str) -> None:
        """End a pod as a kubelet under pressure does; one that has ended stays as it is.

        :raises ApiError: 404.
        """
        self._worker(namespace, name).end(0, evicted(message))

    def delete(self, namespace: str, name: str, grace: int | None) -> None:
        """Delete a pod as another client would.

        :raises ApiError: 404.
        """
        self._node.registry.delete("pods", namespace, name, DeleteOptions(grace))
