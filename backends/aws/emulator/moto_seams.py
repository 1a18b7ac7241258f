"""Everything that reaches into moto (5.2.5), in one place.

moto keeps the records and speaks the protocols; what it does not do, or does otherwise than AWS, is replaced
here, each thing with a test at boto3's level in ``tests/aws_emulator``.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from typing import Any
from urllib.parse import unquote

from executor_conformance.backends.aws.emulator.batch_service import BatchService, JobRecord
from executor_conformance.backends.aws.emulator.dataplane import DataPlane
from executor_conformance.backends.aws.emulator.ecs_service import EcsService
from executor_conformance.backends.aws.emulator.lambda_service import RETRIES, Function, LambdaService

ACCOUNT = "123456789012"
"""moto's only account."""
REQUEST_ID_HEADER = "x-conformance-request-id"
"""What the front has to send as x-amzn-requestid: moto puts a random one into each answer, last of all."""
_TASK_NOT_FOUND = "The referenced task was not found."


def _states_are_ours(model: str) -> None:
    from moto.moto_api import state_manager

    # moto would step through states of its own with each description
    state_manager.set_transition(model, {"progression": "manual", "times": sys.maxsize})


def share_botocore_data() -> None:
    """Parse botocore's JSON files once in this process: moto makes a session each time it asks for regions."""
    import botocore.session

    botocore.session.create_loader = functools.cache(botocore.session.create_loader)


def import_lean() -> None:
    """Import moto's EC2, which ECS and Batch need, less its instance type offerings: 46 MB, a sixth of the start."""
    from moto.utilities import utils

    load_resource = utils.load_resource
    utils.load_resource = lambda resource: [] if "instance_type_offerings" in resource else load_resource(resource)
    try:
        import moto.ec2.models  # noqa: F401
    finally:
        utils.load_resource = load_resource


def install_ecs(service: EcsService, plane: DataPlane, region: str) -> None:
    """Give ECS tasks a life: RunTask, StopTask, DescribeTasks, ListTasks."""
    from moto.core.responses import ActionResult
    from moto.ecs.exceptions import InvalidParameterException
    from moto.ecs.models import EC2ContainerServiceBackend, ecs_backends
    from moto.ecs.responses import EC2ContainerServiceResponse

    _states_are_ours("ecs::task")
    run_task = EC2ContainerServiceBackend.run_task
    list_tasks = EC2ContainerServiceBackend.list_tasks
    describe_tasks = EC2ContainerServiceResponse.describe_tasks

    def find(backend: Any, cluster_str: str, reference: str) -> Any:
        cluster = backend._get_cluster(cluster_str)
        for arn, task in backend.tasks.get(cluster.name, {}).items():
            if reference in (arn, task.id):
                return task
        return None

    @functools.wraps(run_task)
    def running(self: Any, cluster_str: str, task_definition_str: str, *args: Any, **kwargs: Any) -> Any:
        cluster = self._get_cluster(cluster_str)
        definitions = self.describe_task_definition(task_definition_str).container_definitions
        overrides = args[1] if len(args) > 1 else kwargs.get("overrides")
        names = [definition["name"] for definition in definitions]
        for entry in (overrides or {}).get("containerOverrides") or []:
            if entry.get("name") not in names:
                raise InvalidParameterException(
                    f"Override for container named {entry.get('name')} is not a container in the TaskDefinition."
                )
        launch_type = args[4] if len(args) > 4 else kwargs.get("launch_type")
        if launch_type in (None, "", "EC2") and not self.container_instances.get(cluster.name):
            strategy = args[8] if len(args) > 8 else kwargs.get("capacity_provider_strategy")
            if not strategy and not cluster.default_capacity_provider_strategy:
                raise InvalidParameterException("No Container Instances were found in your cluster.")
        tasks = run_task(self, cluster_str, task_definition_str, *args, **kwargs)
        for task in tasks:
            service.accept(task, definitions[0])
        return tasks

    def stopping(self: Any, cluster_str: str, task_str: str, reason: str) -> Any:
        task = find(self, cluster_str, task_str)
        if task is None:
            raise InvalidParameterException(_TASK_NOT_FOUND)
        service.stop(task, reason)
        return task

    @functools.wraps(describe_tasks)
    def describing(self: Any) -> Any:
        cluster = self._get_param("cluster", "default")
        references = self._get_param("tasks", [])
        result = describe_tasks(self)
        failures = []
        for reference in references:
            if find(self.ecs_backend, cluster, reference) is None:
                name = self.ecs_backend._get_cluster(cluster).name
                prefix = f"arn:aws:ecs:{self.region}:{self.current_account}:task/{name}/"
                arn = reference if reference.startswith("arn:") else prefix + reference
                failures.append({"arn": arn, "reason": "MISSING"})
        found = [task for reference in references if (task := find(self.ecs_backend, cluster, reference)) is not None]
        assert isinstance(result, ActionResult)
        return ActionResult({"tasks": found, "failures": failures})

    def listing(self: Any, *args: Any, **kwargs: Any) -> Any:
        # AWS lists the tasks that are to run unless asked for those that are to stop
        arguments = list(args)
        if len(arguments) > 5:
            arguments[5] = arguments[5] or "RUNNING"
        elif not kwargs.get("desiredStatus"):
            kwargs["desiredStatus"] = "RUNNING"
        return list_tasks(self, *arguments, **kwargs)

    EC2ContainerServiceBackend.run_task = running  # type: ignore[method-assign]
    EC2ContainerServiceBackend.stop_task = stopping  # type: ignore[method-assign]
    EC2ContainerServiceBackend.list_tasks = listing  # type: ignore[method-assign]
    EC2ContainerServiceResponse.describe_tasks = describing  # type: ignore[method-assign]

    def vanish(arn: str) -> None:
        with plane.locks["ecs"]:
            for tasks in ecs_backends[ACCOUNT][region].tasks.values():
                tasks.pop(arn, None)

    plane.vanish["ecs"] = vanish

    def stop(arn: str, reason: str) -> None:
        for tasks in list(ecs_backends[ACCOUNT][region].tasks.values()):
            if arn in tasks:
                service.stop(tasks[arn], reason)

    plane.stop["ecs"] = stop


def install_batch(service: BatchService, plane: DataPlane, region: str) -> None:
    """Give Batch jobs a life: the thread of a job, its descriptions, TerminateJob, CancelJob, retryStrategy."""
    from moto.batch.models import BatchBackend, Job, batch_backends
    from moto.batch.responses import BatchResponse

    _states_are_ours("batch::job")
    submission = threading.local()
    submitjob, start = BatchResponse.submitjob, Job.start
    describe, describe_short = Job.describe, Job.describe_short
    terminate_job, cancel_job = BatchBackend.terminate_job, BatchBackend.cancel_job

    @functools.wraps(submitjob)
    def submitting(self: Any) -> str:
        submission.attempts = (self._get_param("retryStrategy") or {}).get("attempts")
        return submitjob(self)

    def environment(job: Any) -> list[dict[str, str]]:
        # moto's own description appends to the overrides each time
        defined = (job.job_definition.container_properties or {}).get("environment") or []
        merged = {entry["name"]: entry for entry in [*defined, *(job.container_overrides.get("environment") or [])]}
        return list(merged.values())

    def starting(self: Any) -> None:
        definition = self.job_definition
        attempts = getattr(submission, "attempts", None) or (definition.retry_strategy or {}).get("attempts") or 1
        self.record = JobRecord(time.time(), int(attempts))
        service.accept(self)
        start(self)

    def running(self: Any) -> None:
        properties = {
            "image": self._get_container_property("image", ""),
            "command": self._add_parameters_to_command(self._get_container_property("command", [])),
            "environment": environment(self),
            "queue": self.job_queue.name,
            "timeout": self._get_attempt_duration(),
        }
        service.live(self, properties, self._wait_for_dependencies)

    def container_details(self: Any) -> dict[str, Any]:
        get = self._get_container_property
        return {
            "image": get("image", ""),
            "command": get("command", []),
            "environment": environment(self),
            "vcpus": int(float(get("vcpus", 1))),
            "memory": get("memory", 512),
            "volumes": get("volumes", []),
            "ulimits": get("ulimits", []),
            "logStreamName": self._stream_name,
            "resourceRequirements": get("resourceRequirements", []),
        }

    def describing(self: Any, short: bool) -> dict[str, Any]:
        description = dict((describe_short if short else describe)(self))
        if (record := getattr(self, "record", None)) is not None:
            record.overlay(description, short)
        return description

    def terminating(self: Any, job_id: str, reason: str) -> None:
        terminate_job(self, job_id, reason)
        if (job := self.get_job_by_id(job_id)) is not None:
            service.terminate(job.job_id, reason)
            service.terminate_planted(job, reason)

    def cancelling(self: Any, job_id: str, reason: str) -> None:
        cancel_job(self, job_id, reason)
        if (job := self.get_job_by_id(job_id)) is not None:
            service.cancel(job.job_id, reason)
            if job.stop:  # CancelJob leaves alone what has come to STARTING
                service.terminate_planted(job, reason)

    BatchResponse.submitjob = submitting  # type: ignore[method-assign]
    Job.start = starting  # type: ignore[method-assign]
    Job.run = running  # type: ignore[method-assign]
    Job._container_details = container_details  # type: ignore[method-assign]
    Job.describe = lambda self: describing(self, False)  # type: ignore[method-assign,assignment]
    Job.describe_short = lambda self: describing(self, True)  # type: ignore[method-assign,assignment]
    BatchBackend.terminate_job = terminating  # type: ignore[method-assign]
    BatchBackend.cancel_job = cancelling  # type: ignore[method-assign]

    def vanish(job_id: str) -> None:
        with plane.locks["batch"]:
            backend = batch_backends[ACCOUNT][region]
            if (job := backend._jobs.pop(job_id, None)) is not None:
                job.job_queue.jobs.remove(job)

    plane.vanish["batch"] = vanish
    plane.stop["batch"] = service.terminate


def install_lambda(service: LambdaService) -> None:
    """Give Lambda functions a life: Invoke, and the DeadLetterConfig that moto drops."""
    from moto.awslambda.exceptions import LambdaClientError
    from moto.awslambda.models import LambdaFunction
    from moto.awslambda.responses import LambdaResponse

    initialise, configuration = LambdaFunction.__init__, LambdaFunction.get_configuration
    update = LambdaFunction.update_configuration

    def initialising(self: Any, account_id: str, spec: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self.dead_letter_config = spec.get("DeadLetterConfig")
        initialise(self, account_id, spec, *args, **kwargs)

    def updating(self: Any, config_updates: dict[str, Any]) -> Any:
        self.dead_letter_config = config_updates.get("DeadLetterConfig", self.dead_letter_config)
        update(self, config_updates)
        return self.get_configuration()

    def configured(self: Any, on_create: bool = False) -> dict[str, Any]:
        config = configuration(self, on_create)
        if self.dead_letter_config and self.dead_letter_config.get("TargetArn"):
            config["DeadLetterConfig"] = self.dead_letter_config
        return config

    def invoking(self: Any) -> Any:
        name = unquote(self.path.rstrip("/").split("/functions/", 1)[1].rsplit("/", 1)[0])
        qualifier = self.querystring.get("Qualifier", [None])[0]
        function = _function(self.backend.get_function(name, qualifier))
        event = self.body if isinstance(self.body, bytes) else (self.body or "").encode()
        try:
            json.loads(event or b"{}")
        except ValueError as error:
            raise LambdaClientError(
                "InvalidRequestContentException", f"Could not parse request body into json: {error}"
            ) from None
        kind = self.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        if kind == "DryRun":
            return 204, {"status": "204"}, ""
        invocation = service.invoke(function, event or b"{}", kind == "Event")
        headers = {REQUEST_ID_HEADER: invocation.run.id, "x-amz-executed-version": function.version}
        if kind == "Event":
            return 202, headers | {"status": "202"}, ""
        invocation.done.wait()
        answer = invocation.answer
        headers["content-type"] = "application/json"
        if answer is None or answer.error:
            headers["x-amz-function-error"] = "Unhandled"
        return 200, headers, answer.payload.decode(errors="replace") if answer else "null"

    LambdaFunction.__init__ = initialising  # type: ignore[method-assign]
    LambdaFunction.update_configuration = updating  # type: ignore[method-assign]
    LambdaFunction.get_configuration = configured  # type: ignore[method-assign]
    LambdaResponse.invoke = invoking


def _function(fn: Any) -> Function:
    retries = RETRIES
    for config in fn.event_invoke_config:
        retries = config.config.get("MaximumRetryAttempts", retries)
    return Function(
        arn=fn.function_arn,
        name=fn.function_name,
        version=str(fn.version),
        image=fn.code.get("ImageUri", ""),
        argv=(*fn.image_config.entry_point, *fn.image_config.cmd),
        working_dir=fn.image_config.working_directory or "",
        timeout=float(fn.timeout),
        memory=int(fn.memory_size),
        retries=retries,
        dead_letter_arn=(fn.dead_letter_config or {}).get("TargetArn", ""),
        env=dict(fn.environment_vars),
    )
