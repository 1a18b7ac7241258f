"""ECS, Batch and Lambda of an account: the worker's definition, the probe, and what can be seen of runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from executor_conformance.backends.aws.account import START_S, ExistingAccount
from executor_conformance.backends.aws.preflight import job_definition
from executor_conformance.backends.aws.queues import hidden_messages
from executor_conformance.harness.errors import BoundReached, HarnessError, UsageError

ECS_SECTION = "AIRFLOW__AWS_ECS_EXECUTOR__"
AWS_ENDED_IT = ("TaskFailedToStart", "SpotInterruption", "TerminationNotice", "ServiceSchedulerInitiated")
"""Stop codes of tasks that neither their container nor a client has ended."""
FUNCTION_ENVIRONMENT = 4096
"""Bytes of all variables of a function; Lambda's own limit."""
RETRIES_S = 180.0
"""Lambda tries an asynchronous invocation again after one minute, and after two more."""
VISIBILITY_S = 30
"""Of messages that were received."""
DRAIN_S = 1


def variables(settings: Mapping[str, str]) -> list[dict[str, str]]:
    """As a container has them."""
    return [{"name": name, "value": value} for name, value in sorted(settings.items())]


def merged(own: list[dict[str, str]] | None, settings: Mapping[str, str]) -> list[dict[str, str]]:
    """A definition's variables with ``settings``, which count."""
    return [entry for entry in own or [] if entry["name"] not in settings] + variables(settings)


class EcsAccount(ExistingAccount):
    """A family of task definitions of our own in a cluster of the user's."""

    service_name: ClassVar[str] = "ecs"
    possible: ClassVar = {"start-impossible": ("image",), "stopped": ("by-a-user",)}

    def make_resources(self) -> dict[str, Any]:
        """Names only; the network and the launch type go into the executor's settings."""
        given = self.file.settings
        more = {}
        for name in ("launch_type", "platform_version"):
            if name in given:
                more[f"{ECS_SECTION}{name.upper()}"] = given[name]
        if "capacity_provider_strategy" in given:
            strategy = {"capacity_provider_strategy": given["capacity_provider_strategy"]}
            more[f"{ECS_SECTION}RUN_TASK_KWARGS"] = json.dumps(strategy)
        elif "launch_type" not in given:
            more[f"{ECS_SECTION}LAUNCH_TYPE"] = "FARGATE"
        for name in ("subnets", "security_groups"):
            if given.get(name):
                more[f"{ECS_SECTION}{name.upper()}"] = ",".join(given[name])
        if "assign_public_ip" in given:
            more[f"{ECS_SECTION}ASSIGN_PUBLIC_IP"] = str(given["assign_public_ip"])
        container = given["container_name"]
        return {"cluster": given["cluster"], "task_definition": self.name, "container_name": container, "more": more}

    def define(self, settings: dict[str, str], image: str = "") -> None:
        """Register a revision; the family's newest is what the executor runs."""
        ecs, given = self.client(), self.file.settings
        found = self.ask("show the task definition", ecs.describe_task_definition, taskDefinition=self._source())
        definition = {name: value for name, value in found["taskDefinition"].items() if name in _TASK_DEFINITION}
        for container in definition["containerDefinitions"]:
            if container["name"] == given["container_name"]:
                self.image = given.get("image") or (self.image or container["image"])
                container["image"] = image or self.image
                container["environment"] = merged(container.get("environment"), settings)
        made = self.ask("register a task definition", ecs.register_task_definition, **definition, family=self.name)
        arn = made["taskDefinition"]["taskDefinitionArn"]
        self.resources["revision"] = arn
        self.made(f"the task definition {arn}", lambda: ecs.deregister_task_definition(taskDefinition=arn))

    def _source(self) -> str:
        return str(self.file.settings["task_definition"])

    def run_probe(self, command: list[str]) -> tuple[int | None, str]:
        """As a task, in the network of the others."""
        given = self.file.settings
        asked: dict[str, Any] = {"cluster": given["cluster"], "taskDefinition": self.name, "count": 1}
        asked["overrides"] = {"containerOverrides": [{"name": given["container_name"], "command": command}]}
        if strategy := given.get("capacity_provider_strategy"):
            asked["capacityProviderStrategy"] = strategy
        else:
            asked["launchType"] = given.get("launch_type", "FARGATE")
        if given.get("platform_version") and asked.get("launchType") != "EC2":
            asked["platformVersion"] = given["platform_version"]
        if given.get("subnets"):
            network: dict[str, Any] = {"subnets": given["subnets"]}
            if given.get("security_groups"):
                network["securityGroups"] = given["security_groups"]
            if asked.get("launchType") != "EC2":
                network["assignPublicIp"] = "ENABLED" if given.get("assign_public_ip") else "DISABLED"
            asked["networkConfiguration"] = {"awsvpcConfiguration": network}
        answer = self.ask("run the probe", self.client().run_task, **asked)
        if not answer["tasks"]:
            why = "; ".join(f"{failure.get('reason')}" for failure in answer["failures"]) or "no reason given"
            raise HarnessError(f"The cluster {given['cluster']} places no task for the probe: {why}.")
        return self.end_of(answer["tasks"][0]["taskArn"])

    def listed(self) -> list[str]:
        """Tasks of the family, those that have just ended included."""
        found = []
        for desired in ("RUNNING", "STOPPED"):
            asked = {"cluster": self.file.settings["cluster"], "family": self.name, "desiredStatus": desired}
            pages = self.client().get_paginator("list_tasks").paginate(**asked)
            found += self.ask("list tasks", lambda pages=pages: [arn for page in pages for arn in page["taskArns"]])
        return found

    def described(self, identities: list[str]) -> dict[str, dict[str, Any]]:
        """By DescribeTasks, a hundred at a time."""
        found = {}
        for first in range(0, len(identities), 100):
            asked = {"cluster": self.file.settings["cluster"], "tasks": identities[first : first + 100]}
            for task in self.ask("describe tasks", self.client().describe_tasks, **asked)["tasks"]:
                found[task["taskArn"]] = self._seen(task)
        return found

    def _seen(self, task: dict[str, Any]) -> dict[str, Any]:
        name = self.file.settings["container_name"]
        worker: dict[str, Any] = next((one for one in task["containers"] if one["name"] == name), {})
        reasons = [str(one) for one in (task.get("stoppedReason"), worker.get("reason")) if one]
        return {
            "status": task["lastStatus"],
            "exit_code": worker.get("exitCode"),
            "reason": "; ".join(reasons),
            "started": "startedAt" in task,
            "definition": task["taskDefinitionArn"],
            "lost": task.get("stopCode") in AWS_ENDED_IT,
        }

    def end(self, identity: str) -> None:
        """StopTask."""
        cluster = self.file.settings["cluster"]
        reason = "Stopped from outside by executor-conformance"
        self.ask("stop a task", self.client().stop_task, cluster=cluster, task=identity, reason=reason)


_TASK_DEFINITION = frozenset(
    (
        *("taskRoleArn", "executionRoleArn", "networkMode", "containerDefinitions", "volumes", "placementConstraints"),
        *("requiresCompatibilities", "cpu", "memory", "pidMode", "ipcMode", "proxyConfiguration"),
        *("inferenceAccelerators", "ephemeralStorage", "runtimePlatform", "enableFaultInjection"),
    )
)
"""What DescribeTaskDefinition tells and RegisterTaskDefinition takes, the family apart."""


class BatchAccount(ExistingAccount):
    """A job definition of our own in a job queue of the user's."""

    service_name: ClassVar[str] = "batch"
    possible: ClassVar = {"start-impossible": ("image",), "stopped": ("by-a-user",)}

    def make_resources(self) -> dict[str, Any]:
        """Names only."""
        queue = self.file.settings["job_queue"]
        return {"job_queue": queue, "job_definition": self.name, "job_name": self.name}

    def define(self, settings: dict[str, str], image: str = "") -> None:
        """Register a revision with one attempt; the newest is what the executor runs."""
        batch, given = self.client(), self.file.settings
        source = self.ask("show the job definition", lambda: job_definition(batch, given["job_definition"]))
        if source is None:
            raise HarnessError(f"The job definition {given['job_definition']} has gone.")
        definition = {name: value for name, value in source.items() if name in _JOB_DEFINITION}
        container = definition["containerProperties"]
        self.image = given.get("image") or (self.image or container["image"])
        container["image"] = image or self.image
        container["environment"] = merged(container.get("environment"), settings)
        definition["retryStrategy"] = {"attempts": 1}
        made = self.ask(
            "register a job definition", batch.register_job_definition, jobDefinitionName=self.name, **definition
        )
        arn = made["jobDefinitionArn"]
        self.resources["revision"] = arn
        self.made(f"the job definition {arn}", lambda: batch.deregister_job_definition(jobDefinition=arn))

    def run_probe(self, command: list[str]) -> tuple[int | None, str]:
        """As a job."""
        asked: dict[str, Any] = {"jobName": self.name, "jobQueue": self.file.settings["job_queue"]}
        asked |= {"jobDefinition": self.name, "containerOverrides": {"command": command}}
        return self.end_of(self.ask("run the probe", self.client().submit_job, **asked)["jobId"])

    def listed(self) -> list[str]:
        """Jobs of our name: with that filter, whatever their status."""
        filters = [{"name": "JOB_NAME", "values": [self.name]}]
        asked = {"jobQueue": self.file.settings["job_queue"], "filters": filters}
        pages = self.client().get_paginator("list_jobs").paginate(**asked)
        return self.ask("list jobs", lambda: [job["jobId"] for page in pages for job in page["jobSummaryList"]])

    def described(self, identities: list[str]) -> dict[str, dict[str, Any]]:
        """By DescribeJobs, a hundred at a time."""
        found = {}
        for first in range(0, len(identities), 100):
            jobs = self.ask("describe jobs", self.client().describe_jobs, jobs=identities[first : first + 100])["jobs"]
            for job in jobs:
                found[job["jobId"]] = self._seen(job)
        return found

    @staticmethod
    def _seen(job: dict[str, Any]) -> dict[str, Any]:
        container = job.get("container") or {}
        exit_code = container.get("exitCode")
        reasons = [str(one) for one in (job.get("statusReason"), container.get("reason")) if one]
        asked_for = job.get("isTerminated") or job.get("isCancelled")
        return {
            "status": job["status"],
            "exit_code": exit_code,
            "reason": "; ".join(reasons),
            "started": bool(job.get("startedAt")),
            "definition": job["jobDefinition"],
            "lost": job["status"] == "FAILED" and exit_code is None and not asked_for,
        }

    def end(self, identity: str) -> None:
        """TerminateJob."""
        reason = "Terminated from outside by executor-conformance"
        self.ask("terminate a job", self.client().terminate_job, jobId=identity, reason=reason)


_JOB_DEFINITION = frozenset(
    ("type", "parameters", "containerProperties", "timeout", "platformCapabilities", "propagateTags")
)
"""What DescribeJobDefinitions tells and RegisterJobDefinition takes, the name and the retries apart."""


class LambdaAccount(ExistingAccount):
    """A function made from the user's, with a queue for its results and one for dead letters.

    Lambda tells nothing of an asynchronous invocation: a run here is what the executor has invoked, until it says how
    that went, or until no retry of Lambda's can be due any more.
    """

    service_name: ClassVar[str] = "lambda"
    retries_s: ClassVar[float] = RETRIES_S

    def timers(self) -> Mapping[str, float]:
        """Also of the function, whose timeout is known once it is made, and of its queues."""
        own = {"timeout of the function": self._timeout} if hasattr(self, "_timeout") else {}
        waits = {"Lambda's waits before it tries an invocation again": self.retries_s}
        return {**super().timers(), **own, **waits, "visibility timeout": VISIBILITY_S}

    def make_resources(self) -> dict[str, Any]:
        """The queues: their addresses are part of the executor's settings."""
        sqs = self.client("sqs")
        urls = []
        for kind in ("results", "dead-letters"):
            name = f"{self.name}-{kind}"
            hidden = {"VisibilityTimeout": str(VISIBILITY_S)}
            url = self.ask("create a queue", sqs.create_queue, QueueName=name, Attributes=hidden)["QueueUrl"]
            self.made(f"the queue {name}", partial(sqs.delete_queue, QueueUrl=url))
            urls.append(url)
        return {"function_name": self.name, "queue_url": urls[0], "dead_letter_queue_url": urls[1]}

    def define(self, settings: dict[str, str], image: str = "") -> None:
        """Create the function, and wait until it can be invoked."""
        functions, sqs = self.client(), self.client("sqs")
        given = self.file.settings
        found = self.ask("show the function", functions.get_function, FunctionName=given["function_name"])
        source = found["Configuration"]
        self.image = image or given.get("image") or found["Code"]["ImageUri"]
        own = {**(source.get("Environment") or {}).get("Variables", {}), **settings}
        own |= dict.fromkeys(("QUEUE_URL", "AIRFLOW__AWS_LAMBDA_EXECUTOR__QUEUE_URL"), self.resources["queue_url"])
        size = sum(len(name.encode()) + len(value.encode()) for name, value in own.items())
        if size > FUNCTION_ENVIRONMENT:
            raise UsageError(
                f"The function {given['function_name']} has too many variables: with the suite's they are "
                f"{size} bytes, and Lambda allows {FUNCTION_ENVIRONMENT}."
            )
        dead_letters = self.resources["dead_letter_queue_url"]
        asked = {"QueueUrl": dead_letters, "AttributeNames": ["QueueArn"]}
        arn = self.ask("show a queue", sqs.get_queue_attributes, **asked)["Attributes"]["QueueArn"]
        definition = {name: source[name] for name in _FUNCTION if source.get(name)}
        if config := (source.get("ImageConfigResponse") or {}).get("ImageConfig"):
            definition["ImageConfig"] = {name: value for name, value in config.items() if value}
        if network := {name: ids for name, ids in (source.get("VpcConfig") or {}).items() if name in _NETWORK and ids}:
            definition["VpcConfig"] = network
        self._timeout = float(source["Timeout"])
        self.settle_s = max(self.settle_s, 3 * self._timeout + RETRIES_S + 60)
        self.ask(
            "create a function",
            functions.create_function,
            FunctionName=self.name,
            PackageType="Image",
            Code={"ImageUri": self.image},
            Environment={"Variables": own},
            DeadLetterConfig={"TargetArn": arn},
            **definition,
        )
        self.made(f"the function {self.name}", lambda: functions.delete_function(FunctionName=self.name))
        self._wait_active()

    def _wait_active(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            asked = self.client().get_function_configuration
            found = self.ask("show the function", asked, FunctionName=self.name)
            if found.get("State", "Active") == "Active":
                return
            if found["State"] == "Failed":
                raise HarnessError(f"AWS cannot make the function {self.name}: {found.get('StateReason')}")
            if time.monotonic() > deadline or self._stopped:
                raise BoundReached(f"The function {self.name} was {found['State']} for {START_S:g} s.")
            time.sleep(0.5)

    def run_probe(self, command: list[str]) -> tuple[int | None, str]:
        """As an invocation that is waited for; the handler sends the exit code to the queue."""
        patient = self.client("lambda", read_timeout=int(self._timeout) + 30)
        payload = json.dumps({"task_key": self.name, "command": command, "executor_config": {}})
        answer = self.ask("run the probe", patient.invoke, FunctionName=self.name, Payload=payload)
        if "FunctionError" in answer:
            return None, answer["Payload"].read(2000).decode("utf-8", "replace")
        for body in self._take(self.resources["queue_url"], self._timeout):
            if body.get("task_key") == self.name:
                return int(body["return_code"]), ""
        return None, "the function has ended, and no message of its came to the queue: its role may not send one"

    def _take(self, url: str, wait_s: float) -> list[dict[str, Any]]:
        """Take messages out of a queue until there are some, or for ``wait_s`` seconds."""
        sqs, deadline, taken = self.client("sqs"), time.monotonic() + wait_s, []
        while True:
            asked = {"QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": DRAIN_S}
            messages = self.ask("give messages", sqs.receive_message, **asked).get("Messages", [])
            for message in messages:
                handle = message["ReceiptHandle"]
                self.ask("delete a message", sqs.delete_message, QueueUrl=url, ReceiptHandle=handle)
                try:
                    taken.append(json.loads(message["Body"]))
                except ValueError:
                    continue
            if messages or time.monotonic() > deadline or self._stopped:
                return taken

    def listed(self) -> list[str]:
        """None: it is not told."""
        return []

    def described(self, identities: list[str]) -> dict[str, dict[str, Any]]:
        """By what the executor has said of them; the key of a workload is the name of its invocation."""
        now, found = time.monotonic(), {}
        for identity in identities:
            said = {event["state"] for event in self.site.events_of(identity)} & {"success", "failed"}
            over = said or now - self._found_at[identity] > 3 * self._timeout + RETRIES_S + 30
            found[identity] = {
                "status": "SUCCEEDED" if "success" in said else "FAILED" if over else "INVOKED",
                "exit_code": None,
                "reason": "",
                "started": True,
            }
        return found

    def messages(self) -> dict[str, dict[str, Any]]:
        """What SQS tells of messages that nobody can see at present: their numbers, roughly, and no times."""
        return self.ask("show a queue", lambda: hidden_messages(self.client("sqs"), self.resources))

    def end(self, identity: str) -> None:
        """An invocation cannot be stopped; it is forgotten."""
        self._found_at[identity] = -float("inf")
        self._runs.pop(identity, None)

    def clear(self) -> None:
        """Empty the queues too, message by message: a purge would take what is sent in the next minute."""
        super().clear()
        for url in [self.resources[kind] for kind in ("queue_url", "dead_letter_queue_url") if kind in self.resources]:
            while self._take(url, 0):
                pass


_FUNCTION = ("Role", "Timeout", "MemorySize", "Architectures", "EphemeralStorage")
_NETWORK = ("SubnetIds", "SecurityGroupIds")
ACCOUNTS: dict[str, type[ExistingAccount]] = {
    account.service_name: account for account in (EcsAccount, BatchAccount, LambdaAccount)
}
"""By service."""
