"""``docs/findings.md``: what the suite found in released executors and in core, for those who can mend it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from executor_conformance.harness.findings import Finding, Findings
from executor_conformance.harness.report.markdown import code, escape
from executor_conformance.harness.report.model import CaseResult, ClauseResult, Report
from executor_conformance.harness.report.wording import EVIDENCE_LINES, evidence_lines, few, plural
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.harness.versions import Bounds, line_of

SHOWN = frozenset({Verdict.FAIL, Verdict.KNOWN, Verdict.FINDING})
"""The verdicts that show a finding in a report."""


def render_findings(found: Findings, reproduce: Callable[[Finding], str], reports: Sequence[Report] = ()) -> str:
    """The page as GitHub-flavoured Markdown.

    :param reproduce: one line for a shell that shows a finding.
    :param reports: of runs; where one shows a finding, the page says so, with a line of its evidence.
    """
    return "\n".join(_page(found, reproduce, reports)) + "\n"


def _page(found: Findings, reproduce: Callable[[Finding], str], reports: Sequence[Report]) -> Iterator[str]:
    versions = " and ".join(found.versions.values())
    components = list(dict.fromkeys(finding.component for finding in found.findings))
    yield "<!-- Generated from expectations/ by executor-conformance findings; edit the files there instead. -->"
    yield "# Findings\n"
    count = plural(len(found.findings), "defect")
    released = ", ".join(f"{name} {version}" for name, version in found.providers.items())
    yield f"What the suite found in Airflow {versions}, and in the executors that were released for them: {count},"
    yield "one entry for each cause. The causes were read in Airflow's source; *where* names a file below"
    yield f"`site-packages`, and a function or class in it.{f' The providers are {released}.' if released else ''}\n"
    yield "The line that reproduces a finding needs an environment with that Airflow and the provider. In a checkout"
    yield "of this project the verdict is `known`, because `expectations/` lists it, and elsewhere `fail`; where core"
    yield "owns the clause it is `finding`. Subjects are explained in [Backends](backends.md) and in the pages on"
    yield "[Kubernetes](kubernetes.md) and [AWS](aws.md), clauses in [the contract](contract.md).\n"
    yield "| finding | in | Airflow | clauses |"
    yield "| --- | --- | --- | --- |"
    for finding in found.findings:
        link = f"[{finding.title}](#{_anchor(finding.title)})"
        lines = ", ".join(found.versions[line] for line in finding.lines)
        yield f"| {link} | {finding.component} | {lines} | {', '.join(_clauses(found, finding))} |"
    for component in components:
        yield f"\n## {'Core and the task SDK' if component == 'core' else component}"
        for finding in found.findings:
            if finding.component == component:
                yield from _finding(found, finding, reproduce(finding), reports)


def _finding(found: Findings, finding: Finding, line: str, reports: Sequence[Report]) -> Iterator[str]:
    entries = [entry for _, entry in found.entries_of(finding)]
    subjects = list(dict.fromkeys(entry.subject for entry in entries))
    cases = list(dict.fromkeys(entry.case for entry in entries))
    yield f"\n### {finding.title}\n"
    yield f"{finding.text}\n"
    yield f"- finding: `{finding.id}`, in Airflow {', '.join(found.versions[line] for line in finding.lines)}"
    if bounds := _bounds(found, finding):
        yield f"- holds for: {bounds}"
    yield f"- subjects: {'every one that runs callbacks' if subjects == ['*'] else _codes(subjects)}"
    yield f"- clauses: {', '.join(f'[{name}](contract.md#{name.lower()})' for name in _clauses(found, finding))}"
    yield f"- cases: {_codes(cases)}"
    yield f"- reproduce: {code(line)}"
    yield f"- cause: {finding.cause}"
    yield f"- where: {', '.join(f'`{name}` in `{file}`' for file, name in finding.where)}"
    if finding.upstream:
        note = f" ({finding.upstream_note})" if finding.upstream_note else ""
        yield f"- upstream: {', '.join(map(_link, finding.upstream))}{note}"
    for report in reports:
        yield from _seen(found, finding, report)


def _seen(found: Findings, finding: Finding, report: Report) -> Iterator[str]:
    places = list(_places(found, finding, report))
    if not places:
        return
    case, _, result = places[0]
    where = few(f"{case.subject} {case.id} {clause} {result['verdict']}" for case, clause, result in places)
    run = report.run
    yield f"- seen on Airflow {escape(run.airflow_version)}, {escape(run.started)}: {escape(where)}"
    lines = evidence_lines(result["evidence"], EVIDENCE_LINES)
    if lines:
        yield f"  - of {code(case.id)} on {escape(case.subject)}:"
        for text in lines:
            yield f"    - {code(text)}"


def _places(found: Findings, finding: Finding, report: Report) -> Iterator[tuple[CaseResult, str, ClauseResult]]:
    """Where a report shows the finding; an executor of somebody's own has the label of its own."""
    run = report.run.circumstances
    if not finding.versions.admit(run.versions):
        return
    listed = found.entries.get(line_of(report.run.airflow_version), ())
    entries = [entry for entry in listed if finding.id in entry.findings and entry.holds(run)]
    for case in report.cases:
        for clause, result in case.clauses.items():
            matched = any(entry.matches(case.subject, case.id, clause) for entry in entries)
            if matched and Verdict(result["verdict"]) in SHOWN:
                yield case, clause, result


def _bounds(found: Findings, finding: Finding) -> str:
    """The versions that have the defect, where they are bounded: the finding's, or those of its entries by line."""
    if finding.versions:
        return code(str(finding.versions))
    bounds: dict[str, set[Bounds]] = {}
    for line, entry in found.entries_of(finding):
        bounds.setdefault(line, set()).add(entry.versions)
    parts = [(line, each.pop()) for line, each in bounds.items() if len(each) == 1]
    return "; ".join(f"{code(str(each))} in Airflow {line}" for line, each in parts if each)


def _clauses(found: Findings, finding: Finding) -> list[str]:
    return list(dict.fromkeys(name for _, entry in found.entries_of(finding) for name in entry.clauses))


def _codes(patterns: Sequence[str]) -> str:
    # a `?` of an expectation stands for the bracket of a parametrised case
    names = [re.sub(r"^([^?]*)\?(.*)\?$", r"\1[\2]", pattern) for pattern in patterns]
    return ", ".join(map(code, names))


def _link(address: str) -> str:
    number = re.fullmatch(r"https://github\.com/([\w-]+/[\w-]+)/(?:issues|pull)/(\d+)", address)
    return f"[{number[1]}#{number[2]}]({address})" if number else f"<{address}>"


def _anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
