"""What a terminal shows: the matrix at the end of a run, and the text of a case that failed."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from executor_conformance.harness.catalogue import Catalogue
from executor_conformance.harness.report.model import CaseResult, Report, Row, matrix
from executor_conformance.harness.report.wording import (
    EVIDENCE_LINES,
    SYMBOLS,
    cell_text,
    clause_text,
    evidence_lines,
)
from executor_conformance.harness.verdicts import Verdict
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {
    None: "dim",
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "bold magenta",
    Verdict.KNOWN: "yellow",
    Verdict.FINDING: "cyan",
    Verdict.UNSUPPORTED: "blue",
    Verdict.UNAVAILABLE: "dim",
    Verdict.NOT_APPLICABLE: "dim",
}
_SQUARE_WIDTH = 15


def stdout_console() -> Console:
    """Where tables go; wide enough to be read by machines where it is no terminal."""
    width = None if sys.stdout.isatty() else 160
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def render_matrix(report: Report, width: int, *, color: bool = False, path: Path | None = None) -> str:
    """The matrix, failures, problems and totals as text of at most ``width`` columns; ends with a newline.

    ``path`` is where the report was written; ``color`` adds ANSI colours.
    """
    width = max(width, 40)
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(matrix_renderable(report, width))
    for line in _lines(report):
        console.print(line)
    if path is not None:
        console.print(Text(f"report: {path}"), soft_wrap=True)
    return stream.getvalue()


def matrix_renderable(report: Report, width: int) -> Group:
    """The matrix for rich; where ``width`` is short, its columns go into several tables below each other."""
    rows = matrix(report)
    groups = report.groups
    label_width = max((cell_len(row.subject) for row in rows), default=7) + 2
    per_table = max(1, min(len(groups), (width - label_width) // _SQUARE_WIDTH))
    # evenly filled, so that the last table is no lone column
    tables = -(-len(groups) // per_table)
    size = -(-len(groups) // tables)
    parts: list[RenderableType] = []
    for start in range(0, len(groups), size):
        parts += [Text(""), _table(rows, groups[start : start + size])]
    return Group(*parts[1:])


def _table(rows: Sequence[Row], groups: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("subject", overflow="fold")
    for group in groups:
        table.add_column(group, overflow="fold")
    for row in rows:
        squares = [row.squares[group] for group in groups]
        cells = [Text(cell_text(square), style=STYLES[square.verdict]) for square in squares]
        table.add_row(Text(row.subject), *cells)
    return table


def _lines(report: Report) -> list[Text]:
    lines = [Text("")]
    for verdict in (Verdict.FAIL, Verdict.ERROR):
        for (subject, clause), (sentence, cases) in _broken(report, verdict).items():
            where = cases[0] if len(cases) == 1 else f"{cases[0]} and {len(cases) - 1} more"
            text = f"{SYMBOLS[verdict]} {subject} {clause}".rstrip() + f" {verdict.value.upper()}: {sentence} [{where}]"
            lines.append(Text(text, style=STYLES[verdict]))
    for info in report.subjects:
        if info.unavailable:
            text = f"{SYMBOLS[Verdict.UNAVAILABLE]} {info.label} unavailable: {info.unavailable}"
            lines.append(Text(text, style=STYLES[Verdict.UNAVAILABLE]))
    lines += [Text(found.line) for found in report.explorations]
    lines += [Text(f"! problem: {problem}", style="bold red") for problem in report.problems]
    totals = ", ".join(f"{number} {verdict}" for verdict, number in report.totals.items()) or "nothing was run"
    lines.append(
        Text(
            f"{len(report.cases)} cases: {totals}; Airflow {report.run.airflow_version} "
            f"(edition {report.run.edition}), {report.run.duration_s:.0f} s"
        )
    )
    return lines


def _broken(report: Report, verdict: Verdict) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """By subject and clause: the first case's sentence, and the ids of all its cases."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for case in report.cases:
        named = {name: result for name, result in case.clauses.items() if result["verdict"] == verdict}
        if not named and case.verdict is verdict:
            named = {"": {"reason": case.reason}}
        for clause, result in named.items():
            sentence = " ".join((result["reason"] or case.reason or "no reason was given").split())
            found.setdefault((case.subject, clause), (sentence, []))[1].append(case.id)
    return found


def failure_text(case: CaseResult, catalogue: Catalogue) -> str:
    """What a failing case prints: how to reproduce it, the broken clauses, evidence, the history's path."""
    lines = [case.reproduce] if case.reproduce else []
    broken = {
        clause: result for clause, result in case.clauses.items() if result["verdict"] in (Verdict.FAIL, Verdict.ERROR)
    }
    for clause, result in broken.items():
        lines.append(f"{clause} {result['verdict'].upper()}: {clause_text(clause, catalogue)}")
        if result["reason"]:
            lines.append(f"  {' '.join(result['reason'].split())}")
    if case.reason and not any(case.reason == result["reason"] for result in broken.values()):
        lines.append(f"{case.verdict.value.upper()}: {' '.join(case.reason.split())}")
    evidence = dict.fromkeys(line for result in broken.values() for line in result["evidence"])
    lines += [f"  | {line}" for line in evidence_lines(evidence, EVIDENCE_LINES)]
    if case.history:
        lines.append(f"history: {case.history}")
    return "\n".join(lines)
