"""Expectations: the failures that are known, each with its reason and a date at which it is looked at again.

They are strict: an entry whose clause passes now, that matches nothing, or that is past its date fails the
run. In ``subject`` and ``case`` the signs ``*`` and ``?`` are wildcards; square brackets stand for
themselves, because the ids of parametrised cases have them. An entry that is about another database, or about other
versions, does not exist for a run.
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from executor_conformance.harness.catalogue import Catalogue
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.verdicts import Decision, Verdict
from executor_conformance.harness.versions import BROKERS, UNBOUNDED, Bounds, Circumstances, line_of, read_bounds

ON_DEMAND = ("sweep.", "sequences.")
"""How the ids of cases begin that run only when they are asked for."""
_KEYS = ("subject", "clause", "case", "database", "broker", "versions", "reason", "finding", "link", "review")
DATABASES = ("sqlite", "postgres")
_FAILED = frozenset({Verdict.FAIL, Verdict.KNOWN, Verdict.FINDING})


class Cell(NamedTuple):
    """One clause decided in one case of one subject; plain data, so any process can make it."""

    subject: str
    case: str
    clause: str
    verdict: str


@dataclass(frozen=True)
class Entry:
    """One ``[[expected]]`` of the file; ``number`` counts from 1."""

    number: int
    subject: str
    clauses: tuple[str, ...]
    reason: str
    review: datetime.date
    case: str = "*"
    database: str = ""
    """The kind of database that it is about, of :data:`DATABASES`; empty: any."""
    broker: str = ""
    """The kind of broker that it is about, of :data:`BROKERS`; empty: any."""
    versions: Bounds = UNBOUNDED
    """The versions that it is about."""
    link: str = ""
    findings: tuple[str, ...] = ()
    """Ids of the findings that are its cause, where a ``findings.toml`` describes them."""

    def matches(self, subject: str, case: str, clause: str) -> bool:
        """Whether this entry speaks of the clause in that case of that subject."""
        return clause in self.clauses and _like(subject, self.subject) and _like(case, self.case)

    def holds(self, run: Circumstances) -> bool:
        """Tell if it is about a run; one that is not neither excuses a failure nor can be wrong for the run."""
        here = self.database in ("", database_kind(run.database)) and self.broker in ("", run.broker)
        return here and self.versions.admit(run.versions)

    @property
    def on_demand(self) -> bool:
        """Whether it speaks of cases that run only when they are asked for, so that most runs have none of them."""
        return self.case.startswith(ON_DEMAND)

    @property
    def title(self) -> str:
        """The entry as a sentence names it."""
        where = "" if self.case == "*" else f" in {self.case}"
        return f"The expectation {self.number} ({self.subject}, {', '.join(self.clauses)}{where})"


def database_kind(database: str) -> str:
    """The one of :data:`DATABASES` that an option or a report names, or the name itself."""
    return next((each for each in DATABASES if database.lower().startswith(each)), database)


@dataclass
class Expectations:
    """The entries of one file; ``path`` is ``None`` if there is no file, and then nothing is compared.

    ``matches`` records what :meth:`apply` matched in this process, as pairs of entry number and cell;
    :meth:`problems` does not use it.
    """

    entries: tuple[Entry, ...] = ()
    path: Path | None = None
    today: datetime.date = field(default_factory=datetime.date.today)
    matches: list[tuple[int, Cell]] = field(default_factory=list)
    digest: str = ""
    """SHA-256 of the file as it was read."""
    inherited: bool = False
    """The entries are about the executors that the subject is made from; nothing of them can be wrong for its run."""
    stands_for: Path | None = None
    """The file that there is not yet, where the entries are of an older line; what passes now is no problem then."""

    def of(self, run: Circumstances) -> Expectations:
        """Return those that hold for a run."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.holds(run)))

    def apply(self, subject: str, case: str, decisions: Iterable[Decision], parent: str = "") -> list[Decision]:
        """The decisions with listed failures turned into ``known`` and listed findings marked ``listed``.

        :param subject: the label that the entries name: of the subject, or of the executor that it is made from.
        :param parent: import path of the executor that it is made from, where the entries are inherited.
        """
        return [self._applied(subject, case, decision, parent) for decision in decisions]

    def _applied(self, subject: str, case: str, decision: Decision, parent: str) -> Decision:
        if decision.verdict not in (Verdict.FAIL, Verdict.FINDING):
            return decision
        listing = [entry for entry in self.entries if entry.matches(subject, case, decision.clause)]
        if not listing:
            return decision
        cell = Cell(subject, case, decision.clause, decision.verdict.value)
        self.matches.extend((entry.number, cell) for entry in listing)
        entry = listing[0]
        data = {**decision.data, "listed": True, "review": entry.review.isoformat()}
        if parent:
            data["inherited"] = parent
        if entry.link:
            data["link"] = entry.link
        if decision.verdict is Verdict.FINDING:
            return replace(decision, data=data)
        reason = f"{entry.reason}: {decision.reason}" if decision.reason else entry.reason
        reason = f"inherited from {parent.rpartition('.')[2]}: {reason}" if parent else reason
        return replace(decision, verdict=Verdict.KNOWN, reason=reason, data=data)

    def problems(self, results: Iterable[tuple[str, str, str, str]], *, complete: bool) -> list[str]:
        """What makes the expectations wrong for a run, one sentence each, in the order of the file.

        ``results`` are (subject, case, clause, verdict) of the whole run, from as many processes as there
        were, before or after :meth:`apply`. ``complete`` says that everything was run that the entries could
        speak of; without it, an entry that matches nothing is no problem.
        """
        if self.path is None or self.inherited:
            return []
        cells = [Cell(*result) for result in results]
        found = [problem for entry in self.entries for problem in self._of_entry(entry, cells, complete)]
        return found + self._unlisted(cells)

    def _of_entry(self, entry: Entry, cells: list[Cell], complete: bool) -> list[str]:
        found: list[str] = []
        matched = [cell for cell in cells if entry.matches(cell.subject, cell.case, cell.clause)]
        failed = [cell for cell in matched if cell.verdict in _FAILED]
        passed = [cell for cell in matched if cell.verdict == Verdict.PASS]
        if self.stands_for:
            pass  # a newer line may have fixed what an older one breaks
        elif passed and not failed:
            found.append(f"{entry.title} passes now in {_cells(passed)}; remove it.")
        elif passed:
            found.append(
                f"{entry.title} lists more than what fails: {_cells(passed)} passes; narrow its case or subject."
            )
        elif not matched and complete and not entry.on_demand:
            found.append(f"{entry.title} matches nothing that was run; correct or remove it.")
        if entry.review < self.today:
            found.append(f"{entry.title} was to be reviewed by {entry.review}; review it and give it a new date.")
        return found

    def _unlisted(self, cells: list[Cell]) -> list[str]:
        findings: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            listed = any(entry.matches(cell.subject, cell.case, cell.clause) for entry in self.entries)
            if cell.verdict == Verdict.FINDING and not listed:
                findings.setdefault((cell.subject, cell.clause), []).append(cell)
        return [
            f"A platform finding that is not written down: {subject} breaks {clause} in "
            f"{_cells(group, False)}; list it in {self.stands_for or self.path}."
            for (subject, clause), group in findings.items()
        ]


def load_expectations(path: Path, catalogue: Catalogue, today: datetime.date | None = None) -> Expectations:
    """Read an expectations file; :meth:`Expectations.of` then gives what holds for a run.

    :raises UsageError: the file is missing, is no TOML, or has an entry that breaks a rule.
    """
    try:
        content = path.read_bytes()
        data = tomllib.loads(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The expectations {path} cannot be read ({error}); give the path of a TOML file.") from None
    except (ValueError, RecursionError) as error:  # no TOML, or with more nesting or digits than anybody writes
        raise UsageError(f"The expectations {path} are no valid TOML: {error}.") from None
    unknown = [name for name in data if name != "expected"]
    if unknown:
        raise UsageError(f"The expectations {path} have the unknown key {unknown[0]!r}; write [[expected]] entries.")
    listed = data.get("expected", [])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UsageError(f"In the expectations {path} 'expected' is no list; write [[expected]] entries.")
    entries = tuple(_entry(path, catalogue, number, entry) for number, entry in enumerate(listed, 1))
    digest = hashlib.sha256(content).hexdigest()
    return Expectations(entries, path, today or datetime.date.today(), digest=digest)


def load_for_line(folder: Path, airflow: str, catalogue: Catalogue) -> Expectations:
    """Read the file of a version's line, or that of the newest line before it, which then stands for it.

    :return: without any entries if there is none.
    :raises UsageError: as :func:`load_expectations` does.
    """
    line = line_of(airflow)
    found = [path for path in folder.glob("*.toml") if re.fullmatch(r"\d+\.\d+", path.stem)]
    paths = sorted(
        (path for path in found if _numbers(path.stem) <= _numbers(line)), key=lambda path: _numbers(path.stem)
    )
    if not paths:
        return Expectations()
    loaded = load_expectations(paths[-1], catalogue)
    return loaded if paths[-1].stem == line else replace(loaded, stands_for=folder / f"{line}.toml")


def _numbers(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", line)]


def _entry(path: Path, catalogue: Catalogue, number: int, entry: Mapping[str, Any]) -> Entry:
    where = f"The expectation {number} in {path}"
    unknown = [name for name in entry if name not in _KEYS]
    if unknown:
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}; the keys are {', '.join(_KEYS)}.")
    for name in ("subject", "clause", "reason", "review"):
        if name not in entry:
            raise UsageError(f"{where} has no {name}; every entry needs subject, clause, reason and review.")
    for name in ("subject", "case", "reason", "link"):
        if name in entry and (not isinstance(entry[name], str) or not entry[name].strip()):
            raise UsageError(f"{where} has an empty {name} or one that is no string; write one or leave it out.")
    clauses = _ids(where, entry, "clause")
    for name in clauses:
        try:
            catalogue.clause(name)
        except UsageError as error:
            raise UsageError(f"{where} names an unknown clause: {error}") from None
    return Entry(
        number=number,
        subject=entry["subject"],
        clauses=tuple(clauses),
        case=entry.get("case", "*"),
        reason=entry["reason"].strip().rstrip("."),
        database=_one_of(where, "database", entry.get("database", ""), DATABASES),
        broker=_one_of(where, "broker", entry.get("broker", ""), BROKERS),
        versions=read_bounds(where, entry["versions"]) if "versions" in entry else UNBOUNDED,
        link=entry.get("link", ""),
        findings=tuple(_ids(where, entry, "finding")) if "finding" in entry else (),
        review=_date(where, entry["review"]),
    )


def _one_of(where: str, key: str, value: object, known: tuple[str, ...]) -> str:
    if value not in ("", *known):
        raise UsageError(f"{where} has the {key} {value!r}; give {' or '.join(known)}, or leave it out.")
    return str(value)


def _ids(where: str, entry: Mapping[str, Any], key: str) -> list[str]:
    """One id, or a list of them."""
    ids = [entry[key]] if isinstance(entry[key], str) else entry[key]
    if not isinstance(ids, list) or not ids or not all(isinstance(name, str) and name for name in ids):
        raise UsageError(f"{where} has a {key} that is neither an id nor a list of ids.")
    return ids


def _date(where: str, value: object) -> datetime.date:
    if isinstance(value, str):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            pass
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    raise UsageError(f"{where} has the review {str(value)!r}, which is not a date such as 2027-01-31.")


def _like(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _cells(cells: list[Cell], subject: bool = True) -> str:
    """At most three cells by name, then how many more."""
    names = [" ".join(([cell.subject] if subject else []) + [cell.case, cell.clause][: 1 + subject]) for cell in cells]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
