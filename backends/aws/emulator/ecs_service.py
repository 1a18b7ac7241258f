"""ECS tasks that run: what happens to a task after RunTask has accepted it.

States and reasons: "Amazon ECS task lifecycle" and "Stopped tasks error codes" of the developer guide.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import Any

from executor_conformance.backends.aws.emulator.dataplane import DataPlane, Outcome, Run


def moment(seconds: float | None = None) -> datetime:
    """A time as moto keeps it; now, unless it is given in seconds since the epoch."""
    return datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)


def container_override(overrides: dict[str, Any], name: str) -> dict[str, Any]:
    """The overrides of one container; empty if there are none."""
    for entry in overrides.get("containerOverrides") or []:
        if entry.get("name") == name:
            return entry
    return {}


def merged_environment(*layers: list[dict[str, str]] | None) -> dict[str, str]:
    """Names to values of lists of ``{"name", "value"}``; the later list wins."""
    return {entry["name"]: entry.get("value", "") for layer in layers for entry in layer or []}


def dress(task: Any, definition: dict[str, Any]) -> None:
    """Give a new task of moto what AWS tells of one; ``definition`` is its container definition."""
    container = task.containers[0]
    task.definition = definition
    task.last_status = "PROVISIONING"
    task.desired_status = "RUNNING"
    task.created_at = moment()
    task.stopped_reason = None  # until there is one
    container.task_arn = task.task_arn
    # AWS: arn:aws:ecs:region:account:container/cluster/task/id
    container.container_arn = task.task_arn.replace(":task/", ":container/") + f"/{task.id}"
    container.exitCode = None
    container.health_status = "UNKNOWN"
    container.reason = None
    container.command = container_override(task.overrides, definition["name"]).get("command")


class EcsService:
    """Runs the first container of each task; tasks are objects of moto with AWS's names in snake case."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane

    def accept(self, task: Any, definition: dict[str, Any]) -> None:
        """Start the life of a task; ``definition`` is its container definition."""
        dress(task, definition)
        run = self.plane.add(Run("ecs", task.task_arn, "PROVISIONING", submission=json.dumps(task.overrides)))
        threading.Thread(target=self._live, args=[run, task, definition], daemon=True, name=f"ecs-{task.id}").start()

    def stop(self, task: Any, reason: str | None) -> None:
        """StopTask: at once for the caller; the container has its stop timeout."""
        run = self.plane.get(task.task_arn)
        if run is None:
            if task.last_status != "STOPPED":  # a task that was planted has no container
                task.last_status = task.desired_status = "STOPPED"
                task.stopped_at = moment()
                task.stop_code, task.stopped_reason = "UserInitiated", reason or "Task stopped by user"
            return
        if run.ended or run.stopping.is_set():
            return
        task.desired_status = "STOPPED"
        task.stopping_at = moment()
        task.stop_code = "UserInitiated"
        task.stopped_reason = reason or "Task stopped by user"
        timeout = getattr(task, "stop_timeout", None)
        run.stop(task.stopped_reason, "UserInitiated", self.plane.stop_timeout if timeout is None else timeout)

    def _live(self, run: Run, task: Any, definition: dict[str, Any]) -> None:
        container = task.containers[0]
        override = container_override(task.overrides, definition["name"])
        env = merged_environment(definition.get("environment"), override.get("environment"))
        command = override.get("command") or definition.get("command") or []
        entrypoint = definition.get("entryPoint") or []
        task.stop_timeout = definition.get("stopTimeout")
        task.last_status = container.last_status = run.status = "PENDING"
        task.pull_started_at = moment()

        def running() -> None:
            container.runtime_id = run.container_id or f"{task.id.replace('-', '')}-{run.pid}"
            task.pull_stopped_at = task.started_at = moment()
            container.last_status = "RUNNING"
            task.last_status = run.status = "RUNNING"

        outcome = self.plane.carry_out(run, definition["image"], [*entrypoint, *command], env, running)
        with self.plane.locks["ecs"]:  # a record that vanishes is never seen STOPPED
            self._report(run, task, outcome)

    def _report(self, run: Run, task: Any, outcome: Outcome) -> None:
        container = task.containers[0]
        task.execution_stopped_at = task.stopped_at = moment(outcome.stopped_at)
        task.stopping_at = getattr(task, "stopping_at", None) or task.stopped_at
        task.desired_status = "STOPPED"
        fault = None
        if outcome.failure in ("image", "start"):
            container.reason = outcome.reason
            self._because(task, "TaskFailedToStart", outcome.reason if outcome.failure == "image" else _NOT_STARTED)
        elif outcome.failure != "stopped":
            fault = self.plane.report_fault(run)
            run.exit_code = container.exitCode = outcome.exit_code
            task.started_at = getattr(task, "started_at", None) or moment(outcome.started_at)
            container.reason = outcome.reason or None
            if fault and fault.type == "no-exit-code":
                # what is left of a task whose host went away
                container.exitCode = container.reason = None
                self._because(task, "TerminationNotice", "Host EC2 (instance i-0c0f0e0d0a0b01234) terminated.")
            else:
                self._because(task, "EssentialContainerExited", "Essential container in task exited")
        container.last_status = "STOPPED"
        task.last_status = "STOPPED"
        if fault and fault.type == "vanish":
            self.plane.lose(run)
        run.settle("STOPPED")

    @staticmethod
    def _because(task: Any, code: str, reason: str) -> None:
        if not task.stopped_reason:  # a stop from outside keeps its reason
            task.stop_code, task.stopped_reason = code, reason


_NOT_STARTED = "Task failed to start"
