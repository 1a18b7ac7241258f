"""The gate: whether a report lets a release or a change through, and if not, why.

A gate that is open says that every subject was looked at by a run that can be believed (its control group passed and
something was decided), and that nothing fails that was not failing or listed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from executor_conformance.harness.expectations import Expectations
from executor_conformance.harness.report.baseline import against_baseline, is_failing
from executor_conformance.harness.report.compare import Cases, Found, Place, cases_of, found_at
from executor_conformance.harness.report.model import CaseResult, Report, case_verdict, clause_results
from executor_conformance.harness.report.outcome import CONTROL_CLAUSE, apply_control_group
from executor_conformance.harness.report.wording import few, plural
from executor_conformance.harness.verdicts import DECIDED, Decision, Verdict


class Reason(NamedTuple):
    """Why the gate is closed; ``subject`` is empty if it is because of the run as a whole.

    ``shown``: something was shown to be wrong; or the run has shown nothing, and may do so when it is done again.
    """

    text: str
    subject: str = ""
    shown: bool = True


@dataclass(frozen=True)
class Outcome:
    """What the gate says; ``report`` is the report with the expectations applied to it.

    ``notes`` are what a reader should know though it closes nothing; ``seal`` is the digest of the report as it was
    given, ``baseline_seal`` that of the baseline, or empty; ``distrusted`` are the subjects that were run without a
    control group that passed, and ``decided`` tells whether anything of the contract was decided.
    """

    report: Report
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    seal: str
    baseline_seal: str = ""
    distrusted: tuple[str, ...] = ()
    decided: bool = True

    @property
    def open(self) -> bool:
        """Whether it lets the report through."""
        return not self.reasons

    @property
    def exit_code(self) -> int:
        """0: open; 1: closed for something that was shown; 3: closed because nothing was shown that can be believed."""
        return 0 if self.open else 1 if any(reason.shown for reason in self.reasons) else 3

    def closed_for(self, subject: str) -> bool:
        """Whether a reason is about this subject."""
        return any(reason.subject == subject for reason in self.reasons)


def judge(
    report: Report,
    baseline: Report | None = None,
    expectations: Expectations | None = None,
    required: Sequence[str] = (),
) -> Outcome:
    """Decide whether the gate is open.

    :param baseline: what was failing in it is tolerated; what passed or was decided there must not be lost.
    :param expectations: the failures it lists are tolerated, strictly; it then is the only list that counts.
    :param required: labels of subjects that must be there.
    """
    effective = replace(report, cases=apply_control_group(report.cases))
    if expectations is not None:
        effective = replace(effective, cases=[_listed(case, expectations) for case in effective.cases])
    distrusted = dict(_control_group(effective))
    reasons = [Reason(f"The run has a problem: {problem}") for problem in report.problems]
    reasons += _nothing_decided(effective, distrusted)
    reasons += [Reason(why, subject, shown=False) for subject, why in distrusted.items()]
    reasons += _required(effective, required)
    tables = cases_of(effective), _believed(baseline) if baseline else {}
    reasons += _failures(*tables, distrusted)
    notes = [*_unlisted(tables[0], distrusted), *_notes(effective, expectations is not None)]
    if expectations is not None:
        reasons += _expectations(tables[0], expectations)
    if baseline is not None:
        lost, told = against_baseline(effective, baseline)
        reasons += [Reason(text, subject) for subject, text in lost]
        notes += [*told, *_tolerated(*tables)]
        if baseline.seal == report.seal:
            notes.append("The baseline is the report itself, so it shows nothing.")
    return Outcome(
        effective,
        tuple(reasons),
        tuple(notes),
        seal=report.seal,
        baseline_seal=baseline.seal if baseline else "",
        distrusted=tuple(distrusted),
        decided=_decided(effective.cases),
    )


def _listed(case: CaseResult, expectations: Expectations) -> CaseResult:
    """The case with the failures that the expectations list as ``known``, and no others."""
    decisions = []
    for clause, result in case.clauses.items():
        verdict = Verdict(result["verdict"])
        # what another file listed when the suite ran is a failure like any other
        verdict = Verdict.FAIL if verdict is Verdict.KNOWN else verdict
        decisions.append(Decision(clause, verdict, result["reason"], tuple(result["evidence"])))
    clauses = clause_results(expectations.apply(case.subject, case.id, decisions))
    for clause, before in case.clauses.items():
        if before["verdict"] == clauses[clause]["verdict"]:
            clauses[clause] = before
    own = all(result["verdict"] != case.verdict for result in case.clauses.values())
    return replace(case, clauses=clauses, verdict=case.verdict if own else case_verdict(clauses))


def _control_group(report: Report) -> Iterator[tuple[str, str]]:
    """The subjects that were run and cannot be believed, each with the reason."""
    unavailable = {info.label for info in report.subjects if info.unavailable}
    for subject in report.labels:
        cases = report.of_subject(subject)
        if not cases and subject in unavailable:
            continue
        controls = [case.clauses[CONTROL_CLAUSE] for case in cases if CONTROL_CLAUSE in case.clauses]
        broken = next((control for control in controls if control["verdict"] != Verdict.PASS), None)
        what = f"The control group ({CONTROL_CLAUSE})"
        if not controls:
            yield subject, f"{what} of {subject} was not run, so nothing that it shows can be believed."
        elif broken:
            why = f": {broken['reason'].rstrip('.')}" if broken["reason"] else ""
            yield subject, f"{what} of {subject} is '{broken['verdict']}' and not 'pass'{why}."


def _decided(cases: Iterable[CaseResult]) -> bool:
    """Whether anything of the contract was decided; the control group is no part of what is tested."""
    return any(
        Verdict(result["verdict"]) in DECIDED
        for case in cases
        for clause, result in case.clauses.items()
        if clause != CONTROL_CLAUSE
    )


def _nothing_decided(report: Report, distrusted: Iterable[str]) -> Iterator[Reason]:
    if not _decided(report.cases):
        yield Reason("The run decided nothing of the contract.", shown=False)
        return
    for subject in report.labels:
        cases = report.of_subject(subject)
        if cases and not _decided(cases) and subject not in distrusted:
            yield Reason(f"The run decided nothing of the contract for {subject}.", subject, shown=False)


def _believed(baseline: Report) -> Cases:
    """What the baseline shows of the subjects whose control group passed there."""
    distrusted = dict(_control_group(baseline))
    return {key: clauses for key, clauses in cases_of(baseline).items() if key[0] not in distrusted}


def _required(report: Report, required: Sequence[str]) -> Iterator[Reason]:
    infos = {info.label: info for info in report.subjects}
    for subject in dict.fromkeys(required):
        info = infos.get(subject)
        if subject not in report.labels:
            has = ", ".join(report.labels) or "no subject"
            yield Reason(f"The required subject {subject} is not in the report, which has {has}.", subject)
        elif info and info.unavailable:
            yield Reason(f"The required subject {subject} is unavailable: {info.unavailable}", subject)


def _failures(now: Cases, before: Cases, distrusted: Iterable[str]) -> Iterator[Reason]:
    """One reason for each clause of a subject that fails or broke, unless the baseline has that failure as well."""
    groups: dict[tuple[str, str, Verdict], list[tuple[str, Found]]] = {}
    for place, found in _bad(now):
        tolerated = found.verdict is Verdict.FAIL and is_failing(found_at(before, place))
        # the subject's control group has a reason of its own, and its failures accuse nobody
        if not tolerated and place.subject not in distrusted:
            groups.setdefault((place.subject, place.clause, found.verdict), []).append((place.case, found))
    for (subject, clause, verdict), several in groups.items():
        sentence = next((found.reason for _, found in several if found.reason), "no reason was given")
        where = few(case for case, _ in several)
        head = " ".join(part for part in (subject, clause, verdict.value.upper()) if part)
        yield Reason(f"{head} in {where}: {sentence}", subject, shown=verdict is Verdict.FAIL)


def _bad(now: Cases) -> Iterator[tuple[Place, Found]]:
    for (subject, case), clauses in now.items():
        for clause, found in clauses.items():
            if found.verdict in (Verdict.FAIL, Verdict.ERROR):
                yield Place(subject, case, clause), found


def _unlisted(now: Cases, distrusted: Iterable[str]) -> Iterator[str]:
    for subject in distrusted:
        number = sum(place.subject == subject and place.clause != CONTROL_CLAUSE for place, _ in _bad(now))
        if number:
            yield f"{plural(number, 'failure or error', 'failures and errors')} of {subject} accuse nobody."


def _tolerated(now: Cases, before: Cases) -> Iterator[str]:
    kept = [
        place
        for place, found in _bad(now)
        if found.verdict is Verdict.FAIL and place.clause != CONTROL_CLAUSE and is_failing(found_at(before, place))
    ]
    if kept:
        where = few(f"{place.subject} {place.clause} in {place.case}" for place in kept)
        yield f"{plural(len(kept), 'failure')} that the baseline has as well: {where}."


def _expectations(now: Cases, expectations: Expectations) -> Iterator[Reason]:
    """What makes the file wrong for this report; that a report is of a whole run cannot be known."""
    cells = [
        (subject, case, clause, found.verdict.value)
        for (subject, case), clauses in now.items()
        for clause, found in clauses.items()
        if clause
    ]
    yield from (Reason(problem) for problem in expectations.problems(cells, complete=False))


def _notes(report: Report, has_expectations: bool) -> Iterator[str]:
    for info in report.subjects:
        if info.unavailable:
            yield f"{info.label} could not run: {info.unavailable}"
    known = sum(result["verdict"] == Verdict.KNOWN for case in report.cases for result in case.clauses.values())
    if known:
        whose = "the expectations" if has_expectations else "the expectations of the run itself"
        yield f"{plural(known, 'failure')} listed in {whose}."
    found = {
        f"{case.subject} {clause}"
        for case in report.cases
        for clause, result in case.clauses.items()
        if result["verdict"] == Verdict.FINDING
    }
    if found:
        yield f"Platform findings, which are Airflow's own: {few(sorted(found))}."
