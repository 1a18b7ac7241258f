"""When a wait expires: not while a worker is still working, as it does for long on a machine that is overloaded."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.backends.celery.backend import CeleryBackend
from executor_conformance.backends.celery.brokers import VISIBILITY_TIMEOUT_S
from executor_conformance.backends.edge import ORPHANED_AFTER_S, EdgeBackend
from executor_conformance.harness import case as case_module
from executor_conformance.harness import pressure, rest
from executor_conformance.harness.backend import Backend
from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.residents import Residents
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.session import backends
from executor_conformance.harness.waits import Callback

LIMIT = 30.0
WORK_TICKS = int(2 * LIMIT * pressure.WORKING * os.sysconf("SC_CLK_TCK"))


class World:
    """One unit of work with its CPU time, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ticks = 0

    def monotonic(self) -> float:
        return self.now

    def case(self) -> Any:
        backend = SimpleNamespace(pending=lambda callback: [], nodes=lambda: [])
        env = SimpleNamespace(
            processes=lambda: {7: ProcessInfo(7, 1, "worker", "S", self.ticks, 1)},
            units=lambda processes: list(processes),
            site=SimpleNamespace(recorders={}, scheduler_pid=2, residents=Residents()),
            backend=backend,
            api_server=SimpleNamespace(pid=3),
            zygote=None,
            slots={},
            steps=0,
            effects=SimpleNamespace(reports=0),
            history=SimpleNamespace(of=lambda *kind, **fields: []),
            plain_scheduler=None,
            patience_s=1.2,
            settle_s=LIMIT,
            poll_s=lambda at_least: at_least,
            sink=lambda kind, **fields: None,
        )
        return SimpleNamespace(env=env)

    def let_pass(self, seconds: float, ticks: int) -> None:
        """Let time pass and the worker use CPU."""
        self.now += seconds
        self.ticks += ticks

    def after(self, watch: RestWatch, seconds: float, ticks: int) -> bool:
        """Let time pass and the worker use CPU, ask as a step of a case does, and say whether the wait expires."""
        self.let_pass(seconds, ticks)
        assert not watch.at_rest()
        return watch.expired(LIMIT)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(rest, "time", world)
    monkeypatch.setattr(pressure, "time", world)
    return world


def test_a_worker_that_does_nothing_expires(world: World) -> None:
    watch = RestWatch(world.case(), [])
    assert not world.after(watch, 1, 0)
    assert world.after(watch, LIMIT + 1, 0)


def test_a_worker_that_works_does_not_expire(world: World) -> None:
    watch = RestWatch(world.case(), [])
    assert not world.after(watch, 1, 0)
    assert not world.after(watch, LIMIT - 1, WORK_TICKS)
    assert not world.after(watch, LIMIT - 1, WORK_TICKS)


def test_one_that_works_for_ever_expires_all_the_same(world: World) -> None:
    watch = RestWatch(world.case(), [])
    waits = [world.after(watch, LIMIT - 1, 10 * WORK_TICKS) for _ in range(4)]
    assert waits == [False, False, False, True]


def test_a_heartbeat_is_no_work(world: World) -> None:
    watch = RestWatch(world.case(), [])
    assert not world.after(watch, 1, 0)
    beats = [world.after(watch, 1, 1) for _ in range(int(LIMIT) + 1)]
    assert beats[-1]


@pytest.mark.parametrize(("ticks", "seconds"), [(0, LIMIT), (WORK_TICKS, 3 * LIMIT)], ids=["nothing moves", "it works"])
def test_a_wait_for_something_expires_as_one_for_rest(
    world: World, monkeypatch: pytest.MonkeyPatch, ticks: int, seconds: float
) -> None:
    case = Case(world.case().env)
    monkeypatch.setattr(case, "pause", lambda: None)
    monkeypatch.setattr(case, "pump", lambda **step: world.let_pass(5, ticks))
    began = world.now
    with pytest.raises(BoundReached, match="the end: not within 30 s"):
        case.until(lambda: False, "the end")
    assert seconds < world.now - began <= seconds + 10


@pytest.mark.parametrize(
    ("hits", "steps"),
    [([1], 0), ([None], 0), ([0, 0, 2], 2)],
    ids=["met", "nobody can tell", "met by an executor that polls"],
)
def test_a_fault_is_taken_back_once_a_request_has_met_it(
    world: World, monkeypatch: pytest.MonkeyPatch, hits: list[int | None], steps: int
) -> None:
    case, healed, noted, pumped = healing(world, monkeypatch, hits)
    case.heal()
    assert (len(healed), noted, len(pumped)) == (1, [hits[-1]], steps)


def test_a_fault_that_no_request_meets_is_taken_back_and_has_tried_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, healed, noted, pumped = healing(world, monkeypatch, [0])
    with pytest.raises(NotApplicable, match="makes no request that the fault is for"):
        case.heal()
    assert (len(healed), noted) == (1, [0])
    assert len(pumped) == LIMITS.fault_hit


def test_a_success_that_is_known_only_after_rest_is_noted_at_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of an earlier callback may have ended before its worker has reported."""
    case, known = Case(world.case().env), set[str]()
    events: list[tuple[str, dict[str, Any]]] = []
    case.env.sink = lambda kind, **fields: events.append((kind, fields))
    case.env.history.of = lambda kind, what: [each for _, each in events if each.get("what") == what]
    case.env.backend.succeeded = known.__contains__
    first, second = Callback("c1", "p1"), Callback("c2", "p2")
    case.callbacks += [first, second]
    monkeypatch.setattr(case, "pump", lambda **step: None)
    monkeypatch.setattr(RestWatch, "at_rest", lambda watch: True)
    monkeypatch.setattr(RestWatch, "proof", lambda watch: {})
    case.settle([first])
    assert events == [("rest", {})]
    known.add("c1")
    case.settle([second])
    case.settle()
    noted = [fields for kind, fields in events if kind == "note"]
    assert noted == [{"what": "worker succeeded", "callback": "c1"}]


def healing(
    world: World, monkeypatch: pytest.MonkeyPatch, hits: list[int | None]
) -> tuple[Case, list[bool], list[int | None], list[bool]]:
    """A case under a fault that was met so often, asked again and again; what it heals, notes and steps."""
    monkeypatch.setattr(case_module, "time", world)
    case, told = Case(world.case().env), iter(hits)
    healed: list[bool] = []
    noted: list[int | None] = []
    pumped: list[bool] = []
    case.env.backend.hits = lambda: next(told, hits[-1])
    case.env.backend.heal = lambda: healed.append(True)
    case.env.sink = lambda kind, **fields: noted.append(fields["hits"])
    monkeypatch.setattr(case, "pause", lambda: None)
    monkeypatch.setattr(case, "pump", lambda **step: (pumped.append(True), world.let_pass(1, 0)))
    return case, healed, noted, pumped


def test_a_wait_ends_with_what_it_waits_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(world.case().env)
    monkeypatch.setattr(case, "pause", lambda: None)
    monkeypatch.setattr(case, "pump", lambda **step: world.let_pass(5, 0))
    end = world.now + 20
    case.until(lambda: world.now >= end, "the end")
    assert world.now == end


@pytest.mark.parametrize(
    ("state", "effects", "ticks", "resident"),
    [
        pytest.param("success", [], 0, True, id="idle after the end"),
        pytest.param("running", [], 0, False, id="its workload goes on"),
        pytest.param("success", [], WORK_TICKS, False, id="it works"),
        pytest.param("failed", [{"pid": 7}], 0, False, id="it is the callable itself"),
    ],
)
def test_what_is_idle_after_the_end_of_all_workloads_is_a_resident(
    world: World, state: str, effects: list[dict[str, Any]], ticks: int, resident: bool
) -> None:
    case = world.case()
    case.state = lambda callback: state
    case.holds_slot = lambda key: False
    noted: list[dict[str, Any]] = []
    case.env.sink = lambda kind, **fields: noted.append(fields)
    case.env.history.of = lambda kind, **fields: effects if kind == "effect" else []
    watch = RestWatch(case, [Callback("c1", "p1")])
    for _ in range(8):
        world.let_pass(2, ticks)
        watch.at_rest()
    assert (case.env.processes()[7] in case.env.site.residents) is resident
    assert [note["title"] for note in noted if note.get("what") == "resident"] == ["worker"] * resident


@pytest.mark.parametrize("kind", backends().values(), ids=backends())
def test_a_callable_reaches_its_timeout_before_it_is_given_up_on(kind: type[Backend]) -> None:
    assert kind.callable_timeout_s <= LIMITS.settle - 5, "the start of the worker counts too"


def test_a_callable_reaches_its_timeout_before_its_worker_is_taken_for_lost() -> None:
    assert CeleryBackend.callable_timeout_s <= VISIBILITY_TIMEOUT_S - 10
    assert EdgeBackend.callable_timeout_s <= ORPHANED_AFTER_S - 10
