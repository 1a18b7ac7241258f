"""The executors of the amazon provider with one defect each, the class name is the defect; and one without a defect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.amazon.aws.executors.aws_lambda.lambda_executor import AwsLambdaExecutor
from airflow.providers.amazon.aws.executors.batch.batch_executor import AwsBatchExecutor
from airflow.providers.amazon.aws.executors.ecs.ecs_executor import AwsEcsExecutor
from botocore.exceptions import ClientError, NoCredentialsError


class DeletesEachResult(AwsLambdaExecutor):
    """ROUTE-10: a result that it did not wait for is deleted, as by the provider before apache/airflow#53396."""

    def load_connections(self, check_connection: bool = True) -> None:
        """Delete where the parent puts back."""
        super().load_connections(check_connection)
        sqs = self.sqs_client

        def delete(QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> Any:
            return sqs.delete_message(QueueUrl=QueueUrl, ReceiptHandle=ReceiptHandle)

        sqs.change_message_visibility = delete


class StopsTasksThatItDoesNotKnow(AwsEcsExecutor):
    """ROUTE-10: a new scheduler cleans up what it takes for the leavings of the former."""

    def start(self) -> None:
        """Start with an empty cluster."""
        super().start()
        for arn in self.ecs.list_tasks(cluster=self.cluster)["taskArns"]:
            self.ecs.stop_task(cluster=self.cluster, task=arn, reason="left behind")


class TerminatesJobsOfItsName(AwsBatchExecutor):
    """ROUTE-10: a new scheduler cleans up what it takes for the leavings of the former."""

    def start(self) -> None:
        """Start with an empty queue."""
        super().start()
        queue, name = self.submit_job_kwargs["jobQueue"], self.submit_job_kwargs["jobName"]
        for job in self.batch.list_jobs(jobQueue=queue, jobStatus="RUNNING")["jobSummaryList"]:
            if job["jobName"] == name:
                self.batch.terminate_job(jobId=job["jobId"], reason="left behind")


class WaitsForCredentials(AwsEcsExecutor):
    """No defect: where there are no credentials, the parent's own way with an expired token is taken."""

    def sync_running_workloads(self) -> None:
        """Poll."""
        _as_refused(super().sync_running_workloads)

    def attempt_workload_runs(self) -> None:
        """Submit."""
        _as_refused(super().attempt_workload_runs)


def _as_refused(do: Callable[[], None]) -> None:
    try:
        do()
    except NoCredentialsError as error:
        refusal = {"Error": {"Code": "UnrecognizedClientException", "Message": str(error)}}
        raise ClientError(refusal, "GetCredentials") from error  # type: ignore[arg-type]
