"""Batch as a client of AWS sees it; API reference 2016-08-10 and the user guide's job states."""

from __future__ import annotations

import re
import time
from typing import Any

import psutil
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from executor_conformance.harness.errors import HarnessError

from tests.aws_emulator.support import Server, script, wait_for

TARGET = {"jobQueue": "conformance", "jobDefinition": "conformance"}
STATES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
SERVICE = "batch"

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.fixture(scope="module")
def batch(server: Server) -> Any:
    return server.client("batch")


def submit(batch: Any, text: str, env: dict[str, str] | None = None, **options: Any) -> str:
    environment = [{"name": name, "value": value} for name, value in (env or {}).items()]
    overrides = {"command": script(text), "environment": environment}
    return batch.submit_job(jobName="a-job", **TARGET, containerOverrides=overrides, **options)["jobId"]


def describe(batch: Any, job_id: str) -> dict[str, Any]:
    return batch.describe_jobs(jobs=[job_id])["jobs"][0]


def reached(batch: Any, job_id: str, *states: str) -> dict[str, Any]:
    return wait_for(lambda: (job := describe(batch, job_id))["status"] in states and job, f"{states} of {job_id}")


def ended(batch: Any, job_id: str) -> dict[str, Any]:
    return reached(batch, job_id, "SUCCEEDED", "FAILED")


def log_of(server: Server, job_id: str) -> str:
    file = server.folder / "logs" / f"batch-{job_id}.log"
    return file.read_text() if file.exists() else ""


def test_resources(batch: Any) -> None:
    assert batch.describe_compute_environments()["computeEnvironments"][0]["state"] == "ENABLED"
    assert batch.describe_job_queues(jobQueues=["conformance"])["jobQueues"][0]["state"] == "ENABLED"
    definition = batch.describe_job_definitions(jobDefinitionName="conformance")["jobDefinitions"][0]
    assert definition["retryStrategy"] == {"attempts": 1}
    assert definition["containerProperties"]["image"] == "conformance-worker"


def test_a_job_runs_and_succeeds(batch: Any, server: Server) -> None:
    gate = server.folder.parent / "gate"
    before = time.time() * 1000
    answer = batch.submit_job(
        jobName="a-job",
        **TARGET,
        containerOverrides={"command": script(f"until [ -e {gate} ]; do sleep 0.05; done")},
    )
    assert set(answer) - {"ResponseMetadata"} == {"jobId", "jobName", "jobArn"}
    job_id = answer["jobId"]
    first = describe(batch, job_id)
    assert first["status"] in STATES[:5]
    assert "stoppedAt" not in first
    running = reached(batch, job_id, "RUNNING")
    assert running["createdAt"] <= running["startedAt"]
    assert "exitCode" not in running["container"]
    summaries = batch.list_jobs(jobQueue="conformance", jobStatus="RUNNING")["jobSummaryList"]
    assert job_id in [summary["jobId"] for summary in summaries]
    gate.touch()
    job = ended(batch, job_id)
    assert job["status"] == "SUCCEEDED"
    assert job["statusReason"] == "Essential container in task exited"
    assert job["container"]["exitCode"] == 0
    assert before - 1000 < job["createdAt"] <= job["startedAt"] < job["stoppedAt"] < time.time() * 1000 + 1
    (attempt,) = job["attempts"]
    assert attempt["container"]["exitCode"] == 0
    assert attempt["statusReason"] == "Essential container in task exited"
    assert attempt["startedAt"] <= attempt["stoppedAt"]
    (summary,) = (
        found
        for found in batch.list_jobs(jobQueue="conformance", jobStatus="SUCCEEDED")["jobSummaryList"]
        if found["jobId"] == job_id
    )
    assert summary["container"]["exitCode"] == 0
    run = server.admin.run(job_id)
    assert (run["service"], run["status"], run["exit_code"], run["next"]) == ("batch", "SUCCEEDED", 0, "")


def test_a_job_fails_with_its_exit_code(batch: Any) -> None:
    job = ended(batch, submit(batch, "exit 3"))
    assert job["status"] == "FAILED"
    assert job["container"]["exitCode"] == 3
    assert job["statusReason"] == "Essential container in task exited"


@pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 143)])
def test_a_signal_is_128_more(batch: Any, number: int, code: int) -> None:
    assert ended(batch, submit(batch, f"kill -{number} $$"))["container"]["exitCode"] == code


def test_the_environment(batch: Any, server: Server) -> None:
    job_id = submit(batch, "env", {"ADDED": "1"})
    job = ended(batch, job_id)
    names = dict(line.partition("=")[::2] for line in log_of(server, job_id).splitlines())
    assert (names["ADDED"], names["FROM_IMAGE"], names["AWS_BATCH_JOB_ID"]) == ("1", "yes", job_id)
    assert names["AWS_BATCH_JOB_ATTEMPT"] == "1"
    shell = {"PWD", "SHLVL", "_", "OLDPWD", "HOSTNAME", "PATH"}
    assert {name for name in names if not name.startswith("AWS_BATCH_")} - shell == {"ADDED", "FROM_IMAGE"}
    describe(batch, job_id)
    assert describe(batch, job_id)["container"]["environment"] == job["container"]["environment"]
    assert job["container"]["command"] == script("env")


def test_attempts(batch: Any, server: Server) -> None:
    job_id = submit(batch, '[ "$AWS_BATCH_JOB_ATTEMPT" = 3 ] || exit 9', retryStrategy={"attempts": 4})
    job = ended(batch, job_id)
    assert job["status"] == "SUCCEEDED"
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [9, 9, 0]
    assert server.admin.run(job_id)["attempt"] == 3
    job = ended(batch, submit(batch, "exit 9", retryStrategy={"attempts": 2}))
    assert (job["status"], len(job["attempts"])) == ("FAILED", 2)


def test_terminate_job(batch: Any, server: Server) -> None:
    job_id = submit(batch, "trap '' TERM; echo ready; while :; do sleep 0.05; done", retryStrategy={"attempts": 3})
    reached(batch, job_id, "RUNNING")
    wait_for(lambda: "ready" in log_of(server, job_id), "the trap")
    batch.terminate_job(jobId=job_id, reason="no longer wanted")
    assert re.fullmatch(r"stop timeout ends in [01]\.\d s", server.admin.run(job_id)["next"])
    job = ended(batch, job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "no longer wanted")
    assert job["container"]["exitCode"] == 137
    assert len(job["attempts"]) == 1
    batch.terminate_job(jobId=job_id, reason="again")
    assert describe(batch, job_id)["statusReason"] == "no longer wanted"


def test_cancel_job_only_before_the_start(batch: Any, server: Server) -> None:
    running = submit(batch, "sleep 300")
    reached(batch, running, "RUNNING")
    batch.cancel_job(jobId=running, reason="too late")
    server.admin.add_fault(point="start", service="batch", times=1, action={"type": "never"})
    waiting = submit(batch, "true")
    reached(batch, waiting, "RUNNABLE")
    batch.cancel_job(jobId=waiting, reason="changed my mind")
    job = ended(batch, waiting)
    assert (job["status"], job["statusReason"]) == ("FAILED", "changed my mind")
    assert "startedAt" not in job
    assert "exitCode" not in job["container"]
    assert describe(batch, running)["status"] == "RUNNING"
    batch.terminate_job(jobId=running, reason="enough")
    assert ended(batch, running)["container"]["exitCode"] == 143


def test_a_job_waits_for_the_one_it_depends_on(batch: Any) -> None:
    first = submit(batch, "exit 1")
    second = submit(batch, "true", dependsOn=[{"jobId": first}])
    assert ended(batch, second)["status"] == "FAILED"
    third = submit(batch, "true", dependsOn=[{"jobId": submit(batch, "true")}])
    assert ended(batch, third)["status"] == "SUCCEEDED"


def test_attempt_duration(batch: Any, server: Server) -> None:
    definition = batch.register_job_definition(
        jobDefinitionName="short",
        type="container",
        containerProperties={"image": "conformance-worker", "vcpus": 1, "memory": 64, "command": ["sleep", "300"]},
        timeout={"attemptDurationSeconds": 1},
    )
    job_id = batch.submit_job(jobName="long", jobQueue="conformance", jobDefinition=definition["jobDefinitionArn"])[
        "jobId"
    ]
    job = ended(batch, job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Job attempt duration exceeded timeout")


def test_refused_submissions(batch: Any) -> None:
    for wrong in ({"jobDefinition": "other"}, {"jobQueue": "other"}):
        with pytest.raises(ClientError) as caught:
            batch.submit_job(jobName="a-job", **TARGET | wrong)
        assert caught.value.response["Error"]["Code"] == "ClientException"
    assert batch.describe_jobs(jobs=["00000000-0000-0000-0000-000000000000"])["jobs"] == []


def test_an_image_that_is_not_there(batch: Any) -> None:
    properties = {"image": "nowhere", "vcpus": 1, "memory": 64, "command": ["true"]}
    batch.register_job_definition(jobDefinitionName="nowhere", type="container", containerProperties=properties)
    job_id = batch.submit_job(jobName="a-job", jobQueue="conformance", jobDefinition="nowhere")["jobId"]
    job = ended(batch, job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith("CannotPullContainerError: ")
    assert "exitCode" not in job["container"]
    assert job["attempts"][0]["container"]["reason"].startswith("CannotPullContainerError: ")


def test_a_program_that_is_not_there(batch: Any) -> None:
    overrides = {"command": ["no-such-program"]}
    job_id = batch.submit_job(jobName="a-job", **TARGET, containerOverrides=overrides)["jobId"]
    job = ended(batch, job_id)
    assert job["statusReason"] == "Task failed to start"
    assert job["container"]["reason"].startswith("CannotStartContainerError: ")


# --- from outside, and faults ---


def test_kill_oom_and_stop_from_outside(batch: Any, server: Server) -> None:
    jobs = [submit(batch, "sleep 300") for _ in range(3)]
    for job_id in jobs:
        reached(batch, job_id, "RUNNING")
    pid = server.admin.run(jobs[0])["pid"]
    server.admin.kill(jobs[0])
    server.admin.oom(jobs[1])
    server.admin.stop(jobs[2], reason="somebody else")
    assert ended(batch, jobs[0])["container"]["exitCode"] == 137
    assert not psutil.pid_exists(pid)
    assert ended(batch, jobs[1])["container"]["reason"].startswith("OutOfMemoryError")
    assert ended(batch, jobs[2])["statusReason"] == "somebody else"


def test_never_started(batch: Any, server: Server) -> None:
    server.admin.add_fault(point="start", service="batch", times=1, action={"type": "never"})
    job_id = submit(batch, "true")
    reached(batch, job_id, "RUNNABLE")
    wait_for(lambda: server.admin.run(job_id)["next"] == "", "rest")
    assert ended(batch, submit(batch, "true"))["status"] == "SUCCEEDED"
    assert describe(batch, job_id)["status"] == "RUNNABLE"
    batch.terminate_job(jobId=job_id, reason="given up")
    assert ended(batch, job_id)["statusReason"] == "given up"


@pytest.mark.parametrize("kind", ["image-missing", "killed-before-start"])
def test_faults_at_the_start(batch: Any, server: Server, kind: str) -> None:
    server.admin.add_fault(point="start", service="batch", times=1, action={"type": kind})
    job = ended(batch, submit(batch, "true", retryStrategy={"attempts": 2}))
    assert job["status"] == "SUCCEEDED"
    first = job["attempts"][0]["container"]
    assert first.get("exitCode") == (137 if kind == "killed-before-start" else None)


def test_no_exit_code(batch: Any, server: Server) -> None:
    server.admin.add_fault(point="report", service="batch", times=1, action={"type": "no-exit-code"})
    job = ended(batch, submit(batch, "true"))
    assert job["status"] == "FAILED"
    assert "startedAt" in job
    assert "exitCode" not in job["container"]


def test_the_record_vanishes(batch: Any, server: Server) -> None:
    server.admin.add_fault(point="report", service="batch", times=1, action={"type": "vanish"})
    job_id = submit(batch, "true")
    wait_for(lambda: batch.describe_jobs(jobs=[job_id])["jobs"] == [], "the record to vanish")
    wait_for(lambda: server.admin.run(job_id)["exit_code"] == 0, "the run's end")
    assert job_id not in [job["jobId"] for job in batch.list_jobs(jobQueue="conformance")["jobSummaryList"]]


def test_faults_of_the_api(batch: Any, server: Server) -> None:
    action = {"type": "error", "code": "TooManyRequestsException", "status": 429, "message": "Too Many Requests"}
    server.admin.add_fault(service="batch", operation="SubmitJob", times=1, action=action)
    with pytest.raises(ClientError) as caught:
        submit(batch, "true")
    assert caught.value.response["Error"]["Code"] == "TooManyRequestsException"
    assert caught.value.response["Error"]["Message"] == "Too Many Requests"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    server.admin.add_fault(service="batch", operation="DescribeJobs", times=1, action={"type": "close"})
    with pytest.raises(BotoCoreError):
        batch.describe_jobs(jobs=["a"])
    before = len(server.admin.runs())
    server.admin.add_fault(service="batch", operation="SubmitJob", times=1, action={"type": "drop-response"})
    with pytest.raises(BotoCoreError):
        submit(batch, "true")
    assert len(server.admin.runs()) == before + 1
    assert [call["operation"] for call in server.admin.calls()][-3:] == ["SubmitJob", "DescribeJobs", "SubmitJob"]


def test_a_hanging_request_whose_client_has_gone_is_not_carried_out(batch: Any, server: Server) -> None:
    import boto3
    from botocore.config import Config

    impatient = boto3.client(
        "batch",
        region_name="us-east-1",
        endpoint_url=server.admin.url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=1),
    )
    server.admin.add_fault(service="batch", operation="SubmitJob", times=1, action={"type": "hang"})
    before = len(server.admin.runs())
    with pytest.raises(BotoCoreError):
        submit(impatient, "true")
    server.admin.clear_faults()
    assert ended(batch, submit(batch, "true"))["status"] == "SUCCEEDED"
    assert len(server.admin.runs()) == before + 1
    with pytest.raises(HarnessError, match="no run"):
        server.admin.vanish("other")
