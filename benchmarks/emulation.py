"""What the benchmarks of the emulators share: an emulator by itself, and one callback against its bare worker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from executor_conformance.harness.backend import Backend, Options, Variant
from executor_conformance.harness.case import Case
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.history import History
from figures import Figures

BOUND_S = 60.0


@contextlib.contextmanager
def emulator(module: str, folder: Path, images: dict[str, Any], *more: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """A running ``python -m module``: seconds until it was ready, and what it says of itself."""
    folder.mkdir()
    (folder / "images.json").write_text(json.dumps(images), "utf-8")
    argv = [sys.executable, "-m", module, "--folder", str(folder), "--images", str(folder / "images.json"), *more]
    began = time.monotonic()
    process = subprocess.Popen(argv)
    try:
        ready = folder / "ready.json"
        while not ready.exists():
            if process.poll() is not None or time.monotonic() - began > BOUND_S:
                raise HarnessError("The emulator did not become ready.")
            time.sleep(0.005)
        yield time.monotonic() - began, json.loads(ready.read_text("utf-8"))
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def environment(backend: type[Backend], variant: Variant, folder: Path) -> Iterator[Environment]:
    """A running environment of this variant."""
    env = Environment(backend, Options(), variant, folder)
    env.start()
    try:
        yield env
    finally:
        env.stop()


def conclude(figures: Figures, explanation: str | None) -> int:
    """Print the figures and what they mean, which follows the first line of ``explanation``; the exit code."""
    fine = figures.show()
    print((explanation or "").partition("\n\n")[2])
    return 0 if fine else 1


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU that a process has used."""
    used = process.cpu_times()
    return float(used.user + used.system)


def callback(env: Environment) -> float:
    """Submit to terminal row, as a multiple of the life of the worker's main process."""
    env.observe()  # the environment's own processes are born before the history begins
    env.history = History(env.clock, {"case": "benchmark", "subject": env.variant.label})
    case = Case(env)
    began = env.clock.now()
    made = case.submit("succeed")
    case.settle()
    ended = [row["t"] for row in env.history.of("row", callback=made.id) if row["new"] == "success"]
    born = {event["pid"]: event for event in env.history.of("process", what="born")}
    mains = {pid: event["t"] for pid, event in born.items() if event["ppid"] not in born}
    lives = [
        event["t"] - mains[event["pid"]] for event in env.history.of("process", what="gone") if event["pid"] in mains
    ]
    if not ended or not lives:
        seen = [(event["what"], event["title"][:60]) for event in env.history.of("process")]
        raise HarnessError(f"The callback or its process was not seen to end; seen: {seen}.")
    return float((ended[0] - began) / max(lives))
