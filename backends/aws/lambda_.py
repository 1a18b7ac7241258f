"""The environment of AwsLambdaExecutor and its subclasses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from executor_conformance.backends.aws import faults
from executor_conformance.backends.aws.account import ExistingAccount
from executor_conformance.backends.aws.base import AwsBackend, variants_of
from executor_conformance.backends.aws.localstack.container import LocalStackContainer
from executor_conformance.backends.aws.localstack.process import LocalStackProcess
from executor_conformance.backends.emulation import Way
from executor_conformance.harness.backend import EMULATOR, LOCALSTACK, Options, Site
from executor_conformance.harness.processes import ProcessInfo

SECTION = "AIRFLOW__AWS_LAMBDA_EXECUTOR__"


def _result(text: str, action: dict[str, Any]) -> Way:
    return faults.on("sqs", "SendMessage", text, action)


WAYS: dict[str, dict[str, Way]] = {
    "submit-refused": faults.submissions("lambda", "Invoke", "ServiceException"),
    "accepted-lost": faults.lost("lambda"),
    "start-impossible": {
        "image": faults.at("lambda", "start", "the function's image cannot be pulled", "image-missing"),
        "init-error": faults.at("lambda", "start", "the function's handler cannot be loaded", "init-error"),
        "killed": faults.at("lambda", "start", "each runtime is killed as it starts", "killed-before-start"),
    },
    "stopped": {
        "out-of-memory": Way("the function's runtime is killed as out of memory", act="oom"),
        "timeout": Way("the function has lasted for its timeout", act="timeout"),
        "killed": Way("the function's runtime is killed from outside", act="kill"),
    },
    "observation": {
        **faults.polls("sqs", "ReceiveMessage", "InternalError"),
        "result-lost": _result("the message with the result is lost", {"type": "lose"}),
        "result-refused": _result("the handler may not send its result", faults.DENIED),
        "result-duplicated": _result("the message with the result arrives twice", {"type": "duplicate"}),
        "result-delayed": _result("the message with the result is late", {"type": "delay-delivery", "seconds": 3}),
        "delete-refused": faults.on("sqs", "DeleteMessage", "one DeleteMessage is denied", faults.DENIED, 1),
        "vanishes": faults.at("lambda", "report", "the end of each invocation is forgotten", "vanish"),
    },
    "redelivery": {"invoked-twice": Way("Lambda carries out the same asynchronous invocation again", act="repeat")},
    "hang": faults.hangs("lambda", "Invoke") | faults.hangs("sqs", "ReceiveMessage"),
}
"""Fault point to way to what is done."""


class LambdaBackend(AwsBackend):
    """A function with the provider's own handler, a queue for its results and one for dead letters."""

    name: ClassVar[str] = "lambda"
    carriers: ClassVar = {"Invoke:command": "the payload of Invoke"}
    service: ClassVar[str] = "lambda"
    title: ClassVar[str] = "AWS Lambda and Amazon SQS"
    submission: ClassVar[str] = "Invoke"
    executor: ClassVar[str] = "airflow.providers.amazon.aws.executors.aws_lambda.lambda_executor.AwsLambdaExecutor"
    calls_per_workload: ClassVar = {"Invoke": 1.25, "DeleteMessage": 1.5}
    needs: ClassVar = (*AwsBackend.needs, "awslambdaric")
    runner: ClassVar[str] = "the provider's handler under awslambdaric, in host processes"
    further: ClassVar = {
        "submit-refused": faults.FURTHER_SUBMISSIONS,
        "start-impossible": {"init-error"},
        "stopped": {"out-of-memory"},
        "observation": {*faults.FURTHER_POLLS, "result-delayed", "delete-refused"},
    }
    variants: ClassVar = variants_of("lambda", f"{SECTION}MAX_INVOKE_ATTEMPTS")
    ways: ClassVar = WAYS
    faults: ClassVar[Mapping[str, Sequence[str]]] = {point: tuple(ways) for point, ways in WAYS.items()}

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._idle: tuple[float, set[int]] = (0.0, set())

    @classmethod
    def substrate_of(cls, options: Options) -> type[ExistingAccount] | type[LocalStackProcess] | None:
        """At LocalStack too: a process of this host, or a container."""
        if options.control_plane == EMULATOR:
            return super().substrate_of(options)
        if options.control_plane == LOCALSTACK and options.substrate == "process":
            return LocalStackProcess
        return LocalStackContainer

    def executor_settings(self) -> dict[str, str]:
        """The function and its two queues."""
        return {
            f"{SECTION}CONN_ID": "aws_default",
            f"{SECTION}FUNCTION_NAME": self.resources["function_name"],
            f"{SECTION}QUEUE_URL": self.resources["queue_url"],
            f"{SECTION}DEAD_LETTER_QUEUE_URL": self.resources["dead_letter_queue_url"],
        }

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """As everywhere, but for the runtimes that only wait to be used again."""
        found = super().units(processes)
        if not found:
            return []
        seen, idle = self._idle
        if time.monotonic() - seen > self.substrate.seen_s or not set(found) <= idle:
            idle = self.substrate.idle()
            self._idle = (time.monotonic(), idle)
        return [pid for pid in found if pid not in idle]

    def messages(self) -> list[str]:
        """Messages that will appear: late ones, and those taken but not deleted.

        One that can be seen is no timer: the executor looks at each step, or does not want it.
        """
        return [
            f"a message of {name} appears in {left:.1f} s ({kind})"
            for name, queue in self.substrate.messages().items()
            for kind in ("delayed", "in_flight")
            for left in queue[kind]
        ]
