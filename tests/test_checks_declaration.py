"""The checks of the DECL clauses on written histories."""

from __future__ import annotations

from typing import Any

import pytest

from tests.written import EXECUTOR, Written, assert_decides, history

PASS, FAIL, ERROR, NA = "pass", "fail", "error", "not applicable"
REFUSAL = "LocalExecutor does not take ExecuteCallback"
FINE = {"returned": "None", "type": "NoneType"}


def offered(declares: bool, *, taken: bool = False, **more: Any) -> dict[str, Any]:
    """What came of offering an ExecuteCallback."""
    return {"declares": declares, "taken": taken, "workload_type": "ExecuteCallback", **more}


def refused(message: str = REFUSAL, raised: str = "NotImplementedError") -> dict[str, Any]:
    """A refusal."""
    return {"raised": raised, "message": message}


def attribute(expected: str = "bool", type: str = "bool", **more: str) -> dict[str, Any]:
    """The look at one class attribute."""
    return {"is_local": {"expected": expected, "type": type, **more}}


def loads(other: dict[str, str] | None = None, cls: str = EXECUTOR) -> dict[str, Any]:
    """Four ways of loading, the last of which went another way."""
    ways = ["by path", "by alias", "beside another, by path", "beside another, by alias"]
    return {**{way: {"class": cls} for way in ways}, **({ways[-1]: other} if other else {})}


def commands(**more: Any) -> dict[str, Any]:
    """The commands of an executor."""
    group = {"name": "celery", "type": "GroupCommand"}
    return {"commands": [group], "collides": [], "parser": FINE, **more}


def methods(**more: Any) -> dict[str, Any]:
    """What came of calling each method."""
    called = ("start", "revoke_task", "try_adopt_task_instances", "debug_dump", "end", "end again", "terminate")
    return {**dict.fromkeys(called, FINE), "get_task_log": {**FINE, "lists": True}, **more}


EMPTY: dict[str, Any] = {"queues": {}, "running": [], "events": [], "slots_occupied": 0, "rows": []}


def unknown(
    raised: str | None = "ValueError", message: str = "no ConformanceUnknown here", **after: Any
) -> dict[str, Any]:
    """What came of offering a workload of an unknown type."""
    kinds = ["ConformanceUnknown", "CONFORMANCE_UNKNOWN"]
    refusal = {"raised": raised, "message": message} if raised else {}
    return {"workload_type": kinds, "before": EMPTY, "after": {**EMPTY, **after}, **refusal}


OFFER = [
    ("declared-taken", offered(True, taken=True), PASS, "declared and taken"),
    ("not-declared-refused", offered(False, **refused()), PASS, "not declared and refused"),
    ("declared-refused", offered(True, **refused()), FAIL, "declares callbacks and refuses"),
    ("declared-dropped", offered(True), FAIL, "the workload is nowhere"),
    ("accepted-undeclared", offered(False, taken=True), FAIL, "accepts an ExecuteCallback that it does not"),
    ("dropped", offered(False), FAIL, "drops it in silence"),
    ("another-exception", offered(False, **refused(raised="ValueError")), FAIL, "with ValueError instead"),
    ("nameless", offered(False, **refused("no")), FAIL, "does not name the executor"),
    ("without-type", offered(False, **refused("LocalExecutor: no")), FAIL, "does not name the executor"),
]

ATTRIBUTES = [
    ("same-type", attribute(), PASS, "1 attributes"),
    ("another-type", attribute(type="property"), FAIL, "is_local: is property, BaseExecutor has bool"),
    ("raises", attribute(raised="AttributeError"), FAIL, "is_local: AttributeError"),
    ("no-type-to-compare", attribute("NoneType", "str"), PASS, "1 attributes"),
    ("none", {}, ERROR, "found none to compare"),
]

LOADS = [
    ("all", loads(), PASS, "by path and by alias"),
    ("defined-elsewhere", loads(cls="airflow.somewhere.deeper.LocalExecutor"), PASS, "by path"),
    ("raises", loads({"raised": "ImportError", "message": "no x"}), FAIL, "by alias: ImportError no x"),
    ("another", loads({"class": "other.Executor"}), FAIL, "beside another, by alias:  other.Executor"),
    ("nothing", {}, ERROR, "nothing to compare"),
]

COMMANDS = [
    ("kept", commands(), PASS, "1 commands"),
    ("none", commands(commands=[]), PASS, "0 commands"),
    ("raises", {"raised": "KeyError", "message": "x"}, FAIL, "get_cli_commands() raises"),
    ("foreign", commands(commands=[{"name": "x", "type": "dict"}]), FAIL, "x is a dict"),
    ("collides", commands(collides=["dags"]), FAIL, "collide"),
    ("parser", commands(parser={"raised": "X", "message": "conflict"}), FAIL, "does not build"),
]

METHODS = [
    ("kept", methods(), PASS, "8 calls"),
    ("missing", methods(terminate=refused("")), FAIL, "terminate() raises NotImplementedError"),
    ("another-error", methods(revoke_task=refused("x", "ValueError")), FAIL, "revoke_task() raises ValueError: x"),
    ("end-raises", methods(end=refused("x", "ValueError")), FAIL, "end() raises ValueError: x"),
    ("end-again", methods(**{"end again": refused("x", "OSError")}), FAIL, "end again() raises OSError"),
    ("log", methods(get_task_log={"returned": "None", "lists": False}), FAIL, "not two lists"),
    ("not-started", methods(start=refused("no broker", "OSError")), ERROR, "could not be started: no broker"),
]

QUEUED = {"queues": {"queued_tasks": ["conformance-unknown"]}, "slots_occupied": 1}
UNKNOWN = [
    ("refused", unknown(), PASS, "refused with ValueError"),
    ("by-its-constant", unknown("TypeError", "CONFORMANCE_UNKNOWN"), PASS, "refused with TypeError"),
    ("taken", unknown(None, **QUEUED), FAIL, "LocalExecutor takes a workload of the unknown type ConformanceUnknown"),
    ("taken-queue", unknown(None, **QUEUED), FAIL, "slots_occupied: 0, then 1"),
    ("dropped", unknown(None), FAIL, "without an exception"),
    ("kept-in-a-queue", unknown(**QUEUED), FAIL, "keeps something of it"),
    ("kept-running", unknown(running=["x"]), FAIL, "running: [], then ['x']"),
    ("kept-event", unknown(events=["x"]), FAIL, "events: [], then ['x']"),
    ("kept-row", unknown(rows=["EdgeJobModel"]), FAIL, "rows: [], then ['EdgeJobModel']"),
    ("nameless", unknown("ValueError", "no"), FAIL, "does not say what is wrong"),
    ("by-accident", unknown("AttributeError", "'ConformanceUnknown' has no 'ti'"), FAIL, "does not say what is wrong"),
]

TABLES = {
    "DECL-1": ("offer", OFFER),
    "DECL-3": ("attributes", ATTRIBUTES),
    "DECL-4": ("load", LOADS),
    "DECL-5": ("commands", COMMANDS),
    "DECL-6": ("methods", METHODS),
    "DECL-7": ("unknown_workload", UNKNOWN),
}


@pytest.mark.parametrize(
    ("clause", "written", "verdict", "reason"),
    [
        pytest.param(clause, history().inspection(name, data), verdict, reason, id=f"{clause}-{label}")
        for clause, (name, rows) in TABLES.items()
        for label, data, verdict, reason in rows
    ],
)
def test_declaration(clause: str, written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, clause, verdict, reason)


@pytest.mark.parametrize("clause", TABLES)
def test_without_a_usable_inspection(clause: str) -> None:
    name = TABLES[clause][0]
    assert_decides(history(), clause, NA, "does not inspect")
    assert_decides(history().inspection(name, {"failed": "it hung"}), clause, ERROR, "did not work: it hung")


def test_an_unsupported_callback_that_ends_the_scheduler() -> None:
    """DECL-2 is owned by core: a scheduler that ends is a finding; one that survives keeps it."""
    ended = history().callback().note("scheduler ended", who="the plain scheduler", message="NotImplementedError: no")
    ended.note("scheduler ended", who="the next one", message="NotImplementedError: no")
    assert_decides(ended, "DECL-2", "finding", "ended the plain scheduler and the next one")
    assert_decides(history().callback().succeeded(), "DECL-2", "not applicable", "routed")


@pytest.mark.parametrize(
    ("before", "after", "verdict", "reason"),
    [
        (("scheduled", "pending"), (), "pass", "the plain scheduler and the next one survived"),
        (("pending", "queued"), (), "pass", "survived"),
        (("scheduled", "failed"), (), "pass", "survived"),
        (("pending",), ("failed",), "pass", "survived"),
        (("scheduled",), (), "error", "still SCHEDULED"),
        (("scheduled",), ("pending",), "error", "still SCHEDULED"),
        ((), (), "error", "still SCHEDULED"),
        (("pending",), ("queued", "running"), "finding", "is RUNNING, which runs nothing"),
        (("pending", "success"), (), "finding", "is SUCCESS, which runs nothing"),
    ],
)
def test_an_unsupported_callback_that_both_schedulers_survive(
    before: tuple[str, ...], after: tuple[str, ...], verdict: str, reason: str
) -> None:
    lives = history().callback(handed="").row("c1", *before)
    lives.add("scheduler", what="survived", who="the plain scheduler")
    assert_decides(lives, "DECL-2", "error", "before the next scheduler had met")
    lives.row("c1", *after).add("scheduler", what="survived", who="the next one")
    assert_decides(lives, "DECL-2", verdict, reason)
