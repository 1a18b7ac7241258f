"""The row-state journal: what the rows of a metadata database went through, whoever wrote them.

Triggers note every change of a watched state in a table of their own. They are part of the writer's
transaction, so a change that is rolled back leaves no entry and one that is committed always leaves one.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from executor_conformance.harness.database import Connection, Database
from executor_conformance.harness.errors import HarnessError

TABLE = "executor_conformance_journal"
GAP_SECONDS = 120.0
_HEX = re.compile(r"[0-9a-fA-F]{32}\Z|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


@dataclass(frozen=True)
class JournalEntry:
    """One change of a row's state."""

    seq: int  # order of the writes
    at: float  # Unix time in seconds, with milliseconds, of the write (not of its commit)
    table: str  # callback, task_instance, edge_job, celery_taskmeta
    op: str  # insert, update, delete
    row_id: str  # canonical UUID where the row has one; task_id for edge_job and celery_taskmeta
    old: str | None  # None at an insert
    new: str | None  # None at a delete
    info: str | None  # callback: output; task_instance: task_id; edge_job: edge_worker


@dataclass(frozen=True)
class _Watched:
    table: str
    row_id: str
    state: str
    info: str | None
    ops: tuple[str, ...] = ("insert", "update", "delete")


WATCHED = (
    _Watched("callback", "id", "state", "output"),
    _Watched("task_instance", "id", "state", "task_id", ("update",)),
    _Watched("edge_job", "task_id", "state", "edge_worker"),
    _Watched("celery_taskmeta", "task_id", "status", None),
)


class Journal:
    """Installs the journal in a database and reads it; safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._reader: Connection | None = None
        self._lock = threading.Lock()
        self._last = 0
        self._gaps: dict[int, float] = {}

    def install(self) -> list[str]:
        """Watch the tables that exist and return their names; call again once further tables may exist.

        :raises HarnessError: the database refused it.
        """
        have = self._names("triggers")
        tables = [watched for watched in WATCHED if watched.table in self._names("tables")]
        missing = [(w, op) for w in tables for op in w.ops if _trigger_name(w, op) not in have]
        if missing:
            writer = self.database.connect(readonly=False)
            try:
                if self.database.kind == "postgres":
                    for statement in _POSTGRES_SETUP:
                        writer.execute(statement)
                else:
                    writer.execute(_SQLITE_TABLE)
                for watched, op in missing:
                    make = _postgres_trigger if self.database.kind == "postgres" else _sqlite_trigger
                    writer.execute(make(watched, op))
            finally:
                writer.close()
        return [watched.table for watched in tables]

    def read(self) -> list[JournalEntry]:
        """All entries since the last call, in the order of the writes.

        PostgreSQL shows an entry when its transaction commits, so one may arrive after entries with a higher
        ``seq``; SQLite has one writer at a time and never does that.
        """
        columns = "seq, at, tbl, op, row_id, old, new, info"
        with self._lock:
            sql = f"SELECT {columns} FROM {TABLE} WHERE seq > ?"
            params: list[Any] = [self._last]
            if self._gaps:
                sql += f" OR seq IN ({', '.join('?' * len(self._gaps))})"
                params += self._gaps
            rows = self._connection().execute(f"{sql} ORDER BY seq", params)
            self._note([row[0] for row in rows])
        return [JournalEntry(*(*row[:4], canonical(row[4]), *row[5:])) for row in rows]

    def _note(self, numbers: list[int]) -> None:
        now = time.monotonic()
        for number in numbers:
            self._gaps.pop(number, None)
            if number > self._last:
                # A missing number is a transaction that is open, or was rolled back and never appears.
                self._gaps.update(dict.fromkeys(range(self._last + 1, number), now))
                self._last = number
        if self._gaps:
            self._gaps = {n: since for n, since in self._gaps.items() if now - since < GAP_SECONDS}

    def state(self, callback_id: str) -> str | None:
        """The state of a callback's row; None if there is no such row or its state is NULL."""
        return self._of_callback("state", callback_id)

    def output(self, callback_id: str) -> str | None:
        """The output of a callback's row; None if there is no such row or no output."""
        return self._of_callback("output", callback_id)

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a reading statement with ``?`` for parameters; see :meth:`Connection.execute`.

        :raises HarnessError: the statement is wrong or would write.
        """
        return self._connection().execute(sql, params)

    def close(self) -> None:
        """Close the connection; the triggers stay."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connection(self) -> Connection:
        if self._reader is None:
            self._reader = self.database.connect()
        return self._reader

    def _of_callback(self, column: str, callback_id: str) -> str | None:
        try:
            parsed = uuid.UUID(str(callback_id))
        except ValueError:
            raise HarnessError(f"The callback id {callback_id!r} is no UUID.") from None
        stored = str(parsed) if self.database.kind == "postgres" else parsed.hex
        rows = self.query(f"SELECT {column} FROM callback WHERE id = ?", [stored])
        return rows[0][0] if rows else None

    def _names(self, what: str) -> set[str]:
        return {row[0] for row in self.query(_CATALOGUE[self.database.kind, what])}


def canonical(row_id: str) -> str:
    """A UUID in its dashed lower-case form; anything else unchanged."""
    return str(uuid.UUID(row_id)) if _HEX.match(row_id) else row_id


_CATALOGUE = {
    ("sqlite", "tables"): "SELECT name FROM sqlite_master WHERE type = 'table'",
    ("sqlite", "triggers"): "SELECT name FROM sqlite_master WHERE type = 'trigger'",
    ("postgres", "tables"): "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
    ("postgres", "triggers"): "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
}

_SQLITE_TABLE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, tbl TEXT NOT NULL, op TEXT NOT NULL, row_id TEXT NOT NULL,
  old TEXT, new TEXT, info TEXT
)"""

# julianday has the millisecond; unixepoch('subsec') is missing before SQLite 3.42.
_SQLITE_NOW = "round((julianday('now') - 2440587.5) * 86400.0, 3)"

_POSTGRES_SETUP = (
    f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
  seq BIGSERIAL PRIMARY KEY, at DOUBLE PRECISION NOT NULL, tbl TEXT NOT NULL, op TEXT NOT NULL,
  row_id TEXT NOT NULL, old TEXT, new TEXT, info TEXT
)""",
    # Arguments: columns of the id, of the state and of the info; as JSON, a row's columns go by name.
    f"""
CREATE OR REPLACE FUNCTION {TABLE}_note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  before jsonb; after jsonb;
BEGIN
  IF TG_OP <> 'INSERT' THEN before := to_jsonb(OLD); END IF;
  IF TG_OP <> 'DELETE' THEN after := to_jsonb(NEW); END IF;
  INSERT INTO {TABLE} (at, tbl, op, row_id, old, new, info) VALUES (
    round(extract(epoch FROM clock_timestamp())::numeric, 3), TG_TABLE_NAME, lower(TG_OP),
    coalesce(after, before) ->> TG_ARGV[0], before ->> TG_ARGV[1], after ->> TG_ARGV[1],
    coalesce(after, before) ->> TG_ARGV[2]
  );
  RETURN NULL;
END $$""",
)


def _trigger_name(watched: _Watched, op: str) -> str:
    return f"{TABLE}_{watched.table}_{op}"


def _when(watched: _Watched, op: str) -> tuple[str, str]:
    """The event, and its condition for an update (``{}`` stands for the comparison)."""
    if op != "update":
        return f"AFTER {op.upper()}", ""
    return f"AFTER UPDATE OF {watched.state}", f"OLD.{watched.state} {{}} NEW.{watched.state}"


def _sqlite_trigger(watched: _Watched, op: str) -> str:
    event, condition = _when(watched, op)
    when = f"WHEN {condition.format('IS NOT')}" if condition else ""
    row = "OLD" if op == "delete" else "NEW"
    values = (
        _SQLITE_NOW,
        f"'{watched.table}'",
        f"'{op}'",
        f"{row}.{watched.row_id}",
        "NULL" if op == "insert" else f"OLD.{watched.state}",
        "NULL" if op == "delete" else f"NEW.{watched.state}",
        f"{row}.{watched.info}" if watched.info else "NULL",
    )
    return (
        f"CREATE TRIGGER IF NOT EXISTS {_trigger_name(watched, op)} {event} ON {watched.table} {when} BEGIN "
        f"INSERT INTO {TABLE} (at, tbl, op, row_id, old, new, info) VALUES ({', '.join(values)}); END"
    )


def _postgres_trigger(watched: _Watched, op: str) -> str:
    event, condition = _when(watched, op)
    when = f"WHEN ({condition.format('IS DISTINCT FROM')})" if condition else ""
    arguments = f"'{watched.row_id}', '{watched.state}', '{watched.info or ''}'"
    return (
        f"CREATE TRIGGER {_trigger_name(watched, op)} {event} ON {watched.table} FOR EACH ROW {when} "
        f"EXECUTE FUNCTION {TABLE}_note({arguments})"
    )
