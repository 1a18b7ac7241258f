"""Reports compared: what two of them decided differently, and what does not come out the same in several.

A place is one clause in one case of one subject. A case that broke before it could decide a clause has one place
without a clause; beside a report that decided its clauses, its verdict stands for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from executor_conformance.harness.report.model import CaseResult, Report
from executor_conformance.harness.verdicts import SEVERITY, Verdict

BROKEN_VERDICTS = frozenset({Verdict.FAIL, Verdict.ERROR})
"""What a pass must not become."""

_FIXED_FROM = frozenset({Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN})


class Place(NamedTuple):
    """Where something is decided; ``clause`` is empty for a case that broke before its clauses."""

    subject: str
    case: str
    clause: str


class Found(NamedTuple):
    """What was decided at a place, with its sentence (or none)."""

    verdict: Verdict
    reason: str = ""


class Kind(StrEnum):
    """How a place differs; in the order in which a reader wants them."""

    BROKEN = "broken"  # pass before, fail or error now
    FIXED = "fixed"  # fail, known or error before, pass now
    CHANGED = "changed"  # any other two verdicts
    NEW = "new"  # only in the second report
    GONE = "gone"  # only in the first report


@dataclass(frozen=True)
class Change:
    """One place at which two reports differ; ``before`` or ``after`` is ``None`` where a report has nothing."""

    place: Place
    kind: Kind
    before: Found | None
    after: Found | None


@dataclass(frozen=True)
class RunDifference:
    """A circumstance that is not the same in all reports, with its value in each, in their order."""

    what: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two reports: ``changes`` in the order of the reports, ``same`` the number of places without one."""

    changes: tuple[Change, ...]
    same: int

    def of(self, kind: Kind) -> list[Change]:
        """The changes of one kind."""
        return [change for change in self.changes if change.kind is kind]


@dataclass(frozen=True)
class Series:
    """A place over several reports; a verdict is ``None`` where a report has nothing there."""

    place: Place
    verdicts: tuple[Verdict | None, ...]


@dataclass(frozen=True)
class Stability:
    """Several reports: places that are ``flaky``, places that some report lacks, and the number of the others."""

    flaky: tuple[Series, ...]
    missing: tuple[Series, ...]
    same: int


Cases = dict[tuple[str, str], dict[str, Found]]


def cases_of(report: Report) -> Cases:
    """What was decided, by subject and case and then by clause; of a place given twice the worst counts."""
    found: Cases = {}
    for case in report.cases:
        clauses = found.setdefault((case.subject, case.id), {})
        for clause, here in _clauses(case).items():
            known = clauses.get(clause)
            if known is None or SEVERITY.index(here.verdict) < SEVERITY.index(known.verdict):
                clauses[clause] = here
    return found


def places_of(report: Report) -> dict[Place, Found]:
    """The same, by place."""
    return {
        Place(subject, case, clause): found
        for (subject, case), clauses in cases_of(report).items()
        for clause, found in clauses.items()
    }


def _clauses(case: CaseResult) -> dict[str, Found]:
    clauses = {
        clause: Found(Verdict(result["verdict"]), result["reason"] or case.reason)
        for clause, result in case.clauses.items()
    }
    # a verdict of the case that no clause has tells of something that happened beside its clauses
    if all(found.verdict is not case.verdict for found in clauses.values()):
        clauses[""] = Found(case.verdict, case.reason)
    return clauses


def found_at(cases: Cases, place: Place) -> Found | None:
    """What a report found at a place that it need not have itself; ``None`` if it has nothing to say there."""
    clauses = cases.get((place.subject, place.case))
    if clauses is None:
        return None
    if place.clause in clauses:
        return clauses[place.clause]
    if not place.clause:
        return min(clauses.values(), key=lambda found: SEVERITY.index(found.verdict))
    return clauses[""] if set(clauses) == {""} else None


def compare(before: Report, after: Report) -> Comparison:
    """What differs between two reports, by subject, case and clause."""
    tables = [cases_of(before), cases_of(after)]
    changes: list[Change] = []
    same = 0
    for place in _all_places(tables):
        old, new = (found_at(table, place) for table in tables)
        kind = kind_of(old, new)
        if kind is None:
            same += 1
        else:
            changes.append(Change(place, kind, old, new))
    return Comparison(tuple(changes), same)


def _all_places(tables: Sequence[Cases]) -> Iterator[Place]:
    """Every place of several reports, case by case, the cases of a subject together."""
    keys = list(dict.fromkeys(key for table in tables for key in table))
    subjects = list(dict.fromkeys(subject for subject, _ in keys))
    for subject, case in sorted(keys, key=lambda key: subjects.index(key[0])):
        several = [table[subject, case] for table in tables if (subject, case) in table]
        named = list(dict.fromkeys(clause for clauses in several for clause in clauses if clause))
        for clause in named:
            yield Place(subject, case, clause)
        # where another report has clauses, a verdict without any is spread over them
        if any("" in clauses and (len(clauses) > 1 or not named) for clauses in several):
            yield Place(subject, case, "")


def kind_of(before: Found | None, after: Found | None) -> Kind | None:
    """How two findings at one place differ; ``None`` if their verdicts are the same."""
    if before is None:
        return None if after is None else Kind.NEW
    if after is None:
        return Kind.GONE
    if before.verdict is after.verdict:
        return None
    if before.verdict is Verdict.PASS and after.verdict in BROKEN_VERDICTS:
        return Kind.BROKEN
    if before.verdict in _FIXED_FROM and after.verdict is Verdict.PASS:
        return Kind.FIXED
    return Kind.CHANGED


def stability(reports: Sequence[Report]) -> Stability:
    """Which verdicts are not the same in all reports of the same thing."""
    tables = [cases_of(report) for report in reports]
    flaky: list[Series] = []
    missing: list[Series] = []
    same = 0
    for place in _all_places(tables):
        found = [found_at(table, place) for table in tables]
        series = Series(place, tuple(each.verdict if each else None for each in found))
        if len(set(series.verdicts) - {None}) > 1:
            flaky.append(series)
        elif None in series.verdicts:
            missing.append(series)
        else:
            same += 1
    return Stability(tuple(flaky), tuple(missing), same)


def run_differences(reports: Sequence[Report]) -> list[RunDifference]:
    """What is not the same in the circumstances of the reports, contract and Airflow first."""
    runs = [report.run for report in reports]
    values: dict[str, list[str]] = {
        "contract": [run.contract_version for run in runs],
        "Airflow": [run.airflow_version for run in runs],
        "edition": [run.edition for run in runs],
        "tool": [run.tool_version for run in runs],
        "Python": [run.python for run in runs],
        "database": [run.database for run in runs],
    }
    for provider in sorted({name for run in runs for name in run.providers}):
        values[provider] = [run.providers.get(provider, "") for run in runs]
    infos = [{info.label: info for info in report.subjects} for report in reports]
    # only a subject that all reports have: one that is new or gone is seen in its cases
    for label in [label for label in infos[0] if all(label in others for others in infos)]:
        for name in ("executor", "substrate", "control_plane", "data_plane", "variant", "unavailable"):
            values[f"{label}: {name.replace('_', ' ')}"] = [getattr(each[label], name) for each in infos]
    return [RunDifference(what, tuple(found)) for what, found in values.items() if len(set(found)) > 1]
