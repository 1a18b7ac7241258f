"""The words that the terminal and ``summary.md`` share."""

from __future__ import annotations

from collections.abc import Iterable

from executor_conformance.harness.catalogue import Catalogue
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.report.model import Square
from executor_conformance.harness.verdicts import Verdict

EVIDENCE_LINES = 6
"""At most so many lines of evidence are shown; the rest is in the history."""

SYMBOLS = {
    None: "·",
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.ERROR: "!",
    Verdict.KNOWN: "~",
    Verdict.FINDING: "?",
    Verdict.UNSUPPORTED: "○",
    Verdict.UNAVAILABLE: "∅",
    Verdict.NOT_APPLICABLE: "-",
}
_LOUD = (Verdict.FAIL, Verdict.ERROR)
_SHOWN = (Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN, Verdict.FINDING, Verdict.UNSUPPORTED)


def cell_text(square: Square) -> str:
    """A square of the matrix as text that reads without colour: ``✓ 12/12 pass``, ``✗ 9/12 FAIL 3``."""
    symbol = SYMBOLS[square.verdict]
    if square.verdict is None:
        return symbol
    others = [
        f"{verdict.value.upper() if verdict in _LOUD else verdict.value} {square.counts[verdict.value]}"
        for verdict in _SHOWN
        if square.counts.get(verdict.value)
    ]
    if not square.decided:
        return " ".join([symbol, *(others or [square.verdict.value])])
    return " ".join([symbol, f"{square.passes}/{square.decided}", *(others or ["pass"])])


def clause_text(clause: str, catalogue: Catalogue) -> str:
    """The clause's sentence; says so if the report is of a contract that had another clause."""
    try:
        return catalogue.clause(clause).text
    except UsageError:
        return f"The contract {catalogue.version} has no clause {clause}."


def evidence_lines(evidence: Iterable[str], limit: int) -> list[str]:
    """At most ``limit`` lines; the last one tells how many were left out."""
    lines = [line for text in evidence for line in text.splitlines() if line.strip()]
    if len(lines) <= limit:
        return lines
    return [*lines[: limit - 1], f"… and {len(lines) - limit + 1} more lines in the history"]


def one_line(text: str) -> str:
    """Text of a report on one line, without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def plural(number: int, one: str, many: str = "") -> str:
    """``1 case``, ``2 cases``; ``many`` is for words that need more than an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def few(names: Iterable[str], limit: int = 3) -> str:
    """At most ``limit`` names, then how many more."""
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
