"""Lambda (with SQS) as a client of AWS sees it; API reference 2015-03-31 and the guide's asynchronous invocation."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from executor_conformance.harness.errors import HarnessError

from tests.aws_emulator.support import PATH, WORKER, Server, serving, wait_for

HANDLER = """
import json, os, subprocess, sys, time, urllib.request
def handler(event, context):
    print("start", os.getpid(), context.aws_request_id, flush=True)
    do = event.get("do")
    if "mark" in event:
        with open(event["mark"], "a") as file:
            file.write(f"{os.getpid()}\\n")
    if do == "raise":
        raise ValueError("as asked")
    if do == "exit":
        os._exit(event.get("code", 3))
    if do == "sleep":
        subprocess.run(["sleep", "300"])
    if do == "wait":
        while not os.path.exists(event["gate"]):
            time.sleep(0.02)
    if do == "env":
        return dict(os.environ)
    return {"pid": os.getpid(), "id": context.aws_request_id, "left": context.get_remaining_time_in_millis()}
"""
IMAGES = {WORKER: {"env": {"PATH": PATH, "FROM_IMAGE": "yes"}}}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--services", "lambda", "--lambda-retry-delay", "0.1", "--lambda-concurrency", "3", **IMAGES) as it:
        (it.folder / "lambda-task" / "tiny.py").write_text(HANDLER)
        yield it


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    return server.client("lambda")


@pytest.fixture(scope="module")
def sqs(server: Server) -> Any:
    return server.client("sqs")


def create(server: Server, client: Any, name: str, handler: str = "tiny.handler", **options: Any) -> str:
    config = {
        "EntryPoint": ["python", "-m", "awslambdaric"],
        "Command": [handler],
        "WorkingDirectory": str(server.folder / "lambda-task"),
    }
    role = client.get_function(FunctionName="conformance")["Configuration"]["Role"]
    given = {"PackageType": "Image", "Code": {"ImageUri": WORKER}, "Role": role, "Timeout": 20, "ImageConfig": config}
    return client.create_function(FunctionName=name, **{**given, **options})["FunctionName"]


@pytest.fixture(scope="module")
def dead_letters(server: Server, sqs: Any) -> str:
    url = server.admin.resources["lambda"]["dead_letter_queue_url"]
    return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


@pytest.fixture(scope="module")
def tiny(server: Server, client: Any, dead_letters: str) -> str:
    return create(server, client, "tiny", DeadLetterConfig={"TargetArn": dead_letters})


@pytest.fixture(autouse=True)
def clean(server: Server) -> Iterator[None]:
    yield
    server.admin.clear_faults()


def call(client: Any, name: str, event: dict[str, Any]) -> tuple[str | None, Any]:
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event))
    assert answer["StatusCode"] == 200
    return answer.get("FunctionError"), json.loads(answer["Payload"].read())


def send(client: Any, name: str, event: dict[str, Any]) -> str:
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event), InvocationType="Event")
    assert answer["StatusCode"] == 202
    assert answer["Payload"].read() == b""
    return answer["ResponseMetadata"]["RequestId"]


def over(server: Server, request_id: str) -> dict[str, Any]:
    return wait_for(
        lambda: (run := server.admin.run(request_id))["status"] in ("SUCCEEDED", "FAILED") and run, "the end"
    )


def receive(server: Server, sqs: Any, queue: str = "dead_letter_queue_url") -> dict[str, Any]:
    url = server.admin.resources["lambda"][queue]
    answer = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=10, MessageAttributeNames=["All"])
    (message,) = answer["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return message


def nothing_in(server: Server, queue: str) -> bool:
    return server.admin.messages()[queue] == {"visible": 0, "delayed": [], "in_flight": []}


def test_resources(server: Server, client: Any, dead_letters: str) -> None:
    configuration = client.get_function(FunctionName="conformance")["Configuration"]
    assert configuration["DeadLetterConfig"] == {"TargetArn": dead_letters}
    assert configuration["Timeout"] == 60
    variables = configuration["Environment"]["Variables"]
    assert variables == {"QUEUE_URL": server.admin.resources["lambda"]["queue_url"]}
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName="other")
    assert (server.folder / "lambda-task" / "app.py").exists()


def test_a_synchronous_invocation(client: Any, tiny: str, server: Server) -> None:
    error, result = call(client, tiny, {})
    assert error is None
    assert 0 < result["left"] <= 20000
    run = server.admin.run(result["id"])
    assert (run["service"], run["status"], run["attempt"], run["next"]) == ("lambda", "SUCCEEDED", 1, "")
    again = call(client, tiny, {})[1]
    assert again["pid"] == result["pid"]  # warm
    assert result["pid"] in server.admin.idle_runtimes()


def test_the_environment(client: Any, tiny: str, server: Server) -> None:
    _, env = call(client, tiny, {"do": "env"})
    assert env["FROM_IMAGE"] == "yes"
    assert env["AWS_LAMBDA_FUNCTION_NAME"] == "tiny"
    assert env["AWS_ENDPOINT_URL"] == server.admin.url
    known = {"FROM_IMAGE", "PATH", "HOSTNAME", "LAMBDA_TASK_ROOT", "_HANDLER", "LC_CTYPE", "_X_AMZN_TRACE_ID"}
    assert {name for name in env if not name.startswith("AWS_")} <= known


def test_a_warm_runtime_is_used_again_only_as_its_image_says(client: Any, server: Server) -> None:
    """Whether worker commands may begin as forks is part of it: a case may ask that all are executed."""
    name = create(server, client, "forks", Code={"ImageUri": "forks"})
    said = []
    for warm in (True, True, False, True):
        server.admin.set_images(IMAGES | {"forks": {"env": {"PATH": PATH}, "warm": warm}})
        (_, seen), (_, env) = call(client, name, {}), call(client, name, {"do": "env"})
        said.append((seen["pid"], env["PATH"].removesuffix(PATH)))
    assert len({pid for pid, _ in said}) == 2
    assert said[0] == said[1] == said[3]
    assert said[0][1].endswith("/relay:")
    assert said[2][1] == ""


def test_a_warm_runtime_is_not_used_again_for_another_environment(client: Any, server: Server) -> None:
    """As after an update of the function's configuration."""
    name = create(server, client, "settings", Code={"ImageUri": "settings"})
    said = []
    for value in ("a", "b", "a"):
        server.admin.set_images(IMAGES | {"settings": {"env": {"PATH": PATH, "OF_THE_IMAGE": value}}})
        said.append(call(client, name, {"do": "env"})[1]["OF_THE_IMAGE"])
    assert said == ["a", "b", "a"]


def test_a_synchronous_error_is_not_retried(client: Any, tiny: str, server: Server) -> None:
    error, result = call(client, tiny, {"do": "raise"})
    assert error == "Unhandled"
    assert (result["errorType"], result["errorMessage"]) == ("ValueError", "as asked")
    assert result["stackTrace"]
    assert server.admin.run(result["requestId"])["attempt"] == 1
    assert nothing_in(server, "conformance-dead-letters")


def test_an_event_is_answered_at_once(client: Any, tiny: str, server: Server) -> None:
    gate = server.folder.parent / "gate"
    begin = time.monotonic()
    request_id = send(client, tiny, {"do": "wait", "gate": str(gate)})
    assert time.monotonic() - begin < 5
    run = wait_for(
        lambda: (found := server.admin.run(request_id))["status"] == "RUNNING" and found, "the invocation's start"
    )
    assert psutil.pid_exists(run["pid"])
    gate.touch()
    assert over(server, request_id)["status"] == "SUCCEEDED"


def test_an_event_is_carried_out_again(client: Any, tiny: str, server: Server) -> None:
    mark = server.folder.parent / "twice"
    first = send(client, tiny, {"mark": str(mark)})
    over(server, first)
    server.admin.repeat(first)
    wait_for(lambda: len(mark.read_text().splitlines()) == 2, "the second time")
    with pytest.raises(HarnessError, match="no asynchronous invocation"):
        server.admin.repeat(call(client, tiny, {})[1]["id"])


def test_retries_and_the_dead_letter(client: Any, sqs: Any, tiny: str, server: Server) -> None:
    mark = server.folder.parent / "marks"
    event = {"do": "raise", "mark": str(mark), "key": 'with "quotes"'}
    request_id = send(client, tiny, event)
    notes = set()

    def noting() -> bool:
        run = server.admin.run(request_id)
        notes.add(re.sub(r"\d\.\d s", "x s", run["next"]))
        return run["status"] == "FAILED"

    wait_for(noting, "the end")
    assert mark.read_text().count("\n") == 3
    assert server.admin.run(request_id)["attempt"] == 3
    assert {"retry 1 of 2 in x s", "retry 2 of 2 in x s"} & notes
    assert server.admin.messages()["conformance-dead-letters"]["visible"] == 1
    message = receive(server, sqs)
    assert json.loads(message["Body"]) == event
    attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    assert attributes == {"RequestID": request_id, "ErrorCode": "200", "ErrorMessage": "as asked"}
    assert nothing_in(server, "conformance-dead-letters")


def test_retries_as_configured(client: Any, server: Server) -> None:
    name = create(server, client, "once")
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    assert over(server, send(client, name, {"do": "raise"}))["attempt"] == 1
    assert nothing_in(server, "conformance-dead-letters")


def test_a_timeout_kills_the_runtime(client: Any, server: Server) -> None:
    name = create(server, client, "brief", Timeout=1)
    pids: list[int] = []

    def watching() -> None:
        pids.append(
            wait_for(lambda: next((r["pid"] for r in server.admin.runs() if r["status"] == "RUNNING"), None), "a pid")
        )

    watcher = threading.Thread(target=watching)
    watcher.start()
    error, result = call(client, name, {"do": "sleep"})
    watcher.join(10)
    assert error == "Unhandled"
    assert result["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert not psutil.pid_exists(pids[0])
    assert call(client, name, {})[0] is None  # by a new one


@pytest.mark.parametrize(("code", "how"), [(3, "exit status 3"), (0, "without providing a reason")])
def test_a_runtime_that_exits(client: Any, tiny: str, code: int, how: str) -> None:
    error, result = call(client, tiny, {"do": "exit", "code": code})
    assert error == "Unhandled"
    assert result["errorType"] == "Runtime.ExitError"
    assert how in result["errorMessage"]
    assert call(client, tiny, {})[0] is None


@pytest.mark.parametrize(
    ("way", "words"), [("kill", "signal: killed"), ("oom", "signal: killed"), ("timeout", "Task timed out after")]
)
def test_ended_from_outside(client: Any, sqs: Any, tiny: str, server: Server, way: str, words: str) -> None:
    request_id = send(client, tiny, {"do": "sleep"})
    for attempt in (1, 2, 3):
        wait_for(
            lambda wanted=attempt: (
                (run := server.admin.run(request_id))["status"] == "RUNNING" and run["attempt"] == wanted
            ),
            f"attempt {attempt}",
        )
        child = wait_for(lambda: psutil.Process(server.admin.run(request_id)["pid"]).children(), "the child")[0]
        getattr(server.admin, way)(request_id)
        wait_for(lambda gone=child: not gone.is_running(), "the child's end")
    run = over(server, request_id)
    assert (run["status"], run["exit_code"]) == ("FAILED", 137)
    assert words in receive(server, sqs)["MessageAttributes"]["ErrorMessage"]["StringValue"]
    with pytest.raises(HarnessError):
        server.admin.kill(request_id)
    with pytest.raises(HarnessError, match="cannot be stopped"):
        server.admin.stop(request_id)


def test_a_handler_that_does_not_load(client: Any, server: Server) -> None:
    name = create(server, client, "broken", handler="nothing.handler")
    error, result = call(client, name, {})
    assert error == "Unhandled"
    assert result["errorType"] == "Runtime.ImportModuleError"


def test_a_function_whose_image_is_not_there(client: Any, server: Server) -> None:
    name = create(server, client, "imageless", Code={"ImageUri": "nowhere"})
    error, result = call(client, name, {})
    assert error == "Unhandled"
    assert "nowhere" in result["errorMessage"]


def test_concurrency_and_the_queue(client: Any, tiny: str, server: Server) -> None:
    gate = server.folder.parent / "gate-of-many"
    ids = [send(client, tiny, {"do": "wait", "gate": str(gate)}) for _ in range(5)]

    def states() -> list[str]:
        return sorted(server.admin.run(identity)["status"] for identity in ids)

    wait_for(lambda: states().count("RUNNING") == 3, "three at once")
    waiting = [run for run in map(server.admin.run, ids) if run["status"] == "QUEUED"]
    assert [run["next"] for run in waiting] == ["queued", "queued"]
    assert len({run["pid"] for run in map(server.admin.run, ids) if run["pid"]}) == 3
    gate.touch()
    wait_for(lambda: set(states()) == {"SUCCEEDED"}, "all")


def test_refused_invocations(client: Any) -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.invoke(FunctionName="other", Payload="{}", InvocationType="Event")
    with pytest.raises(client.exceptions.InvalidRequestContentException):
        client.invoke(FunctionName="conformance", Payload="{", InvocationType="Event")
    assert client.invoke(FunctionName="conformance", InvocationType="DryRun")["StatusCode"] == 204


# --- faults ---


def test_never_carried_out(client: Any, tiny: str, server: Server) -> None:
    server.admin.add_fault(point="start", service="lambda", times=1, action={"type": "never"})
    request_id = send(client, tiny, {})
    wait_for(lambda: server.admin.run(request_id)["next"] == "", "rest")
    assert over(server, send(client, tiny, {}))["status"] == "SUCCEEDED"
    assert server.admin.run(request_id)["status"] == "QUEUED"
    server.admin.vanish(request_id)
    assert over(server, request_id)["status"] == "FAILED"
    assert nothing_in(server, "conformance-dead-letters")


@pytest.mark.parametrize("kind", ["killed-before-start", "init-error", "image-missing"])
def test_faults_at_the_start(client: Any, tiny: str, server: Server, kind: str) -> None:
    server.admin.add_fault(point="start", service="lambda", times=1, action={"type": kind})
    run = over(server, send(client, tiny, {}))
    assert (run["status"], run["attempt"]) == ("SUCCEEDED", 2)


def test_the_invocation_vanishes(client: Any, tiny: str, server: Server) -> None:
    server.admin.add_fault(point="report", service="lambda", times=1, action={"type": "vanish"})
    run = over(server, send(client, tiny, {"do": "raise"}))
    assert (run["status"], run["attempt"]) == ("FAILED", 1)
    assert nothing_in(server, "conformance-dead-letters")


def test_faults_of_the_api(client: Any, tiny: str, server: Server) -> None:
    action = {"type": "error", "code": "TooManyRequestsException", "status": 429, "message": "Rate Exceeded."}
    server.admin.add_fault(service="lambda", operation="Invoke", times=1, action=action)
    with pytest.raises(client.exceptions.TooManyRequestsException) as caught:
        send(client, tiny, {})
    assert caught.value.response["Error"]["Message"] == "Rate Exceeded."
    before = len(server.admin.runs())
    server.admin.add_fault(service="lambda", operation="Invoke", times=1, action={"type": "drop-response"})
    with pytest.raises(BotoCoreError):
        send(client, tiny, {})
    assert len(server.admin.runs()) == before + 1
    server.admin.add_fault(service="lambda", operation="GetFunction", times=1, action={"type": "close"})
    with pytest.raises(BotoCoreError):
        client.get_function(FunctionName="conformance")


# --- SQS ---


@pytest.fixture
def queue(request: pytest.FixtureRequest, sqs: Any) -> str:
    return sqs.create_queue(QueueName=request.node.name)["QueueUrl"]


def test_messages_of_a_queue(server: Server, sqs: Any, queue: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="a")
    sqs.send_message(QueueUrl=queue, MessageBody="b", DelaySeconds=60)
    assert server.admin.messages()[queue.rpartition("/")[2]]["visible"] == 1
    (message,) = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=30)["Messages"]
    state = server.admin.messages()[queue.rpartition("/")[2]]
    assert state["visible"] == 0
    assert 25 < state["in_flight"][0] <= 30
    assert 50 < state["delayed"][0] <= 60
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    assert server.admin.messages()[queue.rpartition("/")[2]]["in_flight"] == []
    assert sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"]


def test_queues_can_be_emptied_at_any_time(server: Server, sqs: Any, queue: str) -> None:
    """Other than by PurgeQueue, which AWS carries out once in 60 s."""
    for _ in range(2):
        sqs.send_message(QueueUrl=queue, MessageBody="a")
        sqs.receive_message(QueueUrl=queue, VisibilityTimeout=30)
        server.admin.purge()
        assert nothing_in(server, queue.rpartition("/")[2])


def test_lost_duplicated_and_delayed_messages(server: Server, sqs: Any, queue: str) -> None:
    server.admin.add_fault(service="sqs", operation="SendMessage", times=1, action={"type": "lose"})
    answer = sqs.send_message(QueueUrl=queue, MessageBody="lost")
    assert answer["MessageId"]
    assert answer["MD5OfMessageBody"] == hashlib.md5(b"lost").hexdigest()
    assert nothing_in(server, queue.rpartition("/")[2])
    server.admin.add_fault(service="sqs", operation="SendMessage", times=1, action={"type": "duplicate"})
    sqs.send_message(QueueUrl=queue, MessageBody="twice")
    received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == ["twice", "twice"]
    for message in received:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    delayed = {"type": "delay-delivery", "seconds": 60}
    server.admin.add_fault(service="sqs", operation="SendMessage", times=1, action=delayed)
    sqs.send_message(QueueUrl=queue, MessageBody="later")
    state = server.admin.messages()[queue.rpartition("/")[2]]
    assert (state["visible"], len(state["delayed"])) == (0, 1)


def test_refused_sqs_calls(server: Server, sqs: Any, queue: str) -> None:
    for code, status in (("ThrottlingException", 400), ("AccessDenied", 403), ("InternalError", 500)):
        action = {"type": "error", "code": code, "status": status, "message": "no"}
        server.admin.add_fault(service="sqs", operation="ReceiveMessage", times=1, action=action)
        with pytest.raises(ClientError) as caught:
            sqs.receive_message(QueueUrl=queue)
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    with pytest.raises(ClientError) as caught:
        sqs.get_queue_attributes(QueueUrl=queue + "-other", AttributeNames=["All"])
    assert "NonExistentQueue" in caught.value.response["Error"]["Code"]


def test_the_provider_s_own_handler(server: Server, client: Any, sqs: Any) -> None:
    event = {"task_key": "a-key", "command": ["sh", "-c", "exit 4"], "executor_config": {}}
    request_id = send(client, "conformance", event)
    assert over(server, request_id)["status"] == "SUCCEEDED"
    assert json.loads(receive(server, sqs, "queue_url")["Body"]) == {"task_key": "a-key", "return_code": 4}
    sent = [entry for entry in server.admin.calls() if (entry["service"], entry["operation"]) == ("sqs", "SendMessage")]
    assert sent[-1]["status"] == 200
