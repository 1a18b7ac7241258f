"""The boundaries of a recorded way: which there are, what they are called, and where nobody is killed."""

from __future__ import annotations

import re

import pytest
from executor_conformance.harness.explore.boundaries import (
    BORN,
    ENDED,
    IDLE,
    IS_SUPERVISOR,
    MOST,
    NO_CHILD,
    NOT_YET,
    STUBBED,
    TOO_MANY,
    Boundary,
    boundaries_of,
    unhealthy,
)

from tests.written import CHILD, WORKER, Written, history

ID = "01a1fd8c-6c56-7377-a712-dd022688ebd6"
VARIABLE = "/execution/variables/conformance"


def born(written: Written, number: int, pid: int, ppid: int) -> Written:
    return written.note(BORN, number=number, pid=pid, ppid=ppid)


def recorded(*, gone: bool = True, supervisor_born: bool = False) -> Written:
    """The whole way of a callback with one read of a variable."""
    way = history().callback(ID, path="whole_way").event(ID, "queued")
    if supervisor_born:
        born(way, 1, WORKER, 100)
    way.request(ID, f"/execution/callbacks/{ID}/run", 204, scope="callback").row(ID, "running")
    born(way, 2 if supervisor_born else 1, CHILD, WORKER)
    way.effect(ID, "enter").request(ID, VARIABLE).effect(ID, "effect")
    way.add("process", what="gone", pid=CHILD, ppid=WORKER, title="x")
    if gone:
        way.add("process", what="gone", pid=WORKER, ppid=100, title="x")
    return way.event(ID, "success").slots().row(ID, "success").rest(ID).followed()


def names(boundaries: list[Boundary]) -> list[str]:
    return [boundary.name for boundary in boundaries]


def skipped(boundaries: list[Boundary]) -> dict[str, str]:
    return {boundary.name: boundary.skipped for boundary in boundaries if boundary.skipped}


def test_each_moment_of_the_way_in_its_order() -> None:
    assert names(boundaries_of(recorded().stored(), "unit", idle=True)) == [
        "row queued",
        "event queued",
        "before PATCH /callbacks/{id}/run",
        "after PATCH /callbacks/{id}/run",
        "row running",
        "after process 1 is born",
        "callable enter",
        "before PATCH /variables/conformance",
        "after PATCH /variables/conformance",
        "callable effect",
        "callable exit",
        "event success",
        "row success",
    ]


def test_what_follows_the_callback_is_no_part_of_its_way() -> None:
    plan = boundaries_of(recorded().stored(), "unit", idle=True)
    assert not [each for each in plan if "next" in each.name]


def test_names_do_not_change_from_run_to_run() -> None:
    other = Written()
    other.events = [eval(re.sub(ID, "99999999-6c56-7377-a712-dd022688ebd6", repr(e))) for e in recorded().events]
    assert names(boundaries_of(other.stored(), "unit", idle=True)) == names(
        boundaries_of(recorded().stored(), "unit", idle=True)
    )


def test_what_happens_again_is_numbered() -> None:
    way = history().callback(ID).request(ID, f"/execution/callbacks/{ID}/run", 204, scope="callback")
    way.row(ID, "running").effect(ID, "enter").request(ID, VARIABLE, 500).request(ID, VARIABLE).effect(ID, "effect")
    way.event(ID, "success").row(ID, "success").rest(ID)
    found = {each.name: each.nth for each in boundaries_of(way.stored(), "unit", idle=True)}
    assert found["before PATCH /variables/conformance"] == 1
    assert found["before PATCH /variables/conformance (2nd)"] == 2
    assert found["after PATCH /variables/conformance (2nd)"] == 2


def test_requests_of_others_are_left_out() -> None:
    way = recorded()
    at = next(number for number, event in enumerate(way.events) if event["kind"] == "effect")
    stranger = history().request("other", "/execution/variables/other").events[1:]
    way.events[at:at] = [{**event, "t": way.events[at]["t"]} for event in stranger]
    assert not [each for each in boundaries_of(way.stored(), "unit", idle=True) if "other" in each.name]


def test_nobody_is_killed_before_a_worker_is_there() -> None:
    plan = boundaries_of(recorded().stored(), "unit", idle=True)
    assert skipped(plan)["row queued"] == NOT_YET
    assert skipped(plan)["event queued"] == NOT_YET
    assert "before PATCH /callbacks/{id}/run" not in skipped(plan)


def test_an_event_that_says_running_speaks_of_a_worker_not_seen_yet() -> None:
    way = history().callback(ID).event(ID, "running").request(ID, f"/execution/callbacks/{ID}/run", 204)
    way.row(ID, "running").effect(ID, "enter", "effect").event(ID, "success").row(ID, "success").rest(ID)
    assert "event running" not in skipped(boundaries_of(way.stored(), "unit", idle=True))


def test_nobody_is_killed_who_has_ended() -> None:
    plan = boundaries_of(recorded().stored(), "unit", idle=True)
    assert skipped(plan)["event success"] == ENDED
    assert skipped(plan)["row success"] == ENDED


NODE = 77
JOB = f"/edge_worker/v1/jobs/state/{ID}/success"
LOGS = f"/edge_worker/v1/logs/push/{ID}"


def told_by_a_node() -> Written:
    """As recorded, and the whole worker pushes the log and tells the end after the unit's; the push is stubbed."""
    way = recorded()
    at = next(number for number, event in enumerate(way.events) if event.get("state") == "success")
    beside = history().callback(ID)
    beside.request(ID, LOGS, None, pid=NODE).request(ID, JOB, pid=NODE)
    push, *job = [event for event in beside.events if event["kind"] == "wire"]
    sent = [push, {**push, "phase": "fault", "action": "answer"}, {**push, "phase": "response"}, *job]
    way.events[at:at] = [{**event, "api": "edge", "t": way.events[at]["t"] - 0.001} for event in sent]
    return way


def test_a_whole_worker_is_killed_where_it_speaks_for_a_unit_that_has_ended() -> None:
    told = skipped(boundaries_of(told_by_a_node().stored(), "unit", idle=True, nodes=[NODE]))
    assert not [name for name in told if "jobs/state" in name]
    assert told["row success"] == ENDED
    for victim, nodes in (("unit", []), ("supervisor", [NODE])):
        told = skipped(boundaries_of(told_by_a_node().stored(), victim, idle=True, nodes=nodes))
        assert [why for name, why in told.items() if "jobs/state" in name] == [ENDED, ENDED]


def test_nobody_is_killed_at_a_request_that_the_environment_answers() -> None:
    told = skipped(boundaries_of(told_by_a_node().stored(), "unit", idle=True, nodes=[NODE]))
    assert [why for name, why in told.items() if "logs/push" in name] == [STUBBED, STUBBED]


@pytest.mark.parametrize(("idle", "why"), [(True, None), (False, IDLE)])
def test_a_worker_that_waits_again_is_killed_where_that_can_be(idle: bool, why: str | None) -> None:
    plan = boundaries_of(recorded(gone=False).stored(), "unit", idle=idle)
    assert skipped(plan).get("event success") == why
    assert skipped(plan).get("row success") == why


def test_a_child_has_moments_of_its_own() -> None:
    plan = boundaries_of(recorded(gone=False, supervisor_born=True).stored(), "child", idle=True)
    assert skipped(plan)["after process 1 is born"] == IS_SUPERVISOR
    assert "after process 2 is born" not in skipped(plan)
    assert skipped(plan)["callable exit"] == NO_CHILD
    assert skipped(plan)["row success"] == NO_CHILD


def test_a_plan_has_a_bound() -> None:
    way = history().callback(ID).request(ID, f"/execution/callbacks/{ID}/run", 204)
    way.row(ID, "running").effect(ID, "enter")
    for _ in range(MOST):
        way.request(ID, VARIABLE)
    way.effect(ID, "effect").event(ID, "success").row(ID, "success").rest(ID)
    plan = boundaries_of(way.stored(), "unit", idle=True)
    assert len([each for each in plan if not each.skipped]) <= MOST
    assert plan[-1].skipped == TOO_MANY


def test_where_the_worker_can_be_held() -> None:
    plan = {each.name: each.holdable for each in boundaries_of(recorded().stored(), "unit", idle=True)}
    assert [name for name, holdable in plan.items() if not holdable] == [
        "row queued",
        "event queued",
        "row running",
        "after process 1 is born",
        "callable exit",
        "event success",
        "row success",
    ]


def test_a_healthy_way() -> None:
    assert unhealthy(recorded().stored()) == ""


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (history(), "no callback"),
        (history().callback(ID).rest(ID), "QUEUED instead of SUCCESS"),
        (history().callback(ID).started(ID).effect(ID, "enter").ended(ID), "ran 2 times"),
        (history().callback(ID).started(ID).event(ID, "success").row(ID, "success"), "did not come to rest"),
    ],
)
def test_what_is_not_swept_over(written: Written, why: str) -> None:
    assert why in unhealthy(written.stored())


def test_a_boundary_survives_its_storage() -> None:
    for boundary in boundaries_of(recorded().stored(), "unit", idle=True):
        assert Boundary.from_dict(boundary.to_dict()) == boundary
