"""A process that outlives its callback: ``orphan.py DATABASE CALLBACK PROBE`` has an effect after the row's end."""

from __future__ import annotations

import sqlite3
import sys
import time

from executor_conformance.suites.callables import report

LIFE_S = 60.0
LATER_S = 0.2
"""By more than the clocks of rows and reports may differ."""


def main(database: str, callback: str, probe: str) -> None:
    """Wait for the row's end, and report."""
    end = time.monotonic() + LIFE_S
    rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=LIFE_S)
    query = "SELECT 1 FROM callback WHERE id = ? AND state IN ('success', 'failed')"
    while not rows.execute(query, [callback.replace("-", "")]).fetchone():
        if time.monotonic() > end:
            return
        time.sleep(0.05)
    time.sleep(LATER_S)
    report("late", probe)


if __name__ == "__main__":
    main(*sys.argv[1:])
