"""FAIL: the callable fails, in every way that a callable can."""

from __future__ import annotations

import pytest
from executor_conformance.harness.case import Case
from executor_conformance.suites.marks import decides, extended

WAYS = {
    "raises": "raise_error",
    "module-missing": "no_such_module_at_all.function",
    "attribute-missing": "executor_conformance.suites.callables.no_such_function",
    "import-raises": "executor_conformance.suites.broken_import.function",
    "wrong-kwargs": "no_arguments",
    "sys-exit-3": "exit_3",
    "os-exit-9": "os_exit_9",
    "segfault": "segfault",
    "timeout": "run_too_long",
    "empty-path": "",
    "big-log": "big_log_then_raise",
}
CORE = ("module-missing", "os-exit-9", "timeout")
"""It does not load, its process ends, it does not end; the others are further forms of these."""


@decides("FAIL-1", "FAIL-2", "FAIL-3", "FAIL-4", "FAIL-5", "CRASH-1")
@pytest.mark.parametrize(
    "way", [way if way in CORE else pytest.param(way, marks=extended) for way in WAYS if way != "raises"]
)
def test_callable_fails(case: Case, way: str) -> None:
    """The row ends FAILED, tells why, and the environment goes on."""
    _fail(case, way)


@decides("FAIL-1", "FAIL-2", "FAIL-3", "FAIL-4", "FAIL-5", "CRASH-1")
def test_callable_raises(case: Case) -> None:
    """The most common way."""
    _fail(case, "raises")


def _fail(case: Case, way: str) -> None:
    case.submit(WAYS[way], expect="failure")
    case.settle()
    case.follow_up(task=False)
