"""The report as data: what was run, what was decided, and the matrix over it.

Everything here turns into plain JSON values and back, so that it can cross the processes of pytest-xdist.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.verdicts import DECIDED, SEVERITY, Decision, Verdict, worst
from executor_conformance.harness.versions import FILESYSTEM, Circumstances, versions_of

FORMAT = "executor-conformance/report"
FORMAT_VERSION = 1

ClauseResult = dict[str, Any]
"""``verdict`` and ``reason`` (strings), ``evidence`` (list of strings); if listed also ``listed``,
``review`` and ``link``; ``runaway`` if the subject was stopped because of it."""

Counts = dict[str, int]
"""Number of decisions by verdict, worst first; a decision is one clause in one case."""


@dataclass
class CaseResult:
    """One case in one subject; ``verdict`` is the worst of its clauses'.

    ``executor`` is the import path, ``history`` the path of the history relative to the report's folder
    (or empty), ``duration_s`` seconds, ``reproduce`` one line for a shell, ``level`` that of
    the case's clause.
    """

    id: str
    subject: str
    backend: str
    executor: str
    verdict: Verdict
    clauses: dict[str, ClauseResult] = field(default_factory=dict)
    reason: str = ""
    duration_s: float = 0.0
    reproduce: str = ""
    history: str = ""
    level: str = "core"

    @property
    def failed(self) -> bool:
        """Whether a clause failed or the harness broke; a finding does not count."""
        return self.verdict in (Verdict.FAIL, Verdict.ERROR)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values only."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CaseResult:
        """The case that :meth:`to_dict` gave."""
        return cls(**{**_known(cls, data), "verdict": Verdict(data["verdict"])})


@dataclass
class SubjectInfo:
    """What was tested and in what; ``unavailable`` tells why it could not run, or is empty."""

    label: str
    backend: str
    executor: str
    substrate: str = ""
    control_plane: str = ""
    data_plane: str = ""
    variant: str = ""
    unavailable: str = ""


@dataclass
class RunInfo:
    """The circumstances of a run; ``started`` is ISO 8601 in UTC, ``duration_s`` seconds."""

    tool_version: str
    contract_version: str
    airflow_version: str
    edition: str
    python: str
    database: str
    started: str
    duration_s: float
    command: str
    providers: dict[str, str] = field(default_factory=dict)
    broker: str = FILESYSTEM

    @property
    def circumstances(self) -> Circumstances:
        """What an expectation may depend on."""
        return Circumstances(self.database, versions_of(self.airflow_version, self.providers), self.broker)


@dataclass
class Exploration:
    """A sweep or a search with drawn sequences as a whole; ``counts`` are numbers by what they count, in their order.

    ``kind`` is 'sweep' or 'sequences', ``duration_s`` seconds, ``notes`` sentences: what was left out, and why.
    """

    kind: str
    subject: str
    title: str
    counts: dict[str, int]
    duration_s: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """It in one line."""
        numbers = ", ".join(f"{number} {what}" for what, number in self.counts.items() if number or what in _ALWAYS)
        return f"{self.kind} of {self.subject}, {self.title}: {numbers}; {self.duration_s:.0f} s"


_ALWAYS = ("boundaries", "runs", "sequences", "violations")


@dataclass
class Report:
    """Everything that a run leaves behind, apart from its histories."""

    run: RunInfo
    subjects: list[SubjectInfo]
    cases: list[CaseResult]
    problems: list[str] = field(default_factory=list)
    explorations: list[Exploration] = field(default_factory=list)
    """Only in reports of runs on demand."""

    @property
    def summary(self) -> dict[str, dict[str, Counts]]:
        """Counts by subject label and clause group."""
        found: dict[str, dict[str, Counts]] = {subject: {} for subject in self.labels}
        groups = self.groups
        for subject in self.labels:
            cases = self.of_subject(subject)
            for group in groups:
                verdicts = [verdict for case in cases for verdict in _verdicts_in(case, group)]
                if verdicts:
                    found[subject][group] = count(verdicts)
        return found

    @property
    def labels(self) -> list[str]:
        """The labels of all subjects, in their order."""
        return list(dict.fromkeys([*(info.label for info in self.subjects), *(case.subject for case in self.cases)]))

    @property
    def groups(self) -> list[str]:
        """The contract's groups in its order, then those that only this report has."""
        own = [group.id for group in load_catalogue().groups]
        return own + sorted({group_of(clause) for case in self.cases for clause in case.clauses} - set(own))

    @property
    def totals(self) -> Counts:
        """The number of cases by verdict, worst first."""
        return count(case.verdict for case in self.cases)

    def of_subject(self, label: str) -> list[CaseResult]:
        """The cases of one subject."""
        return [case for case in self.cases if case.subject == label]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``, with its digest."""
        content = _plain(
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "run": dataclasses.asdict(self.run),
                "subjects": [dataclasses.asdict(subject) for subject in self.subjects],
                "cases": [dataclasses.asdict(case) for case in self.cases],
                "summary": self.summary,
                "problems": self.problems,
                **(
                    {"explorations": [dataclasses.asdict(each) for each in self.explorations]}
                    if self.explorations
                    else {}
                ),
            }
        )
        return {**content, "digest": digest(content)}

    @property
    def seal(self) -> str:
        """The digest that ``report.json`` has, in hexadecimal."""
        return str(self.to_dict()["digest"])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that :meth:`to_dict` gave; the caller has validated it."""
        return cls(
            run=RunInfo(**_known(RunInfo, data["run"])),
            subjects=[SubjectInfo(**_known(SubjectInfo, subject)) for subject in data["subjects"]],
            cases=[CaseResult.from_dict(case) for case in data["cases"]],
            problems=list(data["problems"]),
            explorations=[Exploration(**_known(Exploration, each)) for each in data.get("explorations", ())],
        )


class Square(NamedTuple):
    """One square of the matrix: the worst verdict, ``passes`` of ``decided`` decisions, and all counts.

    ``verdict`` is ``None`` where nothing of the group was run.
    """

    verdict: Verdict | None
    passes: int
    decided: int
    counts: Counts


class Row(NamedTuple):
    """One subject of the matrix; ``squares`` by group id."""

    subject: str
    squares: dict[str, Square]


def matrix(report: Report) -> list[Row]:
    """One row per subject; one that could not run is ``unavailable`` wherever it has no decision."""
    summary = report.summary
    unavailable = {info.label for info in report.subjects if info.unavailable}
    rows = []
    for subject in report.labels:
        squares = {}
        for group in report.groups:
            counts = summary[subject].get(group, {})
            verdict = worst(Verdict(name) for name in counts) if counts else None
            if verdict is None and subject in unavailable:
                verdict = Verdict.UNAVAILABLE
            decided = sum(number for name, number in counts.items() if Verdict(name) in DECIDED)
            squares[group] = Square(verdict, counts.get(Verdict.PASS.value, 0), decided, counts)
        rows.append(Row(subject, squares))
    return rows


def clause_results(decisions: Iterable[Decision]) -> dict[str, ClauseResult]:
    """The ``clauses`` of a case; if a clause was decided more than once, its worst verdict counts."""
    found: dict[str, ClauseResult] = {}
    for decision in decisions:
        before = found.get(decision.clause)
        if before and SEVERITY.index(Verdict(before["verdict"])) <= SEVERITY.index(decision.verdict):
            continue
        result: ClauseResult = {
            "verdict": decision.verdict.value,
            "reason": decision.reason,
            "evidence": [str(line) for line in decision.evidence],
        }
        if decision.data.get("runaway"):
            result["runaway"] = True
        if decision.data.get("listed"):
            result["listed"] = True
            result.update({name: str(decision.data[name]) for name in ("review", "link") if decision.data.get(name)})
        found[decision.clause] = result
    return found


def case_verdict(clauses: Mapping[str, ClauseResult]) -> Verdict:
    """The worst verdict of the clauses; ``not applicable`` if there are none."""
    return worst(Verdict(result["verdict"]) for result in clauses.values())


def group_of(clause: str) -> str:
    """The group of a clause id, also of one that this catalogue does not have."""
    return clause.rpartition("-")[0] or clause


def count(verdicts: Iterable[Verdict]) -> Counts:
    """The number of each verdict that is there, worst first."""
    found = Counter(verdicts)
    return {verdict.value: found[verdict] for verdict in SEVERITY if found[verdict]}


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, over the canonical JSON of everything but the field ``digest``."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _verdicts_in(case: CaseResult, group: str) -> list[Verdict]:
    return [Verdict(result["verdict"]) for clause, result in case.clauses.items() if group_of(clause) == group]


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    # through JSON: execnet refuses subclasses of str such as StrEnum members, and tuples become lists
    return json.loads(json.dumps(value, default=str))


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}
