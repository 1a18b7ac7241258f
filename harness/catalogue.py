"""The contract as data: clauses, groups, fault points and editions, read from ``suites/contract.toml``."""

from __future__ import annotations

import datetime
import difflib
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from executor_conformance.harness.edition import STATUSES, Edition
from executor_conformance.harness.errors import UsageError

LEVELS = ("core", "extended", "provisional")
OWNERS = ("executor", "core")
_CLAUSE_ID = re.compile(r"[A-Z]+-[1-9][0-9]*")


@dataclass(frozen=True)
class Clause:
    """One rule of the contract; ``since`` is the first edition that has it.

    ``editions`` is ``None`` if the clause applies to all of them; ``not_applicable`` maps each other edition
    to the reason. ``owner_in`` maps the editions to their owner that differs from ``owner``.
    """

    id: str
    level: str
    owner: str
    since: str
    text: str
    source: tuple[str, ...]
    editions: tuple[str, ...] | None = None
    not_applicable: Mapping[str, str] = field(default_factory=dict, hash=False)
    owner_in: Mapping[str, str] = field(default_factory=dict, hash=False)
    invariant: bool = False

    @property
    def group(self) -> str:
        """The id of the clause's group: ``CRASH`` of ``CRASH-3``."""
        return self.id.rpartition("-")[0]

    def owner_for(self, edition: str) -> str:
        """Who must fix a failure in this edition: ``executor`` or ``core``."""
        return self.owner_in.get(edition, self.owner)

    def applies_to(self, edition: str) -> str | None:
        """``None`` if the clause applies to the edition, else the reason why it does not."""
        if self.editions is None or edition in self.editions:
            return None
        return self.not_applicable.get(edition) or f"The contract has no {self.id} for the edition {edition}."


@dataclass(frozen=True)
class Group:
    """The clauses with one prefix."""

    id: str
    title: str


@dataclass(frozen=True)
class FaultPoint:
    """A named moment at which something is broken from outside the subject."""

    id: str
    text: str


@dataclass(frozen=True)
class Change:
    """One entry of the contract's change log."""

    date: datetime.date
    what: str
    why: str


@dataclass(frozen=True)
class Catalogue:
    """The whole contract, in the order of its file."""

    version: str
    changes: tuple[Change, ...]
    editions: tuple[Edition, ...]
    groups: tuple[Group, ...]
    clauses: tuple[Clause, ...]
    points: tuple[FaultPoint, ...]

    def clause(self, clause_id: str) -> Clause:
        """The clause of this id.

        :raises UsageError: there is none; the message names the nearest.
        """
        return _find("clause", clause_id, self.clauses)

    def point(self, point_id: str) -> FaultPoint:
        """The fault point of this id.

        :raises UsageError: there is none; the message names the nearest.
        """
        return _find("fault point", point_id, self.points)

    def edition(self, edition_id: str) -> Edition:
        """The edition of this id.

        :raises UsageError: there is none; the message names the nearest.
        """
        return _find("edition", edition_id, self.editions)

    def edition_or_latest(self, edition_id: str) -> Edition:
        """The edition of this id; the latest released one where the contract has none of this id."""
        released = [edition for edition in self.editions if edition.status == "released"]
        return next((edition for edition in self.editions if edition.id == edition_id), (released or self.editions)[-1])

    def group(self, group_id: str) -> Group:
        """The group of this id.

        :raises UsageError: there is none; the message names the nearest.
        """
        return _find("group", group_id, self.groups)

    def in_group(self, group_id: str) -> tuple[Clause, ...]:
        """The clauses of a group, in their order.

        :raises UsageError: there is no such group.
        """
        self.group(group_id)
        return tuple(clause for clause in self.clauses if clause.group == group_id)

    def is_released(self, clause: Clause) -> bool:
        """True if an edition that a release of Airflow has is asked for the clause."""
        released = [edition.id for edition in self.editions if edition.status == "released"]
        return any(clause.applies_to(edition) is None for edition in released)

    @property
    def invariants(self) -> tuple[Clause, ...]:
        """The clauses that are checked over the history of every case."""
        return tuple(clause for clause in self.clauses if clause.invariant)


def _find(what: str, wanted: str, items: Iterable[Any]) -> Any:
    by_id = {item.id: item for item in items}
    if wanted in by_id:
        return by_id[wanted]
    folded = {name.casefold(): name for name in by_id}
    near = difflib.get_close_matches(wanted.casefold(), folded, n=1, cutoff=0.6)
    hint = f"did you mean {folded[near[0]]}?" if near else f"the contract has {', '.join(by_id)}."
    raise UsageError(f"There is no {what} {wanted!r} in the contract; {hint}")


def load_catalogue(path: Path | None = None) -> Catalogue:
    """The contract of ``path``, or the project's own; read once and then kept.

    :raises UsageError: the file is missing, not TOML, or breaks a rule of the catalogue.
    """
    return _load(path)


@functools.lru_cache(maxsize=16)
def _load(path: Path | None) -> Catalogue:
    source: Any = path or resources.files("executor_conformance.suites").joinpath("contract.toml")
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The contract {source} cannot be read ({error}); give the path of a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The contract {source} is no valid TOML: {error}.") from None
    return _Reader(str(source), data).catalogue()


class _Reader:
    """Turns the parsed TOML into a catalogue; a broken rule is one sentence with the file's name."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        self.name = name
        self.data = data

    def catalogue(self) -> Catalogue:
        data = self.data
        self.only(data, ("version", "change", "edition", "group", "clause", "point"), "the file")
        version = self.text(data, "version", "the file")
        if not re.fullmatch(r"\d{4}\.\d{1,2}(\.\d+)?", version):
            raise self.wrong(f"its version {version!r} is no calendar version such as 2026.11")
        known = tuple(Edition.__dataclass_fields__)
        editions = tuple(self.edition(where, entry) for where, entry in self.tables("edition", known))
        groups = tuple(
            Group(*(self.text(entry, name, where) for name in ("id", "title")))
            for where, entry in self.tables("group", ("id", "title"))
        )
        points = tuple(
            FaultPoint(*(self.text(entry, name, where) for name in ("id", "text")))
            for where, entry in self.tables("point", ("id", "text"))
        )
        changes = tuple(self.change(where, entry) for where, entry in self.tables("change", ("date", "what", "why")))
        self.edition_ids = tuple(edition.id for edition in editions)
        self.group_ids = {group.id for group in groups}
        known = tuple(Clause.__dataclass_fields__)
        clauses = tuple(self.clause(where, entry) for where, entry in self.tables("clause", known))
        return Catalogue(version, changes, editions, groups, clauses, points)

    def edition(self, where: str, entry: dict[str, Any]) -> Edition:
        id, status, text, detected, scope = (
            self.text(entry, name, where) for name in ("id", "status", "text", "detected", "queued_scope")
        )
        self.one_of(status, STATUSES, "status", where)
        method = self.text(entry, "claim_method", where) if "claim_method" in entry else ""
        flags = (self.flag(entry, name, where) for name in ("idempotent", "worker_reports_end", "end_is_final"))
        return Edition(id, status, text, detected, scope, method, *flags)

    def clause(self, where: str, entry: dict[str, Any]) -> Clause:
        clause_id = self.text(entry, "id", where)
        if not _CLAUSE_ID.fullmatch(clause_id) or clause_id.rpartition("-")[0] not in self.group_ids:
            raise self.wrong(f"{where} has no id of the form GROUP-1 with a group that the file lists")
        text = self.text(entry, "text", where)
        if not re.search(r"\b(MUST|SHOULD)\b", text):
            raise self.wrong(f"the text of {where} says neither MUST nor SHOULD")
        clause = Clause(
            id=clause_id,
            level=self.one_of(self.text(entry, "level", where), LEVELS, "level", where),
            owner=self.one_of(self.text(entry, "owner", where), OWNERS, "owner", where),
            since=self.one_of(self.text(entry, "since", where), self.edition_ids, "edition", where),
            text=text,
            source=self.texts(entry, "source", where),
            editions=self.texts(entry, "editions", where) if "editions" in entry else None,
            not_applicable=self.by_edition(entry, "not_applicable", where),
            owner_in=self.by_edition(entry, "owner_in", where),
            invariant=self.flag(entry, "invariant", where),
        )
        for owner in clause.owner_in.values():
            self.one_of(owner, OWNERS, "owner", where)
        applies = self.edition_ids if clause.editions is None else clause.editions
        for edition in applies:
            self.one_of(edition, self.edition_ids, "edition", where)
        first = min(applies, key=self.edition_ids.index)
        if clause.since != first:
            raise self.wrong(f"{where} is since {clause.since} but its first edition is {first}")
        left_out = set(self.edition_ids) - set(applies)
        if left_out != set(clause.not_applicable):
            raise self.wrong(f"{where} must give in 'not_applicable' a reason for exactly the editions it leaves out")
        return clause

    def change(self, where: str, entry: dict[str, Any]) -> Change:
        date = entry.get("date")
        if not isinstance(date, datetime.date) or isinstance(date, datetime.datetime):
            raise self.wrong(f"{where} has no date such as 2026-11-20")
        return Change(date, self.text(entry, "what", where), self.text(entry, "why", where))

    def tables(self, kind: str, known: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
        entries = self.data.get(kind)
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise self.wrong(f"it has no [[{kind}]]")
        found: list[tuple[str, dict[str, Any]]] = []
        seen: set[str] = set()
        for number, entry in enumerate(entries, 1):
            name = entry.get("id")
            where = f"{kind} {name}" if isinstance(name, str) and name else f"[[{kind}]] number {number}"
            if isinstance(name, str):
                if name in seen:
                    raise self.wrong(f"the id of {where} is there twice")
                seen.add(name)
            self.only(entry, known, where)
            found.append((where, entry))
        return found

    def only(self, entry: dict[str, Any], known: tuple[str, ...], where: str) -> None:
        unknown = [name for name in entry if name not in known]
        if unknown:
            raise self.wrong(f"{where} has the unknown field {unknown[0]!r} (known: {', '.join(known)})")

    def text(self, entry: dict[str, Any], name: str, where: str) -> str:
        value = entry.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(f"{where} has no {name!r}")
        return value

    def texts(self, entry: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
        value = entry.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.wrong(f"{where} has no {name!r}, a list of strings")
        return tuple(value)

    def flag(self, entry: dict[str, Any], name: str, where: str) -> bool:
        value = entry.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(f"the field {name!r} of {where} is not true or false")
        return value

    def by_edition(self, entry: dict[str, Any], name: str, where: str) -> Mapping[str, str]:
        value = entry.get(name, {})
        if not isinstance(value, dict) or not all(isinstance(item, str) and item for item in value.values()):
            raise self.wrong(f"the field {name!r} of {where} is no table of edition to text")
        for edition in value:
            self.one_of(edition, self.edition_ids, "edition", where)
        return dict(value)

    def one_of(self, value: str, known: tuple[str, ...], what: str, where: str) -> str:
        if value not in known:
            raise self.wrong(f"{where} has the unknown {what} {value!r} (known: {', '.join(known)})")
        return value

    def wrong(self, sentence: str) -> UsageError:
        return UsageError(f"The contract {self.name} is not valid: {sentence}.")
