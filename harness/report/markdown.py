"""``summary.md``: the report for a reader of a pull request or of a CI job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.report.model import CaseResult, ClauseResult, Report, matrix
from executor_conformance.harness.report.wording import EVIDENCE_LINES, cell_text, clause_text, evidence_lines
from executor_conformance.harness.verdicts import Verdict


def render_markdown(report: Report) -> str:
    """The whole summary as GitHub-flavoured Markdown."""
    parts = [
        _head(report),
        _matrix(report),
        _subjects(report),
        _explorations(report),
        _section(report, "Failures", Verdict.FAIL, _failure),
        _section(report, "Errors of the harness or its environment", Verdict.ERROR, _failure),
        _section(report, "Known failures", Verdict.KNOWN, _listed),
        _section(report, "Platform findings", Verdict.FINDING, _listed),
        _problems(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text on one line that neither ends a table cell nor starts Markdown or HTML."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """Text as inline code, with a fence longer than any run of backticks in it."""
    text = " ".join(text.split())
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def _block(lines: list[str]) -> str:
    fence = "`" * max(3, _longest_run("\n".join(lines)) + 1)
    return "\n".join(f"  {line}" for line in [f"{fence}text", *lines, fence])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _head(report: Report) -> str:
    run = report.run
    providers = ", ".join(f"{name} {version}" for name, version in sorted(run.providers.items()))
    facts = {
        "Airflow": f"{run.airflow_version} (edition {run.edition})",
        "Providers": providers,
        "Contract": run.contract_version,
        "Tool": run.tool_version,
        "Python": run.python,
        "Database": run.database,
        "Started": f"{run.started}, took {run.duration_s:.1f} s",
    }
    lines = [f"- {name}: {escape(value)}" for name, value in facts.items() if value]
    lines += [f"- Command: {code(run.command)}"] if run.command else []
    totals = ", ".join(f"{number} {verdict}" for verdict, number in report.totals.items()) or "none"
    lines.append(f"- Cases: {totals}")
    return "# Executor conformance\n\n" + "\n".join(lines)


def _matrix(report: Report) -> str:
    rows = matrix(report)
    if not rows:
        return "No subject was run."
    head = ["Subject", *report.groups]
    cells = [[escape(row.subject), *(escape(cell_text(row.squares[group])) for group in report.groups)] for row in rows]
    note = "Each square counts decisions, a decision being one clause in one case."
    return f"{_table(head, cells)}\n\n{note}"


def _subjects(report: Report) -> str:
    if not report.subjects:
        return ""
    head = [
        "Subject",
        "Backend",
        "Executor",
        "Substrate",
        "Control plane",
        "Data plane",
        "Variant",
        "Unavailable",
    ]
    rows = [
        [
            escape(info.label),
            escape(info.backend),
            escape(info.executor),
            escape(info.substrate),
            escape(info.control_plane),
            escape(info.data_plane),
            escape(info.variant),
            escape(info.unavailable),
        ]
        for info in report.subjects
    ]
    return "## What was run\n\n" + _table(head, rows)


def _explorations(report: Report) -> str:
    parts = []
    for found in report.explorations:
        parts += [f"- {escape(found.line)}", *(f"  - {escape(note)}" for note in found.notes)]
    return "## Sweeps and sequences\n\n" + "\n".join(parts) if parts else ""


def _section(
    report: Report, title: str, verdict: Verdict, render: Callable[[CaseResult, str, ClauseResult], str]
) -> str:
    items = [render(case, clause, result) for case, clause, result in _decided(report, verdict)]
    return f"## {title}\n\n" + "\n\n".join(items) if items else ""


def _decided(report: Report, verdict: Verdict) -> Iterator[tuple[CaseResult, str, ClauseResult]]:
    for case in report.cases:
        found = [(clause, result) for clause, result in case.clauses.items() if result["verdict"] == verdict]
        for clause, result in found:
            yield case, clause, result
        if not found and case.verdict is verdict:
            yield case, "", {"verdict": verdict.value, "reason": case.reason, "evidence": []}


def _failure(case: CaseResult, clause: str, result: ClauseResult) -> str:
    title = f"**{escape(case.subject)}{' ' + clause if clause else ''}** in {code(case.id)}"
    lines = [f"- {title}: {escape(result['reason'] or case.reason)}"]
    if clause:
        lines.append(f"  - Contract: {escape(clause_text(clause, load_catalogue()))}")
    if case.reproduce:
        lines.append(f"  - Reproduce: {code(case.reproduce)}")
    if case.history:
        lines.append(f"  - History: {code(case.history)}")
    evidence = evidence_lines(result["evidence"], EVIDENCE_LINES)
    return "\n".join(lines) + (f"\n\n{_block(evidence)}" if evidence else "")


def _listed(case: CaseResult, clause: str, result: ClauseResult) -> str:
    notes = [f"review by {escape(result['review'])}" if result.get("review") else ""]
    notes.append(_link(result.get("link", "")))
    if case.history:
        notes.append(f"history {code(case.history)}")
    if result["verdict"] == Verdict.FINDING and not result.get("listed"):
        notes.insert(0, "not written down")
    extra = "; ".join(note for note in notes if note)
    line = f"- **{escape(case.subject)} {clause}** in {code(case.id)}: {escape(result['reason'])}"
    return f"{line} ({extra})" if extra else line


def _link(link: str) -> str:
    return f"<{link}>" if re.fullmatch(r"https?://[^\s<>]+", link) else escape(link)


def _problems(report: Report) -> str:
    lines = [f"- {escape(problem)}" for problem in report.problems]
    return "## Problems of the run\n\n" + "\n".join(lines) if lines else ""
