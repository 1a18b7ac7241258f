"""What another deployment has at the emulated account: entries without containers, which the subject has to leave."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from executor_conformance.backends.aws.emulator import messages, resources
from executor_conformance.backends.aws.emulator.batch_service import JobRecord
from executor_conformance.backends.aws.emulator.dataplane import DataPlane
from executor_conformance.backends.aws.emulator.ecs_service import dress, moment
from executor_conformance.backends.aws.emulator.moto_seams import ACCOUNT
from executor_conformance.harness.errors import UsageError

OTHER = "other-deployment"
RESULTS, DEAD_LETTERS = 30, 5
TASK_STATUSES = ("RUNNING", "RUNNING", "PENDING", "STOPPED", "STOPPED")
JOB_STATUSES = ("RUNNING", "RUNNING", "RUNNABLE", "SUCCEEDED", "FAILED")
State = dict[str, Any]
Made = tuple[list[str], list[str]]
"""A sentence for each kind of thing, and the keys of the workloads."""


@dataclass(frozen=True)
class Planted:
    """One thing. ``look`` tells its state, None if it is gone; ``remove`` takes it away, also if it is gone."""

    name: str
    was: State
    look: Callable[[], State | None]
    remove: Callable[[], None]


class Foreign:
    """Plants things of another deployment, tells what became of them, and removes them.

    :param account: makes messages as a service does, past the faults of the front.
    """

    def __init__(self, plane: DataPlane, account: resources.Account) -> None:
        self.plane, self.account, self.region = plane, account, account.region
        self._planted: list[Planted] = []
        self.message_ids: set[str] = set()

    def plant(self, service: str) -> dict[str, list[str]]:
        """Plant what another deployment of the same kind of executor has at a service.

        :returns: ``planted``, a sentence for each kind, and ``keys``, the keys of its workloads.
        :raises UsageError: there is no such service.
        """
        kinds = {"ecs": self._tasks, "batch": self._jobs, "lambda": self._messages}
        if service not in kinds:
            raise UsageError(f"There is no service '{service}' here; one of {', '.join(kinds)}.")
        with self.plane.locks[service]:
            planted, keys = kinds[service]()
        return {"planted": planted, "keys": keys}

    def touched(self) -> list[str]:
        """A sentence for each planted thing that is not as it was."""
        found = []
        for thing in self._planted:
            now = thing.look()
            if now is None:
                found.append(f"{thing.name} is no longer there.")
                continue
            changed = [name for name, was in thing.was.items() if now[name] != was]
            if changed:
                told = ", ".join(f"{name} is {now[name]!r}, no longer {thing.was[name]!r}" for name in changed)
                found.append(f"{thing.name} was changed: {told}.")
        return found

    def remove(self) -> None:
        """Take away all that is planted."""
        for thing in self._planted:
            thing.remove()
        self._planted.clear()
        self.message_ids.clear()

    def _keep(self, name: str, look: Callable[[], State | None], remove: Callable[[], None]) -> None:
        was = look()
        assert was is not None
        self._planted.append(Planted(name, was, look, remove))

    # -- Amazon ECS -----------------------------------------------------------------------------------------

    def _tasks(self) -> Made:
        from moto.ecs.models import Task, ecs_backends

        backend = ecs_backends[ACCOUNT][self.region]
        cluster = backend._get_cluster(resources.NAME)
        definition = backend.describe_task_definition(resources.NAME)
        container = definition.container_definitions[0]
        needs = backend._calculate_task_resource_requirements(definition)
        tasks = backend.tasks.setdefault(cluster.name, {})
        keys = _identities(len(TASK_STATUSES))
        for key, status in zip(keys, TASK_STATUSES, strict=True):
            overrides = {"containerOverrides": [{"name": container["name"], "command": worker_command(key)}]}
            more = {"group": f"family:{definition.family}", "launch_type": "FARGATE", "started_by": OTHER}
            task: Any = Task(cluster, definition, None, needs, backend, overrides=overrides, **more)  # type: ignore
            dress(task, container)
            task.last_status = task.containers[0].last_status = status
            if status == "STOPPED":
                task.desired_status, task.stopped_at = "STOPPED", moment()
                task.stop_code, task.stopped_reason = "EssentialContainerExited", "Essential container in task exited"
                task.containers[0].exitCode = 0
            tasks[task.task_arn] = task
            name = f"The task {task.task_arn} of another deployment ({status})"
            self._keep(name, partial(_task_state, tasks, task), partial(tasks.pop, task.task_arn, None))
        return [f"{len(keys)} tasks that another deployment started with the same cluster and task definition"], keys

    # -- AWS Batch ------------------------------------------------------------------------------------------

    def _jobs(self) -> Made:
        from moto.batch.models import Job, batch_backends

        backend = batch_backends[ACCOUNT][self.region]
        definition, queue = backend.get_job_definition(resources.NAME), backend.get_job_queue(resources.NAME)
        keys = _identities(len(JOB_STATUSES))
        for key, status in zip(keys, JOB_STATUSES, strict=True):
            job: Any = Job(
                resources.NAME,
                definition,  # type: ignore[arg-type]
                queue,  # type: ignore[arg-type]
                backend,
                log_backend=backend.logs_backend,
                container_overrides={"command": worker_command(key)},
                eks_properties_override=None,
                depends_on=None,
                parameters=None,
                all_jobs=backend._jobs,
                timeout=None,
                array_properties={},
            )
            now = time.time()
            over = status in ("SUCCEEDED", "FAILED")
            job.record = JobRecord(now, 1, None if status == "RUNNABLE" else now, now if over else None)
            job.record.exit_code = ("SUCCEEDED", "FAILED").index(status) if over else None
            job.status, job.job_stopped = status, over
            backend._jobs[job.job_id] = job
            name = f"The job {job.job_id} of another deployment ({status})"
            self._keep(name, partial(_job_state, backend._jobs, job), partial(_forget_job, backend._jobs, job))
        return [f"{len(keys)} jobs of the same name that another deployment has in the same job queue"], keys

    # -- AWS Lambda, Amazon SQS -----------------------------------------------------------------------------

    def _messages(self) -> Made:
        # The key of a task is its coordinates up to Airflow 3.3; later, and of callbacks, it is an id
        coordinates = [
            {
                "dag_id": OTHER,
                "task_id": f"task_{n}",
                "run_id": "scheduled__2026-01-01",
                "try_number": 1,
                "map_index": -1,
            }
            for n in range(RESULTS // 3)
        ]
        keys = [*map(json.dumps, coordinates), *_identities(RESULTS - len(coordinates))]
        for key in keys:
            # As the provider's handler sends it
            self._send(resources.RESULTS, key, json.dumps({"task_key": key, "return_code": 0}))
        lost = _identities(DEAD_LETTERS)
        for key in lost:
            event = {"task_key": key, "command": worker_command(key), "executor_config": {}}
            reason = {"ErrorCode": ("Number", "200"), "ErrorMessage": ("String", "Unknown")}
            self._send(resources.DEAD_LETTERS, key, json.dumps(event), reason)
        told = [
            f"{RESULTS} results of another deployment's workloads in the results queue",
            f"{DEAD_LETTERS} messages of another deployment in the dead letter queue",
        ]
        as_events = [f"TaskInstanceKey({', '.join(f'{n}={v!r}' for n, v in each.items())})" for each in coordinates]
        return told, [*keys, *lost, *as_events]

    def _send(self, queue: str, key: str, body: str, attributes: dict[str, tuple[str, str]] | None = None) -> None:
        identity = self.account.send_message(queue, body, attributes or {})
        self.message_ids.add(identity)
        name = f"The message of another deployment in {queue} for {key}"
        look = partial(_message_state, self.region, queue, identity)
        self._keep(name, look, partial(messages.remove, self.region, queue, identity))


def worker_command(workload: str) -> list[str]:
    """The command of a worker of another deployment."""
    content = {"type": "ExecuteTask", "ti": {"id": workload, "dag_id": OTHER, "task_id": "task", "try_number": 1}}
    return ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", json.dumps(content)]


def _identities(number: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(number)]


def _task_state(tasks: dict[str, Any], task: Any) -> State | None:
    if task.task_arn not in tasks:
        return None
    return {
        "lastStatus": task.last_status,
        "desiredStatus": task.desired_status,
        "stoppedReason": task.stopped_reason,
        "tags": list(task.tags),
    }


def _job_state(jobs: dict[str, Any], job: Any) -> State | None:
    if job.job_id not in jobs:
        return None
    tags = job.backend.list_tags_for_resource(job.arn)
    return {"status": job.status, "statusReason": job.record.status_reason, "tags": dict(tags)}


def _forget_job(jobs: dict[str, Any], job: Any) -> None:
    if jobs.pop(job.job_id, None) is not None:
        job.job_queue.jobs.remove(job)


def _message_state(region: str, queue: str, identity: str) -> State | None:
    """Whether it is hidden for longer than it is from each client that receives it."""
    hidden = messages.hidden_s(region, queue, identity)
    return None if hidden is None else {"hidden from all other clients": hidden}
