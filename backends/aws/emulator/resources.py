"""What the executors need in the account: made through the services' own protocols, in this process."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from executor_conformance.harness.errors import HarnessError
from werkzeug.test import Client

NAME = "conformance"
IMAGE = "conformance-worker"
RESULTS = "conformance-results"
DEAD_LETTERS = "conformance-dead-letters"
_TARGETS = {"ecs": "AmazonEC2ContainerServiceV20141113", "sqs": "AmazonSQS"}
_TRUST = '{"Version":"2012-10-17","Statement":[]}'


class Account:
    """Calls operations of a WSGI application that is an AWS endpoint, past the faults of the front."""

    def __init__(self, app: Any, region: str, base_url: str) -> None:
        self._app, self.region, self.base_url = app, region, base_url

    def call(self, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Carry out an operation; the answer as a dictionary (empty for IAM, which speaks XML).

        :raises HarnessError: it was refused.
        """
        scope = f"AWS4-HMAC-SHA256 Credential=conformance/20240101/{self.region}/{service}/aws4_request"
        headers = {"Authorization": f"{scope}, SignedHeaders=host, Signature=0"}
        path, data, kind = "/", json.dumps(parameters), "application/json"
        if service in _TARGETS:
            headers["X-Amz-Target"] = f"{_TARGETS[service]}.{operation}"
            kind = "application/x-amz-json-1.1" if service == "ecs" else "application/x-amz-json-1.0"
        elif service == "batch":
            path = f"/v1/{operation.lower()}"
        elif service == "lambda":
            path = "/2015-03-31/functions"
        else:
            data, kind = urlencode({"Action": operation, "Version": "2010-05-08", **parameters}), _FORM
        response = Client(self._app).post(path, base_url=self.base_url, data=data, content_type=kind, headers=headers)
        if response.status_code >= 300:
            text = response.get_data(as_text=True)[:300]
            raise HarnessError(f"{service} {operation} was refused with {response.status_code}: {text}")
        return {} if kind == _FORM else json.loads(response.get_data() or b"{}")

    def send_message(self, queue: str, body: str, attributes: dict[str, tuple[str, str]]) -> str:
        """SendMessage as a service does it, to the queue of that name; the message's id.

        :param attributes: name to type and value.
        """
        url = self.call("sqs", "GetQueueUrl", {"QueueName": queue})["QueueUrl"]
        given = {name: {"DataType": kind, "StringValue": value} for name, (kind, value) in attributes.items()}
        sent = self.call("sqs", "SendMessage", {"QueueUrl": url, "MessageBody": body, "MessageAttributes": given})
        return str(sent["MessageId"])


_FORM = "application/x-www-form-urlencoded"


def make_ecs(account: Account) -> dict[str, str]:
    """Cluster and task definition; their names."""
    account.call("ecs", "CreateCluster", {"clusterName": NAME})
    definition = {
        "family": NAME,
        "networkMode": "bridge",  # moto asks for subnets with awsvpc
        "requiresCompatibilities": ["EC2"],
        "cpu": "256",
        "memory": "512",
        "containerDefinitions": [{"name": NAME, "image": IMAGE, "essential": True, "memory": 512, "cpu": 256}],
    }
    account.call("ecs", "RegisterTaskDefinition", definition)
    return {"cluster": NAME, "task_definition": NAME, "container_name": NAME, "image": IMAGE}


def make_batch(account: Account, role: str) -> dict[str, str]:
    """Compute environment, job queue and job definition; their names."""
    environment = {"computeEnvironmentName": NAME, "type": "UNMANAGED", "state": "ENABLED", "serviceRole": role}
    arn = account.call("batch", "CreateComputeEnvironment", environment)["computeEnvironmentArn"]
    queue = {
        "jobQueueName": NAME,
        "state": "ENABLED",
        "priority": 1,
        "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": arn}],
    }
    account.call("batch", "CreateJobQueue", queue)
    definition = {
        "jobDefinitionName": NAME,
        "type": "container",
        "containerProperties": {"image": IMAGE, "vcpus": 1, "memory": 512, "command": ["true"]},
        "retryStrategy": {"attempts": 1},
    }
    account.call("batch", "RegisterJobDefinition", definition)
    return {"job_queue": NAME, "job_definition": NAME, "compute_environment": NAME, "image": IMAGE}


def make_lambda(account: Account, role: str, task_root: str, timeout: int, visibility: int) -> dict[str, Any]:
    """Queues and function; their names, URLs and ARNs.

    :param timeout: of the function, in seconds.
    :param visibility: for how many seconds a message that was received is hidden.
    """
    urls = {}
    for name in (RESULTS, DEAD_LETTERS):
        wanted = {"QueueName": name, "Attributes": {"VisibilityTimeout": str(visibility)}}
        urls[name] = account.call("sqs", "CreateQueue", wanted)["QueueUrl"]
    asked = {"QueueUrl": urls[DEAD_LETTERS], "AttributeNames": ["QueueArn"]}
    dead_letters = account.call("sqs", "GetQueueAttributes", asked)["Attributes"]["QueueArn"]
    function = account.call(
        "lambda",
        "CreateFunction",
        {
            "FunctionName": NAME,
            "PackageType": "Image",
            "Code": {"ImageUri": IMAGE},
            "ImageConfig": {
                "EntryPoint": ["python", "-m", "awslambdaric"],
                "Command": ["app.lambda_handler"],
                "WorkingDirectory": task_root,
            },
            "Role": role,
            "Timeout": timeout,
            "MemorySize": 512,
            "Environment": {"Variables": {"QUEUE_URL": urls[RESULTS]}},
            "DeadLetterConfig": {"TargetArn": dead_letters},
        },
    )
    return {
        "function_name": NAME,
        "function_arn": function["FunctionArn"],
        "queue_url": urls[RESULTS],
        "dead_letter_queue_url": urls[DEAD_LETTERS],
        "image": IMAGE,
    }


def make_role(account: Account) -> str:
    """A role that the services accept; its ARN."""
    account.call("iam", "CreateRole", {"RoleName": NAME, "AssumeRolePolicyDocument": _TRUST})
    return f"arn:aws:iam::123456789012:role/{NAME}"
