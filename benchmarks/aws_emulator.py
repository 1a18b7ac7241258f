"""What the AWS emulator can do: ``python benchmarks/aws_emulator.py [--service ecs]``, on a quiet machine.

ready: from the start of its process until ``ready.json`` is there, with one service, as a backend starts it.
tasks: 50 ECS tasks whose container is `true`, asked for by eight threads at once; until DescribeTasks has shown all of
  them STOPPED with exit code 0. A lost one is an error.
cpu: what the emulator itself used for that, in ms per task.
memory: resident set of the emulator after that, with 100 tasks in it.
callback: from submit to the terminal row, against the life of the worker's process, the bare ``execute_workload``.
  Its command is executed here, and not a fork.
callbacks at once: 50 callbacks submitted together; seconds until the last row is terminal, per callback, for an idea of
  what a run of many costs; once with commands that are executed, where the workers' imports are nearly all of it, and
  once with forks that have imported Airflow (not with lambda, whose handler starts the command itself).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
from emulation import BOUND_S, callback, conclude, cpu_s, emulator, environment
from executor_conformance.harness.case import Case
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.history import History
from executor_conformance.harness.session import choose_backends
from figures import Figures, scratch_folder

MODULE = "executor_conformance.backends.aws.emulator"
TASKS = 50
PAGE = 50  # DescribeTasks takes up to 100


def run_tasks(url: str, region: str) -> float:
    """Tasks per second, from the first RunTask until all were seen to have ended well."""
    import boto3

    session = boto3.Session(aws_access_key_id="conformance", aws_secret_access_key="conformance", region_name=region)
    ecs = session.client("ecs", endpoint_url=url)

    def start(_: int) -> str:
        answer = ecs.run_task(cluster="conformance", taskDefinition="conformance", launchType="FARGATE")
        return str(answer["tasks"][0]["taskArn"])

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        left = list(pool.map(start, range(TASKS)))
    while left:
        if time.monotonic() - began > BOUND_S:
            raise HarnessError(f"{len(left)} of {TASKS} tasks did not end.")
        tasks: list[dict[str, Any]] = ecs.describe_tasks(cluster="conformance", tasks=left[:PAGE])["tasks"]
        ended = {
            task["taskArn"]: task["containers"][0].get("exitCode") for task in tasks if task["lastStatus"] == "STOPPED"
        }
        if wrong := [arn for arn, code in ended.items() if code != 0]:
            raise HarnessError(f"The task {wrong[0]} ended with {ended[wrong[0]]}.")
        left = [arn for arn in left if arn not in ended]
    return TASKS / (time.monotonic() - began)


def many(env: Environment, number: int) -> float:
    """Seconds per callback, of ``number`` that are submitted together."""
    env.history = History(env.clock, {"case": "benchmark", "subject": env.variant.label})
    case = Case(env)
    began = env.clock.now()
    made = [case.submit("succeed") for _ in range(number)]
    case.settle(limit=20.0 * number)
    ended = [row["t"] for one in made for row in env.history.of("row", callback=one.id) if row["new"] == "success"]
    if len(ended) != number:
        raise HarnessError(f"{len(ended)} of {number} callbacks succeeded.")
    return float(max(ended) - began) / number


def main() -> int:
    """Measure and print; 0 if all targets were met, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", choices=("ecs", "batch", "lambda"), default="ecs", help="of the callbacks")
    parser.add_argument("--callbacks", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=50)
    options = parser.parse_args()
    figures = Figures()
    image = {"env": {"PATH": os.environ["PATH"]}, "entrypoint": ["true"]}
    with scratch_folder() as scratch:
        for service in ("batch", "lambda", "ecs"):
            starts = []
            for number in range(4):
                folder = scratch / f"{service}{number}"
                with emulator(MODULE, folder, {"conformance-worker": image}, "--services", service) as (taken, ready):
                    starts.append(taken)
                    if service == "ecs" and number == 3:
                        process = psutil.Process(ready["pid"])
                        before = cpu_s(process)
                        rates = [run_tasks(ready["url"], ready["resources"]["region"]) for _ in range(2)]
                        used = (cpu_s(process) - before) / (2 * TASKS) * 1000
                    memory = psutil.Process(ready["pid"]).memory_info().rss / 1e6
            figures.add(f"emulator of {service}: from its start to ready", starts[1:], "s", 2)
            figures.add(f"emulator of {service}: memory", [memory], "MB", 250)
        figures.add("tasks started, run and described", rates, "/s")
        figures.add("cpu of the emulator per task", [used], "ms")
        backend = choose_backends(options.service)[options.service]
        with environment(backend, backend.variants[0], scratch / "environment") as env:
            env.backend.execute_workers(True)
            ratios = [callback(env) for _ in range(1 + options.callbacks)][1:]
            figures.add("callback: submit to terminal row / bare worker", ratios, "x", 1.2)
            executed = many(env, options.at_once)
            figures.add(f"{options.at_once} callbacks at once, each, executed", [executed], "s")
            env.backend.execute_workers(False)
            for _ in range(3):  # until the interpreter is there
                callback(env)
            forked = many(env, options.at_once)
            figures.add(f"{options.at_once} callbacks at once, each, forked", [forked], "s")
            figures.add("forked / executed", [forked / executed], "x")
    return conclude(figures, __doc__)


if __name__ == "__main__":
    sys.exit(main())
