"""What a report means as a whole: the control group and the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from executor_conformance.harness.report.model import CaseResult, Report, case_verdict
from executor_conformance.harness.verdicts import DECIDED, Verdict

CONTROL_CLAUSE = "TASK-1"


def control_failures(cases: Iterable[CaseResult]) -> dict[str, str]:
    """The subjects whose control group was not kept, whatever kept it from that, each with the reason."""
    failed: dict[str, str] = {}
    for case in cases:
        result = case.clauses.get(CONTROL_CLAUSE)
        if result and result["verdict"] != Verdict.PASS:
            failed.setdefault(case.subject, result["reason"] or case.reason or f"{CONTROL_CLAUSE} in {case.id}")
    return failed


def apply_control_group(cases: Iterable[CaseResult]) -> list[CaseResult]:
    """The cases with every ``fail`` of a subject whose control group did not pass turned into ``error``.

    The control clause itself keeps its verdict: it is the one thing that was shown. So does the clause for which a
    subject was stopped: that it took all it could needs no plain task beside it. Applying twice changes nothing.
    """
    cases = list(cases)
    failed = control_failures(cases)
    return [excused(case, failed[case.subject]) if case.subject in failed else case for case in cases]


def excused(case: CaseResult, why: str) -> CaseResult:
    """The case with every ``fail`` turned into ``error``, for the control group failed because of ``why``."""
    reason = f"the control group failed: {why}"
    clauses = {
        clause: {**result, "verdict": Verdict.ERROR.value, "reason": reason}
        if result["verdict"] == Verdict.FAIL and clause != CONTROL_CLAUSE and not result.get("runaway")
        else result
        for clause, result in case.clauses.items()
    }
    if CONTROL_CLAUSE in clauses:
        return replace(case, clauses=clauses)
    shown = any(result["verdict"] == Verdict.FAIL for result in clauses.values())
    if clauses == case.clauses and (case.verdict is not Verdict.FAIL or shown):
        return case
    verdict = case_verdict(clauses) if clauses != case.clauses else Verdict.ERROR
    return replace(case, clauses=clauses, verdict=verdict, reason=reason)


def exit_code(report: Report) -> int:
    """How the command ends.

    1: a clause failed; else 3: nothing was decided, the harness broke, or a control group did not pass; else 1: the
    expectations are wrong for this run (``problems``); else 0, known failures and platform findings included.
    A control clause that is not a pass accuses nobody, so by itself it gives 3.
    """
    decided: list[Verdict] = []
    blamed: list[Verdict] = []
    control_failed = False
    for case in apply_control_group(report.cases):
        results = {clause: Verdict(result["verdict"]) for clause, result in case.clauses.items()}
        decided += [verdict for verdict in results.values() if verdict in DECIDED]
        if results.pop(CONTROL_CLAUSE, Verdict.PASS) is not Verdict.PASS:
            control_failed = True
        else:
            # a case that broke before it could decide a clause has its own verdict only
            blamed.append(case.verdict)
        blamed += results.values()
    if Verdict.FAIL in blamed:
        return 1
    if Verdict.ERROR in blamed or control_failed or not decided:
        return 3
    return 1 if report.problems else 0
