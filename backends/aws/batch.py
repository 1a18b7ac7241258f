"""The environment of AwsBatchExecutor and its subclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from executor_conformance.backends.aws import faults
from executor_conformance.backends.aws.base import AwsBackend, variants_of
from executor_conformance.backends.emulation import Way

SECTION = "AIRFLOW__AWS_BATCH_EXECUTOR__"

WAYS: dict[str, dict[str, Way]] = {
    "submit-refused": faults.submissions("batch", "SubmitJob", "ServerException"),
    "accepted-lost": faults.lost("batch"),
    "start-impossible": {
        "image": faults.at("batch", "start", "no image can be pulled", "image-missing"),
        "killed": faults.at("batch", "start", "each container is killed as it starts", "killed-before-start"),
    },
    "stopped-before-start": {"by-a-user": Way("the job is terminated by another client", act="stop")},
    "stopped": {
        "by-a-user": Way("the job is terminated by another client", act="stop"),
        "out-of-memory": Way("the container is killed as out of memory", act="oom"),
        "host-lost": Way(
            "the container's host is lost: the job fails without an exit code",
            ({"service": "batch", "point": "report", "times": 1, "action": {"type": "no-exit-code"}},),
            act="kill",
        ),
    },
    "observation": {
        **faults.polls("batch", "DescribeJobs", "ServerException"),
        "vanishes": faults.at("batch", "report", "each job vanishes when it has ended", "vanish"),
        "no-exit-code": faults.at("batch", "report", "each job's host is lost as it ends", "no-exit-code"),
    },
    "hang": faults.hangs("batch", "SubmitJob", "DescribeJobs"),
}
"""Fault point to way to what is done."""


class BatchBackend(AwsBackend):
    """A job queue with one job definition, whose own ``retryStrategy`` is one attempt."""

    name: ClassVar[str] = "batch"
    carriers: ClassVar = {"SubmitJob:containerOverrides.command": "the container overrides of SubmitJob"}
    service: ClassVar[str] = "batch"
    title: ClassVar[str] = "AWS Batch"
    submission: ClassVar[str] = "SubmitJob"
    executor: ClassVar[str] = "airflow.providers.amazon.aws.executors.batch.batch_executor.AwsBatchExecutor"
    calls_per_workload: ClassVar = {"SubmitJob": 1.25, "TerminateJob": 1}
    variants: ClassVar = variants_of("batch", f"{SECTION}MAX_SUBMIT_JOB_ATTEMPTS")
    further: ClassVar = {
        "submit-refused": faults.FURTHER_SUBMISSIONS,
        "stopped": {"out-of-memory"},
        "observation": faults.FURTHER_POLLS,
    }
    ways: ClassVar = WAYS
    unreachable: ClassVar = {
        "redelivery": "AWS Batch starts a job again only by the retryStrategy of its definition, which is one attempt."
    }
    faults: ClassVar[Mapping[str, Sequence[str]]] = {point: tuple(ways) for point, ways in WAYS.items()}

    def executor_settings(self) -> dict[str, str]:
        """Job queue, job definition, and the name that all jobs get."""
        return {
            f"{SECTION}CONN_ID": "aws_default",
            f"{SECTION}JOB_NAME": self.resources.get("job_name", "conformance"),
            f"{SECTION}JOB_QUEUE": self.resources["job_queue"],
            f"{SECTION}JOB_DEFINITION": self.resources["job_definition"],
        }
