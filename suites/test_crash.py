"""CRASH: the same fault points for every executor."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.points import LIVENESS, join, lose_report, part, until_returned
from executor_conformance.harness.rules import Answer, DropResponse, Hold, HoldResponse, WireRule
from executor_conformance.harness.waits import Callback
from executor_conformance.suites.answers import CORE, UNEXPECTED
from executor_conformance.suites.marks import decides, extended

DEATH = (*LIVENESS, "CRASH-7")
API_SERVER_URL = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"


def claim_rule(case: Case, callback: Callback, action: object, **more: int) -> WireRule:
    """A rule for the claim of ``callback``; an edition without a claim has no such point."""
    case.needs_claim()
    return case.rule(WireRule(action, path=f"/callbacks/{callback.id}/run", **more))  # type: ignore[arg-type]


def pids_of(case: Case, victim: str, child: int, supervisor: int) -> list[int]:
    """The processes that a fault kills."""
    if victim == "child":
        return [child]
    if victim == "supervisor":
        return [supervisor]
    return case.env.watcher.tree_of(supervisor)


@decides(*DEATH)
def test_killed_before_claim(case: Case) -> None:
    """before-claim: SIGKILL while the worker's first Execution API call has not arrived."""
    case.needs_victim("unit")
    callback = case.submit("succeed", expect="terminal")
    rule = claim_rule(case, callback, Hold(), times=1)
    worker = case.reach(rule, "the claim")
    case.kill(case.env.watcher.tree_of(worker["pid"]), "before-claim", "unit")
    rule.release(drop=True)
    case.settle()
    case.follow_up()


@decides(*LIVENESS)
def test_claim_unreachable(case: Case) -> None:
    """claim-unreachable: the API server refuses connections while the worker wants to claim."""
    case.needs_claim()
    case.env.wire.refuse()
    case.fault("claim-unreachable")
    case.submit("succeed", expect="terminal")
    case.settle()
    case.env.wire.accept()
    case.follow_up()


@decides(*LIVENESS)
@extended
def test_claim_by_a_lost_name(case: Case) -> None:
    """claim-unreachable: the API server's name does not resolve where the worker runs."""
    case.needs_claim()
    url = case.env.site.env[API_SERVER_URL]
    case.renew_workers({API_SERVER_URL: url.replace(urlsplit(url).netloc, "api-server.invalid")})
    case.fault("claim-unreachable", way="name-does-not-resolve")
    callback = case.submit("succeed", expect="terminal")
    case.settle()
    case.renew_workers({})
    if any(callback.id in event["path"] for event in case.env.history.of("wire", api="execution", phase="request")):
        raise NotApplicable("The worker has the API server's name from elsewhere, so the point was not reached.")
    case.follow_up()


CLAIM_ERRORS = {str(status): Answer(status, {"detail": "injected"}) for status in (500, 403)} | dict(UNEXPECTED)
ODD_WAYS = [way if way in CORE else pytest.param(way, marks=extended) for way in UNEXPECTED]


@decides(*LIVENESS)
@pytest.mark.parametrize("way", ["500", pytest.param("403", marks=extended), *ODD_WAYS])
def test_claim_error(case: Case, way: str) -> None:
    """claim-error: the claim is answered with an error, or with what nobody expects of an API server."""
    case.needs_claim()
    callback = case.submit("succeed", expect="terminal")
    claim_rule(case, callback, CLAIM_ERRORS[way])
    case.fault("claim-error", way=way, status=CLAIM_ERRORS[way].status)
    case.settle()
    case.env.wire.clear_rules()
    case.follow_up()


@decides(*LIVENESS)
@pytest.mark.parametrize("way", ODD_WAYS)
def test_later_request_error(case: Case, way: str) -> None:
    """request-error: what the callable asks the API server for is answered with what nobody expects of it."""
    callback = case.submit("hold_then_read_secrets", expect="terminal")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.rule(WireRule(UNEXPECTED[way], path=r"/execution/(connections|variables)/"))
    case.fault("request-error", way=way)
    entered.release()
    case.settle()
    case.env.wire.clear_rules()
    case.follow_up()


@decides(*LIVENESS)
def test_claim_response_lost(case: Case) -> None:
    """claim-response-lost: the claim commits, the worker never hears of it."""
    callback = case.submit("succeed", expect="terminal")
    claim_rule(case, callback, DropResponse(), times=1)
    case.fault("claim-response-lost")
    case.settle()
    case.follow_up()


@decides(*LIVENESS)
def test_end_response_lost(case: Case) -> None:
    """end-response-lost: the worker's report of the end commits, and the worker never hears of it."""
    case.needs_state_route()
    callback = case.submit("succeed", expect="terminal")
    rule = case.rule(WireRule(DropResponse(), path=f"/callbacks/{callback.id}/state", times=1))
    case.fault("end-response-lost")
    case.settle()
    if not rule.hits:
        raise NotApplicable("The worker reported no end, so there was no answer to lose.")
    case.follow_up()


@decides(*DEATH)
def test_killed_after_claim(case: Case) -> None:
    """after-claim: SIGKILL after the claim has committed, before the callable runs."""
    case.needs_victim("unit")
    callback = case.submit("succeed", expect="terminal")
    rule = claim_rule(case, callback, HoldResponse(), times=1)
    worker = case.reach(rule, "the claim")
    rule.wait_applied()
    case.kill(case.env.watcher.tree_of(worker["pid"]), "after-claim", "unit")
    rule.release(drop=True)
    case.settle()
    case.follow_up()


@decides(*DEATH)
@pytest.mark.parametrize("victim", ["child", "supervisor", "unit"])
def test_killed_during(case: Case, victim: str) -> None:
    """during: SIGKILL while the callable runs; whoever is left alive goes on afterwards."""
    case.needs_victim(victim)
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    process = case.reach(entered, "the start of the callable")
    case.kill(pids_of(case, victim, process["pid"], process["ppid"]), "during", victim)
    case.settle_then(entered.release)
    case.follow_up()


@decides(*DEATH)
def test_killed_during_import(case: Case) -> None:
    """during: SIGKILL to the supervisor while its child imports the callable's module."""
    case.needs_victim("supervisor")
    callback = case.submit("executor_conformance.suites.slow_import.function", expect="terminal")
    importing = case.env.effects.stop_at(None, "import")
    process = case.reach(importing, "the import of the callable's module")
    case.kill([process["ppid"]], "during", "supervisor")
    case.settle_then(importing.release)
    del callback
    case.follow_up()


@decides(*DEATH)
def test_node_lost_during(case: Case) -> None:
    """during: the whole worker is lost while the callable runs, and a new one is started."""
    if "node" not in case.env.backend.victims:
        raise NotApplicable(
            "The worker is the scheduler's own process, or the transport does not deliver "
            "a lost worker's messages again."
        )
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.env.effects.breakpoints.remove(entered)  # a second delivery runs through
    case.lose_node("during")
    entered.release()
    case.settle()
    case.follow_up()


@decides(*DEATH)
def test_killed_after_effect(case: Case) -> None:
    """after-effect: the callable has returned; its supervisor is killed before it can say so."""
    case.needs_victim("supervisor")
    callback = case.submit("hold", expect="terminal")
    effect = case.stop_at(callback, "effect")
    process = case.reach(effect, "the effect of the callable")
    case.stop_processes([process["ppid"]])
    effect.release()
    case.until_gone(process["pid"], "the callable's process")
    case.kill([process["ppid"]], "after-effect", "supervisor")
    case.settle()
    case.follow_up()


@decides("CRASH-1", "CRASH-5", "CRASH-6")
def test_idle_workers_killed(case: Case) -> None:
    """start-impossible: the processes that wait for a workload are killed before there is one."""
    if "idle" not in case.env.backend.victims:
        raise NotApplicable("The environment keeps no idle worker processes, or its transport shares their queue.")
    if not (idle := case.idle_units()):
        raise NotApplicable("The environment keeps no idle worker processes.")
    case.kill(idle, "start-impossible", "idle")
    case.submit("succeed", expect="terminal")
    case.settle()
    case.follow_up()


@decides(*LIVENESS)
def test_scheduler_restart(case: Case) -> None:
    """scheduler-restart: the scheduler is killed while the callable runs, and another takes its place."""
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.until_running_or_quiet(callback)
    case.restart_scheduler("scheduler-restart")
    entered.release()
    case.settle()
    case.follow_up()


@decides(*LIVENESS)
def test_report_lost(case: Case) -> None:
    """report-lost: core has taken the callback's terminal event, and the scheduler dies before it commits."""
    callback = case.submit("hold", expect="terminal")
    effect = case.stop_at(callback, "effect")
    case.reach(effect, "the effect of the callable")
    case.until_running_or_quiet(callback)
    effect.release()
    lose_report(case, callback)
    case.settle()
    case.follow_up()


@decides(*LIVENESS, "RUN-7")
def test_partition_while_it_runs(case: Case) -> None:
    """partition: the worker loses the API server and finds it again while the callable runs, which then asks it."""
    callback = case.submit("hold_then_read_secrets", expect="terminal")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.until_running_or_quiet(callback)
    part(case)
    case.linger()  # shorter than the retries of a worker that asks for work meanwhile
    join(case)
    entered.release()
    case.settle()
    case.follow_up()


@decides(*LIVENESS)
@pytest.mark.parametrize("outlasts", ["the-callable", "the-retries"])
def test_partition_at_its_end(case: Case, outlasts: str) -> None:
    """partition: the callable ends while its worker has lost the API server, which comes back at once, or too late."""
    callback = case.submit("hold", expect="terminal")
    entered = case.stop_at(callback, "enter")
    process = case.reach(entered, "the start of the callable")
    case.until_running_or_quiet(callback)
    part(case)
    entered.release()
    until_returned(case, callback, process["pid"])
    if outlasts == "the-retries":
        case.linger(case.env.backend.gives_up_s)
    join(case)
    case.settle()
    case.follow_up()
