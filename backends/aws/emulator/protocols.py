"""The wire protocols of the emulated services: which operation a request asks for, and what answers look like."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

_SCOPE = re.compile(r"Credential=[^/,]+/\d+/[\w-]+/([\w-]+)/aws4_request")
_BATCH_OPERATIONS = """
    SubmitJob DescribeJobs ListJobs TerminateJob CancelJob CreateComputeEnvironment DescribeComputeEnvironments
    UpdateComputeEnvironment DeleteComputeEnvironment CreateJobQueue DescribeJobQueues UpdateJobQueue DeleteJobQueue
    RegisterJobDefinition DescribeJobDefinitions DeregisterJobDefinition
"""
_BATCH_PATHS = {f"/v1/{name.lower()}": name for name in _BATCH_OPERATIONS.split()}
_LAMBDA = (
    ("POST", r"/functions/?", "CreateFunction"),
    ("GET", r"/functions/?", "ListFunctions"),
    ("POST", r"/functions/.+/invocations/?", "Invoke"),
    ("POST", r"/functions/.+/invoke-async/?", "InvokeAsync"),
    ("GET", r"/functions/[^/]+/configuration/?", "GetFunctionConfiguration"),
    ("PUT", r"/functions/[^/]+/configuration/?", "UpdateFunctionConfiguration"),
    ("PUT", r"/functions/[^/]+/code/?", "UpdateFunctionCode"),
    ("GET", r"/functions/[^/]+/?", "GetFunction"),
    ("DELETE", r"/functions/[^/]+/?", "DeleteFunction"),
)
_LAMBDA_PATHS = [(method, re.compile(r"/\d{4}-\d\d-\d\d" + path), name) for method, path, name in _LAMBDA]
JSON_1_0 = "application/x-amz-json-1.0"
JSON_1_1 = "application/x-amz-json-1.1"


@dataclass(frozen=True)
class Operation:
    """What a request asks for; ``protocol`` is 'json', 'rest-json' or 'query'. Empty names: not recognised."""

    service: str
    name: str
    protocol: str


@dataclass(frozen=True)
class Reply:
    """An answer of the front's own."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]


def operation_of(environ: Mapping[str, Any], body: bytes) -> Operation:
    """Service by the signature's scope (or the target), operation by target, path or ``Action``."""
    path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD", "")
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    service = scope.group(1) if scope else ""
    if target:
        prefix, _, name = target.rpartition(".")
        if not service:
            service = "sqs" if "SQS" in prefix else "ecs" if "ContainerService" in prefix else ""
        return Operation(service, name, "json")
    if service == "batch" or path in _BATCH_PATHS:
        return Operation("batch", _BATCH_PATHS.get(path, path.rpartition("/")[2]), "rest-json")
    if service == "lambda":
        for wanted, pattern, name in _LAMBDA_PATHS:
            if wanted == method and pattern.fullmatch(path):
                return Operation(service, name, "rest-json")
        return Operation(service, f"{method} {path.rpartition('/')[2]}", "rest-json")
    form = parse_qs(body.decode("latin-1")) if "form-urlencoded" in environ.get("CONTENT_TYPE", "") else {}
    form = form or parse_qs(environ.get("QUERY_STRING", ""))
    return Operation(service, form.get("Action", [""])[0], "query")


def error_reply(operation: Operation, code: str, message: str, status: int) -> Reply:
    """A service error in the shape of the operation's protocol."""
    request_id = str(uuid.uuid4())
    headers = [("x-amzn-RequestId", request_id)]
    if operation.protocol == "query":
        kind = "Sender" if status < 500 else "Receiver"
        text = (
            f"<ErrorResponse><Error><Type>{kind}</Type><Code>{escape(code)}</Code>"
            f"<Message>{escape(message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return Reply(status, text.encode(), (*headers, ("Content-Type", "text/xml")))
    headers.append(("x-amzn-ErrorType", code))
    if operation.protocol == "rest-json":
        body = {"message": message}
        if operation.service == "lambda":
            body = {"Type": "User" if status < 500 else "Service", "message": message}
        return Reply(status, json.dumps(body).encode(), (*headers, ("Content-Type", "application/json")))
    if operation.service == "sqs":
        headers.append(("x-amzn-query-error", f"{code};{'Sender' if status < 500 else 'Receiver'}"))
    content_type = JSON_1_0 if operation.service == "sqs" else JSON_1_1
    body = {"__type": code, "message": message}
    return Reply(status, json.dumps(body).encode(), (*headers, ("Content-Type", content_type)))


def run_task_reply(reason: str | None, region: str, account: str) -> Reply:
    """RunTask that placed nothing: with one failure, or, if ``reason`` is None, with neither tasks nor failures."""
    failures = []
    if reason is not None:
        arn = f"arn:aws:ecs:{region}:{account}:container-instance/{uuid.uuid4().hex}"
        failures.append({"arn": arn, "reason": reason})
    body = {"tasks": [], "failures": failures}
    return Reply(200, json.dumps(body).encode(), (("Content-Type", JSON_1_1),))


def message_sent_reply(operation: Operation, body: bytes) -> Reply:
    """SendMessage as if it had been carried out."""
    identity = str(uuid.uuid4())
    if operation.protocol == "query":
        text = parse_qs(body.decode()).get("MessageBody", [""])[0]
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        xml = (
            f"<SendMessageResponse><SendMessageResult><MD5OfMessageBody>{digest}</MD5OfMessageBody>"
            f"<MessageId>{identity}</MessageId></SendMessageResult></SendMessageResponse>"
        )
        return Reply(200, xml.encode(), (("Content-Type", "text/xml"),))
    text = json.loads(body or b"{}").get("MessageBody", "")
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    answer = {"MD5OfMessageBody": digest, "MessageId": identity}
    return Reply(200, json.dumps(answer).encode(), (("Content-Type", JSON_1_0),))


def with_delay(operation: Operation, body: bytes, seconds: float) -> bytes:
    """A SendMessage request with ``DelaySeconds``, which SQS knows as whole seconds only."""
    delay = max(1, round(seconds))
    if operation.protocol == "query":
        return body + f"&DelaySeconds={delay}".encode()
    return json.dumps(json.loads(body or b"{}") | {"DelaySeconds": delay}).encode()


def waits(operation: Operation, body: bytes) -> bool:
    """Whether the request may take long by itself: a long poll, a synchronous invocation."""
    if operation.service == "sqs":
        return operation.name == "ReceiveMessage"
    return operation.service == "lambda"
