"""Lambda functions that run: the asynchronous queue with retries and dead letters, and the warm runtimes.

Rules: "How Lambda handles errors and retries with asynchronous invocation" of the developer guide.
"""

from __future__ import annotations

import signal
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.backends.aws.emulator.dataplane import STARTING, DataPlane, Run
from executor_conformance.backends.aws.emulator.runner import Handle, ImageMissing, StartFailed
from executor_conformance.backends.aws.emulator.runtime_api import Answer, Call, Runtime, failure
from executor_conformance.harness.errors import UsageError

KEPT = 50
"""How many of the last invocations can be carried out again."""
RETRIES = 2
"""How often Lambda tries an asynchronous invocation again after an error, unless configured otherwise."""


@dataclass(frozen=True)
class Function:
    """A function as the control plane has it; ``timeout`` in seconds, ``memory`` in MB."""

    arn: str
    name: str
    version: str
    image: str
    argv: tuple[str, ...]
    working_dir: str
    timeout: float
    memory: int
    retries: int = RETRIES
    dead_letter_arn: str = ""
    env: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for functions that may share a warm runtime."""
        return (self.arn, self.version, self.image, self.argv, self.working_dir, tuple(sorted(self.env.items())))


@dataclass
class Invocation:
    """One accepted invocation; ``answer`` is set at its end."""

    function: Function
    event: bytes
    run: Run
    asynchronous: bool
    answer: Answer | None = None
    done: threading.Event = field(default_factory=threading.Event)
    runtime: Runtime | None = None


class LambdaService:
    """Carries out invocations; ``send_dead_letter`` gets queue ARN, body and attributes."""

    def __init__(
        self,
        plane: DataPlane,
        retry_delay: float,
        concurrency: int,
        send_dead_letter: Callable[[str, str, dict[str, tuple[str, str]]], None],
    ) -> None:
        self.plane = plane
        self.retry_delay = retry_delay
        self.defaults: dict[str, str] = {}
        """Environment of every function that its image does not set: region, credentials, endpoint."""
        self._send_dead_letter = send_dead_letter
        self._slots = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self._idle: dict[tuple[Any, ...], list[Runtime]] = {}
        self._invocations: dict[str, Invocation] = {}
        self._accepted: OrderedDict[str, Invocation] = OrderedDict()
        plane.vanish["lambda"] = self._vanish

    def invoke(self, function: Function, event: bytes, asynchronous: bool, repeated: bool = False) -> Invocation:
        """Accept an invocation; it is carried out by a thread of its own."""
        text = event.decode(errors="replace")
        run = self.plane.add(Run("lambda", str(uuid.uuid4()), "QUEUED", submission=text, repeated=repeated))
        run.expect("queued")
        invocation = Invocation(function, event, run, asynchronous)
        with self._lock:
            self._invocations[run.id] = self._accepted[run.id] = invocation
            while len(self._accepted) > KEPT:
                self._accepted.popitem(last=False)
        threading.Thread(target=self._live, args=[invocation], daemon=True, name=f"lambda-{run.id}").start()
        return invocation

    def repeat(self, run: Run) -> None:
        """Carry out an asynchronous invocation once more, as Lambda, whose queue delivers at least once, may.

        :raises UsageError: it is not one of the last that were accepted, or was synchronous.
        """
        with self._lock:
            invocation = self._accepted.get(run.id)
        if invocation is None or not invocation.asynchronous:
            raise UsageError(f"The run {run.id} is no asynchronous invocation that could be repeated.")
        self.invoke(invocation.function, invocation.event, asynchronous=True, repeated=True)

    def idle_pids(self) -> list[int]:
        """Of the runtimes that wait for work."""
        with self._lock:
            return [runtime.handle.pid for runtimes in self._idle.values() for runtime in runtimes if runtime.alive]

    def exhaust_memory(self, run: Run) -> None:
        """End the run's runtime as if it had used up the function's memory.

        :raises UsageError: it has none at present.
        """
        runtime = self._runtime_of(run)
        runtime.out_of_memory = True
        runtime.handle.kill(signal.SIGKILL)

    def time_out(self, run: Run) -> None:
        """End the run as if it had lasted for the function's timeout.

        :raises UsageError: it has no runtime at present.
        """
        self._runtime_of(run).time_out()

    def _runtime_of(self, run: Run) -> Runtime:
        with self._lock:
            invocation = self._invocations.get(run.id)
        if invocation is None or invocation.runtime is None:
            raise UsageError(f"The run {run.id} has no runtime at present; its status is {run.status}.")
        return invocation.runtime

    def _vanish(self, request_id: str) -> None:
        with self._lock:
            invocation = self._invocations.get(request_id)
        if invocation is not None:
            invocation.run.stopping.set()

    def _live(self, invocation: Invocation) -> None:
        run, function = invocation.run, invocation.function
        allowed = 1 + (function.retries if invocation.asynchronous else 0)
        while True:
            answer = self._attempt(invocation)
            if answer is None:  # it has vanished
                break
            fault = self.plane.report_fault(run)
            if fault and fault.type == "vanish":
                run.vanished = True
                break
            invocation.answer = answer
            if not answer.error or run.attempt >= allowed:
                break
            delay = self.retry_delay * run.attempt  # AWS: one minute, then two
            run.status = "WAITING"
            run.expect(f"retry {run.attempt} of {allowed - 1}", delay)
            if run.stopping.wait(delay):
                break
            run.attempt += 1
            run.status = "QUEUED"
            run.expect("queued")
        lost = run.vanished or run.stopping.is_set()
        if invocation.asynchronous and not lost and invocation.answer and invocation.answer.error:
            self._bury(invocation, invocation.answer)
        success = bool(invocation.answer and not invocation.answer.error)
        run.settle("SUCCEEDED" if success else "FAILED")
        with self._lock:
            self._invocations.pop(run.id, None)
        invocation.done.set()

    def _bury(self, invocation: Invocation, answer: Answer) -> None:
        if not invocation.function.dead_letter_arn:
            return
        attributes = {
            "RequestID": ("String", invocation.run.id),
            "ErrorCode": ("Number", "200"),  # of the invocation, not of the function
            "ErrorMessage": ("String", answer.message[:1024] or "Unknown"),
        }
        body = invocation.event.decode(errors="replace")
        self._send_dead_letter(invocation.function.dead_letter_arn, body, attributes)

    def _attempt(self, invocation: Invocation) -> Answer | None:
        """Carry out one attempt; None if the invocation vanished before it came to one."""
        run, function = invocation.run, invocation.function
        fault = self.plane.start_fault(run)
        kind = fault.type if fault else ""
        if kind == "never":
            run.expect("")
            run.stopping.wait()
        if run.stopping.is_set():
            return None
        if kind == "init-error":
            return failure("Runtime.ImportModuleError", "Unable to import module 'app': No module named 'app'")
        if kind == "image-missing":
            return _no_image(function.image)
        if kind == "killed-before-start":
            run.exit_code = 137
            return failure("Runtime.ExitError", f"RequestId: {run.id} Error: Runtime exited with error: signal: killed")
        with self._slots:
            if run.stopping.is_set():
                return None
            run.expect(STARTING)
            try:
                runtime, pool = self._runtime(function, run)
            except ImageMissing:
                return _no_image(function.image)
            except StartFailed as error:
                return failure("Runtime.InvalidEntrypoint", f"RequestId: {run.id} Error: {error}")
            try:
                return self._with(runtime, invocation)
            finally:
                if runtime.alive:
                    with self._lock:
                        self._idle.setdefault(pool, []).append(runtime)

    def _with(self, runtime: Runtime, invocation: Invocation) -> Answer:
        run, function = invocation.run, invocation.function
        run.begin(runtime.handle)
        run.status, run.exit_code = "RUNNING", None
        invocation.runtime = runtime
        answer = runtime.carry_out(Call(run.id, function.arn, invocation.event, function.timeout))
        invocation.runtime = None
        if not runtime.alive:
            run.exit_code = runtime.handle.wait(0)
        run.finish()
        return answer

    def _runtime(self, function: Function, run: Run) -> tuple[Runtime, tuple[Any, ...]]:
        """A runtime, and of which kind it is: it may do the work of another of its kind."""
        image = self.plane.images.get(function.image)
        kind = (*function.key, image.warm, *sorted(image.env.items()))
        with self._lock:
            idle = self._idle.get(kind, [])
            while idle:
                if (runtime := idle.pop()).alive:
                    run.env_names = self._env_names(function)
                    return runtime, kind
        env = self._environment(function)
        run.env_names = sorted(env)

        def start(address: str) -> Handle:
            argv = list(function.argv) or list(image.entrypoint)
            complete = env | {"AWS_LAMBDA_RUNTIME_API": address}
            return self.plane.runner.start(
                image, argv, complete, f"lambda-{run.id}-{run.attempt}", function.working_dir
            )

        return Runtime(start), kind

    def _env_names(self, function: Function) -> list[str]:
        return sorted(self._environment(function))

    def _environment(self, function: Function) -> dict[str, str]:
        """As "Defined runtime environment variables" of the developer guide, over the image's and the function's."""
        image = self.plane.images.get(function.image)
        return {
            **self.defaults,
            **image.env,
            **function.env,
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": function.version,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "conformance",
            "AWS_LAMBDA_RUNTIME_API": "",
            "LAMBDA_TASK_ROOT": function.working_dir,
            "_HANDLER": function.argv[-1] if function.argv else "",
        }


def _no_image(name: str) -> Answer:
    return failure("Runtime.ImageNotFound", f"Lambda cannot find the image {name} of the function.")
