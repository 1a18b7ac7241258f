"""A report beside the one before it: what was lost on the way, and what else a reader should know."""

from __future__ import annotations

from collections.abc import Iterator

from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.report.compare import Cases, Found, cases_of, found_at, places_of, run_differences
from executor_conformance.harness.report.model import Report
from executor_conformance.harness.report.wording import few, plural
from executor_conformance.harness.verdicts import DECIDED, Verdict

_TOLD = ("contract", "Airflow", "edition", "tool", "database")
_WORSE = (Verdict.KNOWN, Verdict.FINDING, Verdict.UNSUPPORTED)


def is_failing(before: Found | None) -> bool:
    """Whether the baseline has this failure already; an error there has shown nothing."""
    return before is not None and before.verdict in (Verdict.FAIL, Verdict.KNOWN)


def against_baseline(report: Report, baseline: Report) -> tuple[list[tuple[str, str]], list[str]]:
    """What was decided in the baseline and is not there any more, as (subject, sentence); and notes."""
    now, before = cases_of(report), cases_of(baseline)
    differences = run_differences([baseline, report])
    notes = [
        f"The baseline has another {difference.what}: {difference.values[0]}, now {difference.values[1]}."
        for difference in differences
        if difference.what in _TOLD
    ]
    lost = [*_lost_cases(report, now, before), *_lost_clauses(now, before, report.run.edition)]
    return lost, [*notes, *_weaker(report, baseline)]


def _decided_cases(before: Cases) -> Iterator[tuple[str, str]]:
    """The cases of which something was decided."""
    for key, clauses in before.items():
        if any(found.verdict in DECIDED for found in clauses.values()):
            yield key


def _lost_cases(report: Report, now: Cases, before: Cases) -> Iterator[tuple[str, str]]:
    lost: dict[str, list[str]] = {}
    for subject, case in _decided_cases(before):
        if (subject, case) not in now:
            lost.setdefault(subject, []).append(case)
    unavailable = {info.label: info.unavailable for info in report.subjects}
    for subject, cases in lost.items():
        if any(name == subject for name, _ in now):
            yield from ((subject, f"{subject} {case} was decided in the baseline and is gone.") for case in cases)
        else:
            why = f", for it is unavailable: {unavailable[subject]}" if unavailable.get(subject) else "."
            yield subject, f"{subject} had {plural(len(cases), 'decided case')} in the baseline and is gone{why}"


def _lost_clauses(now: Cases, before: Cases, edition: str) -> Iterator[tuple[str, str]]:
    """Clauses that no case of a subject has any more, though a case is there that had it.

    That one case alone has lost a clause shows nothing: an invariant that a history says nothing about is left out.
    """
    left = {(subject, clause) for (subject, _), clauses in now.items() for clause in clauses}
    lost: dict[tuple[str, str], list[str]] = {}
    for (subject, case), clauses in before.items():
        here = now.get((subject, case), {})
        # a case that is gone is told of as such, and one that broke has a reason of its own
        if not here or any(found.verdict is Verdict.ERROR for found in here.values()):
            continue
        for clause, found in clauses.items():
            if clause and found.verdict in DECIDED and (subject, clause) not in left and _applies(clause, edition):
                lost.setdefault((subject, clause), []).append(case)
    for (subject, clause), cases in lost.items():
        yield subject, f"{subject} {clause} was decided in the baseline and is gone from {few(cases)}."


def _applies(clause: str, edition: str) -> bool:
    """Whether a clause, which the contract may no longer have, is one of the edition."""
    catalogue = load_catalogue()
    if edition not in {each.id for each in catalogue.editions}:
        return True
    return not any(each.id == clause and each.applies_to(edition) for each in catalogue.clauses)


def _weaker(report: Report, baseline: Report) -> Iterator[str]:
    """What passed in the baseline and does not pass now, though nothing of it is a failure of the subject."""
    now = cases_of(report)
    groups: dict[str, list[str]] = {}
    for place, before in places_of(baseline).items():
        if before.verdict is not Verdict.PASS or (place.subject, place.case) not in now:
            continue
        after = found_at(now, place)
        verdict = after.verdict if after else Verdict.NOT_APPLICABLE
        if verdict in _WORSE or verdict not in (DECIDED | {Verdict.ERROR}):
            groups.setdefault(verdict if after else "not decided", []).append(
                f"{place.subject} {place.clause} in {place.case}"
            )
    for state, places in groups.items():
        number = plural(len(places), "decision that passed", "decisions that passed")
        yield f"{number} in the baseline, now '{state}': {few(places)}."
