"""What a case does to find tokens where they should not be; see :mod:`executor_conformance.harness.leaks`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from executor_conformance.harness.case import Case
from executor_conformance.harness.checks.token_leaks import in_submissions
from executor_conformance.harness.leaks import Scanner
from executor_conformance.harness.processes import read_command_line, read_environ

LOG, PROCESS, ENVIRON, OUTPUT, INFO, REPORT, TRANSPORT, DATABASE, FILE, SUBMISSION = (
    "log",
    "command line",
    "environment",
    "output",
    "event info",
    "report",
    "transport",
    "database",
    "file",
    "submission",
)


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in what JSON has, keys too: the names that lead to it, joined by dots, and the text."""
    if isinstance(content, dict):
        for name, value in content.items():
            below = f"{path}.{name}" if path else name
            yield below, name
            yield from leaves(value, below)
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, path)
    elif content is not None:
        yield path, str(content)


class LeakWatch:
    """Learns the tokens of a case as they are given out, and looks for them everywhere."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.scanner = Scanner(
            case.env.fingerprint, lambda **found: case.env.sink("probe", name="token found", **found)
        )
        self._lines: dict[tuple[int, str], bytes] = {}
        self._environs: dict[tuple[int, str], bytes] = {}
        self._submissions: dict[str, tuple[str, Any]] = {}
        self._untold = False

    def __enter__(self) -> LeakWatch:
        self.case.env.wire.kept = set()  # of the Execution API alone: other APIs have tokens of their own
        self.case.env.watcher.command_line_seen = self._see
        # A fork that has imported Airflow shows its command line for less time than passes between two looks
        self.case.env.backend.execute_workers(True)
        return self

    def __exit__(self, *details: object) -> None:
        self.case.env.backend.execute_workers(False)
        self.case.env.watcher.command_line_seen = None
        self.case.env.wire.kept = None
        self._lines.clear()
        self._environs.clear()
        self._submissions.clear()

    def _see(self, process: tuple[int, str], command_line: bytes) -> None:
        """Keep the command line and the environment of a process, by its pid and title."""
        self._lines[process] = command_line
        self._environs[process] = read_environ(process[0])

    def learn(self) -> None:
        """Take in the tokens that core has handed out and those that went over the wire."""
        assert self.case.env.scheduler is not None
        self.scanner.add(self.case.env.scheduler.tokens().values())
        self.scanner.add(set(self.case.env.wire.kept or ()))

    def look_at_what_passes(self) -> None:
        """Command lines of the moment, the transport and the database: what may be gone again later."""
        self.learn()
        for pid, process in self.case.env.processes().items():
            self._see((pid, process.title), read_command_line(pid))
        self._keep_submissions()
        self._files(transport=True)
        connection = self.case.env.database.connect()
        try:
            self.scanner.scan_tables(connection, self._place_of_column)
        finally:
            connection.close()

    def look_at_what_is_left(self) -> None:
        """All of it, once nothing goes on any more; what was looked at goes into the history."""
        self.look_at_what_passes()
        env = self.case.env
        for (_, title), content in self._lines.items():
            self.scanner.scan(PROCESS, title, content)
        self._scan_environs()
        self._files(transport=False)
        for event in env.history.of("event"):
            self.scanner.scan(INFO, f"event {event['state']}", json.dumps(event).encode())
        self._scan_submissions()
        self._report()
        summary = self.scanner.summary()
        not_seen = [place for place in (LOG, PROCESS, ENVIRON) if not env.backend.on_this_host]
        if self._untold and in_submissions(env.backend.carriers):
            not_seen.append(SUBMISSION)
        env.sink("probe", name="token scan", carriers=dict(env.backend.carriers), not_seen=not_seen, **summary)

    def _scan_environs(self) -> None:
        """Look into each variable of each process; one that carries the workload is the transport's."""
        for (_, title), content in self._environs.items():
            self.scanner.count(ENVIRON, len(content))
            for entry in content.split(b"\0"):
                name = entry.partition(b"=")[0].decode(errors="replace")
                place = TRANSPORT if f"environment:{name}" in self.case.env.backend.carriers else ENVIRON
                self.scanner.scan(place, f"{name} of {title}", entry, count=False)

    def _keep_submissions(self) -> None:
        submissions = self.case.env.backend.submissions()
        self._untold = submissions is None
        for kind, content in submissions or ():
            self._submissions[json.dumps(content, sort_keys=True)] = (kind, content)

    def _scan_submissions(self) -> None:
        """What the control plane was handed, field by field: of which only the carriers may hold a token."""
        for text, (kind, content) in self._submissions.items():
            self.scanner.count(SUBMISSION, len(text))
            for path, value in leaves(content):
                place = TRANSPORT if f"{kind}:{path}" in self.case.env.backend.carriers else SUBMISSION
                self.scanner.scan(place, f"{kind} {path}", value.encode(), count=False)

    def _report(self) -> None:
        """The histories of the run, this one's too, and what else its folder holds."""
        path = self.case.env.history.path
        if path is None:
            for event in self.case.env.history.of("wire"):
                self.scanner.scan(REPORT, "history", json.dumps(event, default=str).encode())
            return
        for found in sorted(path.parent.parent.rglob("*")):
            if found.is_file():
                self.scanner.scan_file(REPORT, found.name, found)

    def _files(self, transport: bool) -> None:
        folder = self.case.env.folder
        for path in sorted(folder.rglob("*")):
            place = self._place_of(path.relative_to(folder))
            if place and (place == TRANSPORT) == transport and path.is_file():
                self.scanner.scan_file(place, str(path.relative_to(folder)), path)

    def _place_of(self, path: Path) -> str:
        """What kind of place a file of the environment is; empty for the database, which is read table by table."""
        carriers = self.case.env.backend.carriers
        if any(str(path).startswith(place.removeprefix("file:")) for place in carriers if place.startswith("file:")):
            return TRANSPORT
        if path.parts[0] == "database":
            return ""
        return LOG if "log" in str(path).lower() else FILE

    def _place_of_column(self, table: str, column: str) -> str:
        if f"table:{table}" in self.case.env.backend.carriers:
            return TRANSPORT
        return OUTPUT if (table, column) == ("callback", "output") else DATABASE
