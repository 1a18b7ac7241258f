"""The checker itself: findings, errors, invariants, and histories that were stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from executor_conformance.harness import checker
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.checker import Broken, Unproven, Unsupported, check, decide
from executor_conformance.harness.errors import HarnessError, UsageError
from executor_conformance.harness.history import Clock, History, read_history
from executor_conformance.harness.verdicts import Decision, Verdict

from tests.written import Written, history

INVARIANTS = {
    *("CRASH-1", "CRASH-3", "CRASH-4", "CRASH-10", "FAIL-5", "ROUTE-3", "ROUTE-6", "ROUTE-7", "STATE-3", "TOKEN-5")
}
CATALOGUE = load_catalogue()


def decided(written: Written, *clauses: str) -> dict[str, Decision]:
    """All decisions by clause."""
    return {decision.clause: decision for decision in check(written.stored(), clauses, CATALOGUE)}


def whole() -> Written:
    """A history of everything that a case may hold."""
    text = {"text": "žluťoučký 🐎 </script> \u0000"}
    written = history(parallelism=3).callback(expect="terminal", kwargs=text).started()
    return (
        written.fault(victim="unit", pids=[200])
        .ended("c1", "failed", output="killed")
        .followed()
        .add("end", trouble="")
    )


def on_file(written: Written, path: Path) -> Path:
    """The history, written by ``History`` itself."""
    header = {
        name: value for name, value in written.events[0].items() if name not in ("t", "kind", "format", "version")
    }
    live = History(Clock(), header, path)
    for event in written.events[1:]:
        live.append(**event)
    live.close()
    return path


@pytest.mark.parametrize("clause", sorted({clause.id for clause in CATALOGUE.clauses}))
def test_a_clause_has_a_check_or_is_an_error(clause: str) -> None:
    decision = history().decide(clause)
    if clause in checker.CHECKS:
        assert decision.verdict is Verdict.NOT_APPLICABLE
        assert decision.reason
    else:
        assert (decision.verdict, decision.reason) == (Verdict.ERROR, f"no check decides {clause} yet")


def test_an_unknown_clause_is_refused() -> None:
    with pytest.raises(UsageError, match="no clause 'CRASH-99'"):
        history().decide("CRASH-99")


def test_no_clause_has_two_checks() -> None:
    checker._load()
    with pytest.raises(HarnessError, match="RUN-1 has two checks"):
        checker.decides("RUN-1")(lambda view: Unproven(""))


@pytest.mark.parametrize(
    ("clause", "edition", "verdict"),
    [
        ("RUN-1", "claim", Verdict.FAIL),
        ("RUN-10", "claim", Verdict.FINDING),
        ("TOKEN-1", "claim", Verdict.FINDING),
        ("RUN-7", "claim", Verdict.FAIL),
        ("RUN-7", "claimless", Verdict.FINDING),
        ("CRASH-2", "claimless", Verdict.NOT_APPLICABLE),
    ],
)
def test_who_is_accused(clause: str, edition: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    checker._load()
    monkeypatch.setitem(checker.CHECKS, clause, lambda view: Broken("it broke", ("1.000 row",)))
    decision = history(edition).decide(clause)
    assert decision.verdict is verdict
    if verdict is not Verdict.NOT_APPLICABLE:
        assert (decision.reason, decision.evidence) == ("it broke", ("1.000 row",))


def test_what_a_check_may_find_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    checker._load()
    monkeypatch.setitem(checker.CHECKS, "RUN-1", lambda view: Unproven("no proof"))
    monkeypatch.setitem(checker.CHECKS, "RUN-10", lambda view: Unproven("no proof"))
    monkeypatch.setitem(checker.CHECKS, "RUN-2", lambda view: Unsupported("not declared"))
    found = decided(history(), "RUN-1", "RUN-10", "RUN-2")
    assert [(d.verdict, d.reason) for d in found.values()] == [
        (Verdict.ERROR, "no proof"),
        (Verdict.ERROR, "no proof"),
        (Verdict.UNSUPPORTED, "not declared"),
    ]


def test_invariants_are_added() -> None:
    found = decided(history().callback(expect="failure").failed(), "FAIL-1")
    assert set(found) == {"FAIL-1"} | INVARIANTS
    assert {decision.verdict for decision in found.values()} == {Verdict.PASS}


def test_invariants_that_say_nothing_are_left_out() -> None:
    assert set(decided(history().callback().rest(), "RUN-1")) == {"RUN-1", "CRASH-1", "CRASH-3", "ROUTE-7"}
    assert set(decided(history(), "RUN-1")) == {"RUN-1"}


def test_an_invariant_that_was_asked_for_is_decided_once_and_never_left_out() -> None:
    decisions = check(history().stored(), ["CRASH-4", "CRASH-4"], CATALOGUE)
    assert [(d.clause, d.verdict) for d in decisions] == [("CRASH-4", Verdict.NOT_APPLICABLE)]


def test_a_broken_invariant_is_told_whatever_the_case_is_about() -> None:
    found = decided(history().callback().succeeded().row("c1", "failed"), "RUN-3")
    assert found["CRASH-4"].verdict is Verdict.FAIL


def test_no_invariant_blames_the_harness_for_a_case_that_was_cut_short() -> None:
    found = decided(history().callback(expect="failure").slots("c1").row("c1", "failed"), "FAIL-1")
    assert Verdict.ERROR not in {decision.verdict for decision in found.values()}


def test_evidence_is_taken_from_the_history() -> None:
    decision = history().callback().started().rest().decide("CRASH-1")
    assert any("row old=queued new=running" in line for line in decision.evidence)
    assert "rest states" in decision.evidence[-1]


# -- stored -------------------------------------------------------------------------------------------------


def test_a_stored_history_is_decided_as_the_live_one(tmp_path: Path) -> None:
    clauses = sorted(checker.CHECKS)
    live = whole()
    stored = read_history(on_file(live, tmp_path / "h.jsonl"))
    assert check(stored, clauses, CATALOGUE) == check(live.stored(), clauses, CATALOGUE)
    assert check(stored, clauses, CATALOGUE) == check(stored, clauses, CATALOGUE)


def test_what_follows_the_end_decides_nothing(tmp_path: Path) -> None:
    """The repair after a case goes into its file, and kills, frees and restarts."""
    clauses = sorted(checker.CHECKS)
    before = check(whole().stored(), clauses, CATALOGUE)
    repaired = whole().add("scheduler", what="gone", pid=100).slots("c1").row("c1", "success").effect("c1", "enter")
    assert check(read_history(on_file(repaired, tmp_path / "h.jsonl")), clauses, CATALOGUE) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [], "no history header"),
        (lambda lines: lines[1:], "no history header"),
        (lambda lines: [*lines, lines[-1][:-9], lines[-1]], "broken at line 30: no JSON"),
        (lambda lines: [*lines, "42"], "not valid at line 30"),
        (lambda lines: [*lines, '{"t": 1, "kind": "invented"}'], "not valid at line 30"),
        (lambda lines: [*lines, '{"t": "soon", "kind": "note"}'], "not valid at line 30"),
        (lambda lines: [*lines, '{"t": 1, "kind": "row", "callback": "c1"}'], "not valid at line 30"),
        (lambda lines: ['{"t": 0, "kind": "header", "format": "other", "version": 1}'], "no history header"),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 2')], "has format version 2; this tool reads 1"),
        (lambda lines: [json.dumps({"cases": []})], "not valid at line 1"),
    ],
    ids=["empty", "no-header", "truncated", "scalar", "kind", "time", "row", "foreign", "version", "json"],
)
def test_a_file_that_is_no_whole_history_is_refused(change: object, told: str, tmp_path: Path) -> None:
    path = on_file(whole(), tmp_path / "h.jsonl")
    lines = path.read_text("utf-8").split("\n")[:-1]
    number = len(lines)
    path.write_text("\n".join(change(lines)), "utf-8")  # type: ignore[operator]
    with pytest.raises(UsageError) as refused:
        read_history(path)
    told = told.replace("line 29", f"line {number}").replace("line 30", f"line {number + 1}")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_line_that_was_not_written_to_its_end_is_left_out(tmp_path: Path) -> None:
    path = on_file(whole(), tmp_path / "h.jsonl")
    lines = path.read_text("utf-8").split("\n")[:-1]
    path.write_text("\n".join(lines)[:-9], "utf-8")
    assert len(read_history(path).events) == len(lines) - 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00binary"], ids=["missing", "binary"])
def test_a_file_that_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        read_history(path)


def test_what_was_seen_in_a_broken_environment_accuses_nobody() -> None:
    seen = history().callback().succeeded().row("c1", "failed").add("end", trouble="", lost="The API server has ended.")
    decisions = decide(seen.stored(), ["RUN-3", "CRASH-4"], CATALOGUE)
    assert {(d.clause, d.verdict, d.reason) for d in decisions} == {
        ("RUN-3", Verdict.ERROR, "The API server has ended."),
        ("CRASH-4", Verdict.ERROR, "The API server has ended."),
    }
    assert Verdict.FAIL in {d.verdict for d in check(seen.stored(), ["CRASH-4"], CATALOGUE)}


def test_what_was_given_up_on_an_overloaded_machine_accuses_nobody() -> None:
    seen = history().callback().row("c1", "queued", "running").bound(starved=True).add("end", trouble="")
    (decision,) = [d for d in decide(seen.stored(), ["CRASH-1"], CATALOGUE) if d.clause == "CRASH-1"]
    assert decision.verdict is Verdict.ERROR
    assert "the machine was overloaded" in decision.reason
    assert "still RUNNING after 30 s" in decision.reason
    seen = history().callback().row("c1", "queued", "running").bound(starved=False).add("end", trouble="")
    (decision,) = [d for d in decide(seen.stored(), ["CRASH-1"], CATALOGUE) if d.clause == "CRASH-1"]
    assert decision.verdict is Verdict.FAIL


def test_what_a_dead_scheduler_left_undecided_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = history().callback().row("c1", "queued").add("scheduler", what="error", message="boom\nmore", where="step")
    cut = seen.add("end", trouble="", scheduler_died=True).stored()
    decisions = {d.clause: d for d in decide(cut, ["RUN-3"], CATALOGUE)}
    assert decisions["CRASH-5"].verdict is Verdict.FAIL
    assert decisions["CRASH-5"].reason == "The scheduler did not survive: boom"
    assert decisions["RUN-3"].verdict is Verdict.NOT_APPLICABLE
    assert decisions["RUN-3"].reason.startswith("the scheduler did not survive, see CRASH-5; the case was cut short")
    monkeypatch.setitem(checker.CHECKS, "RUN-3", lambda _: 1 / 0)
    decisions = {d.clause: d for d in decide(cut, ["RUN-3"], CATALOGUE)}
    assert decisions["RUN-3"].verdict is Verdict.ERROR


def test_of_a_case_that_broke_off_what_was_broken_stands_and_nothing_else_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = history().callback().slots("c1").rest()
    assert decided(seen, "CRASH-1", "CRASH-3")["CRASH-3"].verdict is Verdict.PASS
    cut = seen.add("end", trouble="the worker did not come").stored()
    decisions = {d.clause: d for d in decide(cut, ["CRASH-1", "CRASH-3"], CATALOGUE)}
    assert decisions["CRASH-1"].verdict is Verdict.FAIL
    assert decisions["CRASH-3"].verdict is Verdict.NOT_APPLICABLE
    assert decisions["CRASH-3"].reason == "the case did not come to its end: the worker did not come"
    # A finding is in every history of that core, so it explains nothing
    monkeypatch.setitem(checker.CHECKS, "RUN-10", lambda _: Broken("it broke"))
    healthy = history().callback().succeeded().add("end", trouble="the worker did not come").stored()
    decisions = {d.clause: d for d in decide(healthy, ["RUN-10", "CRASH-3"], CATALOGUE)}
    assert decisions["RUN-10"].verdict is Verdict.FINDING
    assert decisions["CRASH-3"].verdict is Verdict.ERROR


def test_nothing_passes_where_the_scheduler_died() -> None:
    seen = history().callback().row("c1", "queued").add("scheduler", what="error", message="boom", where="step")
    cut = seen.add("end", trouble="boom", scheduler_died=True).stored()
    decisions = {d.clause: d for d in decide(cut, ["CRASH-3"], CATALOGUE)}
    assert decisions["CRASH-3"].verdict is Verdict.NOT_APPLICABLE
    assert decisions["CRASH-3"].reason == "the scheduler did not survive, see CRASH-5"
