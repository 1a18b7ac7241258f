"""An executor for tasks alone is sound: every callback's case is unsupported, nothing fails, and the run ends well.

Each run is one that the author of such an executor makes, in the environment of the executor that it is a subclass of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.harness.backend import Options
from executor_conformance.harness.session import backends
from executor_conformance.harness.versions import line_of

ROOT = Path(__file__).parent.parent
LINE = line_of(version("apache-airflow-core"))
SUBJECTS = {
    "local": "TasksOnlyLocalExecutor",
    "local-by-flag": "FlaggedLocalExecutor",
    "celery": "TasksOnlyCeleryExecutor",
    "edge": "TasksOnlyEdgeExecutor",
    "ecs": "TasksOnlyEcsExecutor",
    "batch": "TasksOnlyBatchExecutor",
    "lambda": "TasksOnlyLambdaExecutor",
    "kubernetes": None,  # as released, it runs no callbacks
}
DECIDED = ("DECL-1", "DECL-3", "DECL-4", "DECL-5", "DECL-8", "TASK-1")
RUN_S = 1800  # a bound on a run on a loaded machine


def run(tmp_path: Path, subject: str, *more: str) -> dict[str, Any]:
    """Run the suite with all its defaults, and return the report; the run ended with exit code 0."""
    backend = subject.partition("-")[0]
    command = [sys.executable, "-m", "pytest", "--pyargs", "executor_conformance.suites", "-m", "conformance", "-q"]
    command += [
        "-p",
        "no:cacheprovider",
        "-k",
        "not reference",
        "--conformance-backend",
        backend,
        "--conformance-report",
        "report",
        *more,
    ]
    if name := SUBJECTS[subject]:
        command += ["--conformance-executor", f"tests.executors.tasks_only.{name}"]
    else:
        command += ["--conformance-expectations", str(ROOT / "expectations" / f"{LINE}.toml")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    return report


def recorded(folder: Path, case: dict[str, Any]) -> set[str]:
    """Return the kinds of what a case's history has, its header and its end left out."""
    lines = (folder / "report" / case["history"]).read_text("utf-8").splitlines()
    return {json.loads(line)["kind"] for line in lines} - {"header", "end"}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_nothing_fails(subject: str, tmp_path: Path) -> None:
    backend = backends()[subject.partition("-")[0]]
    if reason := backend.missing(Options()):
        pytest.skip(reason)
    report = run(tmp_path, subject, "--conformance-level", "core")
    of_clause: dict[str, set[str]] = {}
    for case in report["cases"]:
        for clause, found in case["clauses"].items():
            of_clause.setdefault(clause, set()).add(found["verdict"])
    assert [clause for clause, verdicts in of_clause.items() if verdicts & {"fail", "error"}] == []
    decided = DECIDED if SUBJECTS[subject] else [clause for clause in DECIDED if clause in of_clause]
    assert {clause: of_clause[clause] for clause in decided} == {clause: {"pass"} for clause in decided}
    assert {"DECL-1", "TASK-1"} <= set(decided)
    assert of_clause["DECL-2"] == {"finding"}  # of core's, whose scheduler ends by it
    callbacks = [case for case in report["cases"] if case["id"].startswith(("run.", "fail.", "crash.", "token."))]
    assert {case["verdict"] for case in callbacks} == {"unsupported"}
    assert {case["id"]: recorded(tmp_path, case) for case in callbacks if recorded(tmp_path, case)} == {}
