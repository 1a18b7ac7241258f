"""What the emulator tells of the requests that it had: their number, deliveries, and the credentials behind them."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from executor_conformance.harness.errors import HarnessError

from tests.aws_emulator.support import Server, serving, wait_for

CREDENTIALS = {"AccessKeyId": "conformance", "SecretAccessKey": "conformance"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--services", "ecs,batch,lambda", "--stop-timeout", "1", "--lambda-retry-delay", "0.1") as it:
        yield it


@pytest.fixture(autouse=True)
def clean(server: Server) -> Iterator[None]:
    yield
    server.admin.clear_faults()


@pytest.fixture
def workload() -> str:
    return str(uuid.uuid4())


def submit(server: Server, service: str, workload: str, script: str = "sleep 60") -> str:
    """Hand over a workload as the executors do; the control plane's name for it."""
    argument = json.dumps({"callback": {"id": workload}})
    command = ["sh", "-c", script, "--json-string", argument]
    client = server.client(service)
    if service == "ecs":
        overrides = {"containerOverrides": [{"name": "conformance", "command": command}]}
        made = client.run_task(
            cluster="conformance", taskDefinition="conformance", launchType="FARGATE", overrides=overrides
        )
        return str(made["tasks"][0]["taskArn"])
    if service == "batch":
        named = {"jobName": "conformance", "jobQueue": "conformance", "jobDefinition": "conformance"}
        return str(client.submit_job(**named, containerOverrides={"command": command})["jobId"])
    payload = json.dumps({"task_key": workload, "command": command})
    answer = client.invoke(FunctionName="conformance", InvocationType="Event", Payload=payload)
    return str(answer["ResponseMetadata"]["RequestId"])


@pytest.mark.parametrize("service", ["ecs", "batch", "lambda"])
def test_a_delivery_has_a_beginning_and_an_end(server: Server, service: str, workload: str) -> None:
    began = time.monotonic()
    assert server.admin.deliveries(workload) == []
    identity = submit(server, service, workload, "exit 0")
    (delivery,) = server.admin.deliveries(workload)
    assert delivery["id"] == identity
    assert began < delivery["accepted"] < time.monotonic()
    ended = wait_for(lambda: server.admin.deliveries(workload)[0]["ended"], "the end of the run")
    assert delivery["accepted"] < ended < time.monotonic()


@pytest.mark.parametrize("service", ["ecs", "batch"])
def test_a_delivery_that_was_stopped_and_forgotten_is_told(server: Server, service: str, workload: str) -> None:
    identity = submit(server, service, workload)
    wait_for(lambda: server.admin.run(identity)["pid"], "the container")
    assert server.admin.deliveries(workload)[0]["ended"] is None
    server.admin.stop(identity)
    wait_for(lambda: server.admin.deliveries(workload)[0]["ended"], "the end of the run")
    server.admin.vanish(identity)
    assert [each["id"] for each in server.admin.deliveries(workload)] == [identity]


def test_each_acceptance_is_a_delivery_and_no_refusal_is(server: Server, workload: str) -> None:
    server.admin.add_fault(service="ecs", operation="RunTask", times=1, action={"type": "error", "code": "Refused"})
    with pytest.raises(ClientError):
        submit(server, "ecs", workload)
    assert server.admin.deliveries(workload) == []
    # The answer is lost: the client does not know, the control plane has it
    server.admin.add_fault(service="ecs", operation="RunTask", times=1, action={"type": "drop-response"})
    with pytest.raises(BotoCoreError):
        submit(server, "ecs", workload, "exit 0")
    second = submit(server, "ecs", workload, "exit 0")
    first, last = server.admin.deliveries(workload)
    assert last["id"] == second
    assert first["accepted"] < last["accepted"]


def test_what_lambda_repeats_is_no_second_delivery(server: Server, workload: str) -> None:
    identity = submit(server, "lambda", workload, "exit 0")
    server.admin.repeat(identity)
    assert [each["id"] for each in server.admin.deliveries(workload)] == [identity]


def test_deliveries_are_of_a_workload(server: Server) -> None:
    with pytest.raises(HarnessError, match="'workload' is the id of a callback or of a task instance"):
        server.admin.deliveries("")


def test_requests_are_counted_also_those_that_are_refused(server: Server) -> None:
    batch, before = server.client("batch"), server.admin.counts()
    batch.describe_jobs(jobs=["a"])
    server.admin.add_fault(service="batch", operation="DescribeJobs", times=1, action={"type": "close"})
    with pytest.raises(BotoCoreError):
        batch.describe_jobs(jobs=["a"])
    ask(server, "batch", "DescribeJobs")
    after = server.admin.counts()
    assert {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name)} == {"DescribeJobs": 2}


def ask(server: Server, service: str, operation: str) -> tuple[int, Any]:
    """The credentials for a request, as the deployment's session factory asks for them."""
    url = f"{server.admin.url}/_credentials?service={service}&operation={operation}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize(("kind", "status"), [("missing", 404), ("failing", 500)])
def test_credentials_of_one_operation(server: Server, kind: str, status: int) -> None:
    """A rule is about the credentials alone; the request itself, from a client that has some, is answered."""
    assert ask(server, "ecs", "RunTask") == (200, CREDENTIALS)
    server.admin.add_fault(service="ecs", credentials="RunTask", times=2, action={"type": kind})
    assert ask(server, "ecs", "RunTask") == (status, {})
    assert ask(server, "ecs", "DescribeTasks") == (200, CREDENTIALS)
    assert ask(server, "batch", "RunTask") == (200, CREDENTIALS)
    server.client("ecs").describe_tasks(cluster="conformance", tasks=["a" * 32])
    assert server.admin.faults()[0]["hits"] == 1
    assert ask(server, "ecs", "RunTask") == (status, {})
    assert ask(server, "ecs", "RunTask") == (200, CREDENTIALS)


def test_a_rule_on_credentials_has_actions_of_its_own(server: Server) -> None:
    with pytest.raises(HarnessError, match="The action 'close' is not one for RunTask; one of failing, missing"):
        server.admin.add_fault(service="ecs", credentials="RunTask", action={"type": "close"})
    with pytest.raises(HarnessError, match='one of "operation", "point" and "credentials"'):
        server.admin.add_fault(service="ecs", credentials="RunTask", point="start", action={"type": "missing"})
