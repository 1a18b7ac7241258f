"""ECS as a client of AWS sees it; API reference 2014-11-13 and the developer guide's task lifecycle."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from datetime import datetime
from typing import Any

import psutil
import pytest
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError
from executor_conformance.harness.errors import HarnessError

from tests.aws_emulator.support import Server, script, wait_for

TARGET = {"cluster": "conformance", "taskDefinition": "conformance", "launchType": "FARGATE"}
SERVICE = "ecs"

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.fixture(scope="module")
def ecs(server: Server) -> Any:
    return server.client("ecs")


def override(command: list[str], **env: str) -> dict[str, Any]:
    environment = [{"name": name, "value": value} for name, value in env.items()]
    return {"containerOverrides": [{"name": "conformance", "command": command, "environment": environment}]}


def start(ecs: Any, text: str, **env: str) -> str:
    answer = ecs.run_task(**TARGET, overrides=override(script(text), **env))
    assert answer["failures"] == []
    return answer["tasks"][0]["taskArn"]


def describe(ecs: Any, arn: str) -> dict[str, Any]:
    answer = ecs.describe_tasks(cluster="conformance", tasks=[arn])
    assert answer["failures"] == []
    return answer["tasks"][0]


def reached(ecs: Any, arn: str, status: str) -> dict[str, Any]:
    return wait_for(lambda: (task := describe(ecs, arn))["lastStatus"] == status and task, f"{status} of {arn}")


def log_of(server: Server, arn: str) -> str:
    return (server.folder / "logs" / f"ecs-{arn.rpartition('/')[2]}.log").read_text()


def test_resources(ecs: Any, server: Server) -> None:
    assert ecs.describe_clusters(clusters=["conformance"])["clusters"][0]["status"] == "ACTIVE"
    definition = ecs.describe_task_definition(taskDefinition="conformance")["taskDefinition"]
    assert definition["containerDefinitions"][0]["image"] == "conformance-worker"
    assert definition["networkMode"] == "bridge"
    assert server.admin.resources["ecs"]["cluster"] == "conformance"


def test_a_task_runs_and_stops(ecs: Any, server: Server) -> None:
    gate = server.folder.parent / "gate"
    before = time.time()
    answer = ecs.run_task(**TARGET, overrides=override(script(f"until [ -e {gate} ]; do sleep 0.05; done; exit 7")))
    task = answer["tasks"][0]
    assert task["lastStatus"] in ("PROVISIONING", "PENDING", "RUNNING")
    assert task["desiredStatus"] == "RUNNING"
    assert not {"stoppedAt", "stopCode", "stoppedReason"} & set(task)
    arn = task["taskArn"]
    running = reached(ecs, arn, "RUNNING")
    assert "exitCode" not in running["containers"][0]
    assert running["containers"][0]["taskArn"] == arn
    assert running["containers"][0]["lastStatus"] == "RUNNING"
    assert running["containers"][0]["runtimeId"]
    assert arn in ecs.list_tasks(cluster="conformance")["taskArns"]
    gate.touch()
    stopped = reached(ecs, arn, "STOPPED")
    assert stopped["desiredStatus"] == "STOPPED"
    assert stopped["stopCode"] == "EssentialContainerExited"
    assert stopped["stoppedReason"] == "Essential container in task exited"
    assert stopped["containers"][0]["exitCode"] == 7
    assert stopped["containers"][0]["lastStatus"] == "STOPPED"
    assert isinstance(stopped["startedAt"], datetime)
    assert before - 1 < stopped["createdAt"].timestamp() <= stopped["startedAt"].timestamp()
    assert stopped["startedAt"] < stopped["stoppedAt"]
    assert arn not in ecs.list_tasks(cluster="conformance")["taskArns"]
    assert arn in ecs.list_tasks(cluster="conformance", desiredStatus="STOPPED")["taskArns"]
    run = server.admin.run(arn)
    assert run["exit_code"] == 7
    assert (run["status"], run["pid"], run["next"]) == ("STOPPED", None, "")


def test_a_state_does_not_move_by_being_described(ecs: Any) -> None:
    arn = start(ecs, "sleep 300")
    reached(ecs, arn, "RUNNING")
    assert {describe(ecs, arn)["lastStatus"] for _ in range(8)} == {"RUNNING"}
    ecs.stop_task(cluster="conformance", task=arn)
    reached(ecs, arn, "STOPPED")


def test_the_environment_is_the_image_s_and_the_overrides_(ecs: Any, server: Server) -> None:
    arn = start(ecs, "env; pwd", ADDED="1", FROM_IMAGE="replaced")
    reached(ecs, arn, "STOPPED")
    names = dict(line.partition("=")[::2] for line in log_of(server, arn).splitlines() if "=" in line)
    assert names["ADDED"] == "1"
    assert names["FROM_IMAGE"] == "replaced"
    assert set(names) <= {"ADDED", "FROM_IMAGE", "PATH", "HOSTNAME", "PWD", "SHLVL", "_", "OLDPWD"}
    assert str(server.folder.parent) in log_of(server, arn)
    assert server.admin.run(arn)["env_names"] == ["ADDED", "FROM_IMAGE", "PATH"]


def test_count(ecs: Any) -> None:
    tasks = ecs.run_task(**TARGET, count=3, overrides=override(["true"]))["tasks"]
    assert len({task["taskArn"] for task in tasks}) == 3
    for task in tasks:
        assert reached(ecs, task["taskArn"], "STOPPED")["containers"][0]["exitCode"] == 0


@pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 143), (11, 139)])
def test_a_signal_is_128_more(ecs: Any, number: int, code: int) -> None:
    arn = start(ecs, f"kill -{number} $$")
    assert reached(ecs, arn, "STOPPED")["containers"][0]["exitCode"] == code


def test_stop_task_ends_with_its_reason(ecs: Any) -> None:
    arn = start(ecs, "trap 'exit 5' TERM; while :; do sleep 0.02; done")
    reached(ecs, arn, "RUNNING")
    answer = ecs.stop_task(cluster="conformance", task=arn, reason="no longer wanted")["task"]
    assert answer["desiredStatus"] == "STOPPED"
    stopped = reached(ecs, arn, "STOPPED")
    assert stopped["stopCode"] == "UserInitiated"
    assert stopped["stoppedReason"] == "no longer wanted"
    assert stopped["containers"][0]["exitCode"] in (5, 143)
    assert stopped["stoppingAt"] <= stopped["stoppedAt"]
    again = ecs.stop_task(cluster="conformance", task=arn, reason="again")["task"]
    assert again["stoppedReason"] == "no longer wanted"


def test_stop_task_kills_after_the_stop_timeout(ecs: Any, server: Server) -> None:
    arn = start(ecs, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    reached(ecs, arn, "RUNNING")
    wait_for(lambda: "ready" in log_of(server, arn), "the trap")
    ecs.stop_task(cluster="conformance", task=arn, reason="enough")
    assert re.fullmatch(r"stop timeout ends in [01]\.\d s", server.admin.run(arn)["next"])
    stopped = reached(ecs, arn, "STOPPED")
    assert stopped["containers"][0]["exitCode"] == 137
    assert stopped["stoppedReason"] == "enough"
    assert (stopped["stoppedAt"] - stopped["stoppingAt"]).total_seconds() >= 0.9


def test_stop_task_of_an_unknown_task(ecs: Any) -> None:
    for reference in ("a", "arn:aws:ecs:us-east-1:123456789012:task/conformance/0123456789abcdef0123456789abcdef"):
        with pytest.raises(ClientError) as caught:
            ecs.stop_task(cluster="conformance", task=reference)
        assert caught.value.response["Error"]["Code"] == "InvalidParameterException"
        assert caught.value.response["Error"]["Message"] == "The referenced task was not found."
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_missing_tasks_are_failures(ecs: Any) -> None:
    arn = start(ecs, "true")
    missing = arn[:-4] + "beef"
    answer = ecs.describe_tasks(cluster="conformance", tasks=[missing, arn])
    assert answer["failures"] == [{"arn": missing, "reason": "MISSING"}]
    assert [task["taskArn"] for task in answer["tasks"]] == [arn]
    short = arn.rpartition("/")[2]
    assert ecs.describe_tasks(cluster="conformance", tasks=[short])["tasks"][0]["taskArn"] == arn


def test_an_unknown_cluster(ecs: Any) -> None:
    with pytest.raises(ecs.exceptions.ClusterNotFoundException):
        ecs.run_task(**TARGET | {"cluster": "other"})
    with pytest.raises(ecs.exceptions.ClusterNotFoundException):
        ecs.describe_tasks(cluster="other", tasks=["a"])


def test_refused_run_tasks(ecs: Any) -> None:
    with pytest.raises(ecs.exceptions.InvalidParameterException, match="No Container Instances were found"):
        ecs.run_task(cluster="conformance", taskDefinition="conformance", launchType="EC2")
    with pytest.raises(ecs.exceptions.InvalidParameterException, match="is not a container in the TaskDefinition"):
        ecs.run_task(**TARGET, overrides={"containerOverrides": [{"name": "other", "command": ["true"]}]})
    with pytest.raises(ecs.exceptions.ClientException, match="task definition"):
        ecs.run_task(**TARGET | {"taskDefinition": "other"})


def test_an_image_that_is_not_there(ecs: Any) -> None:
    definition = {"name": "c", "image": "nowhere", "memory": 64, "command": ["true"]}
    ecs.register_task_definition(family="nowhere", containerDefinitions=[definition])
    task = ecs.run_task(**TARGET | {"taskDefinition": "nowhere"})["tasks"][0]
    stopped = reached(ecs, task["taskArn"], "STOPPED")
    assert stopped["stopCode"] == "TaskFailedToStart"
    assert stopped["stoppedReason"].startswith("CannotPullContainerError: ")
    assert "nowhere:latest" in stopped["stoppedReason"]
    assert stopped["containers"][0]["reason"].startswith("CannotPullContainerError: ")
    assert "exitCode" not in stopped["containers"][0]
    assert "startedAt" not in stopped


def test_a_program_that_is_not_there(ecs: Any) -> None:
    task = ecs.run_task(**TARGET, overrides=override(["no-such-program"]))["tasks"][0]
    stopped = reached(ecs, task["taskArn"], "STOPPED")
    assert stopped["stopCode"] == "TaskFailedToStart"
    assert stopped["stoppedReason"] == "Task failed to start"
    assert stopped["containers"][0]["reason"].startswith("CannotStartContainerError: ")
    assert 'exec: "no-such-program": executable file not found in $PATH' in stopped["containers"][0]["reason"]
    assert "startedAt" not in stopped


def test_all_of_a_container_ends_with_its_first_process(ecs: Any, server: Server) -> None:
    arn = start(ecs, "sleep 301 & echo $!; setsid sleep 302 & echo $!; (setsid sleep 303 >/dev/null 2>&1 & echo $!)")
    reached(ecs, arn, "STOPPED")
    pids = [int(line) for line in log_of(server, arn).split()]
    assert len(pids) == 3
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).name() == "sleep"]


# --- from outside ---


def test_kill_from_outside_reaches_the_tree(ecs: Any, server: Server) -> None:
    arn = start(ecs, "sleep 301 & setsid sleep 302 & echo $!; wait")
    reached(ecs, arn, "RUNNING")
    pid = server.admin.run(arn)["pid"]
    child = int(wait_for(lambda: log_of(server, arn).strip(), "the child"))
    assert psutil.pid_exists(pid)
    server.admin.kill(arn, signal.SIGKILL)
    stopped = reached(ecs, arn, "STOPPED")
    assert stopped["containers"][0]["exitCode"] == 137
    assert stopped["stopCode"] == "EssentialContainerExited"
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(child)
    with pytest.raises(HarnessError, match="no container at present"):
        server.admin.kill(arn)


def test_stop_from_outside(ecs: Any, server: Server) -> None:
    arn = start(ecs, "sleep 300")
    reached(ecs, arn, "RUNNING")
    server.admin.stop(arn.rpartition("/")[2], reason="somebody else")
    stopped = reached(ecs, arn, "STOPPED")
    assert (stopped["stopCode"], stopped["stoppedReason"]) == ("UserInitiated", "somebody else")
    assert stopped["containers"][0]["exitCode"] == 143


def test_out_of_memory(ecs: Any, server: Server) -> None:
    arn = start(ecs, "sleep 300")
    reached(ecs, arn, "RUNNING")
    server.admin.oom(arn)
    container = reached(ecs, arn, "STOPPED")["containers"][0]
    assert container["exitCode"] == 137
    assert container["reason"] == "OutOfMemoryError: Container killed due to memory usage"


def test_vanish_from_outside(ecs: Any, server: Server) -> None:
    arn = start(ecs, "sleep 300")
    reached(ecs, arn, "RUNNING")
    server.admin.vanish(arn)
    answer = ecs.describe_tasks(cluster="conformance", tasks=[arn])
    assert (answer["tasks"], answer["failures"]) == ([], [{"arn": arn, "reason": "MISSING"}])
    server.admin.kill(arn)
    wait_for(lambda: server.admin.run(arn)["status"] == "STOPPED", "the end of the container")


# --- faults of the data plane ---


def test_never_started(ecs: Any, server: Server) -> None:
    server.admin.add_fault(point="start", service="ecs", times=1, action={"type": "never"})
    arn = start(ecs, "true")
    reached(ecs, arn, "PENDING")
    wait_for(lambda: server.admin.run(arn)["next"] == "", "rest")
    assert reached(ecs, start(ecs, "true"), "STOPPED")["containers"][0]["exitCode"] == 0  # another task passes
    assert describe(ecs, arn)["lastStatus"] == "PENDING"
    ecs.stop_task(cluster="conformance", task=arn, reason="given up")
    stopped = reached(ecs, arn, "STOPPED")
    assert (stopped["stopCode"], stopped["stoppedReason"]) == ("UserInitiated", "given up")
    assert "startedAt" not in stopped
    assert "exitCode" not in stopped["containers"][0]


def test_image_missing_fault(ecs: Any, server: Server) -> None:
    server.admin.add_fault(point="start", service="ecs", times=1, action={"type": "image-missing"})
    assert reached(ecs, start(ecs, "true"), "STOPPED")["stopCode"] == "TaskFailedToStart"
    assert reached(ecs, start(ecs, "true"), "STOPPED")["stopCode"] == "EssentialContainerExited"


def test_killed_before_start(ecs: Any, server: Server) -> None:
    server.admin.add_fault(point="start", service="ecs", times=1, action={"type": "killed-before-start"})
    marker = server.folder.parent / "never-made"
    arn = start(ecs, f"touch {marker}")
    stopped = reached(ecs, arn, "STOPPED")
    assert stopped["containers"][0]["exitCode"] == 137
    assert "startedAt" in stopped
    assert not marker.exists()
    assert server.admin.run(arn)["pid"] is None


def test_no_exit_code(ecs: Any, server: Server) -> None:
    server.admin.add_fault(point="report", service="ecs", times=1, action={"type": "no-exit-code"})
    stopped = reached(ecs, start(ecs, "true"), "STOPPED")
    assert "startedAt" in stopped
    assert "exitCode" not in stopped["containers"][0]


def test_the_record_vanishes(ecs: Any, server: Server) -> None:
    server.admin.add_fault(point="report", service="ecs", times=1, action={"type": "vanish"})
    arn = start(ecs, "true")
    seen = []

    def is_missing() -> bool:
        answer = ecs.describe_tasks(cluster="conformance", tasks=[arn])
        seen.extend(task["lastStatus"] for task in answer["tasks"])
        return bool(answer["failures"])

    wait_for(is_missing, "MISSING")
    assert "STOPPED" not in seen
    assert server.admin.run(arn)["exit_code"] == 0


# --- faults of the API ---


def test_error_fault_with_skip_and_times(ecs: Any, server: Server) -> None:
    action = {"type": "error", "code": "ThrottlingException", "status": 400, "message": "Rate exceeded"}
    fault = server.admin.add_fault(service="ecs", operation="RunTask", skip=1, times=2, action=action)
    since = server.admin.calls()[-1]["n"]
    seen = []
    for _ in range(4):
        try:
            start(ecs, "true")
            seen.append("")
        except ClientError as error:
            seen.append(error.response["Error"]["Code"])
    assert seen == ["", "ThrottlingException", "ThrottlingException", ""]
    assert [entry["hits"] for entry in server.admin.faults()] == [2]
    calls = [call for call in server.admin.calls(since) if call["operation"] == "RunTask"]
    assert [call["status"] for call in calls] == [200, 400, 400, 200]
    assert [call["fault"] for call in calls] == [None, fault, fault, None]
    assert set(calls[0]) == {"n", "at", "service", "operation", "status", "fault"}
    with pytest.raises(HarnessError, match="no fault"):
        server.admin.remove_fault("fault-0")


@pytest.mark.parametrize(("code", "status"), [("AccessDeniedException", 400), ("ServerException", 500)])
def test_other_errors(ecs: Any, server: Server, code: str, status: int) -> None:
    action = {"type": "error", "code": code, "status": status, "message": "said so"}
    server.admin.add_fault(service="ecs", operation="*", times=1, action=action)
    with pytest.raises(ClientError) as caught:
        ecs.list_clusters()
    assert caught.value.response["Error"] == {"Code": code, "Message": "said so"} | {
        key: value for key, value in caught.value.response["Error"].items() if key not in ("Code", "Message")
    }
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_failures_and_neither(ecs: Any, server: Server) -> None:
    action = {"type": "failures", "reason": "RESOURCE:MEMORY"}
    server.admin.add_fault(service="ecs", operation="RunTask", times=1, action=action)
    answer = ecs.run_task(**TARGET)
    assert answer["tasks"] == []
    assert answer["failures"][0]["reason"] == "RESOURCE:MEMORY"
    server.admin.add_fault(service="ecs", operation="RunTask", times=1, action={"type": "empty"})
    answer = ecs.run_task(**TARGET)
    assert (answer["tasks"], answer["failures"]) == ([], [])


def test_close_and_drop_response(ecs: Any, server: Server) -> None:
    before = len(server.admin.runs())
    server.admin.add_fault(service="ecs", operation="RunTask", times=1, action={"type": "close"})
    with pytest.raises((ConnectionClosedError, BotoCoreError)):
        start(ecs, "true")
    assert len(server.admin.runs()) == before
    server.admin.add_fault(service="ecs", operation="RunTask", times=1, action={"type": "drop-response"})
    with pytest.raises((ConnectionClosedError, BotoCoreError)):
        start(ecs, "true")
    assert len(server.admin.runs()) == before + 1
    assert server.admin.calls()[-1]["status"] is None


def test_hang_and_delay(ecs: Any, server: Server) -> None:
    fault = server.admin.add_fault(service="ecs", operation="ListClusters", times=1, action={"type": "hang"})
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ecs.list_clusters()), daemon=True)
    thread.start()
    wait_for(lambda: server.admin.faults()[0]["hits"] == 1, "the request")
    assert not answers
    server.admin.remove_fault(fault)
    thread.join(10)
    assert answers[0]["clusterArns"]
    server.admin.add_fault(service="ecs", operation="ListClusters", times=1, action={"type": "delay", "seconds": 0.3})
    begin = time.monotonic()
    ecs.list_clusters()
    assert time.monotonic() - begin >= 0.3


def test_a_fault_that_makes_no_sense_is_refused(server: Server) -> None:
    for rule in (
        {"service": "s3", "operation": "*", "action": {"type": "close"}},
        {"service": "ecs", "operation": "DescribeTasks", "action": {"type": "empty"}},
        {"service": "ecs", "point": "middle", "action": {"type": "never"}},
        {"service": "ecs", "action": {"type": "never"}},
        {"service": "ecs", "operation": "*", "action": {"type": "delay"}},
        {"service": "ecs", "operation": "*", "action": {"type": "close"}, "times": 0},
        {"service": "ecs", "operation": "*", "action": {"type": "close"}, "what": 0},
        {"service": "ecs", "operation": ["a"], "action": {"type": "close"}},
        {"service": "ecs", "operation": "*", "action": {"type": ["close"]}},
    ):
        with pytest.raises(HarnessError, match="refuses"):
            server.admin.add_fault(**rule)
    assert server.admin.faults() == []


def test_the_admin_api_needs_its_token(server: Server) -> None:
    import http.client

    host, _, port = server.admin.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", "/_admin/runs", headers={"Authorization": "Bearer wrong"})
    response = connection.getresponse()
    assert response.status == 401
    assert "token" in json.loads(response.read())["error"]
    connection.close()
    with pytest.raises(HarnessError, match="no run"):
        server.admin.kill("other")


def test_images_may_be_replaced(ecs: Any, server: Server) -> None:
    with pytest.raises(HarnessError, match="must be an object"):
        server.admin.set_images({"a": 1})


def test_many_at_once(ecs: Any) -> None:
    arns = []
    for _ in range(3):
        arns += [task["taskArn"] for task in ecs.run_task(**TARGET, count=10, overrides=override(["true"]))["tasks"]]
    wait_for(
        lambda: all(
            task["lastStatus"] == "STOPPED" for task in ecs.describe_tasks(cluster="conformance", tasks=arns)["tasks"]
        ),
        "all",
    )
