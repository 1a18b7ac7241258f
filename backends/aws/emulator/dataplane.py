"""The data plane: records of runs, and the life of one container from its start to its end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.backends.aws.emulator.faults import Fault, Faults
from executor_conformance.backends.aws.emulator.runner import Handle, ImageMissing, Images, Runner, StartFailed
from executor_conformance.harness.errors import UsageError

STARTING = "the container is being started"
REPORTING = "the end is being reported"
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
_KILL_BOUND = 10.0


@dataclass
class Outcome:
    """How an attempt ended; times in seconds since the epoch.

    ``failure`` is empty for a container that was started, else why it was not: 'image', 'start' or 'stopped'.
    ``reason`` is the container's own. ``host_lost``: nobody knows the exit code.
    """

    failure: str = ""
    reason: str = ""
    exit_code: int | None = None
    started_at: float | None = None
    stopped_at: float = 0.0
    timed_out: bool = False


@dataclass
class Run:
    """A task, a job or an invocation; over its attempts, if it has several."""

    service: str
    id: str
    status: str
    pid: int | None = None
    container_id: str | None = None
    attempt: int = 1
    exit_code: int | None = None
    env_names: list[str] = field(default_factory=list)
    note: str = ""
    """What will still happen by itself, without the time."""
    note_until: float | None = None
    """When, of the monotonic clock."""
    stop_reason: str = ""
    stop_code: str = ""
    out_of_memory: bool = False
    vanished: bool = False
    submission: str = ""
    """What the request that was accepted says of the workload, as text."""
    repeated: bool = False
    """The service carries out once more what it accepted before; no request asked for it."""
    accepted: float = field(default_factory=time.monotonic)
    over: float | None = None
    """When it ended, of the monotonic clock."""

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.handle: Handle | None = None
        self.timer: threading.Timer | None = None
        self.stop_timeout = 0.0

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    def expect(self, note: str, seconds: float | None = None) -> None:
        """Say what will still happen by itself, and in how many seconds if that is known."""
        self.note, self.note_until = note, None if seconds is None else time.monotonic() + seconds

    def describe(self) -> dict[str, Any]:
        """As the admin API shows it."""
        with self.lock:
            until = self.note_until
            note = self.note if until is None else f"{self.note} in {max(0.0, until - time.monotonic()):.1f} s"
            return {
                "service": self.service,
                "id": self.id,
                "status": self.status,
                "pid": self.pid,
                "container_id": self.container_id,
                "attempt": self.attempt,
                "exit_code": self.exit_code,
                "env_names": self.env_names,
                "next": note,
            }

    def stop(self, reason: str, code: str, timeout: float) -> None:
        """SIGTERM to the container, SIGKILL after ``timeout`` seconds; the first reason counts."""
        with self.lock:
            if self.stopping.is_set() or self.ended:
                return
            self.stop_reason, self.stop_code, self.stop_timeout = reason, code, timeout
            self.stopping.set()
            self._terminate()

    def _terminate(self) -> None:
        if self.handle is None:
            return
        self.handle.kill(signal.SIGTERM)
        self.timer = threading.Timer(self.stop_timeout, self.handle.kill, [signal.SIGKILL])
        self.timer.daemon = True
        self.timer.start()
        self.expect("stop timeout ends", self.stop_timeout)

    def begin(self, handle: Handle) -> None:
        """Its container runs; a stop that was asked for meanwhile reaches it now."""
        with self.lock:
            self.handle, self.pid, self.container_id = handle, handle.pid, handle.container_id
            self.expect("")
            if self.stopping.is_set() and not self.vanished:
                self._terminate()

    def finish(self) -> None:
        """Its container is gone."""
        with self.lock:
            if self.timer is not None:
                self.timer.cancel()
            self.handle = self.timer = self.pid = None
            self.expect(REPORTING)

    def settle(self, status: str) -> None:
        """It is over: nothing will happen to it any more."""
        with self.lock:
            self.status = status
            self.over = time.monotonic()
            self.expect("")


class DataPlane:
    """All runs, the faults, and what starts containers."""

    def __init__(self, runner: Runner, images: Images, faults: Faults, stop_timeout: float) -> None:
        self.runner, self.images, self.faults = runner, images, faults
        self.stop_timeout = stop_timeout
        self.vanish: dict[str, Callable[[str], None]] = {}
        """By service: take the record with this id out of the control plane."""
        self.stop: dict[str, Callable[[str, str], None]] = {}
        """By service: stop the run with this id for this reason, as its user would."""
        self.locks = {name: threading.RLock() for name in ("ecs", "batch", "lambda", "sqs")}
        """Requests to moto's models, which do not expect to be changed while they are listed."""
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def add(self, run: Run) -> Run:
        """Take up a run."""
        with self._lock:
            self._runs[run.id] = run
        return run

    def get(self, identity: str) -> Run | None:
        """The run with this id, or the ARN that ends with it."""
        with self._lock:
            if identity in self._runs:
                return self._runs[identity]
            return next((run for run in self._runs.values() if run.id.rpartition("/")[2] == identity), None)

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        with self._lock:
            return list(self._runs.values())

    def deliveries(self, workload: str) -> list[dict[str, Any]]:
        """The accepted requests that carry the id of a workload, oldest first, those of forgotten runs too."""
        return [
            {"id": run.id, "accepted": run.accepted, "ended": run.over}
            for run in self.runs()
            if workload in run.submission and not run.repeated
        ]

    def start_fault(self, run: Run) -> Fault | None:
        """The fault that this attempt's start has to meet."""
        return self.faults.take(run.service, "start", "point")

    def report_fault(self, run: Run) -> Fault | None:
        """The fault that the report of this run's end has to meet."""
        return self.faults.take(run.service, "report", "point")

    def carry_out(
        self,
        run: Run,
        image_name: str,
        command: list[str],
        env: dict[str, str],
        on_running: Callable[[], None],
        timeout: float | None = None,
        on_starting: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """One attempt: start a container, wait for its end; ``timeout`` (seconds) stops it as its user would."""
        run.expect(STARTING)
        fault = self.start_fault(run)
        kind = fault.type if fault else ""
        if kind == "never":
            run.expect("")
            run.stopping.wait()
        if run.stopping.is_set():
            return Outcome(failure="stopped", stopped_at=time.time())
        on_starting()
        try:
            if kind == "image-missing":
                raise ImageMissing(image_name)
            image = self.images.get(image_name)
            complete = dict(image.env) | env
            run.env_names = sorted(complete)
            if kind == "killed-before-start":
                return Outcome(exit_code=137, started_at=time.time(), stopped_at=time.time())
            name = f"{run.service}-{run.id.rpartition('/')[2]}" + (f"-{run.attempt}" if run.attempt > 1 else "")
            handle = self.runner.start(image, [*image.entrypoint, *command], complete, name)
        except ImageMissing:
            return Outcome(failure="image", reason=pull_error(image_name), stopped_at=time.time())
        except StartFailed as error:
            return Outcome(failure="start", reason=create_error(str(error)), stopped_at=time.time())
        outcome = Outcome(started_at=time.time())
        run.begin(handle)
        on_running()
        outcome.exit_code = handle.wait(timeout)
        if outcome.exit_code is None:
            outcome.timed_out = True
            run.stop("", "", self.stop_timeout)
            outcome.exit_code = handle.wait(self.stop_timeout + _KILL_BOUND)
        outcome.stopped_at = time.time()
        run.exit_code = outcome.exit_code
        run.finish()
        if run.out_of_memory:
            outcome.reason = OUT_OF_MEMORY
        return outcome

    def kill(self, run: Run, number: int) -> None:
        """Signal the run's container from outside.

        :raises UsageError: it has none at present.
        """
        with run.lock:
            if run.handle is None:
                raise UsageError(f"The run {run.id} has no container at present; its status is {run.status}.")
            run.handle.kill(number)

    def exhaust_memory(self, run: Run) -> None:
        """Kill the run's container as the kernel does when its memory is used up.

        :raises UsageError: it has none at present.
        """
        run.out_of_memory = True
        try:
            self.kill(run, signal.SIGKILL)
        except UsageError:
            run.out_of_memory = False
            raise

    def lose(self, run: Run) -> None:
        """Make the control plane forget the run, for good; its container is left alone."""
        run.vanished = True
        self.vanish[run.service](run.id)


def pull_error(image: str) -> str:
    """A missing image in the words of the ECS agent on Fargate."""
    name = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
    return (
        "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
        f"docker.io/library/{name}: pull access denied, repository does not exist or may require authorization: "
        "server message: insufficient_scope: authorization failed"
    )


def create_error(problem: str) -> str:
    """A container that cannot be started in the words of the ECS agent."""
    return (
        "CannotStartContainerError: Error response from daemon: failed to create task for container: failed to "
        "create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
        f"{problem}"
    )
