"""Reports in folders of their own, for the tests of the commands over them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from executor_conformance.harness.report.model import CaseResult, Report, SubjectInfo
from executor_conformance.harness.report.store import write_report
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.suites.cli import main

from tests.test_report import case, report


def run(*arguments: object) -> Result:
    """The command with these arguments."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def controlled(*cases: CaseResult, subject: str = "local") -> list[CaseResult]:
    """The cases of a subject with a control group that passed."""
    return [case("task.control_group", subject, TASK_1=Verdict.PASS), *cases]


def made(*cases: CaseResult, problems: list[str] | None = None, **changes: Any) -> Report:
    """A report with an entry for each subject of its cases; ``changes`` are of its :class:`RunInfo`."""
    labels = dict.fromkeys(each.subject for each in cases)
    subjects = [SubjectInfo(label, label, f"airflow.{label}", "process", "queue", "process") for label in labels]
    whole = report(*cases, subjects=subjects, problems=problems)
    return replace(whole, run=replace(whole.run, **changes))


def stored(folder: Path, *cases: CaseResult, problems: list[str] | None = None, **changes: Any) -> Path:
    """The folder with such a report and the histories of its cases."""
    write_report(made(*cases, problems=problems, **changes), folder)
    for each in cases:
        if each.history:
            path = folder / each.history
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{each.subject} {each.id} in {folder.name}\n")
    return folder
