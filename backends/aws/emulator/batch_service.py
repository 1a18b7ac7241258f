"""Batch jobs that run: what happens to a job after SubmitJob has accepted it.

States: "Job states" of the user guide; reasons as DescribeJobs words them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.backends.aws.emulator.dataplane import DataPlane, Outcome, Run
from executor_conformance.backends.aws.emulator.ecs_service import merged_environment

ESSENTIAL = "Essential container in task exited"
_MILLISECONDS = 1000


@dataclass
class JobRecord:
    """What DescribeJobs says beside what moto knows; times in seconds since the epoch."""

    created_at: float
    attempts_allowed: int
    started_at: float | None = None
    stopped_at: float | None = None
    status_reason: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)

    def overlay(self, description: dict[str, Any], short: bool) -> None:
        """Put AWS's fields into moto's description."""
        times = {"createdAt": self.created_at, "startedAt": self.started_at, "stoppedAt": self.stopped_at}
        for key, value in times.items():
            description.pop(key, None)
            if value is not None:
                description[key] = int(value * _MILLISECONDS)
        description.pop("statusReason", None)
        if self.status_reason:
            description["statusReason"] = self.status_reason
        container = {} if short else description.setdefault("container", {})
        if short and (self.exit_code is not None or self.reason):
            description["container"] = container
        container.pop("exitCode", None)
        container |= {} if self.exit_code is None else {"exitCode": self.exit_code}
        container |= {"reason": self.reason} if self.reason else {}
        if not short:
            description["attempts"] = list(self.attempts)


class BatchService:
    """Runs jobs; jobs are objects of moto (``seams`` gives them ``record``)."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane

    def accept(self, job: Any) -> None:
        """Take up a job that was submitted."""
        submission = json.dumps([job.container_overrides, job.parameters])
        self.plane.add(Run("batch", job.job_id, "SUBMITTED", submission=submission))

    def terminate(self, job_id: str, reason: str) -> None:
        """TerminateJob: FAILED with the reason, whatever it is doing; nothing once it has ended."""
        if (run := self.plane.get(job_id)) is not None:
            run.stop(reason, "UserInitiated", self.plane.stop_timeout)

    def terminate_planted(self, job: Any, reason: str) -> None:
        """TerminateJob for a job that has no container, which was planted."""
        if self.plane.get(job.job_id) is None and job.status not in ("SUCCEEDED", "FAILED"):
            job.status, job.job_stopped = "FAILED", True
            job.record.status_reason, job.record.stopped_at = reason, time.time()

    def cancel(self, job_id: str, reason: str) -> None:
        """CancelJob: as ``terminate``, but only for a job that has not come to STARTING."""
        run = self.plane.get(job_id)
        if run is not None and run.status in ("SUBMITTED", "PENDING", "RUNNABLE"):
            self.terminate(job_id, reason)

    def live(self, job: Any, properties: dict[str, Any], wait_for_dependencies: Any) -> None:
        """Of the job's thread: all of its attempts."""
        run = self.plane.get(job.job_id)
        assert run is not None
        record: JobRecord = job.record
        self._state(run, job, "PENDING")
        if job.depends_on and not wait_for_dependencies():
            record.status_reason = run.stop_reason or "Dependent Job failed"
            self._end(run, job, False)
            return
        while True:
            self._state(run, job, "RUNNABLE")
            outcome = self._attempt(run, job, properties)
            if outcome.failure == "stopped":
                record.status_reason = run.stop_reason
                self._end(run, job, False)
                return
            self._note_attempt(run, job, outcome)
            done = outcome.exit_code == 0 and not outcome.failure and not run.stopping.is_set()
            if done or run.stopping.is_set() or run.attempt >= record.attempts_allowed:
                self._end(run, job, done)
                return
            run.attempt += 1
            record.exit_code = record.reason = record.status_reason = run.exit_code = None
            record.started_at = None

    def _attempt(self, run: Run, job: Any, properties: dict[str, Any]) -> Outcome:
        env = merged_environment(properties["environment"])
        env |= {"AWS_BATCH_JOB_ID": job.job_id, "AWS_BATCH_JOB_ATTEMPT": str(run.attempt)}
        env |= {"AWS_BATCH_JQ_NAME": properties["queue"]}

        def running() -> None:
            job.record.started_at = time.time()
            self._state(run, job, "RUNNING")

        return self.plane.carry_out(
            run,
            properties["image"],
            properties["command"],
            env,
            running,
            properties["timeout"],
            on_starting=lambda: self._state(run, job, "STARTING"),
        )

    def _note_attempt(self, run: Run, job: Any, outcome: Outcome) -> None:
        record: JobRecord = job.record
        record.stopped_at = outcome.stopped_at
        record.reason = outcome.reason or None
        record.status_reason = "Task failed to start" if outcome.failure else ESSENTIAL
        if outcome.timed_out:
            record.status_reason = "Job attempt duration exceeded timeout"
        elif run.stop_reason:
            record.status_reason = run.stop_reason
        if not outcome.failure:
            record.started_at = outcome.started_at
            run.exit_code = record.exit_code = outcome.exit_code
        container: dict[str, Any] = {"networkInterfaces": [], "logStreamName": f"conformance/default/{job.job_id}"}
        container |= {} if record.exit_code is None else {"exitCode": record.exit_code}
        container |= {"reason": record.reason} if record.reason else {}
        attempt: dict[str, Any] = {"container": container, "statusReason": record.status_reason}
        attempt["stoppedAt"] = int(outcome.stopped_at * _MILLISECONDS)
        if outcome.started_at is not None:
            attempt["startedAt"] = int(outcome.started_at * _MILLISECONDS)
        record.attempts.append(attempt)

    def _end(self, run: Run, job: Any, success: bool) -> None:
        record: JobRecord = job.record
        record.stopped_at = record.stopped_at or time.time()
        fault = self.plane.report_fault(run) if record.attempts and record.started_at is not None else None
        if fault and fault.type == "no-exit-code":
            # what is left of a job whose host went away
            success = False
            record.exit_code = record.reason = None
            record.attempts[-1]["container"].pop("exitCode", None)
            record.status_reason = "Host EC2 (instance i-0c0f0e0d0a0b01234) terminated."
            record.attempts[-1]["statusReason"] = record.status_reason
        if fault and fault.type == "vanish":
            self.plane.lose(run)
        status = "SUCCEEDED" if success else "FAILED"
        self._state(run, job, status, settled=True)

    @staticmethod
    def _state(run: Run, job: Any, status: str, settled: bool = False) -> None:
        job.status = status
        if settled:
            job.job_stopped = True
            run.settle(status)
        else:
            run.status = status
