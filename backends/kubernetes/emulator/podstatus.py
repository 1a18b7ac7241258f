"""The status that a kubelet reports for a pod, from the states of its containers (generateAPIPodStatus)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from executor_conformance.backends.kubernetes.emulator.faults import Fault
from executor_conformance.backends.kubernetes.emulator.objects import NODE_IP, timestamp
from executor_conformance.backends.kubernetes.emulator.processes import ContainerProcess
from executor_conformance.backends.kubernetes.emulator.status import Obj

TERMINAL = ("Succeeded", "Failed")


@dataclass(eq=False)
class ContainerState:
    """A container as the kubelet sees it; ``state`` and ``last`` are ContainerState objects of the API."""

    spec: Obj
    init: bool
    state: Obj
    last: Obj = field(default_factory=dict)
    restarts: int = 0
    id: str = ""
    process: ContainerProcess | None = None
    end_reason: str = ""  # what the next end is put down to, such as OOMKilled
    back_off_until: float = 0.0  # monotonic; 0: it does not back off
    futile: bool = False  # the next attempt fails too, unless the images or the faults change
    fault: Fault | None = None  # that made the last attempt fail

    @property
    def name(self) -> str:
        """Of the container."""
        return str(self.spec["name"])

    @property
    def running(self) -> bool:
        """Whether its main process has not ended."""
        return self.process is not None and not self.process.ended.is_set()

    def wait(self, reason: str, message: str = "") -> None:
        """Go over to waiting."""
        self.state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}

    def run(self, process: ContainerProcess, container_id: str) -> None:
        """Go over to running."""
        self.process, self.id = process, container_id
        self.state = {"running": {"startedAt": timestamp()}}
        self.back_off_until = 0.0

    def end(self, exit_code: int, reason: str, message: str = "", signal: int = 0) -> None:
        """Go over to terminated."""
        started = self.state.get("running", {}).get("startedAt")
        ended: Obj = {"exitCode": exit_code}
        if signal:
            ended["signal"] = signal
        ended["reason"] = reason
        if message:
            ended["message"] = message
        ended |= {"startedAt": started or timestamp(), "finishedAt": timestamp(), "containerID": self.id}
        self.state = {"terminated": ended}

    @property
    def ended_well(self) -> bool:
        """Whether it has ended with exit code 0."""
        return self.state.get("terminated", {}).get("exitCode") == 0

    def document(self) -> Obj:
        """The ContainerStatus."""
        running = "running" in self.state
        image = self.spec["image"]
        ready = self.ended_well if self.init else running
        return {
            "name": self.name,
            "state": self.state,
            "lastState": self.last,
            "ready": ready,
            "restartCount": self.restarts,
            "image": image,
            "imageID": f"process://{image}" if self.id else "",
            **({"containerID": self.id} if self.id else {}),
            "started": running,
        }


def phase_of(containers: list[ContainerState], restart_policy: str) -> str:
    """The phase that the containers' states add up to."""
    init = [container for container in containers if container.init]
    for container in init:
        if "terminated" in container.state and not container.ended_well and restart_policy == "Never":
            return "Failed"
    if not all(container.ended_well for container in init):
        return "Pending"
    main = [container for container in containers if not container.init]
    stopped = [c for c in main if "terminated" in c.state or ("waiting" in c.state and c.last)]
    running = [c for c in main if "running" in c.state]
    if len(stopped) + len(running) < len(main):
        return "Pending"
    if running or restart_policy == "Always":
        return "Running"
    if all(container.ended_well for container in stopped):
        return "Succeeded"
    if restart_policy == "Never":
        return "Failed"
    return "Running"


def _unready(containers: list[ContainerState]) -> list[str]:
    return [c.name for c in containers if not c.init and "running" not in c.state]


def _condition(type_: str, reason: str = "", message: str = "") -> Obj:
    """A condition; it holds if there is no reason why not."""
    condition: Obj = {"type": type_, "status": "False" if reason else "True"}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def conditions_of(containers: list[ContainerState], phase: str, sandbox: bool) -> list[Obj]:
    """The conditions of a scheduled pod, without times."""
    conditions = [_condition("PodReadyToStartContainers")]
    if not sandbox:
        conditions[0]["status"] = "False"
    incomplete = [c.name for c in containers if c.init and not c.ended_well]
    if phase == "Succeeded":
        conditions.append({"type": "Initialized", "status": "True", "reason": "PodCompleted"})
        conditions.append(_condition("Ready", "PodCompleted"))
        conditions.append(_condition("ContainersReady", "PodCompleted"))
    else:
        listed = f"containers with incomplete status: [{' '.join(incomplete)}]" if incomplete else ""
        conditions.append(_condition("Initialized", "ContainersNotInitialized" if incomplete else "", listed))
        if phase == "Failed":
            ready = ("PodFailed", "")
        else:
            unready = _unready(containers)
            text = f"containers with unready status: [{' '.join(unready)}]" if unready else ""
            ready = ("ContainersNotReady" if unready else "", text)
        conditions += [_condition("Ready", *ready), _condition("ContainersReady", *ready)]
    conditions.append(_condition("PodScheduled"))
    return conditions


def with_times(conditions: list[Obj], before: list[Obj]) -> list[Obj]:
    """Conditions with the times at which their status last changed; others than the kubelet's are kept."""
    old = {condition.get("type"): condition for condition in before}
    for condition in conditions:
        former = old.pop(condition["type"], {})
        condition["lastProbeTime"] = None
        same = former.get("status") == condition["status"]
        condition["lastTransitionTime"] = former.get("lastTransitionTime") if same else timestamp()
    return conditions + [condition for condition in old.values() if condition is not None]


def report(
    status: Obj, containers: list[ContainerState], restart_policy: str, started: str, sandbox: bool, verdict: Obj
) -> None:
    """Bring a pod's ``status`` up to date.

    :param started: when the kubelet took the pod up, the pod's startTime.
    :param sandbox: whether the pod's sandbox exists: from before the first container until after the last.
    :param verdict: phase, reason and message that the kubelet itself decided on (eviction, deadline), or empty.
    """
    phase = verdict.get("phase") or phase_of(containers, restart_policy)
    fresh: dict[str, Any] = {"phase": phase}
    fresh["conditions"] = with_times(conditions_of(containers, phase, sandbox), status.get("conditions") or [])
    fresh |= {name: verdict[name] for name in ("message", "reason") if name in verdict}
    fresh |= {"hostIP": NODE_IP, "hostIPs": [{"ip": NODE_IP}]}
    if sandbox or status.get("podIP"):
        fresh |= {"podIP": NODE_IP, "podIPs": [{"ip": NODE_IP}]}
    fresh["startTime"] = started
    if any(container.init for container in containers):
        fresh["initContainerStatuses"] = [c.document() for c in containers if c.init]
    fresh["containerStatuses"] = [c.document() for c in containers if not c.init]
    fresh["qosClass"] = status.get("qosClass", "BestEffort")
    status.clear()
    status.update(fresh)
