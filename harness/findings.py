"""Findings: the defects of released executors and of core behind the entries of the expectations, one for each cause.

``findings.toml`` lies beside the expectations of the Airflow lines. An entry there names its findings with ``finding``;
subjects, clauses and cases of a finding are those of its entries.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor_conformance.harness.catalogue import Catalogue
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.expectations import Entry, load_expectations
from executor_conformance.harness.versions import UNBOUNDED, Bounds, read_bounds

FILE = "findings.toml"

_TEXTS = ("id", "component", "title", "text", "cause")
_OPTIONAL = ("upstream", "upstream_note", "options")


@dataclass(frozen=True)
class Finding:
    """One defect; ``lines`` are Airflow lines such as ``3.4``, ``where`` pairs of a file and a function or class in it.

    ``component`` is 'core' or the name of an executor, ``upstream`` addresses of issues and pull requests, ``options``
    what its case needs beside ``--backend`` and ``--case``, and ``versions`` those that have the defect.
    """

    id: str
    component: str
    title: str
    text: str
    cause: str
    where: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    versions: Bounds = UNBOUNDED
    upstream: tuple[str, ...] = ()
    upstream_note: str = ""
    options: str = ""


@dataclass(frozen=True)
class Findings:
    """All findings, in the order of the file, with ``versions`` by line and the ``entries`` of each line.

    ``providers``: the versions of the released providers, by the provider's short name; it may be empty.
    """

    findings: tuple[Finding, ...]
    versions: Mapping[str, str]
    entries: Mapping[str, tuple[Entry, ...]]
    providers: Mapping[str, str] = field(default_factory=dict)

    def entries_of(self, finding: Finding) -> list[tuple[str, Entry]]:
        """The entries that name it, each with its line."""
        return [
            (line, entry) for line, listed in self.entries.items() for entry in listed if finding.id in entry.findings
        ]


def load_findings(folder: Path, catalogue: Catalogue) -> Findings:
    """Read ``findings.toml`` of a folder, and the expectations of its lines.

    :raises UsageError: a file is missing or breaks a rule, an entry has no finding, or a finding no entry.
    """
    path = folder / FILE
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The findings {path} cannot be read ({error}); give the folder that has them.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The findings {path} are no valid TOML: {error}.") from None
    versions, providers, listed = data.get("lines"), data.get("providers", {}), data.get("finding")
    known = set(data) <= {"lines", "providers", "finding"} and (not providers or _texts_by_name(providers))
    if not _texts_by_name(versions) or not isinstance(listed, list) or not known:
        raise UsageError(
            f"The findings {path} need a table [lines], may have a table [providers], and [[finding]] entries, and "
            "nothing else."
        )
    assert isinstance(versions, dict)
    findings = tuple(_finding(path, number, entry, versions) for number, entry in enumerate(listed, 1))
    entries = {line: load_expectations(folder / f"{line}.toml", catalogue).entries for line in versions}
    found = Findings(findings, versions, entries, providers)
    _check(path, found)
    return found


def _texts_by_name(table: object) -> bool:
    return isinstance(table, dict) and bool(table) and all(isinstance(value, str) for value in table.values())


def _finding(path: Path, number: int, entry: object, versions: Mapping[str, str]) -> Finding:
    where = f"The finding {number} in {path}"
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is no table; write [[finding]] entries.")
    keys = (*_TEXTS, "where", "lines", "versions", *_OPTIONAL)
    if unknown := [name for name in entry if name not in keys]:
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}; the keys are {', '.join(keys)}.")
    for name in (*_TEXTS, *(name for name in ("upstream_note", "options") if name in entry)):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise UsageError(f"{where} has no {name}, or one that is no text.")
    for name in ("where", "lines", *(["upstream"] if "upstream" in entry else [])):
        value = entry.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{where} has no {name}, or one that is no list of texts.")
    if unknown := [line for line in entry["lines"] if line not in versions]:
        raise UsageError(f"{where} names the line {unknown[0]!r}, which [lines] does not have.")
    places = [re.fullmatch(r"([\w/]+\.py): ([\w.]+)", place) for place in entry["where"]]
    if not all(places):
        raise UsageError(f"{where} has a 'where' that is not like 'airflow/file.py: Class.function'.")
    if bad := [link for link in entry.get("upstream", ()) if not re.fullmatch(r"https://[^\s<>]+", link)]:
        raise UsageError(f"{where} has the upstream {bad[0]!r}, which is no https address.")
    fixed: dict[str, Any] = {
        name: entry[name] for name in entry if name not in ("where", "lines", "versions", "upstream")
    }
    return Finding(
        **fixed,
        where=tuple((place[1], place[2]) for place in places if place),
        lines=tuple(entry["lines"]),
        versions=read_bounds(where, entry["versions"]) if "versions" in entry else UNBOUNDED,
        upstream=tuple(entry.get("upstream", ())),
    )


def _check(path: Path, found: Findings) -> None:
    """Entries and findings belong together."""
    ids = [finding.id for finding in found.findings]
    if double := [name for name in ids if ids.count(name) > 1]:
        raise UsageError(f"The findings {path} have {double[0]!r} twice.")
    for line, entries in found.entries.items():
        for entry in entries:
            if not entry.findings:
                raise UsageError(f"{entry.title} of {line} names no finding; add one to {path} and name it.")
            if unknown := [name for name in entry.findings if name not in ids]:
                raise UsageError(
                    f"{entry.title} of {line} names the finding {unknown[0]!r}, which {path} does not have."
                )
    for finding in found.findings:
        lines = {line for line, _ in found.entries_of(finding)}
        if lines != set(finding.lines):
            said, real = ", ".join(finding.lines), ", ".join(sorted(lines)) or "none"
            raise UsageError(f"The finding {finding.id} in {path} has the lines {said}; it has entries for {real}.")
        for line, entry in found.entries_of(finding):
            # an entry with another cause besides goes on without this one
            if len(entry.findings) == 1 and not set(finding.versions.specifiers) <= set(entry.versions.specifiers):
                raise UsageError(
                    f"{entry.title} of {line} does not have the versions of its finding {finding.id} in {path}, which "
                    f"are {finding.versions}; give both the same."
                )
