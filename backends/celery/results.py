"""The result backend of the Celery environment: states of Celery tasks."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from executor_conformance.backends.moments import monotonic_of

READY = ("SUCCESS", "FAILURE", "REVOKED")
"""States that are final."""


class Results:
    """Reads ``celery_taskmeta`` in a file of its own, whatever the metadata database is."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "celery-results.db"
        self.url = f"db+sqlite:///{self._file}"
        """``[celery] result_backend``."""

    def state(self, task_id: str) -> str | None:
        """Return the state of a Celery task; None if there is no result yet."""
        return next((str(row[0]) for row in self._rows("status", task_id)), None)

    def ended(self, task_id: str) -> float | None:
        """Return when a Celery task ended, in seconds of ``time.monotonic()``; None if it has not."""
        rows = self._rows("status, date_done", task_id)
        return monotonic_of(str(rows[0][1])) if rows and rows[0][0] in READY and rows[0][1] else None

    def _rows(self, columns: str, task_id: str) -> list[tuple[Any, ...]]:
        try:
            with sqlite3.connect(f"file:{self._file}?mode=ro", uri=True) as results:
                statement = f"SELECT {columns} FROM celery_taskmeta WHERE task_id = ?"
                return results.execute(statement, (task_id,)).fetchall()
        except sqlite3.OperationalError:  # no worker has made it yet
            return []
