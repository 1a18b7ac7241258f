"""The checker: decides clauses from a history alone.

Each clause has one function in ``harness/checks``; it is given the view of a history and returns what it found.
It can be run again on a stored history, without any environment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from executor_conformance.harness.catalogue import Catalogue
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.history import Event, History
from executor_conformance.harness.verdicts import Decision, Verdict
from executor_conformance.harness.view import HistoryView


@dataclass(frozen=True)
class Broken:
    """A clause was broken: ``reason`` in one sentence, ``evidence`` as lines from the history."""

    reason: str
    evidence: tuple[str, ...] = ()
    owner: str = ""
    """Who broke it, 'core' or 'executor', where the history shows that; '' where it is the clause's own owner."""


@dataclass(frozen=True)
class Kept:
    """A clause was kept."""

    reason: str = ""


@dataclass(frozen=True)
class Undecided:
    """This history has no means to decide the clause; ``reason`` says why."""

    reason: str


@dataclass(frozen=True)
class Unsupported:
    """The subject declares that it does not do what the clause is about."""

    reason: str


@dataclass(frozen=True)
class Unproven:
    """The history lacks what a sound decision needs: an error of the harness, not of the subject."""

    reason: str


Found = Broken | Kept | Undecided | Unsupported | Unproven
Check = Callable[[HistoryView], Found]

RUNAWAY = "ROUTE-4"
"""The clause that an executor breaks which takes processes, memory or descriptors without end."""

CHECKS: dict[str, Check] = {}
"""The check of each clause that is decided from histories, by clause id."""

BY_THE_ROW = frozenset({"ROUTE-1", "RUN-6", "RUN-9", "FAIL-1", "FAIL-3", "CRASH-1", "CRASH-4", "CRASH-5", "CRASH-9"})
"""Clauses of the executor that are decided by the state of a row; what core makes of a reported end is STATE-5."""

_MODULES = (
    *("declaration", "route", "run", "residue", "fail", "crash", "ending", "delivery", "state", "end", "task"),
    *("token", "token_routes", "token_leaks"),
)


def decides(clause: str) -> Callable[[Check], Check]:
    """Register the check of ``clause``."""

    def register(check: Check) -> Check:
        if clause in CHECKS:
            raise HarnessError(f"The clause {clause} has two checks.")
        CHECKS[clause] = check
        return check

    return register


def _load() -> None:
    for module in _MODULES:
        importlib.import_module(f"executor_conformance.harness.checks.{module}")


def check(history: History, clauses: Iterable[str], catalogue: Catalogue) -> list[Decision]:
    """Decide ``clauses`` and the invariants over ``history``.

    A clause owned by core that is broken is a finding. A clause that the edition has no means to meet, or that
    the history cannot decide, is not applicable, with its reason.
    """
    _load()
    view = HistoryView(history)
    asked = list(dict.fromkeys(clauses))
    invariants = [clause.id for clause in catalogue.invariants if clause.id not in asked]
    decisions = [_decide(view, clause, catalogue) for clause in asked]
    # An invariant that a history says nothing about is left out; a clause that was asked for never is
    decisions += [
        decision
        for clause in invariants
        if view.callbacks and (decision := _decide(view, clause, catalogue)).verdict is not Verdict.NOT_APPLICABLE
    ]
    return decisions


def decide(history: History, clauses: Iterable[str], catalogue: Catalogue) -> list[Decision]:
    """Decide a case from its history, with what its ``end`` says of how the scenario went.

    A history without its ``end`` decides nothing: what is missing may be what would have spared the executor.
    A scenario that had no means to run decides nothing. One that broke is an error of the harness, unless the
    history shows a clause broken all the same: that stands, and nothing else passes, since not all of the scenario
    was there to see. One whose environment broke is an error whatever was seen, for nothing of it can be held against
    an executor. Neither can what is seen where a worker did not get the CPU. A scheduler that died in it is always
    asked about; if that is held against the subject, what could not be seen any more is not applicable. If core ended
    it by a defect of its own, nothing else in the history is held against the subject. A subject that ran away is asked
    about that alone: everything was stopped, so nothing else was there to see.
    """
    asked = list(clauses)
    if not (ends := history.of("end")):
        return [Decision(clause, Verdict.ERROR, "the history ends before its case does") for clause in asked]
    ended = ends[-1]
    if reason := ended.get("runaway"):
        return _of_a_runaway(history, asked, catalogue, reason)
    if reason := ended.get("not_applicable"):
        return [Decision(clause, Verdict.NOT_APPLICABLE, reason) for clause in asked]
    if reason := ended.get("lost"):
        return [Decision(clause, Verdict.ERROR, reason) for clause in asked]
    if reason := ended.get("unsupported"):
        return [Decision(clause, Verdict.UNSUPPORTED, reason) for clause in asked]
    if ended.get("scheduler_died") and "CRASH-5" not in asked:
        asked.append("CRASH-5")
    decisions = check(history, asked, catalogue)
    verdicts = {decision.verdict for decision in decisions}
    broken = bool(verdicts & {Verdict.FAIL, Verdict.FINDING})
    if ended.get("scheduler_died") and any(_is_core_s_death(decision) for decision in decisions):
        return [_after_core_s_death(decision) for decision in decisions]
    starved = [event for event in history.of("bound") if event.get("starved")]
    if starved and broken:
        return [_spared(decision, starved[0]) for decision in decisions]
    if (trouble := ended.get("trouble")) and not broken:
        return [Decision(clause, Verdict.ERROR, trouble) for clause in asked]
    if ended.get("scheduler_died") and any(d.clause == "CRASH-5" and d.verdict is Verdict.FAIL for d in decisions):
        why = "the scheduler did not survive, see CRASH-5"
        return [_cut(decision, why, Verdict.NOT_APPLICABLE) for decision in decisions]
    if trouble:
        # What the subject did may well be why the scenario went no further; what core did is in every such history
        rest = Verdict.NOT_APPLICABLE if Verdict.FAIL in verdicts else Verdict.ERROR
        return [_cut(decision, f"the case did not come to its end: {trouble}", rest) for decision in decisions]
    return decisions


def _of_a_runaway(history: History, asked: Iterable[str], catalogue: Catalogue, why: str) -> list[Decision]:
    _load()
    told = replace(_decide(HistoryView(history), RUNAWAY, catalogue), data={"runaway": True})
    rest = [clause for clause in asked if clause != RUNAWAY]
    reason = f"the executor was stopped, see {RUNAWAY}: {why}"
    return [told, *(Decision(clause, Verdict.NOT_APPLICABLE, reason) for clause in rest)]


def _cut(decision: Decision, why: str, verdict: Verdict) -> Decision:
    """What is kept, or unproven, where a scenario was cut short, is ``verdict``; a check that broke is not."""
    if decision.verdict is not Verdict.PASS and not decision.data.get("unproven"):
        return decision
    reason = f"{why}; {decision.reason}" if decision.reason else why
    return Decision(decision.clause, verdict, reason, decision.evidence)


def _is_core_s_death(decision: Decision) -> bool:
    return decision.clause == "CRASH-5" and decision.verdict is Verdict.FINDING


def _after_core_s_death(decision: Decision) -> Decision:
    """What is core's stays; of everything else nobody can say what it would have been."""
    stays = decision.verdict in (Verdict.FINDING, Verdict.NOT_APPLICABLE)
    if stays or (decision.verdict is Verdict.ERROR and not decision.data.get("unproven")):
        return decision
    why = "core ended the scheduler by a defect of its own, see CRASH-5"
    return Decision(decision.clause, Verdict.NOT_APPLICABLE, why, decision.evidence)


def _spared(decision: Decision, bound: Event) -> Decision:
    if decision.verdict not in (Verdict.FAIL, Verdict.FINDING):
        return decision
    reason = (
        f"the machine was overloaded: a worker still worked when the wait for {bound.get('waiting_for', 'rest')} was "
        f"given up, so it is not held against anybody that: {decision.reason}"
    )
    return Decision(decision.clause, Verdict.ERROR, reason, decision.evidence)


def _decide(view: HistoryView, clause_id: str, catalogue: Catalogue) -> Decision:
    clause = catalogue.clause(clause_id)
    if clause_id not in CHECKS:
        return Decision(clause_id, Verdict.ERROR, f"no check decides {clause_id} yet")
    if view.edition and (why := clause.applies_to(view.edition)):
        return Decision(clause_id, Verdict.NOT_APPLICABLE, why)
    try:
        found = CHECKS[clause_id](view)
    except Exception as error:
        # A check that breaks on a history it was not written for accuses nobody
        return Decision(clause_id, Verdict.ERROR, f"the check of {clause_id} broke: {type(error).__name__}: {error}")
    if isinstance(found, Broken) and clause_id in BY_THE_ROW and any(one.differs_from_report for one in view.callbacks):
        why = f"core did not keep an end as its worker reported it, see STATE-5; {found.reason}"
        return Decision(clause_id, Verdict.NOT_APPLICABLE, why, found.evidence)
    if isinstance(found, Kept):
        return Decision(clause_id, Verdict.PASS, found.reason)
    if isinstance(found, Undecided):
        return Decision(clause_id, Verdict.NOT_APPLICABLE, found.reason)
    if isinstance(found, Unsupported):
        return Decision(clause_id, Verdict.UNSUPPORTED, found.reason)
    if isinstance(found, Unproven):
        return Decision(clause_id, Verdict.ERROR, found.reason, data={"unproven": True})
    owner = found.owner or (clause.owner_for(view.edition) if view.edition else clause.owner)
    verdict = Verdict.FINDING if owner == "core" else Verdict.FAIL
    return Decision(clause_id, verdict, found.reason, found.evidence)
