"""Executors for tasks alone, subclassed from each that Airflow ships; for Airflow 3.3 and 3.4.

Beside 3.3 an executor declares it by the flag ``supports_callbacks``, beside 3.4 by ``supported_workload_types``.
"""

from __future__ import annotations

from typing import Any

from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteCallback
from airflow.providers.amazon.aws.executors.aws_lambda.lambda_executor import AwsLambdaExecutor
from airflow.providers.amazon.aws.executors.batch.batch_executor import AwsBatchExecutor
from airflow.providers.amazon.aws.executors.ecs.ecs_executor import AwsEcsExecutor
from airflow.providers.celery.executors.celery_executor import CeleryExecutor
from airflow.providers.edge3.executors.edge_executor import EdgeExecutor

DECLARATION: dict[str, Any]
try:
    from airflow.executors.workloads import WorkloadType
except ImportError:
    DECLARATION = {"supports_callbacks": False}
else:
    DECLARATION = {"supported_workload_types": frozenset({WorkloadType.EXECUTE_TASK})}


def tasks_only(parent: type, name: str) -> type:
    """Return a subclass that declares tasks alone, and leaves the refusal to BaseExecutor."""
    return type(name, (parent,), {"__module__": __name__, "__doc__": "For tasks alone.", **DECLARATION})


TasksOnlyLocalExecutor = tasks_only(LocalExecutor, "TasksOnlyLocalExecutor")
TasksOnlyCeleryExecutor = tasks_only(CeleryExecutor, "TasksOnlyCeleryExecutor")
TasksOnlyEcsExecutor = tasks_only(AwsEcsExecutor, "TasksOnlyEcsExecutor")
TasksOnlyBatchExecutor = tasks_only(AwsBatchExecutor, "TasksOnlyBatchExecutor")
TasksOnlyLambdaExecutor = tasks_only(AwsLambdaExecutor, "TasksOnlyLambdaExecutor")


class TasksOnlyEdgeExecutor(tasks_only(EdgeExecutor, "_TasksOnly")):  # type: ignore[misc]
    """EdgeExecutor takes a callback whatever it declares, so this one refuses it itself."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            raise NotImplementedError(f"{type(self).__name__} does not support ExecuteCallback workloads.")
        super().queue_workload(workload, session)


class FlaggedLocalExecutor(LocalExecutor):
    """Declares it by the old flag, on the instance beside 3.3 as a deployment's settings might."""

    if "supports_callbacks" in DECLARATION:

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.supports_callbacks = False

    else:
        supports_callbacks = False


class SilentLocalExecutor(TasksOnlyLocalExecutor):  # type: ignore[misc,valid-type]
    """Declares tasks alone, and drops a callback without a word: DECL-1 is broken, and nothing else."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if not isinstance(workload, ExecuteCallback):
            super().queue_workload(workload, session)
