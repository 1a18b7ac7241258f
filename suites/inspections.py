"""Inspections: what a case has a process of its own find out about the executor class."""

from __future__ import annotations

from typing import Any

from executor_conformance.harness.case import Case


def inspect(case: Case, what: str, **arguments: Any) -> dict[str, Any]:
    """Inspect the executor class in a process of its own; what it found goes into the history and is returned."""
    data: dict[str, Any] = case.env.inspect(what, **arguments)[what]
    case.env.sink("inspection", name=what, data=data)
    return data
