"""What ``executor-conformance diff`` shows, for a reader and for a machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from executor_conformance.harness.report.compare import (
    BROKEN_VERDICTS,
    Change,
    Comparison,
    Found,
    Kind,
    RunDifference,
    Series,
    Stability,
    run_differences,
)
from executor_conformance.harness.report.model import Report, count
from executor_conformance.harness.report.terminal import STYLES
from executor_conformance.harness.report.wording import SYMBOLS, one_line, plural
from executor_conformance.harness.verdicts import Verdict
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

_STYLES = {Kind.BROKEN: "bold red", Kind.FIXED: "green", Kind.CHANGED: "yellow", Kind.NEW: "cyan", Kind.GONE: "magenta"}
_MEANINGS = {
    Kind.BROKEN: "passed, and fails or breaks now",
    Kind.FIXED: "failed or broke, and passes now",
    Kind.CHANGED: "another verdict",
    Kind.NEW: "only in the second report",
    Kind.GONE: "only in the first report",
}
_ABSENT = "–"  # noqa: RUF001


def comparison_lines(comparison: Comparison, before: Report, after: Report) -> Iterator[RenderableType]:
    """The difference of two reports: of the runs first, then by kind, worst first; nothing is cut off."""
    yield from _runs(run_differences([before, after]))
    for kind in Kind:
        changes = comparison.of(kind)
        if not changes:
            continue
        yield Text(f"{kind.value}: {plural(len(changes), 'decision')} ({_MEANINGS[kind]})", style=_STYLES[kind])
        yield from _changes(kind, changes, before, after)
        yield Text("")
    counts = [f"{len(comparison.of(kind))} {kind.value}" for kind in Kind if comparison.of(kind)]
    yield Text(", ".join([*(counts or ["no difference"]), f"{comparison.same} as before"]))


def _runs(differences: Sequence[RunDifference]) -> Iterator[RenderableType]:
    for difference in differences:
        values = " → ".join(one_line(value) or _ABSENT for value in difference.values)
        yield Text(f"{one_line(difference.what)}: {values}", style="bold")
    if differences:
        yield Text("")


def _changes(kind: Kind, changes: Sequence[Change], before: Report, after: Report) -> Iterator[RenderableType]:
    if kind not in (Kind.NEW, Kind.GONE):
        yield from _changed(changes)
        return
    # the report that does not have it: what it lacks as a whole is one line
    other = before if kind is Kind.NEW else after
    subjects = {case.subject for case in other.cases}
    cases = {(case.subject, case.id) for case in other.cases}
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        subject, case, _ = change.place
        groups.setdefault((subject, case if subject in subjects else ""), []).append(change)
    for (subject, case), group in groups.items():
        found = [change.after or change.before for change in group]
        verdicts = _counts(each for each in found if each)
        if not case:
            number = plural(len({change.place.case for change in group}), "case")
            yield _item(f"{subject}: the subject with {number}, {verdicts}")
        elif (subject, case) in cases:
            yield _item(f"{subject} {case} {', '.join(_clauses(group))}: {verdicts}")
        else:
            yield _item(f"{subject} {case}: the case, {verdicts}")


def _changed(changes: Sequence[Change]) -> Iterator[RenderableType]:
    """One line for the clauses of a case that changed in the same way, and why they are bad now."""
    groups: dict[tuple[str, str, Verdict, Verdict], list[Change]] = {}
    for change in changes:
        assert change.before is not None
        assert change.after is not None
        key = (change.place.subject, change.place.case, change.before.verdict, change.after.verdict)
        groups.setdefault(key, []).append(change)
    for (subject, case, old, new), group in groups.items():
        where = f"{subject} {case} {', '.join(_clauses(group))}".rstrip()
        yield _item(f"{SYMBOLS[new]} {where}: {old} → {new}", STYLES[new])
        if new in BROKEN_VERDICTS or new is Verdict.FINDING:
            reasons = dict.fromkeys(one_line(change.after.reason) for change in group if change.after)
            yield from (Padding(Text(reason), (0, 0, 0, 6), expand=False) for reason in reasons if reason)


def _clauses(group: Iterable[Change]) -> list[str]:
    return [change.place.clause for change in group if change.place.clause]


def _counts(found: Iterable[Found]) -> str:
    return ", ".join(f"{number} {verdict}" for verdict, number in count(each.verdict for each in found).items())


def _item(text: str, style: str = "") -> RenderableType:
    return Padding(Text(one_line(text), style=style), (0, 0, 0, 2), expand=False)


def stability_lines(found: Stability, reports: Sequence[Report]) -> Iterator[RenderableType]:
    """What is not the same in more than two reports."""
    differences = run_differences(reports)
    yield from _runs(differences)
    if any(difference.what in ("contract", "Airflow", "edition") for difference in differences):
        yield Text("These are not reports of the same thing: what differs need not be flaky.", style="yellow")
        yield Text("")
    for title, several, style in (
        ("flaky", found.flaky, "bold red"),
        ("not in all reports", found.missing, "cyan"),
    ):
        if several:
            yield Text(f"{title}: {plural(len(several), 'decision')}", style=style)
            yield from _series(several)
            yield Text("")
    yield Text(
        f"{len(found.flaky)} flaky, {len(found.missing)} not in all reports, "
        f"{found.same} the same in all {len(reports)}"
    )


def _series(several: Sequence[Series]) -> Iterator[RenderableType]:
    groups: dict[tuple[str, str, tuple[Verdict | None, ...]], list[str]] = {}
    for series in several:
        clauses = groups.setdefault((series.place.subject, series.place.case, series.verdicts), [])
        clauses += [series.place.clause] if series.place.clause else []
    for (subject, case, verdicts), clauses in groups.items():
        where = f"{subject} {case} {', '.join(clauses)}".rstrip()
        yield _item(f"{where}: {', '.join(verdict or _ABSENT for verdict in verdicts)}")


def comparison_data(comparison: Comparison, before: Report, after: Report) -> dict[str, Any]:
    """The difference of two reports as plain JSON values."""
    changes = {
        kind.value: [
            {
                **change.place._asdict(),
                "before": change.before and change.before.verdict.value,
                "after": change.after and change.after.verdict.value,
                "reason": (change.after or change.before or Found(Verdict.PASS)).reason,
            }
            for change in comparison.of(kind)
        ]
        for kind in Kind
    }
    return {**_head([before, after]), **changes, "same": comparison.same}


def stability_data(found: Stability, reports: Sequence[Report]) -> dict[str, Any]:
    """What is not the same in several reports, as plain JSON values; a verdict is null where there is none."""

    def rows(several: Sequence[Series]) -> list[dict[str, Any]]:
        return [
            {**series.place._asdict(), "verdicts": [verdict and verdict.value for verdict in series.verdicts]}
            for series in several
        ]

    return {**_head(reports), "flaky": rows(found.flaky), "missing": rows(found.missing), "same": found.same}


def _head(reports: Sequence[Report]) -> dict[str, Any]:
    return {
        "reports": [
            {
                "digest": report.seal,
                "contract": report.run.contract_version,
                "airflow": report.run.airflow_version,
                "edition": report.run.edition,
                "started": report.run.started,
            }
            for report in reports
        ],
        "runs": [{"what": each.what, "values": list(each.values)} for each in run_differences(reports)],
    }
