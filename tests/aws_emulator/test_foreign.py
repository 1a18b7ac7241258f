"""What another deployment has at the emulated account: clients see it as theirs, and each change is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from executor_conformance.harness.errors import HarnessError

from tests.aws_emulator.support import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--services", "ecs,batch,lambda") as it:
        yield it


@pytest.fixture(autouse=True)
def nothing_left(server: Server) -> Iterator[None]:
    yield
    server.admin.remove_foreign()


def tasks(server: Server) -> dict[str, list[dict[str, Any]]]:
    """By status, as any client of the cluster sees them."""
    ecs = server.client("ecs")
    arns = [
        arn
        for desired in ("RUNNING", "STOPPED")
        for arn in ecs.list_tasks(cluster="conformance", desiredStatus=desired)["taskArns"]
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for task in ecs.describe_tasks(cluster="conformance", tasks=arns)["tasks"] if arns else ():
        found.setdefault(task["lastStatus"], []).append(task)
    return found


def test_tasks_of_another_deployment(server: Server) -> None:
    made = server.admin.plant_foreign("ecs")
    assert made["planted"] == ["5 tasks that another deployment started with the same cluster and task definition"]
    seen = tasks(server)
    assert {status: len(each) for status, each in seen.items()} == {"RUNNING": 2, "PENDING": 1, "STOPPED": 2}
    running = seen["RUNNING"][0]
    assert running["startedBy"] == "other-deployment"
    assert running["group"] == "family:conformance"
    assert json.loads(running["overrides"]["containerOverrides"][0]["command"][-1])["ti"]["id"] in made["keys"]
    assert seen["STOPPED"][0]["containers"][0]["exitCode"] == 0
    assert server.admin.runs() == []
    assert server.admin.foreign_touched() == []
    server.admin.remove_foreign()
    assert tasks(server) == {}
    assert server.admin.foreign_touched() == []


def test_a_stopped_task_is_told(server: Server) -> None:
    server.admin.plant_foreign("ecs")
    arn = tasks(server)["RUNNING"][0]["taskArn"]
    server.client("ecs").stop_task(cluster="conformance", task=arn, reason="mine")
    (told,) = server.admin.foreign_touched()
    assert told == (
        f"The task {arn} of another deployment (RUNNING) was changed: lastStatus is 'STOPPED', no longer 'RUNNING', "
        "desiredStatus is 'STOPPED', no longer 'RUNNING', stoppedReason is 'mine', no longer None."
    )


def test_a_task_that_was_over_is_not_stopped(server: Server) -> None:
    server.admin.plant_foreign("ecs")
    server.client("ecs").stop_task(cluster="conformance", task=tasks(server)["STOPPED"][0]["taskArn"], reason="mine")
    assert server.admin.foreign_touched() == []


def jobs(server: Server, status: str) -> list[str]:
    found = server.client("batch").list_jobs(jobQueue="conformance", jobStatus=status)["jobSummaryList"]
    return [job["jobId"] for job in found if job["jobName"] == "conformance"]


def test_jobs_of_another_deployment(server: Server) -> None:
    made = server.admin.plant_foreign("batch")
    assert len(made["keys"]) == 5
    assert {status: len(jobs(server, status)) for status in ("RUNNING", "RUNNABLE", "SUCCEEDED", "FAILED")} == {
        "RUNNING": 2,
        "RUNNABLE": 1,
        "SUCCEEDED": 1,
        "FAILED": 1,
    }
    (job,) = server.client("batch").describe_jobs(jobs=jobs(server, "SUCCEEDED"))["jobs"]
    assert job["container"]["exitCode"] == 0
    assert json.loads(job["container"]["command"][-1])["ti"]["id"] in made["keys"]
    assert server.admin.foreign_touched() == []
    server.admin.remove_foreign()
    assert jobs(server, "RUNNING") == []


@pytest.mark.parametrize(("how", "status"), [("terminate_job", "RUNNING"), ("cancel_job", "RUNNABLE")])
def test_a_terminated_job_is_told(server: Server, how: str, status: str) -> None:
    server.admin.plant_foreign("batch")
    job = jobs(server, status)[0]
    getattr(server.client("batch"), how)(jobId=job, reason="mine")
    (told,) = server.admin.foreign_touched()
    assert told == (
        f"The job {job} of another deployment ({status}) was changed: status is 'FAILED', no longer '{status}', "
        "statusReason is 'mine', no longer None."
    )


def test_a_running_job_is_not_cancelled(server: Server) -> None:
    server.admin.plant_foreign("batch")
    server.client("batch").cancel_job(jobId=jobs(server, "RUNNING")[0], reason="mine")
    assert server.admin.foreign_touched() == []


@pytest.fixture
def results(server: Server) -> str:
    return str(server.admin.resources["lambda"]["queue_url"])


def receive(server: Server, url: str) -> list[dict[str, Any]]:
    return list(server.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", ()))


def put_back(server: Server, url: str, messages: list[dict[str, Any]], seconds: int = 0) -> None:
    for message in messages:
        server.client("sqs").change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
        )


def test_messages_of_another_deployment(server: Server, results: str) -> None:
    """Receiving is not touching; what is put back waits behind the others, so a client sees them all."""
    made = server.admin.plant_foreign("lambda")
    assert len(made["keys"]) == 30 + 5 + 10  # the coordinates of ten tasks also as events have them
    seen = set()
    for _ in range(4):
        messages = receive(server, results)
        bodies = [json.loads(message["Body"]) for message in messages]
        assert all(body.keys() == {"task_key", "return_code"} for body in bodies)
        seen |= {body["task_key"] for body in bodies}
        put_back(server, results, messages)
    assert len(seen) == 30
    assert seen < set(made["keys"])
    letters = [
        json.loads(each["Body"]) for each in receive(server, server.admin.resources["lambda"]["dead_letter_queue_url"])
    ]
    assert len(letters) == 5
    assert all(letter.keys() == {"task_key", "command", "executor_config"} for letter in letters)
    # Those that are in flight for as long as the queue hides what was received are no timers of the subject's
    assert all(not queue["in_flight"] and not queue["visible"] for queue in server.admin.messages().values())
    assert server.admin.foreign_touched() == []
    server.admin.remove_foreign()
    assert receive(server, results) == []


def test_an_own_message_comes_between_the_foreign_ones(server: Server, results: str) -> None:
    server.admin.plant_foreign("lambda")
    server.client("sqs").send_message(QueueUrl=results, MessageBody="mine")
    found = []
    for _ in range(4):
        messages = receive(server, results)
        found += [message for message in messages if message["Body"] == "mine"]
        put_back(server, results, messages)
    (own,) = found[:1]
    assert server.admin.messages()["conformance-results"]["visible"] == 1
    again = next(m for _ in range(4) for m in receive(server, results) if m["MessageId"] == own["MessageId"])
    server.client("sqs").delete_message(QueueUrl=results, ReceiptHandle=again["ReceiptHandle"])
    assert server.admin.messages()["conformance-results"]["visible"] == 0
    assert server.admin.foreign_touched() == []


def test_a_deleted_message_is_told(server: Server, results: str) -> None:
    server.admin.plant_foreign("lambda")
    message = receive(server, results)[0]
    server.client("sqs").delete_message(QueueUrl=results, ReceiptHandle=message["ReceiptHandle"])
    key = json.loads(message["Body"])["task_key"]
    told = f"The message of another deployment in conformance-results for {key} is no longer there."
    assert server.admin.foreign_touched() == [told]


def test_a_message_that_is_hidden_for_long_is_told(server: Server, results: str) -> None:
    server.admin.plant_foreign("lambda")
    put_back(server, results, receive(server, results)[:1], 600)
    (told,) = server.admin.foreign_touched()
    assert "was changed: hidden from all other clients is " in told


def test_purged_messages_are_told(server: Server) -> None:
    server.admin.plant_foreign("lambda")
    server.admin.purge()
    assert len(server.admin.foreign_touched()) == 35


def test_nothing_is_planted_in_another_service(server: Server) -> None:
    with pytest.raises(HarnessError, match="There is no service 's3' here; one of ecs, batch, lambda"):
        server.admin.plant_foreign("s3")
