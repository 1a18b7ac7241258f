"""One report out of the parts of a CI matrix: other subjects, or other cases of the same subjects."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.expectations import database_kind
from executor_conformance.harness.report.model import CaseResult, Report, RunInfo, SubjectInfo
from executor_conformance.harness.report.outcome import CONTROL_CLAUSE, apply_control_group
from executor_conformance.harness.report.store import load_report, write_report
from executor_conformance.harness.report.wording import one_line, plural
from executor_conformance.harness.versions import NAMES

_SAME = {"contract version": "contract_version", "Airflow version": "airflow_version", "edition": "edition"}
_SUBJECT_SAME = ("backend", "executor", "substrate")


@dataclass(frozen=True)
class Part:
    """A report and the folder in which its histories are."""

    path: Path
    report: Report

    @property
    def folder(self) -> Path:
        """Where ``report.json`` is."""
        return self.path if self.path.is_dir() else self.path.parent


@dataclass
class Merged:
    """The merged report, where its histories come from by where they go, and what a reader should know."""

    report: Report
    histories: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def merge_reports(paths: Sequence[Path], output: Path) -> tuple[Path, Merged]:
    """Merge stored reports into a new folder; the path of its ``report.json``, and what was merged.

    :raises UsageError: a part is no report, the parts do not fit together, or the folder cannot be used.
    """
    parts = [Part(path, load_report(path)) for path in paths]
    merged = merge(parts)
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UsageError(f"The output {output} is there and is not an empty folder; give a new one.")
        for target, source in merged.histories.items():
            (output / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, output / target)
    except OSError as error:
        raise UsageError(f"The histories cannot be copied to {output} ({error.strerror or error}).") from None
    return write_report(merged.report, output), merged


def merge(parts: Sequence[Part]) -> Merged:
    """One report with the subjects and cases of all parts, in their order; nothing is written.

    :raises UsageError: the parts differ in contract, Airflow or edition, or contradict each other.
    """
    _same_thing(parts)
    _same_versions(parts)
    once = {part.report.seal: part for part in reversed(parts)}
    again = [part for part in parts if once[part.report.seal] is not part]
    parts = [part for part in parts if once[part.report.seal] is part]
    merged = Merged(Report(_run(parts), _subjects(parts), [], _problems(parts)))
    merged.notes += [f"{part.path} is {once[part.report.seal].path} again, and left out." for part in again]
    kept: dict[tuple[str, str], tuple[CaseResult, Part]] = {}
    for part in parts:
        for case in part.report.cases:
            key = case.subject, case.id
            kept[key] = _better(*kept[key], case, part) if key in kept else (case, part)
    cases = [_with_history(case, part, merged) for case, part in kept.values()]
    merged.report.cases = apply_control_group(cases)
    merged.report.explorations = [each for part in parts for each in part.report.explorations]
    merged.notes += _without_control(parts)
    missing = sum(bool(case.history) for case, _ in kept.values()) - len(merged.histories)
    if missing:
        merged.notes.append(f"{plural(missing, 'history', 'histories')} of the parts could not be found.")
    return merged


def _same_thing(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for what, name in _SAME.items():
            here, there = getattr(first.report.run, name), getattr(part.report.run, name)
            if here != there:
                raise UsageError(
                    f"The parts are not of the same {what}: {first.path} has {one_line(here) or 'none'}, "
                    f"{part.path} has {one_line(there) or 'none'}; merge each by itself."
                )
        # an expectation may be about one database only, so a report has to be of one; none, if nothing was started
        here, there = (database_kind(each.report.run.database) for each in (first, part))
        if here and there and here != there:
            raise UsageError(
                f"The parts are not of the same database: {first.path} has {one_line(here)}, "
                f"{part.path} has {one_line(there)}; merge each by itself."
            )
        here, there = first.report.run.broker, part.report.run.broker
        if here != there:
            raise UsageError(
                f"The parts are not of the same broker: {first.path} has {one_line(here)}, "
                f"{part.path} has {one_line(there)}; merge each by itself."
            )


def _same_versions(parts: Sequence[Part]) -> None:
    """Refuse parts with different versions of what an expectation may depend on; no part needs each provider."""
    seen: dict[str, tuple[str, Part]] = {}
    for part in parts:
        versions = part.report.run.circumstances.versions
        for name in versions.keys() & set(NAMES):
            here, first = seen.setdefault(name, (versions[name], part))
            if here != versions[name]:
                raise UsageError(
                    f"The parts are not of the same version of {name}: {first.path} has {one_line(here)}, "
                    f"{part.path} has {one_line(versions[name])}; merge each by itself."
                )


def _run(parts: Sequence[Part]) -> RunInfo:
    """The circumstances of all parts; ``duration_s`` is their sum, and what differs is given side by side."""
    runs = [part.report.run for part in parts]

    def joined(values: Iterable[str], separator: str = ", ") -> str:
        return separator.join(dict.fromkeys(value for value in values if value))

    names = sorted({name for run in runs for name in run.providers})
    return replace(
        runs[0],
        tool_version=joined(run.tool_version for run in runs),
        python=joined(run.python for run in runs),
        database=joined(run.database for run in runs),
        started=min(run.started for run in runs),
        duration_s=round(sum(run.duration_s for run in runs), 1),
        command=joined((run.command for run in runs), "; "),
        providers={name: joined(run.providers.get(name, "") for run in runs) for name in names},
    )


def _subjects(parts: Sequence[Part]) -> list[SubjectInfo]:
    """Each subject once; one that is unavailable in a part and was run in another was run."""
    found: dict[str, tuple[SubjectInfo, Part]] = {}
    for part in parts:
        for info in part.report.subjects:
            if info.label not in found:
                found[info.label] = info, part
                continue
            before, other = found[info.label]
            for name in _SUBJECT_SAME:
                here, there = getattr(before, name), getattr(info, name)
                if here != there and not (before.unavailable or info.unavailable):
                    raise UsageError(
                        f"The subject {one_line(info.label)} has the {name} {one_line(here)} in {other.path} and "
                        f"{one_line(there)} in {part.path}, so it is not the same; merge each by itself."
                    )
            if before.unavailable and not info.unavailable:
                found[info.label] = info, part
    return [info for info, _ in found.values()]


def _problems(parts: Sequence[Part]) -> list[str]:
    return list(dict.fromkeys(problem for part in parts for problem in part.report.problems))


def _better(before: CaseResult, first: Part, case: CaseResult, second: Part) -> tuple[CaseResult, Part]:
    """Of two results of the same case that agree the one with more clauses, or the first.

    They need not have the same clauses: an invariant that a history says nothing about is left out.

    :raises UsageError: they contradict each other.
    """
    old, new = (_verdicts(each) for each in (before, case))
    shared = sorted(old.keys() & new.keys())
    # without a clause in common, one of them broke before it could decide any
    pairs = [(clause, old[clause], new[clause]) for clause in shared] or [("", str(before.verdict), str(case.verdict))]
    for clause, here, there in pairs:
        if here != there:
            raise UsageError(
                f"The case {one_line(case.id)} of {one_line(case.subject)} is decided twice and not alike: "
                f"{clause or 'its verdict'} is '{here}' in {first.path} and '{there}' in {second.path}; run it again."
            )
    return (case, second) if len(new) > len(old) else (before, first)


def _verdicts(case: CaseResult) -> dict[str, str]:
    if not case.clauses:
        return {"": case.verdict.value}
    return {clause: str(result["verdict"]) for clause, result in case.clauses.items()}


def _with_history(case: CaseResult, part: Part, merged: Merged) -> CaseResult:
    """The case with its history noted for the copy, under a name of its own; without one if there is no such file.

    :raises UsageError: the history is outside the folder of its part.
    """
    if not case.history:
        return case
    folder = part.folder.resolve()
    try:
        source = (folder / case.history).resolve()
        there = source.is_file()
    except (OSError, ValueError):
        source, there = folder, False
    if not source.is_relative_to(folder):
        raise UsageError(f"The history of {one_line(case.id)} in {part.path} is outside of its folder; it was edited.")
    if not there:
        return replace(case, history="")
    path = PurePosixPath("histories", source.name)
    number = 2
    while str(path) in merged.histories:
        path = path.with_name(f"{source.stem}-{number}{source.suffix}")
        number += 1
    merged.histories[str(path)] = source
    return replace(case, history=str(path))


def _without_control(parts: Iterable[Part]) -> list[str]:
    """A control group of another part was run on another machine, or at another time."""
    notes = []
    for part in parts:
        controlled = {case.subject for case in part.report.cases if CONTROL_CLAUSE in case.clauses}
        alone = [label for label in part.report.labels if label not in controlled and part.report.of_subject(label)]
        if alone:
            named = one_line(", ".join(alone))
            notes.append(f"{part.path} has no control group for {named}; it rests on that of another part, if any.")
    return notes
