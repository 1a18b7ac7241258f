"""What the harness costs: run by hand, on a quiet machine, with ``python benchmarks/bench.py [--backend local]``.

Each figure is the median of a few measurements, with its target; see ``MEANING`` for what is really measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from executor_conformance.harness.api_server import ApiServer
from executor_conformance.harness.backend import Options
from executor_conformance.harness.case import CALLABLES, Case
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.history import History
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.session import choose_backends
from executor_conformance.harness.settings import PARALLELISM
from figures import Figures, scratch_folder

MEANING = """
start: database copy, API server, scheduler side and worker until all are ready, with a warm cache; the API server alone
  is started from the same settings in the running environment, and timed until its health route answers.
first verdict: from the command to the first case's line, in a process of its own.
callback, harness: from submit to the terminal row as the harness sees it, and until rest is proven.
callback, bare: the same callable on a scheduler side whose worker talks to the API server directly, without wire
  recorder, row journal and process watcher; until the step that returns the terminal event. The steps themselves and
  the callable's reports are the same in both. Workers that are started once (celery, edge) still use the recorder.
  Airflow's supervisor now and then waits a heartbeat of 1 s at the end of a callable, with or without the harness,
  so the fastest of each kind are compared.
stuck: from the last event in the history to the proof of rest, for a callback whose slot is never freed.
"""


WARMING = 3 * PARALLELISM


def start_alone(env: Environment) -> float:
    """Seconds in which the API server starts by itself."""
    server = ApiServer(env.backend.api_apps)
    began = time.monotonic()
    server.start(env.supervisor, env.site.env, env.folder)
    try:
        server.wait_ready()
        return time.monotonic() - began
    finally:
        server.kill_tree()


def first_verdict(backend: str, folder: Path) -> float:
    """Seconds from the command to the first verdict."""
    argv = [sys.executable, "-c", "from executor_conformance.suites.cli import main; main()", "run", "-v"]
    argv += ["--backend", backend, "--case", "run.success", "--report", str(folder / "report")]
    began = time.monotonic()
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, cwd=folder
    ) as process:
        assert process.stdout is not None
        found = 0.0
        for line in process.stdout:
            if not found and any(word in line for word in (" PASSED", " FAILED", " XFAIL", " SKIPPED")):
                found = time.monotonic() - began
    if not found:
        raise HarnessError(f"The run ended with {process.returncode} and no verdict.")
    return found


def observed(env: Environment) -> tuple[float, float]:
    """Seconds of one callback until its terminal row, and until rest is proven."""
    env.history = History(env.clock, {"case": "benchmark", "subject": env.variant.label})
    case = Case(env)
    began = env.clock.now()
    callback = case.submit("succeed")
    case.settle()
    if case.state(callback) != "success":
        raise HarnessError(f"The callback is {case.state(callback)}.")
    row = env.history.of("row", callback=callback.id)[-1]
    return float(row["t"]) - began, env.clock.now() - began


def bare(env: Environment) -> float:
    """Seconds of one callback until the step that returns its terminal event, unobserved."""
    assert env.scheduler is not None
    began = time.monotonic()
    callback = env.scheduler.submit(f"{CALLABLES}.succeed", {"probe": "benchmark"})["callback"]
    while time.monotonic() - began < LIMITS.settle:
        for event in env.scheduler.step()["events"]:
            if event["key"] == callback and event["state"] in ("success", "failed"):
                return time.monotonic() - began
        time.sleep(LIMITS.pump_interval)
    raise HarnessError("The bare callback did not end.")


def stuck(env: Environment) -> float:
    """Seconds from the last sign of life to the proof that a callback is stuck."""
    env.history = History(env.clock, {"case": "benchmark", "subject": env.variant.label})
    case = Case(env)
    filler = case.submit("hold", role="filler")
    held = case.stop_at(filler, "enter")
    case.reach(held, "the start of the callable")
    case.until_running_or_quiet(filler)
    waiting = case.submit("succeed")
    case.pump(parallelism=[5, 1])
    case.until(RestWatch(case, [waiting], held=True).at_rest, "rest", parallelism=[5, 1])
    taken = env.clock.now() - float(env.history.events[-1]["t"])
    state = case.state(waiting)
    held.release()
    env.repair()
    env.start_scheduler()  # with the usual parallelism
    if state in ("success", "failed"):
        raise HarnessError("The callback was not stuck; the benchmark measures nothing here.")
    return taken


def main() -> int:
    """Measure and print; 0 if all targets were met, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="local")
    parser.add_argument("--starts", type=int, default=2, help="environments to start (default: 2)")
    parser.add_argument("--callbacks", type=int, default=12, help="callbacks of each kind (default: 12)")
    options = parser.parse_args()
    backend, figures = choose_backends(options.backend)[options.backend], Figures()
    with scratch_folder() as folder:
        starts: list[float] = []
        for number in range(1 + options.starts):
            env = Environment(backend, Options(), backend.variants[-1], folder / f"e{number}")
            env.start()
            try:
                starts.append(env.timings["start_s"])
                if number < options.starts:
                    continue
                alone = figures.add("the API server's own start", [start_alone(env) for _ in range(3)])
                # the first environment may have made the template and the byte code
                whole = figures.add("start of the environment", starts[1:])
                figures.add("start: environment / API server", [whole / alone], "x", 1.3)
                # each worker process imports what it needs at its first callback
                times = [observed(env) for _ in range(WARMING + options.callbacks)][WARMING:]
                figures.add("callback, harness: to the terminal row", [row for row, _ in times])
                figures.add("callback, harness: from there to rest", [rest - row for row, rest in times], "s", 0.25)
                if backend.chooses == "executor" and env.offers.has_claim:  # there slots may not hold it back
                    figures.add(
                        "stuck: from the last sign of life to the proof", [stuck(env) for _ in range(3)], "s", 2
                    )
                env.start_scheduler(env={"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{env.server_url}/execution/"})
                alone_s = [bare(env) for _ in range(WARMING + options.callbacks)][WARMING:]
                figures.add("callback, bare: to the terminal event", alone_s)
                figures.add("callback: harness / bare", [min(row for row, _ in times) / min(alone_s)], "x", 1.3)
            finally:
                env.stop()
        figures.add("from the command to the first verdict", [first_verdict(options.backend, folder)], "s", 60)
    fine = figures.show()
    print(MEANING)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
