"""What runs only when it is asked for: bad input, what is collected, and a resumption from end to end."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.explore.boundaries import ENDED, Boundary
from executor_conformance.harness.explore.plan import Sweep
from executor_conformance.harness.report.markdown import render_markdown
from executor_conformance.harness.report.model import CaseResult, Exploration, clause_results
from executor_conformance.harness.report.store import load_report
from executor_conformance.harness.report.terminal import render_matrix
from executor_conformance.harness.session import providers
from executor_conformance.harness.verdicts import Decision, Verdict
from executor_conformance.suites import on_demand
from executor_conformance.suites.cases import suite_cases

from tests.reports import made, run, stored
from tests.test_bad_input import run_pytest, sentence
from tests.test_report import case

LOCAL = ["--conformance-backend", "local"]
EXECUTOR = "airflow.executors.local_executor.LocalExecutor"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--conformance-sweep"], "looks at one environment"),
        (["--conformance-sweep", "--conformance-backend", "local,celery"], "looks at one environment"),
        (["--conformance-sweep", *LOCAL, "-n", "2"], "leave out -n"),
        (["--conformance-sequences", "3"], "looks at one environment"),
        (["--conformance-sequences", "0", *LOCAL], "from 1 to"),
        (["--conformance-sequences", "3", "--conformance-seed", "-1", *LOCAL], "not negative"),
        (["--conformance-seed", "1", *LOCAL], "say how many"),
    ],
)
def test_bad_usage_is_refused_in_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = run_pytest(tmp_path, *arguments)
    assert words in sentence(result)
    assert result.returncode == 2


def asked(sweep: str | None = None, sequences: int | None = None) -> Any:
    return SimpleNamespace(option=SimpleNamespace(conformance_sweep=sweep, conformance_sequences=sequences))


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        (asked(), {"test_crash", "test_task"}),
        (asked(sweep="anew"), {"test_sweep", "test_task"}),
        (asked(sweep="resume", sequences=2), {"test_sweep", "test_sequences", "test_task"}),
        (asked(sequences=2), {"test_sequences", "test_task"}),
    ],
)
def test_what_is_collected(config: Any, modules: set[str]) -> None:
    every = ("test_crash", "test_task", "test_sweep", "test_sequences")
    assert {name for name in every if on_demand.is_wanted(name, config)} == modules


def test_usual_runs_and_lists_know_nothing_of_it(tmp_path: Path) -> None:
    assert not [each for each in suite_cases(load_catalogue()) if each.id.startswith(("sweep.", "sequences."))]
    result = run_pytest(tmp_path, *LOCAL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_killed_before_claim[local]" in result.stdout
    assert "test_sweep" not in result.stdout
    assert "test_sequences" not in result.stdout


@pytest.mark.parametrize("command", ["sweep", "sequences"])
def test_the_commands_refuse_bad_usage(command: str) -> None:
    assert run(command).exit_code == 2
    result = run(command, "--backend", "lokal")
    assert result.exit_code == 2
    assert "'lokal' is unknown" in result.output


# -- a sweep that was stopped after its last run: nothing is left to start --------------------------------------------


def decided(name: str, verdict: Verdict, reason: str = "") -> CaseResult:
    decision = Decision("CRASH-1", verdict, reason)
    return CaseResult(name, "local", "local", EXECUTOR, verdict, clause_results([decision]), reason, duration_s=2.0)


def kept(folder: Path, **about: str) -> Sweep:
    plan = [
        Boundary("row running", "row", "running", 1, 0.1),
        Boundary("callable enter", "callable", "enter", 1, 0.2),
        Boundary("callable effect", "callable", "effect", 1, 0.3),
        Boundary("row success", "row", "success", 1, 0.4, ENDED),
    ]
    results = [
        decided("sweep.killed[row running]", Verdict.PASS),
        decided("sweep.killed[callable enter]", Verdict.FAIL, "The row stays RUNNING"),
        decided("sweep.killed[callable effect]", Verdict.NOT_APPLICABLE, "not reached: it did not occur"),
    ]
    known = {
        "executor": EXECUTOR,
        "Airflow": version("apache-airflow-core"),
        "tool": version("airflow-executor-conformance"),
        "contract": load_catalogue().version,
        "database": "sqlite",
        "broker": "",
        "substrate": "process",
        "worker start": "fork",
        **providers(),
    }
    subject = {"label": "local", "backend": "local", "executor": EXECUTOR}
    facts = {"subject": subject, "run": {"airflow_version": "3.4", "edition": "claim", "database": "sqlite"}}
    recording = decided("sweep.recording", Verdict.PASS)
    by_id = {each.id: each for each in results}
    sweep = Sweep("local", "unit", {**known, **about}, 2.0, plan, recording, by_id, facts=facts)
    sweep.save(folder)
    return sweep


SWEEP_ALONE = [*LOCAL, "--conformance-sweep=resume", "-k", "test_sweep.py"]


def test_what_is_kept_is_reported_and_not_run_again(tmp_path: Path) -> None:
    kept(tmp_path / "report")
    result = run_pytest(tmp_path, *SWEEP_ALONE, collect_only=False)
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert "4 boundaries, 3 runs, 3 of them already done" in output
    assert "-  row success  skipped: the worker has ended by then" in output
    assert "[1/3] row running: pass, kept from before" in output
    assert "[2/3] callable enter: fail CRASH-1, kept from before" in output
    assert "[3/3] callable effect: not reached, kept from before" in output
    assert "starting the environment" not in output
    report = load_report(tmp_path / "report")
    assert {each.id: str(each.verdict) for each in report.cases} == {
        "sweep.recording": "pass",
        "sweep.killed[row running]": "pass",
        "sweep.killed[callable enter]": "fail",
        "sweep.killed[callable effect]": "not applicable",
    }
    [whole] = report.explorations
    numbers = {"boundaries": 4, "skipped": 1, "runs": 3, "not reached": 1, "violations": 1, "known": 0, "errors": 0}
    assert whole.counts == numbers
    assert whole.notes == [
        f"row success: skipped, {ENDED}",
        "sweep.killed[callable effect]: not reached: it did not occur",
    ]
    assert "4 boundaries, 1 skipped, 3 runs, 1 not reached, 1 violations" in " ".join(output.split())


def test_a_kept_sweep_of_something_else_is_refused(tmp_path: Path) -> None:
    kept(tmp_path / "report", Airflow="2.0")
    result = run_pytest(tmp_path, *SWEEP_ALONE)
    assert "is of Airflow 2.0" in sentence(result)
    assert result.returncode == 2


def test_an_expectation_names_a_boundary(tmp_path: Path) -> None:
    kept(tmp_path / "report")
    listed = tmp_path / "listed.toml"
    entry = ["[[expected]]", 'subject = "local"', 'clause = "CRASH-1"', 'case = "sweep.killed[row running]"']
    listed.write_text("\n".join([*entry, 'reason = "x"', "review = 2999-01-01", ""]))
    result = run_pytest(tmp_path, *SWEEP_ALONE, "--conformance-expectations", str(listed), collect_only=False)
    assert "passes now in local sweep.killed[row running] CRASH-1" in " ".join(result.stdout.split())


# -- the report -------------------------------------------------------------------------------------------------------


COUNTS = {"sequences": 3, "violations": 0, "errors": 0}
SEARCH = Exploration("sequences", "local", "seed 7", COUNTS, 9.0, ["left out: x"])


def test_the_report_keeps_and_shows_explorations(tmp_path: Path) -> None:
    folder = stored(tmp_path / "a", case("sequences.mixed"))
    assert "explorations" not in json.loads((folder / "report.json").read_text())
    report = made(case("sequences.mixed"))
    report.explorations = [SEARCH]
    assert type(report).from_dict(report.to_dict()) == report
    line = "sequences of local, seed 7: 3 sequences, 0 violations; 9 s"
    assert SEARCH.line == line
    assert line in render_markdown(report)
    assert "left out: x" in render_markdown(report)
    assert line in render_matrix(report, 200)
