"""CRASH at the control plane and the data plane: each environment has its own ways to the same fault points."""

from __future__ import annotations

import pytest
from executor_conformance.harness.case import Case
from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.points import LIVENESS, until_delivered_again, while_it_matters
from executor_conformance.harness.rules import Hold
from executor_conformance.suites.marks import decides, ways
from executor_conformance.suites.test_crash import DEATH, claim_rule


def _under(case: Case, point: str, way: str) -> None:
    """A callback from beginning to end while a fault is in force, and what follows when it is over."""
    case.inject(point, way)
    case.submit("succeed", expect="terminal")
    case.settle()
    case.heal()
    if any(case.env.backend.pending(callback.id) for callback in case.callbacks):
        case.settle()  # the subject waits before it tries again
    case.follow_up()


@decides(*LIVENESS)
@ways("submit-refused")
def test_submit_refused(case: Case, way: str) -> None:
    """submit-refused: the control plane refuses or drops the submission."""
    if way == "answer-lost":
        _answer_lost(case)
    else:
        _under(case, "submit-refused", way)


def _answer_lost(case: Case) -> None:
    """The submission is there, and its executor does not know: its worker comes after what the executor does then."""
    case.inject("submit-refused", "answer-lost")
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    claim = claim_rule(case, callback, Hold(), times=1) if case.env.offers.has_claim else None
    case.until_ended_or_quiet(callback)
    if claim:
        claim.release()
    entered.release()
    case.settle()
    case.heal()
    case.follow_up()


@decides(*LIVENESS)
@ways("start-impossible")
def test_start_impossible(case: Case, way: str) -> None:
    """start-impossible: the unit of work cannot start."""
    _under(case, "start-impossible", way)


@decides(*LIVENESS)
@ways("accepted-lost")
def test_accepted_lost(case: Case, way: str) -> None:
    """accepted-lost: the submission is accepted and never picked up."""
    _under(case, "accepted-lost", way)


@decides(*LIVENESS)
@ways("stopped-before-start")
def test_stopped_before_start(case: Case, way: str) -> None:
    """stopped-before-start: what waits to be started is removed from outside."""
    case.inject("accepted-lost", "never-started")
    callback = case.submit("succeed", expect="terminal")
    case.until(lambda: case.env.backend.accepted(callback.id), "the control plane to have the submission")
    case.inject("stopped-before-start", way, callback)
    case.settle()
    case.heal()
    case.follow_up()


@decides(*DEATH)
@ways("stopped")
def test_stopped(case: Case, way: str) -> None:
    """stopped: the unit of work is stopped from outside while the callable runs."""
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.inject("stopped", way, callback)
    case.settle_then(entered.release)
    case.heal()
    case.follow_up()


@decides(*LIVENESS)
@pytest.mark.parametrize("moment", ["while-it-runs", "after-its-end"])
@ways("redelivery")
def test_redelivery(case: Case, way: str, moment: str) -> None:
    """redelivery: the transport delivers the same workload twice."""
    case.needs_way("redelivery", way)
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    process = case.reach(entered, "the start of the callable")
    case.until_running_or_quiet(callback)
    case.env.backend.remember(callback.id)
    case.env.effects.breakpoints.remove(entered)  # the second delivery runs through
    if moment == "after-its-end":
        entered.release()
        case.settle()
    before = case.env.units()
    case.inject("redelivery", way, callback)
    until_delivered_again(case, callback, before)
    if moment == "while-it-runs" and case.env.backend.on_this_host and process["pid"] not in case.env.processes():
        raise BoundReached("The callable's time was over before the second delivery had come to its claim.")
    while_it_matters(case, callback, before)
    entered.release()
    case.settle()
    case.heal()
    case.follow_up()


@decides(*LIVENESS)
@ways("observation")
def test_observation(case: Case, way: str) -> None:
    """observation: what the executor observes the unit of work by is refused, cut, delayed or wrong."""
    _under(case, "observation", way)


@decides(*LIVENESS)
@ways("clean-up")
def test_clean_up(case: Case, way: str) -> None:
    """clean-up: the control plane refuses to clean up after the unit of work."""
    _under(case, "clean-up", way)


@decides(*LIVENESS)
@ways("adoption")
def test_adoption(case: Case, way: str) -> None:
    """adoption: the scheduler is killed while the callable runs, and the next one is refused when it asks for it."""
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.inject("adoption", way, callback)
    case.restart_scheduler("scheduler-restart")
    case.linger()
    case.heal()
    entered.release()
    case.settle()
    case.follow_up()


@decides("ROUTE-7", "CRASH-1", "CRASH-3", "CRASH-5")
@ways("hang")
def test_hang(case: Case, way: str) -> None:
    """hang: the control plane accepts and never answers; heartbeat() and sync() come back all the same."""
    case.inject("hang", way)
    case.submit("succeed", expect="terminal")
    case.settle()
    case.heal()
    case.settle()
    case.follow_up()
