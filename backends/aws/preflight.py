"""What must hold of an AWS account before anything starts, asked in a process of its own.

``python -m executor_conformance.backends.aws.preflight FILE SERVICE`` prints one JSON object: ``wrong`` (sentences
about what the file says), ``unavailable`` (one sentence, or null) and ``leftovers`` (a sentence each). The process that
collects the cases never imports boto3.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from executor_conformance.backends.aws.account_file import AccountFile, load
from executor_conformance.backends.commands import look_beside
from executor_conformance.harness.errors import EnvironmentUnavailable, UsageError

PREFIX = "executor-conformance-"
"""All that a run makes has a name of this, the time in seconds since 1970, and something random."""
LEFT_OVER_HOURS = 6.0
"""What is so old is the remains of a run that was killed."""
TIMEOUT = (5, 15)
"""Seconds to connect, and to answer."""
PROCESS_SECONDS = 120
LEAST_TIMEOUT_S = 60
"""Of a function: callbacks that run into their own time limit must not run into the function's first."""


def session(file: AccountFile) -> Any:
    """A boto3 session with the user's credentials.

    :raises UsageError: there is no such profile.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session(profile_name=file.profile, region_name=file.region)
    except BotoCoreError as error:
        raise UsageError(f"The file {file.path} names a profile that does not work: {why_not(error)}.") from None


def client(made: Any, file: AccountFile, service: str, **config: Any) -> Any:
    """A client of ``service`` of a session, at the endpoint that the file may name."""
    from botocore.config import Config

    given = {"connect_timeout": TIMEOUT[0], "read_timeout": TIMEOUT[1], **config}
    retries = Config(**given, retries={"mode": "standard", "total_max_attempts": 3})
    return made.client(service, endpoint_url=file.endpoint_url, config=retries)


def why_not(error: Exception) -> str:
    """What a failed request says, short."""
    said = getattr(error, "response", {}).get("Error", {})
    words = f"{said['Code']}: {said.get('Message', '')}" if said.get("Code") else f"{type(error).__name__}: {error}"
    return words.strip().splitlines()[0][:300].rstrip(". :")


def check(file: AccountFile, service: str) -> str | None:
    """What is missing in the account that ``file`` names, in one sentence; leftovers of killed runs become warnings.

    :raises UsageError: the account is another one, or what the file names is not there; a sentence for each.
    """
    try:
        found = look_beside(__name__, file.place, PROCESS_SECONDS, file.path, service)
    except EnvironmentUnavailable as error:
        return str(error)
    if found["wrong"]:
        raise UsageError(" ".join(found["wrong"]))
    return found["unavailable"]


def look(file: AccountFile, service: str) -> dict[str, Any]:
    """What :func:`check` asks for."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        made = session(file)
    except UsageError as error:
        return {"wrong": [str(error)], "unavailable": None, "leftovers": []}
    try:
        account = client(made, file, "sts").get_caller_identity()["Account"]
        if account != file.account:
            wrong = [f"The credentials are of the account {account}, and the file {file.path} names {file.account}."]
            return {"wrong": wrong, "unavailable": None, "leftovers": []}
        ours = client(made, file, service)
        wrong = [f"{sentence} ({file.place}; {file.path})." for sentence in _LOOKS[service](ours, file.settings)]
        leftovers = [] if wrong else list(_leftovers(_names(made, file, service, ours)))
        return {"wrong": wrong, "unavailable": None, "leftovers": leftovers}
    except (ClientError, BotoCoreError) as error:
        return {"wrong": [], "unavailable": f"{file.place} answers {why_not(error)}", "leftovers": []}


# -- what the file names -----------------------------------------------------------------------------------------


def _look_ecs(ecs: Any, named: dict[str, Any]) -> Iterator[str]:
    from botocore.exceptions import ClientError

    clusters = ecs.describe_clusters(clusters=[named["cluster"]])["clusters"]
    if not clusters or clusters[0]["status"] != "ACTIVE":
        state = f"is {clusters[0]['status']}" if clusters else "is not there"
        yield f"The cluster {named['cluster']} {state}"
    try:
        definition = ecs.describe_task_definition(taskDefinition=named["task_definition"])["taskDefinition"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ClientException", "InvalidParameterException"):
            raise
        yield f"The task definition {named['task_definition']} is not there"
        return
    containers = [container["name"] for container in definition["containerDefinitions"]]
    if named["container_name"] not in containers:
        has = ", ".join(containers)
        yield f"The task definition {named['task_definition']} has no container {named['container_name']}, but {has}"


def _look_batch(batch: Any, named: dict[str, Any]) -> Iterator[str]:
    queues = batch.describe_job_queues(jobQueues=[named["job_queue"]])["jobQueues"]
    if not queues:
        yield f"The job queue {named['job_queue']} is not there"
    elif (queues[0]["state"], queues[0]["status"]) != ("ENABLED", "VALID"):
        yield f"The job queue {named['job_queue']} is {queues[0]['state']} and {queues[0]['status']}"
    definition = job_definition(batch, named["job_definition"])
    if definition is None:
        yield f"The job definition {named['job_definition']} is not there, or not active"
    elif definition["type"] != "container" or "containerProperties" not in definition:
        yield f"The job definition {named['job_definition']} is not of one container without Kubernetes"


def job_definition(batch: Any, name: str) -> dict[str, Any] | None:
    """The active job definition with this name (its newest revision), name and revision, or ARN."""
    if name.startswith("arn:"):
        asked: dict[str, Any] = {"jobDefinitions": [name]}
    else:
        plain, _, revision = name.partition(":")
        asked = {"jobDefinitions": [name]} if revision else {"jobDefinitionName": plain, "status": "ACTIVE"}
    found = [one for one in batch.describe_job_definitions(**asked)["jobDefinitions"] if one["status"] == "ACTIVE"]
    return max(found, key=lambda one: one["revision"]) if found else None


def _look_lambda(functions: Any, named: dict[str, Any]) -> Iterator[str]:
    from botocore.exceptions import ClientError

    name = named["function_name"]
    try:
        found = functions.get_function(FunctionName=name)["Configuration"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        yield f"The function {name} is not there"
        return
    if found.get("PackageType") != "Image":
        yield f"The function {name} is of a .zip archive, and the worker function is made from an image"
    if found["Timeout"] < LEAST_TIMEOUT_S:
        yield f"The function {name} has a timeout of {found['Timeout']} s; it needs {LEAST_TIMEOUT_S} s or more"


_LOOKS = {"ecs": _look_ecs, "batch": _look_batch, "lambda": _look_lambda}


# -- what killed runs have left ----------------------------------------------------------------------------------


def _names(made: Any, file: AccountFile, service: str, ours: Any) -> Iterator[tuple[str, str]]:
    if service == "ecs":
        found = ours.list_task_definition_families(familyPrefix=PREFIX, status="ACTIVE")["families"]
        yield from (("task definition", name) for name in found if name.startswith(PREFIX))
    elif service == "batch":
        for page in ours.get_paginator("describe_job_definitions").paginate(status="ACTIVE"):
            for one in page["jobDefinitions"]:
                if one["jobDefinitionName"].startswith(PREFIX):
                    yield "job definition", one["jobDefinitionName"]
    else:
        for page in ours.get_paginator("list_functions").paginate():
            yield from (("function", one["FunctionName"]) for one in page["Functions"])
        for page in client(made, file, "sqs").get_paginator("list_queues").paginate(QueueNamePrefix=PREFIX):
            yield from (("queue", url.rpartition("/")[2]) for url in page.get("QueueUrls", ()))


def _leftovers(names: Iterator[tuple[str, str]]) -> Iterator[str]:
    for kind, name in dict.fromkeys(names):
        began = name.removeprefix(PREFIX).partition("-")[0]
        if not name.startswith(PREFIX) or not began.isdigit():
            continue
        hours = (time.time() - int(began)) / 3600
        if hours >= LEFT_OVER_HOURS:
            yield f"The {kind} {name} was left {hours:.0f} h ago by a run that was killed; remove it."


if __name__ == "__main__":
    print(json.dumps(look(load(sys.argv[1], sys.argv[2]), sys.argv[2])))
