"""What an inspection of the executor class found, as the checks read it."""

from __future__ import annotations

from typing import Any

from executor_conformance.harness.checker import Found, Undecided, Unproven
from executor_conformance.harness.view import HistoryView


def inspection(view: HistoryView, name: str) -> dict[str, Any] | Found:
    """The data of the last inspection of this name, or why the clause cannot be decided from it."""
    events = view.of("inspection", name=name)
    if not events:
        return Undecided(f"this case does not inspect the executor's {name}")
    data: dict[str, Any] = events[-1]["data"]
    if "failed" in data:
        return Unproven(f"the inspection of the executor's {name} did not work: {data['failed']}")
    return data
