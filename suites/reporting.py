"""The end of a run: results collected (with pytest-xdist from the workers), the report written, the matrix shown."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from executor_conformance.harness.report.model import Report
    from executor_conformance.suites.run_state import ConformanceState

RESULT = "conformance"
SUBJECT = "conformance-subject"
RUN = "conformance-run"
LOST = "conformance-environment-lost"


class Collected:
    """The results of a run as they come in; one per pytest process."""

    def __init__(self, state: ConformanceState) -> None:
        # Now, and not at the end: an interrupted run must not wait for imports, nor for a look at what is installed
        from executor_conformance.harness.report import outcome, store, terminal  # noqa: F401
        from executor_conformance.harness.session import providers

        self._providers = providers()
        self.state = state
        self.cases: dict[tuple[str, str], dict[str, Any]] = {}
        self.subjects: dict[str, dict[str, Any]] = {}
        self.facts: dict[str, Any] = {}
        self.lost: dict[str, list[tuple[str, str]]] = {}
        self.report: Report | None = None
        self.path: Any = None
        self.error = ""

    def take(self, report: pytest.TestReport) -> None:
        """Note what a test report carries."""
        properties: dict[str, Any] = dict(report.user_properties)
        if report.when == "teardown" or RESULT not in properties:
            return
        found = properties[RESULT]
        self.cases.setdefault((found["subject"], found["id"]), found)
        if subject := properties.get(SUBJECT):
            self.subjects[subject["label"]] = subject
        self.facts = properties.get(RUN) or self.facts
        if why := properties.get(LOST):
            self.lost.setdefault(found["backend"], []).append((found["id"], why))

    def conclude(self, session: pytest.Session, exitstatus: int) -> int:
        """Write the report and return the exit status of the run."""
        from executor_conformance.harness.errors import ConformanceError
        from executor_conformance.harness.report.outcome import exit_code
        from executor_conformance.harness.report.store import write_report

        self.report = self._make(session)
        try:
            self.path = write_report(self.report, self.state.folder)
        except ConformanceError as error:
            self.error = str(error)
            return ConformanceError.exit_code  # the folder could be written to when the run began
        gone = [
            case.history
            for case in self.report.cases
            if case.history and not (self.state.folder / case.history).exists()
        ]
        if gone:
            self.error = f"{len(gone)} histories of this run are no longer in {self.state.folder}; who removed them?"
            return ConformanceError.exit_code
        ended = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
        if exitstatus not in ended:
            return exitstatus
        return max(exit_code(self.report), int(exitstatus == pytest.ExitCode.TESTS_FAILED))

    def _make(self, session: pytest.Session) -> Report:
        from executor_conformance.harness.report.model import CaseResult, Report, RunInfo, SubjectInfo
        from executor_conformance.harness.report.outcome import apply_control_group
        from executor_conformance.harness.versions import broker_kind
        from executor_conformance.suites.on_demand import demanded, explorations

        state, option = self.state, session.config.option
        cases = apply_control_group([CaseResult.from_dict(case) for case in self.cases.values()])
        subjects = [SubjectInfo(**subject) for subject in self.subjects.values()] + state.unavailable
        cells = [
            (case.subject, case.id, clause, str(found["verdict"]))
            for case in cases
            for clause, found in case.clauses.items()
        ]
        narrowed = option.keyword or option.conformance_backend or option.maxfail or session.shouldstop
        single = any("::" in argument for argument in session.config.args)
        complete = (
            not narrowed
            and not demanded(session.config)
            and not single
            and option.conformance_level != "core"
            and not state.unavailable
        )
        run = RunInfo(
            tool_version=_own_version(),
            contract_version=state.catalogue.version,
            airflow_version=self.facts.get("airflow_version", ""),
            edition=self.facts.get("edition", ""),
            providers=self._providers,
            python=platform.python_version(),
            database=self.facts.get("database", state.options.database),
            started=state.started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            duration_s=round(time.monotonic() - state.began, 1),
            command=shlex.join([_program(), *sys.argv[1:]]),
            broker=broker_kind(state.options.broker),
        )
        problems = state.expectations.problems(cells, complete=complete)
        found = explorations(session.config, cases)
        return Report(run=run, subjects=subjects, cases=cases, problems=problems, explorations=found)

    def show(self, terminal: Any) -> None:
        """The matrix, and what is to be said about the run."""
        if self.report is None:
            return
        from executor_conformance.harness.report.terminal import render_matrix

        terminal.section("conformance")
        writer = terminal._tw
        terminal.write_line(render_matrix(self.report, writer.fullwidth, color=writer.hasmarkup, path=self.path))
        for backend, losses in self.lost.items():
            (case, why), times = losses[0], f"{len(losses)} cases" if len(losses) > 1 else "a case"
            text = f"the environment '{backend}' could not be used again after {times}, which took time but no verdict"
            terminal.write_line(f"conformance: {text}: [{case}] {why}", yellow=True)
        if self.error:
            terminal.write_line(f"conformance: {self.error}", red=True)


def _program() -> str:
    name = sys.argv[0].replace("\\", "/").rpartition("/")[2]
    return name if name == "executor-conformance" else "pytest"


def _own_version() -> str:
    from importlib.metadata import version

    return version("airflow-executor-conformance")
