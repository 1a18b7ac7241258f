"""What a gate says, for a release vote: reads as plain text in a mail and as Markdown in a pull request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from executor_conformance.harness.report.gate import Outcome
from executor_conformance.harness.report.markdown import escape
from executor_conformance.harness.report.model import Report, RunInfo
from executor_conformance.harness.report.wording import one_line, plural
from executor_conformance.harness.verdicts import SEVERITY, Verdict
from rich.cells import cell_len


def vote_block(outcome: Outcome, baseline: Report | None = None, expectations: str = "") -> str:
    """The block to paste; ends without a newline.

    :param baseline: the report that the gate compared with.
    :param expectations: the name of the file of listed failures, and its digest.
    """
    run = outcome.report.run
    facts = {
        "Verdict": "OPEN" if outcome.open else f"CLOSED, {plural(len(outcome.reasons), 'reason')}",
        "Airflow": _airflow(run),
        "Tool": f"airflow-executor-conformance {run.tool_version}",
        "Contract": run.contract_version,
        "Run": ", ".join(part for part in (run.started, f"Python {run.python}", run.database) if part),
        "Report": f"sha256:{outcome.seal}",
    }
    if baseline:
        facts["Baseline"] = f"Airflow {_airflow(baseline.run)}, sha256:{outcome.baseline_seal}"
    if expectations:
        facts["Expectations"] = expectations
    lines = [f"- {name}: {escape(one_line(value))}" for name, value in facts.items()]
    return "\n".join(["## Executor conformance", "", *lines, "", *_table(outcome)])


def _airflow(run: RunInfo) -> str:
    return f"{run.airflow_version or 'unknown'} (edition {run.edition or 'unknown'})"


def _table(outcome: Outcome) -> Iterator[str]:
    """One row per subject, padded so that it is a table without Markdown as well."""
    if not outcome.report.labels:
        yield "No subject was run."
        return
    counts = {
        subject: Counter(
            Verdict(result["verdict"])
            for case in outcome.report.of_subject(subject)
            for result in (case.clauses or {"": {"verdict": case.verdict}}).values()
        )
        for subject in outcome.report.labels
    }
    shown = [verdict for verdict in SEVERITY if any(count[verdict] for count in counts.values())]
    rows = [["Subject", "Gate", "Cases", *(verdict.value for verdict in shown)]]
    for subject, count in counts.items():
        cases = len(outcome.report.of_subject(subject))
        numbers = [str(count[verdict]) for verdict in shown]
        rows.append([escape(one_line(subject)), _gate(outcome, subject, cases), str(cases), *numbers])
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * max(3, width) for width in widths])
    for row in rows:
        cells = (cell + " " * (max(3, width) - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "The verdicts are counted by decision, which is one clause in one case."


def _gate(outcome: Outcome, subject: str, cases: int) -> str:
    if outcome.closed_for(subject):
        return "closed"
    return "open" if cases else "not run"
