"""LocalStack's plugin point ``localstack.lambda.runtime_executor``: functions run as host processes of our runner.

Imported by LocalStack, in its own virtual environment, so only the standard library and what needs no more is used
beside LocalStack's own. The variable ``FOLDER`` names a folder with ``image.json`` (the environment of the functions'
image), in which ``runs.jsonl`` tells of each attempt: ``what`` ('guardian', 'begin', 'end'), ``key`` (the workload's),
``request``, ``pid`` and ``error``.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from executor_conformance.backends.aws.emulator.process_runner import ProcessRunner
from executor_conformance.backends.aws.emulator.runner import Handle, Image, StartFailed
from executor_conformance.backends.aws.emulator.runtime_api import Answer, Call, Runtime, failure
from localstack import config
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

FOLDER = "EXECUTOR_CONFORMANCE_LOCALSTACK_FOLDER"
HOST = "127.0.0.1"
_lock = threading.Lock()
_runner: ProcessRunner | None = None


def _folder() -> Path:
    return Path(os.environ[FOLDER])


def _note(what: str, **fields: Any) -> None:
    with _lock, (_folder() / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, **fields}) + "\n")


def runner() -> ProcessRunner:
    """The one of this LocalStack, started when it is needed first."""
    global _runner
    with _lock:
        if made := _runner is None:
            _runner = ProcessRunner(_folder())
        assert _runner is not None
    if made:
        _note("guardian", pid=_runner.guardian_pid)
    return _runner


class ProcessRuntimeExecutor(RuntimeExecutor):
    """One execution environment: a runtime process, started again if it has ended with an invocation."""

    def __init__(self, id: str, function_version: FunctionVersion) -> None:
        super().__init__(id=id, function_version=function_version)
        self._env: dict[str, str] = {}
        self._runtime: Runtime | None = None
        self._starts = 0

    def start(self, env_vars: dict[str, str]) -> None:
        """Keep the environment; the process starts with the first invocation, which meets what goes wrong."""
        self._env = {name: str(value) for name, value in env_vars.items()}

    def stop(self) -> None:
        """Kill the process with all that it started."""
        if self._runtime is not None:
            self._runtime.close()

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        """Let the runtime handle one invocation."""
        request, event = payload["invoke-id"], payload["payload"].encode()
        fields = {"key": _key(event), "request": request}
        pid = 0
        try:
            runtime = self._living()
            pid = runtime.handle.pid
            _note("begin", pid=pid, **fields)
            timeout = float(self.function_version.config.timeout)
            answer = runtime.carry_out(Call(request, payload["invoked-function-arn"], event, timeout))
        except StartFailed as error:
            _note("begin", pid=0, **fields)
            answer = failure("Runtime.InvalidEntrypoint", f"RequestId: {request} Error: {error}")
        self._tell_end(answer, pid, fields)
        return InvocationResult(request_id=request, payload=answer.payload, is_error=answer.error, logs="")

    def _tell_end(self, answer: Answer, pid: int, fields: dict[str, str]) -> None:
        alive = self._runtime is not None and self._runtime.alive
        _note("end", pid=pid, error=answer.error, idle=alive, **fields)

    def _living(self) -> Runtime:
        if self._runtime is not None and self._runtime.alive:
            return self._runtime
        if self._runtime is not None:
            self._runtime.close()
        self._starts += 1
        image = json.loads((_folder() / "image.json").read_text("utf-8"))
        code = str(self.function_version.config.code.get_unzipped_code_location())
        env = {**self._env, "LAMBDA_TASK_ROOT": code, **image["env"]}
        argv = [*image["entrypoint"], self.function_version.config.handler]

        def start(address: str) -> Handle:
            complete = env | {"AWS_LAMBDA_RUNTIME_API": address}
            return runner().start(Image("function"), argv, complete, f"lambda-{self.id}-{self._starts}", code)

        self._runtime = Runtime(start)
        return self._runtime

    def get_address(self) -> str:
        """Of this host."""
        return HOST

    def get_endpoint_from_executor(self) -> str:
        """Functions are processes of this host."""
        return HOST

    def get_runtime_endpoint(self) -> str:
        """Of LocalStack's own runtime client, which is not used."""
        return f"http://{HOST}:{config.GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

    def get_logs(self) -> str:
        """They are in the runner's folder."""
        return ""

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        """Unpack the code, and start the runner."""
        if function_version.config.code:
            function_version.config.code.prepare_for_execution()
        runner()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Nothing: the folder goes with the run."""


def _key(event: bytes) -> str:
    try:
        return str(json.loads(event)["task_key"])
    except (ValueError, KeyError, TypeError):
        return ""


class ProcessRuntimeExecutorPlugin(RuntimeExecutorPlugin):
    """What LocalStack finds by the entry point ``process``."""

    name = "process"

    def load(self, *args: Any, **kwargs: Any) -> type[RuntimeExecutor]:
        """The class."""
        return ProcessRuntimeExecutor
