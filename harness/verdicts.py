"""Verdicts of a clause in a case, and how several make one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What was decided; the order of ``SEVERITY`` tells which one a group shows."""

    PASS = "pass"
    FAIL = "fail"  # the subject broke the clause
    FINDING = "finding"  # a clause owned by core was broken: a platform finding, never the subject's
    ERROR = "error"  # the harness or its environment broke
    UNSUPPORTED = "unsupported"  # the subject declares that it does not do this
    NOT_APPLICABLE = "not applicable"  # the edition or the environment has no means
    UNAVAILABLE = "unavailable"  # the environment cannot run here
    KNOWN = "known"  # a failure that the expectations list


SEVERITY = (
    Verdict.FAIL,
    Verdict.ERROR,
    Verdict.KNOWN,
    Verdict.FINDING,
    Verdict.PASS,
    Verdict.UNSUPPORTED,
    Verdict.UNAVAILABLE,
    Verdict.NOT_APPLICABLE,
)
"""Worst first."""

DECIDED = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.FINDING, Verdict.KNOWN, Verdict.UNSUPPORTED})
"""Verdicts that say something about the subject or the platform."""


@dataclass(frozen=True)
class Decision:
    """One clause decided over one history.

    ``reason`` is one sentence; ``evidence`` are lines taken from the history that prove it.
    """

    clause: str
    verdict: Verdict
    reason: str = ""
    evidence: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that a group of verdicts shows; ``not applicable`` for an empty group."""
    found = set(verdicts)
    return next((verdict for verdict in SEVERITY if verdict in found), Verdict.NOT_APPLICABLE)
