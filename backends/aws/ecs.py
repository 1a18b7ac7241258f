"""The environment of AwsEcsExecutor and its subclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from executor_conformance.backends.aws import faults
from executor_conformance.backends.aws.base import AwsBackend, variants_of
from executor_conformance.backends.emulation import Way

SECTION = "AIRFLOW__AWS_ECS_EXECUTOR__"

WAYS: dict[str, dict[str, Way]] = {
    "submit-refused": {
        **faults.submissions("ecs", "RunTask", "ServerException"),
        "failures": faults.on("ecs", "RunTask", "each RunTask places nothing and says why", {"type": "failures"}),
        "empty": faults.on("ecs", "RunTask", "each RunTask answers with neither tasks nor failures", {"type": "empty"}),
    },
    "accepted-lost": faults.lost("ecs"),
    "start-impossible": {
        "image": faults.at("ecs", "start", "no image can be pulled", "image-missing"),
        "killed": faults.at("ecs", "start", "each container is killed as it starts", "killed-before-start"),
    },
    "stopped-before-start": {"by-a-user": Way("the task is stopped by another client", act="stop")},
    "stopped": {
        "by-a-user": Way("the task is stopped by another client", act="stop"),
        "out-of-memory": Way("the container is killed as out of memory", act="oom"),
        "host-lost": Way(
            "the container's host is lost: the task stops without an exit code",
            ({"service": "ecs", "point": "report", "times": 1, "action": {"type": "no-exit-code"}},),
            act="kill",
        ),
    },
    "observation": {
        **faults.polls("ecs", "DescribeTasks", "ServerException"),
        "vanishes": faults.at("ecs", "report", "each task vanishes when it has ended", "vanish"),
        "no-exit-code": faults.at("ecs", "report", "each task ends without an exit code", "no-exit-code"),
    },
    "hang": faults.hangs("ecs", "RunTask", "DescribeTasks"),
}
"""Fault point to way to what is done."""


class EcsBackend(AwsBackend):
    """A cluster with one task definition."""

    name: ClassVar[str] = "ecs"
    carriers: ClassVar = {"RunTask:overrides.containerOverrides.command": "the container overrides of RunTask"}
    service: ClassVar[str] = "ecs"
    title: ClassVar[str] = "Amazon ECS"
    submission: ClassVar[str] = "RunTask"
    executor: ClassVar[str] = "airflow.providers.amazon.aws.executors.ecs.ecs_executor.AwsEcsExecutor"
    calls_per_workload: ClassVar = {"RunTask": 1.25, "StopTask": 1}
    further: ClassVar = {
        "submit-refused": {*faults.FURTHER_SUBMISSIONS, "failures"},
        "stopped": {"out-of-memory"},
        "observation": faults.FURTHER_POLLS,
    }
    variants: ClassVar = variants_of("ecs", f"{SECTION}MAX_RUN_TASK_ATTEMPTS")
    ways: ClassVar = WAYS
    unreachable: ClassVar = {"redelivery": "Amazon ECS starts the containers of a task once."}
    faults: ClassVar[Mapping[str, Sequence[str]]] = {point: tuple(ways) for point, ways in WAYS.items()}

    def executor_settings(self) -> dict[str, str]:
        """Cluster, task definition, container; a launch type, or the executor would describe the cluster first.

        A network and a launch type of its own are what an account has.
        """
        return {
            f"{SECTION}CONN_ID": "aws_default",
            f"{SECTION}CLUSTER": self.resources["cluster"],
            f"{SECTION}TASK_DEFINITION": self.resources["task_definition"],
            f"{SECTION}CONTAINER_NAME": self.resources["container_name"],
            **(self.resources.get("more") or {f"{SECTION}LAUNCH_TYPE": "FARGATE"}),
        }
