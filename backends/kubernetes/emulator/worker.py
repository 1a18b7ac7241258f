"""One pod at the kubelet, from its creation to its removal: schedule, pull, start, restart, report, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor_conformance.backends.kubernetes.emulator.environment import ConfigError, StartFailure, command_of
from executor_conformance.backends.kubernetes.emulator.faults import Fault, Faults
from executor_conformance.backends.kubernetes.emulator.images import Image, normalized
from executor_conformance.backends.kubernetes.emulator.logs import log_tail
from executor_conformance.backends.kubernetes.emulator.objects import NODE, timestamp
from executor_conformance.backends.kubernetes.emulator.podstatus import ContainerState, report, with_times
from executor_conformance.backends.kubernetes.emulator.processes import Processes
from executor_conformance.backends.kubernetes.emulator.registry import Registry
from executor_conformance.backends.kubernetes.emulator.status import Obj

BACK_OFF_MOST = 300.0  # seconds
_DEADLINE: Obj = {
    "phase": "Failed",
    "reason": "DeadlineExceeded",
    "message": "Pod was active on the node longer than the specified deadline",
}


def evicted(message: str) -> Obj:
    """What the status of an evicted pod says."""
    return {"phase": "Failed", "reason": "Evicted", "message": message}


@dataclass
class Node:
    """What all pods of the kubelet share; ``back_off`` is the first delay before a retry, in seconds."""

    registry: Registry
    faults: Faults
    processes: Processes
    images: dict[str, Image]
    logs: Path
    back_off: float


class _Ended(Exception):
    """The kubelet ends the pod before its containers have: the argument is the verdict."""


class PodWorker:
    """Carries one pod out; ``run`` returns when nothing is left to do for it."""

    def __init__(self, node: Node, pod: Obj) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        self.namespace, self.name, self.uid = metadata["namespace"], metadata["name"], metadata["uid"]
        self._node = node
        self._policy: str = spec["restartPolicy"]
        self._grace: float = spec.get("terminationGracePeriodSeconds", 30)
        self._active_deadline: float | None = spec.get("activeDeadlineSeconds")
        init = spec.get("initContainers") or []
        waiting = {"waiting": {"reason": "PodInitializing" if init else "ContainerCreating"}}
        self.containers = [ContainerState(container, True, dict(waiting)) for container in init]
        self.containers += [ContainerState(container, False, dict(waiting)) for container in spec["containers"]]
        self._started = ""
        self._sandbox = False
        self._verdict: Obj = {}
        self._kill_at: float | None = None  # monotonic; set as soon as the pod is to end
        self._deadline_at: float | None = None
        self._deleting = False
        self._removed = False
        self._held: Fault | None = None
        self._working = True  # whether the next step comes by itself, and at once
        self._nudge = asyncio.Event()

    # --- what others see and ask ---

    def container(self, name: str | None) -> ContainerState | None:
        """The container of that name, or without a name the first one that runs."""
        if name is None:
            return next((c for c in self.containers if c.running), None)
        return next((c for c in self.containers if c.name == name), None)

    def log_path(self, container: str, restart: int) -> Path:
        """The file with what a container's n-th run wrote."""
        return self._node.logs / f"{self.namespace}_{self.name}_{self.uid}" / container / f"{restart}.log"

    def next_step(self) -> str:
        """What the kubelet will still do by itself, in one sentence; empty if nothing changes without others."""
        now = time.monotonic()
        if self._kill_at is not None:
            if any(c.running for c in self.containers):
                return f"grace period ends in {max(0.0, self._kill_at - now):.1f} s"
            return "the pod is about to end" if self._working else ""
        if self._deadline_at is not None and self._working:
            return f"active deadline ends in {max(0.0, self._deadline_at - now):.1f} s"
        backing_off = [c for c in self.containers if c.back_off_until and not self._is_futile(c)]
        if backing_off:
            left = max(0.0, min(c.back_off_until for c in backing_off) - now)
            return f"back-off of the container {backing_off[0].name} ends in {left:.1f} s"
        if not self._working or self._held is not None or any(c.running or c.back_off_until for c in self.containers):
            return ""
        return "the pod is about to start or to end"

    def _is_futile(self, container: ContainerState) -> bool:
        """Whether a retry would fail as before: there is still no such image, or the fault still stands."""
        if container.fault is not None:
            return container.fault.lasting
        return container.futile and normalized(container.spec["image"]) not in self._node.images

    def end(self, grace: float, verdict: Obj | None = None) -> None:
        """Stop the containers within ``grace`` seconds; an earlier end that was asked for stays."""
        at = time.monotonic() + grace
        self._kill_at = at if self._kill_at is None else min(at, self._kill_at)
        self._verdict = self._verdict or verdict or {}
        self._nudge.set()

    def delete(self, grace: float) -> None:
        """The pod has been marked for deletion."""
        self._deleting = True
        self.end(grace)

    def gone(self) -> None:
        """The pod has been removed: its containers die at once."""
        self._removed = True
        self.end(0)

    # --- the life of a pod ---

    async def run(self) -> None:
        """Until the pod's end."""
        lifecycle = asyncio.create_task(self._live())
        nudged = asyncio.create_task(self._nudge.wait())
        try:
            await asyncio.wait({lifecycle, nudged}, return_when=asyncio.FIRST_COMPLETED)
            if not lifecycle.done():
                await _cancel(lifecycle)
            else:
                lifecycle.result()
            if self._kill_at is not None:
                await self._terminate()
        except _Ended as ended:
            self._verdict = ended.args[0]
            self._record("Warning", self._verdict["reason"], self._verdict["message"])
            self._report()
        finally:
            await _cancel(nudged)
            await _cancel(lifecycle)
            for container in self.containers:
                if container.process is not None:
                    container.process.kill()
        self._working = False
        if self._deleting and not self._removed:
            self._node.registry.finish_pod(self.namespace, self.name, self.uid)

    async def _live(self) -> None:
        await self._schedule()
        self._started = timestamp()
        timer = None
        if self._active_deadline is not None:
            self._deadline_at = time.monotonic() + self._active_deadline
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._active_deadline, lambda: self.end(self._grace, _DEADLINE))
        try:
            self._report()
            for container in self.containers:
                if container.init:
                    await self._carry_out(container)
                    if not container.ended_well:
                        break
            else:
                await self._together([self._carry_out(c) for c in self.containers if not c.init])
        finally:
            self._deadline_at = None
            if timer is not None:
                timer.cancel()
        self._sandbox = False
        self._report()

    async def _together(self, runs: list[Coroutine[Any, Any, None]]) -> None:
        tasks = [asyncio.create_task(run) for run in runs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                await _cancel(task)

    async def _terminate(self) -> None:
        """Stop what runs: SIGTERM, after the grace period SIGKILL; then the last report."""
        assert self._kill_at is not None
        for container in self.containers:
            if container.running and not self._removed:
                self._record("Normal", "Killing", f"Stopping container {container.name}", container)
            if container.running and container.process and self._kill_at > time.monotonic():
                container.process.signal(signal.SIGTERM)
        while running := [c.process for c in self.containers if c.running and c.process]:
            left = self._kill_at - time.monotonic()
            if left <= 0:
                for process in running:
                    process.kill()
            self._nudge.clear()
            ends = [asyncio.create_task(process.ended.wait()) for process in running]
            nudged = asyncio.create_task(self._nudge.wait())
            await asyncio.wait({*ends, nudged}, timeout=max(left, 0.05), return_when=asyncio.FIRST_COMPLETED)
            for task in (*ends, nudged):
                await _cancel(task)
        self._sandbox = False
        for container in self.containers:
            self._note_end(container)
        if self._started and (self._verdict or any(c.process is not None for c in self.containers)):
            self._report()

    async def _schedule(self) -> None:
        await self._point("schedule", None, self._unschedulable)

        def bind(pod: Obj) -> None:
            pod["spec"]["nodeName"] = NODE
            bound = [{"type": "PodScheduled", "status": "True"}]
            pod["status"]["conditions"] = with_times(bound, pod["status"].get("conditions") or [])

        self._change(bind)
        message = f"Successfully assigned {self.namespace}/{self.name} to {NODE}"
        self._record("Normal", "Scheduled", message, component="default-scheduler")

    def _unschedulable(self) -> None:
        message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."

        def refuse(pod: Obj) -> None:
            refused = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
            pod["status"]["conditions"] = with_times(refused, [])

        self._change(refuse)
        self._record("Warning", "FailedScheduling", message, component="default-scheduler")

    async def _point(
        self, point: str, container: ContainerState | None, on_hold: Callable[[], None] | None = None
    ) -> Fault | None:
        """Apply the faults of a point; returns one that the caller itself has to apply.

        :raises _Ended: the pod is evicted.
        """
        while True:
            pod = self._pod()
            labels = pod["metadata"].get("labels") or {} if pod else {}
            fault = self._node.faults.for_point(point, self.name, labels)
            if fault is None:
                return None
            if fault.type == "Evicted":
                raise _Ended(evicted("The node was low on resource: memory. "))
            if fault.type != "never":
                return fault
            if on_hold is not None:
                on_hold()
            self._held = fault
            await fault.removed.wait()
            self._held = None

    # --- one container ---

    async def _carry_out(self, container: ContainerState) -> None:
        """Run a container until it has ended for good."""
        delay = 0.0
        while True:
            image = await self._pull(container)
            await self._start(container, image)
            if container.process is not None and container.running:
                self._sandbox = True
                self._report()
                await container.process.ended.wait()
            self._note_end(container)
            if not self._restarts(container):
                # the last one's end and the pod's are reported together
                self._report()
                return
            container.last, container.restarts = container.state, container.restarts + 1
            if delay:
                message = f"back-off {delay:g}s restarting failed container={container.name} pod={self.name}"
                container.wait("CrashLoopBackOff", message)
                self._report()
                self._record("Warning", "BackOff", f"Back-off restarting failed container {container.name}", container)
                await self._back_off(container, delay)
            delay = min(BACK_OFF_MOST, delay * 2 or self._node.back_off)

    def _restarts(self, container: ContainerState) -> bool:
        if self._policy == "Never" or (container.init and container.ended_well):
            return False
        return self._policy == "Always" or not container.ended_well

    async def _back_off(self, container: ContainerState, delay: float) -> None:
        container.back_off_until = time.monotonic() + delay
        await asyncio.sleep(delay)
        container.back_off_until = 0.0

    async def _pull(self, container: ContainerState) -> Image:
        """The container's image, tried again with a growing delay until it is there."""
        name, delay = container.spec["image"], self._node.back_off
        while True:
            fault = await self._point("pull", container)
            image = self._node.images.get(normalized(name))
            if fault is None and image is not None:
                container.futile, container.fault = False, None
                text = f'Container image "{name}" already present on machine'
                self._record("Normal", "Pulled", text, container)
                return image
            container.futile, container.fault = True, fault
            text = f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: not found'
            self._record("Normal", "Pulling", f'Pulling image "{name}"', container)
            self._record("Warning", "Failed", f'Failed to pull image "{name}": {text}', container)
            self._record("Warning", "Failed", "Error: ErrImagePull", container)
            container.wait("ErrImagePull", text)
            self._report()
            container.wait("ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {text}')
            self._report()
            self._record("Normal", "BackOff", f'Back-off pulling image "{name}"', container)
            self._record("Warning", "Failed", "Error: ImagePullBackOff", container)
            await self._back_off(container, delay)
            delay = min(BACK_OFF_MOST, delay * 2)

    async def _start(self, container: ContainerState, image: Image) -> None:
        """Start the main process; afterwards the container runs, or has ended with what was wrong."""
        fault = await self._point("start", container)
        container.end_reason, container.process = "", None
        delay = self._node.back_off
        while True:
            pod = self._pod()
            if pod is None:
                await asyncio.Event().wait()  # the removal cancels this
            assert pod is not None
            pod = {**pod, "status": {**pod["status"], "podIP": "127.0.0.1", "hostIP": "127.0.0.1"}}
            try:
                command = command_of(container.spec, pod, image)
                if fault is not None:
                    raise StartFailure("StartError", 128, "failed to create containerd task: injected fault: unknown")
                process = self._node.processes.start(
                    command, self.log_path(container.name, container.restarts), image.warm
                )
            except ConfigError as error:
                container.futile = True
                container.wait("CreateContainerConfigError", str(error))
                self._record("Warning", "Failed", f"Error: {error}", container)
                self._report()
                await self._back_off(container, delay)
            except StartFailure as error:
                container.id = f"process://{uuid.uuid4().hex}"
                self._record("Normal", "Created", f"Created container: {container.name}", container)
                self._record("Warning", "Failed", f"Error: {error}", container)
                container.end(error.exit_code, error.reason, str(error))
                return
            else:
                self._record("Normal", "Created", f"Created container: {container.name}", container)
                self._record("Normal", "Started", f"Started container {container.name}", container)
                container.run(process, f"process://{uuid.uuid4().hex}")
                return

    def _note_end(self, container: ContainerState) -> None:
        """Go over to terminated if the main process has ended."""
        process = container.process
        if process is None or process.status is None or "running" not in container.state:
            return
        code = process.status if process.status >= 0 else 128 - process.status
        message = ""
        if code and container.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = log_tail(self.log_path(container.name, container.restarts))
        container.end(code, container.end_reason or ("Error" if code else "Completed"), message)

    # --- the API ---

    def _pod(self) -> Obj | None:
        pod = self._node.registry.store.get("pods", self.namespace, self.name)
        return pod if pod is not None and pod["metadata"]["uid"] == self.uid else None

    def _change(self, change: Callable[[Obj], None]) -> None:
        if self._pod() is not None:
            self._node.registry.change("pods", self.namespace, self.name, change)

    def _report(self) -> None:
        def update(pod: Obj) -> None:
            containers = self.containers
            report(pod["status"], containers, self._policy, self._started or timestamp(), self._sandbox, self._verdict)
            if self._verdict and not any(container.id for container in containers):
                pod["status"].pop("containerStatuses", None)  # refused before any container was made
                pod["status"].pop("initContainerStatuses", None)

        self._change(update)

    def _record(
        self, type_: str, reason: str, message: str, about: ContainerState | None = None, component: str = "kubelet"
    ) -> None:
        pod = self._pod()
        if pod is None:
            return
        path = ""
        if about is not None:
            path = f"spec.{'initContainers' if about.init else 'containers'}{{{about.name}}}"
        self._node.registry.record(pod, type_, reason, message, component, path)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, _Ended):
        await task
