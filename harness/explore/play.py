"""A drawn sequence in a running environment."""

from __future__ import annotations

from dataclasses import dataclass

from executor_conformance.harness.case import Case
from executor_conformance.harness.effects import Breakpoint
from executor_conformance.harness.explore.sequences import FATES, REQUESTS_AWAY, TASKS, Drawn, Fate, Round
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.rules import Answer, DropRequest, DropResponse, WireRule
from executor_conformance.harness.view import TASK_ENDED
from executor_conformance.harness.waits import Callback, Run


@dataclass
class _Aim:
    """A callback that is to be killed once its callable has begun."""

    fate: Fate
    callback: Callback
    held: Breakpoint
    struck: bool = False


def play(case: Case, sequence: Drawn) -> None:
    """Run a sequence round by round, then a callback and a task undisturbed."""
    for number, each in enumerate(sequence, 1):
        case.env.sink("note", what="round", number=number, steps=str(each))
        _play_round(case, each)
    case.follow_up()


def _play_round(case: Case, round_: Round) -> None:
    rules = [case.rule(WireRule(DropRequest(), times=REQUESTS_AWAY))] if round_.away else []
    if round_.away:
        case.fault("api-away", requests=REQUESTS_AWAY)
    aims: list[_Aim] = []
    runs: list[tuple[Run, str]] = []
    for name in round_.fates:
        fate = FATES[name]
        if name in TASKS:
            expect = "terminal" if round_.away else fate.expect
            run = case.run_dag(fate.callable_, role="beside", expect=expect)
            runs += [(run, task) for task in run.task_instances]
            continue
        callback = case.submit(fate.callable_, expect="terminal" if round_.away else fate.expect)
        if fate.victim:
            aims.append(_Aim(fate, callback, case.stop_at(callback, "enter")))
        if fate.needs_claim:
            rules.append(_fault_at_claim(case, callback, name))
    _kill(case, aims)
    orphans = [aim.held for aim in aims if aim.fate.victim == "supervisor"]
    for aim in aims:
        if aim.held not in orphans:
            aim.held.release()

    def release() -> None:
        for held in orphans:
            held.release()

    if orphans and not runs:
        case.settle_then(release)  # what do they do after the end?
    release()
    _until_over(case, runs)
    case.scheduling = False
    case.settle()
    for rule in rules:
        case.env.wire.remove_rule(rule)


def _fault_at_claim(case: Case, callback: Callback, name: str) -> WireRule:
    path = f"/callbacks/{callback.id}/run"
    case.fault(name)
    if name == "claim-error":
        return case.rule(WireRule(Answer(500, {"detail": "injected"}, {}), path=path))
    return case.rule(WireRule(DropResponse(), path=path, times=1))


def _kill(case: Case, aims: list[_Aim]) -> None:
    """Step until each callable has begun and its victim is dead, or until it is clear that none will begin any more."""
    watch = RestWatch(case, case.callbacks)
    while waiting := [aim for aim in aims if not aim.struck]:
        case.pump()
        for aim in waiting:
            if aim.held.reached:
                _strike(case, aim)
        if watch.at_rest() or watch.expired(case.env.settle_s):
            return  # its row tells; what is stuck is found by those who settle
        case.pause()


def _strike(case: Case, aim: _Aim) -> None:
    aim.struck = True
    hit = aim.held.hit or {}
    supervisor, child = hit["ppid"], hit["pid"]
    pids = {"child": [child], "supervisor": [supervisor]}.get(aim.fate.victim) or case.env.watcher.tree_of(supervisor)
    case.kill(pids, "during", aim.fate.victim)


def _until_over(case: Case, runs: list[tuple[Run, str]]) -> None:
    """Step until the tasks have ended and given their slots back, or have come to rest."""
    watch = RestWatch(case, [], tasks=runs)  # callbacks are waited for by those who settle

    def is_on(run: Run, task: str) -> bool:
        return case.task_state(run, task) not in TASK_ENDED or case.holds_task(run)

    while on := [(run, task) for run, task in runs if is_on(run, task)]:
        case.pump()
        if watch.at_rest() or watch.expired(case.env.settle_s):
            waiting = ", ".join(f"task {task} of {run.run_id}" for run, task in on)
            watch.give_up(waiting, case.env.settle_s)
            return
        case.pause()
