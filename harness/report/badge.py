"""A badge: the state of a report in a few words, for shields.io or as a picture of its own."""

from __future__ import annotations

from typing import Any, NamedTuple
from xml.etree import ElementTree

from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.report.gate import judge
from executor_conformance.harness.report.model import Report
from executor_conformance.harness.report.wording import one_line
from executor_conformance.harness.verdicts import Verdict
from rich.cells import cell_len

LABEL = "executor conformance"
COLORS = {
    "brightgreen": "#4c1",
    "yellowgreen": "#a4a61d",
    "orange": "#fe7d37",
    "red": "#e05d44",
    "lightgrey": "#9f9f9f",
}
"""The names that shields.io has for the colours that are used, with their values."""

_CELL = 7.2  # pixels of an average sign of 11 px Verdana; textLength makes the text fit
_PADDING = 10


class Badge(NamedTuple):
    """What a badge says; ``color`` is a name of ``COLORS``."""

    label: str
    message: str
    color: str


def badge(report: Report, subject: str | None = None) -> Badge:
    """The badge of a report, or of one subject in it.

    It is green only where the gate would be open.

    :raises UsageError: the report does not have the subject.
    """
    if subject is not None:
        if subject not in report.labels:
            has = ", ".join(map(one_line, report.labels)) or "none"
            raise UsageError(f"The report has no subject '{one_line(subject)}'; it has {has}.")
        report = Report(
            report.run,
            [info for info in report.subjects if info.label == subject],
            report.of_subject(subject),
            # which subject a problem is about is not known
            report.problems,
        )
    label = LABEL if subject is None else f"{LABEL}: {one_line(subject)}"
    message, color = _state(report)
    version = one_line(report.run.airflow_version)
    return Badge(label, f"{message} (Airflow {version})" if version else message, color)


def _state(report: Report) -> tuple[str, str]:
    if not report.cases:
        return "not run", "lightgrey"
    outcome = judge(report)
    verdicts = [Verdict(result["verdict"]) for case in report.cases for result in case.clauses.values()]
    verdicts += [case.verdict for case in report.cases if case.verdict not in verdicts]
    passes = verdicts.count(Verdict.PASS)
    if outcome.distrusted:
        return "control group did not pass", "lightgrey"
    if not outcome.decided:
        return "nothing decided", "lightgrey"
    if Verdict.FAIL in verdicts:
        return f"{verdicts.count(Verdict.FAIL)} failing, {passes} passing", "red"
    if Verdict.ERROR in verdicts:
        return f"{verdicts.count(Verdict.ERROR)} undecided, {passes} passing", "orange"
    if any(not reason.shown for reason in outcome.reasons):
        return "nothing decided", "lightgrey"
    if not outcome.open:
        return "expectations are wrong", "orange"
    known, findings = verdicts.count(Verdict.KNOWN), verdicts.count(Verdict.FINDING)
    rest = [f"{number} {word}" for number, word in ((known, "known"), (findings, "of Airflow")) if number]
    return ", ".join([f"{passes} passing", *rest]), "yellowgreen" if rest else "brightgreen"


def endpoint(found: Badge) -> dict[str, Any]:
    """The badge in the format of a shields.io endpoint."""
    return {"schemaVersion": 1, "label": found.label, "message": found.message, "color": found.color}


def svg(found: Badge) -> str:
    """The badge as an SVG document, in a line; it needs no font and no server."""
    left, right = (cell_len(text) * _CELL + 2 * _PADDING for text in (found.label, found.message))
    title = f"{found.label}: {found.message}"
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": f"{left + right:.0f}",
            "height": "20",
            "role": "img",
            "aria-label": title,
        },
    )
    ElementTree.SubElement(root, "title").text = title
    _half(root, 0, left, "#555", found.label)
    _half(root, left, right, COLORS[found.color], found.message)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _half(root: ElementTree.Element, start: float, width: float, color: str, text: str) -> None:
    ElementTree.SubElement(root, "rect", {"x": f"{start:.1f}", "width": f"{width:.1f}", "height": "20", "fill": color})
    label = ElementTree.SubElement(
        root,
        "text",
        {
            "x": f"{start + width / 2:.1f}",
            "y": "14",
            "fill": "#fff",
            "font-family": "Verdana,Geneva,DejaVu Sans,sans-serif",
            "font-size": "11",
            "text-anchor": "middle",
            "textLength": f"{width - 2 * _PADDING:.1f}",
        },
    )
    label.text = text
