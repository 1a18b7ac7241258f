"""One run of a sweep: the healthy callback again, and its worker is killed at one boundary of the recorded way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.explore.births import BirthWatch
from executor_conformance.harness.explore.boundaries import Boundary, concerns, request_name
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.rules import Hold, HoldResponse, WireRequest, WireRule
from executor_conformance.harness.waits import Callback

if TYPE_CHECKING:
    from executor_conformance.harness.environment import Environment

CALLABLE = "whole_way"
LAST = "last"
"""Its last report, before it returns: what an orphan that was held at the report before it does once it is let go."""


class NotReached(NotApplicable):
    """The boundary of the recording did not occur in this run, or nobody was there to kill; decides nothing."""

    def __init__(self, message: str) -> None:
        super().__init__(f"not reached: {message}")


def record(case: Case) -> Callback:
    """Let one callback go its way undisturbed, with what follows a kill, and note the births on it."""
    _as_at_first(case)
    with BirthWatch(case.env) as births:
        callback = case.submit(CALLABLE)
        case.settle()
    _whole(births)
    case.follow_up()
    return callback


def killable_nodes(env: Environment) -> list[int]:
    """Whole workers that a sweep can kill, by pid."""
    return [node.pid for node in env.backend.nodes()] if "node" in env.backend.victims else []


def strike(case: Case, boundary: Boundary, order: Sequence[Boundary], victim: str) -> None:
    """Submit the callback, kill ``victim`` at ``boundary``, and see what becomes of it and of what follows.

    :param order: all boundaries of the plan, in the order of the recording.
    :raises NotReached: the boundary did not occur.
    :raises NotApplicable: the environment cannot kill such a victim.
    """
    case.needs_victim(victim)
    case._of_this_host()
    _as_at_first(case)
    with BirthWatch(case.env) as births:
        callback = case.submit(CALLABLE, expect="terminal")
        point = _point(case, callback, boundary, births)
        later = [each for each in order[order.index(boundary) + 1 :] if each.holdable]
        stop = None if boundary.holdable or not later else _point(case, callback, later[0], births)
        points = [each for each in (point, stop) if each]
        if victim == "supervisor":
            # An orphan gets no further than its next report before the row has settled, or it would be a race
            next_report = [each for each in later if each.kind == "callable"][:1]
            points += [_point(case, callback, each, births) for each in next_report]
        _reach(case, point, stop, boundary)
        killed = _kill(case, callback, boundary, victim, births)
        if not killed and victim == "unit" and point.sender() in killable_nodes(case.env):
            # The unit has ended, and the whole worker tells of it: then that one is the worker at this boundary
            killed = case.lose_node(boundary.name)
    _whole(births)
    for each in points:
        each.release_request(killed)
    if not killed:
        for each in points:
            each.release()
        case.settle()
        missing = "there was no child" if victim == "child" else "the worker was not there"
        raise NotReached(f"{missing} at '{boundary.name}' in this run")

    def release() -> None:
        for each in points:
            each.release()

    if victim == "supervisor":
        case.settle_then(release)  # what does an orphan do after the end?
    else:
        release()
        case.settle()
    case.follow_up()


def _whole(births: BirthWatch) -> None:
    if births.trouble:
        raise HarnessError(
            f"The watch over births of processes broke: {births.trouble}; this is a defect of the harness."
        )


def _as_at_first(case: Case) -> None:
    """Where the scheduler's own children are the workers, begin without any, as the recording did."""
    if not case.env.backend.nodes() and case.env.steps != case.env.started_at_step:
        case.new_scheduler = True
        case.env.start_scheduler()


# -- points ---------------------------------------------------------------------------------------------------


@dataclass
class _Point:
    """Where a run waits for a boundary; ``reached`` is asked often."""

    reached: Callable[[], bool]
    release: Callable[[], None]
    release_request: Callable[[Sequence[int]], None]
    sender: Callable[[], int | None] = lambda: None
    """The process whose request is held."""


def _nothing(*_: Any) -> None:
    """There is nothing to let go."""


def _point(case: Case, callback: Callback, boundary: Boundary, births: BirthWatch) -> _Point:
    if boundary.kind in ("request", "response"):
        return _on_the_wire(case, callback, boundary)
    if boundary.kind == "callable":
        # The exit is reached from the last report: the supervisor is stopped there until its child has ended
        what = LAST if boundary.what == "exit" else boundary.what
        held = case.stop_at(callback, what)
        return _Point(lambda: held.reached, held.release, _nothing)
    if boundary.kind == "birth":
        number = births.freeze = int(boundary.what)
        return _Point(lambda: len(births.births) >= number, births.thaw, _nothing)
    if boundary.kind == "row":
        return _Point(lambda: _count(case, "row", boundary, callback=callback.id), _nothing, _nothing)
    return _Point(lambda: _count(case, "event", boundary, key=callback.id), _nothing, _nothing)


def _count(case: Case, kind: str, boundary: Boundary, **fields: Any) -> bool:
    state = "new" if kind == "row" else "state"
    return len(case.env.history.of(kind, **{state: boundary.what}, **fields)) >= boundary.nth


def _on_the_wire(case: Case, callback: Callback, boundary: Boundary) -> _Point:
    def matches(request: WireRequest) -> bool:
        mine = concerns(callback.id, request.path, request.claims)
        return mine and request_name(request.method, request.path, callback.id) == boundary.what

    action = Hold() if boundary.kind == "request" else HoldResponse()
    rules = [
        WireRule(action, api=label, match=matches, skip=boundary.nth - 1, times=1) for label in case.env.site.recorders
    ]
    for rule in rules:
        case.env.site.recorders[str(rule.api)].add_rule(rule)

    def release_request(killed: Sequence[int]) -> None:
        for rule in rules:
            rule.release(drop=any(request.pid in killed for request in rule.hits))

    # A request counts as reached once it is held, or its answer is
    return _Point(
        lambda: any(rule.applied for rule in rules),
        lambda: release_request(()),
        release_request,
        lambda: next((request.pid for rule in rules for request in rule.hits), None),
    )


# -- on the way to the boundary -------------------------------------------------------------------------------


def _reach(case: Case, point: _Point, stop: _Point | None, boundary: Boundary) -> None:
    """Step until the point is reached.

    ``stop`` holds the worker at the next place where it can be held, so that what is seen late still finds it there;
    once nothing moves any more it is let go.

    :raises NotReached: everything came to rest, or ended, before it was.
    """
    watch = RestWatch(case, case.callbacks)
    mark: Any = None
    since = time.monotonic()
    while not point.reached():
        case.pump()
        if point.reached():
            break
        now = (len(case.env.history.of("row")), len(case.env.history.of("event")), str(case.env.slots))
        if now != mark or not (stop and stop.reached()):
            mark, since = now, time.monotonic()
        elif time.monotonic() - since > 2 * LIMITS.quiet_window:
            stop.release_request(())
            stop.release()
            stop = None
        if watch.over(boundary.name, case.env.settle_s):
            states = ", ".join(str(case.state(callback)).upper() for callback in case.callbacks)
            raise NotReached(f"'{boundary.name}' did not occur in this run, whose row ended {states}")
        if stop is None or not stop.reached():
            case.pause()


# -- the kill -------------------------------------------------------------------------------------------------


def _kill(case: Case, callback: Callback, boundary: Boundary, victim: str, births: BirthWatch) -> list[int]:
    """Kill the victim; returns its pids, none if it was not there."""
    supervisor, child = _unit(case, callback, boundary, births)
    if boundary.what == "exit" and supervisor and child:
        case.stop_processes([supervisor])
        for held in case.env.effects.breakpoints:
            held.release()
        case.until_gone(child, "the callable's process")
    aim = child if victim == "child" else supervisor
    if aim is None or aim not in case.env.processes():
        return []
    pids = case.env.watcher.tree_of(aim) if victim == "unit" else [aim]
    case.kill(pids, boundary.name, victim)
    return pids


def _unit(case: Case, callback: Callback, boundary: Boundary, births: BirthWatch) -> tuple[int | None, int | None]:
    """Supervisor and child of the callback, as far as something is seen of them."""
    processes = case.env.processes()
    if boundary.kind == "birth":
        birth = births.births[int(boundary.what) - 1]
        if birth.ppid in case.env.backend.units(processes):
            return birth.ppid, birth.pid
        return birth.pid, None
    if entered := case.effects(callback, "enter"):
        return entered[0]["ppid"], entered[0]["pid"]
    senders = [
        wire["pid"]
        for wire in case.env.history.of("wire", phase="request", api="execution")
        if wire.get("pid") and concerns(callback.id, wire["path"], (wire.get("token") or {}).get("claims"))
    ]
    if senders:
        supervisor = senders[0]
    else:
        units = case.env.backend.units(processes)
        roots = [pid for pid in units if pid in processes and processes[pid].ppid not in units]
        supervisor = roots[0] if len(roots) == 1 else None  # this callback is the only one that is on
    return supervisor, next((pid for pid, process in processes.items() if process.ppid == supervisor), None)
