"""CRASH: fault points."""

from __future__ import annotations

import re

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.deaths import CORE, ENVIRONMENT
from executor_conformance.harness.history import Event
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.view import (
    GRANTED_TWICE,
    TASK_ENDED,
    TERMINAL,
    CallbackView,
    HistoryView,
    at_rest,
    line,
)

WORKERS = ("child", "supervisor", "unit", "node")
"""Victims of a fault that are, or are a part of, a worker."""
DEATH = re.compile(
    r"kill|\b(died|dead|death|lost|gone|ended|vanished|disappeared|stopped|evicted|deleted|aborted|crashed)\b"
    r"|\bexited\b(?! with)"
    r"|terminat|signal|\bsig[a-z]{3,}|\bexit(ed)?\b[^\n]{0,24}\W(-\d+|12[89]|1[3-9]\d|2\d\d)\b|out of memory|\boom",
    re.IGNORECASE,
)
"""Words that say that something ended against its will; 'failed', or an exit code of 1, is said of what raises, too."""
PLACE = re.compile(
    r"\b(worker|pod|container|process|pid|host|hostname|node|task|job|instance|runtime|function|supervisor|child)\b",
    re.IGNORECASE,
)
"""Words that say what it was that ended, the least that 'where' asks for."""
SLACK = 0.02
"""Seconds by which the wall clock of a row and the harness's own clock may differ."""


@decides("CRASH-1")
def reaches_a_terminal_state(view: HistoryView) -> Found:
    """Each row is terminal; a row that is not is proven to be at rest, or the bound was reached."""
    if not view.callbacks:
        return Undecided("no callback in this case")
    if view.of("note", what="scheduler ended") or view.of("scheduler", what="survived"):
        return Undecided("no executor of this case runs callbacks")
    if ended := view.of("scheduler", what="ended"):
        return _after_a_polite_end(view, ended[-1])
    unproven, hung_until = "", _hung_until(view)
    for callback in view.callbacks:
        if callback.deleted:
            continue
        bound = [proof for proof in callback.proofs if proof["kind"] == "bound" and proof["t"] > hung_until]
        late = [proof for proof in bound if proof["states"][callback.id] not in TERMINAL]
        if callback.final in TERMINAL:
            if late:
                end = str(callback.final).upper()
                return Broken(f"The row became {end} only after the bound of {_limit(late[0])}", callback.story())
            continue
        state = str(callback.final).upper()
        proofs = [proof for proof in callback.proofs if proof["states"][callback.id] == callback.final]
        if not proofs:
            unproven = unproven or f"the row is {state}, and the history has neither rest nor bound for it"
        elif at_rest(proofs[-1]) and proofs[-1]["kind"] == "rest":
            return Broken(
                f"The row stays {state}: nothing that belongs to the callback is alive, and the executor has "
                f"synced {proofs[-1]['quiet_steps']} times since",
                callback.story(),
            )
        else:
            return Broken(f"The row is still {state} after {_limit(proofs[-1])}", callback.story())
    return Unproven(unproven) if unproven else Kept()


def _after_a_polite_end(view: HistoryView, ended: Event) -> Found:
    """Core reads no event after end(): what the executor has reported by then must have been written all the same."""
    for callback in view.callbacks:
        told = [event for event in callback.events if event["state"] in TERMINAL and event["t"] <= ended["t"]]
        if told and callback.final not in TERMINAL:
            return Broken(
                f"The executor reported {told[-1]['state'].upper()} before its {ended['how']}() returned, and core "
                "ended without reading it",
                callback.story(),
                owner=CORE,
            )
    return Undecided("the scheduler was ended while the callables ran")


def _hung_until(view: HistoryView) -> float:
    """When a control plane that gave no answer gave some again; until then, nobody can bring a row to its end."""
    hangs = any(fault["name"] == "hang" for fault in view.faults())
    return max((note["t"] for note in view.of("note", what="healed")), default=0.0) if hangs else 0.0


def _limit(proof: Event) -> str:
    return f"{proof.get('limit_s', LIMITS.settle):g} s"


@decides("CRASH-2")
def no_code_before_the_claim(view: HistoryView) -> Found:
    """Every report of the callable came after a claim that succeeded, from the worker that made it."""
    ran = 0
    parents = _parents(view)
    for callback in view.callbacks:
        for event in callback.effects:
            ran += 1
            if callback.claimed is None:
                return _ran_unclaimed(callback)
            if event["t"] < callback.claimed["t"]:
                return Broken(
                    "Code of the callable ran before the claim succeeded",
                    (line(event, "what", "pid"), line(callback.claimed, "route", "status")),
                )
            if not _is_of_a_claimant(event, callback, parents):
                return Broken(
                    "Code of the callable ran in a worker whose own claim did not succeed",
                    (
                        line(event, "what", "pid", "ppid"),
                        *(line(answer, "route", "status", "pid") for answer in callback.responses(callback.claims)),
                        *callback.story(4),
                    ),
                )
    if ran:
        return Kept(f"{ran} reports, each after its claim")
    if any(callback.claims for callback in view.callbacks) or (view.subjects and any(view.faults())):
        return Kept("no code ran")
    return Undecided("neither a claim nor code of a callable was seen")


def _ran_unclaimed(callback: CallbackView) -> Found:
    """Code ran without a claim; where something else than the server answered 2xx, core's own client was content."""
    taken = [
        answer
        for answer in callback.responses(callback.claims)
        if answer.get("by") == "rule" and 200 <= answer["status"] < 300
    ]
    if taken:
        return Broken(
            f"Code of the callable ran although its claim was not granted: the worker takes {taken[0]['status']} for a "
            "success, whoever answers it",
            (line(taken[0], "route", "status", "by"), *callback.story(4)),
            owner=CORE,
        )
    return Broken("Code of the callable ran although no claim succeeded", callback.story())


def _parents(view: HistoryView) -> dict[int, int]:
    """The parent of each process of this host that was seen; a callable's is the one that its first report names."""
    parents = {event["pid"]: event["ppid"] for event in view.of("process", what="born") if event.get("ppid")}
    for event in reversed(view.of("effect")):
        if not event.get("space"):
            parents[event["pid"]] = event["ppid"]
    return parents


def _is_of_a_claimant(effect: Event, callback: CallbackView, parents: dict[int, int]) -> bool:
    """Whether the worker that reported ``effect`` had been told that its claim succeeded; also if none can tell.

    The claim may be made by the process itself, by what it descends from, or by another child of its parent.
    """
    claimants = [event["pid"] for event in callback.claims_answered if event["t"] <= effect["t"]]
    if effect.get("space") or None in claimants:
        return True  # the number of a process in another PID namespace, or none: nobody knows whose it is
    own = _ancestry(effect["pid"], parents)
    return any(pid in own or own[1:2] == _ancestry(pid, parents)[1:2] for pid in claimants)


def _ancestry(pid: int, parents: dict[int, int]) -> list[int]:
    """The process and all that it descends from, as far as was seen."""
    found = [pid]
    while (parent := parents.get(found[-1])) is not None and parent not in found:
        found.append(parent)
    return found


@decides("CRASH-3")
def at_most_one_execution(view: HistoryView) -> Found:
    """No callable's code ran twice."""
    for callback in view.callbacks:
        if callback.ran_again:
            return Broken(f"The callable's code ran {callback.executions} times", callback.story())
    if any(callback.executions > 1 for callback in view.callbacks):
        return Undecided(GRANTED_TWICE)
    return Kept() if view.callbacks else Undecided("no callback in this case")


@decides("CRASH-4")
def one_terminal_state(view: HistoryView) -> Found:
    """Once terminal, the row does not change."""
    ended = [callback for callback in view.callbacks if callback.terminal]
    for callback in ended:
        assert callback.terminal is not None
        later = [row for row in callback.rows if row["seq"] > callback.terminal["seq"] and row["new"] is not None]
        if later:
            return Broken(
                f"The row was {callback.terminal['new'].upper()} and became {later[0]['new'].upper()}",
                callback.story(),
            )
    return Kept() if ended else Undecided("no row of this case is terminal")


@decides("CRASH-5")
def environment_survives(view: HistoryView) -> Found:
    """The scheduler is alive, the slot is free, the next callback and the next task succeeded."""
    deaths = [event for event in view.of("scheduler") if event["what"] in ("error", "gone", "hang")]
    if deaths:
        return _death(deaths[0])
    for callback in view.subjects:
        if callback.keeps_slot:
            return Broken("The callback still takes a slot after everything has come to rest", callback.story())
    if not view.follow_ups:
        return Undecided("nothing followed the fault in this case")
    for follow_up in view.follow_ups:
        if not follow_up.settled:
            return Unproven("the case was cut short before the callback after the fault had ended")
        if follow_up.final != "success":
            return Broken("The callback after the fault did not succeed", follow_up.story())
    noted = view.of("note", what="dag run")
    if wrong := next((found for run in noted if run.get("role") == "beside" and (found := _beside(view, run))), None):
        return wrong
    runs = [run for run in noted if run.get("role") != "beside"]
    if not runs:
        return Undecided("no task followed the fault in this case")
    for run in runs:
        waited = any(str(run["dag_id"]) in str(bound.get("waiting_for")) for bound in view.of("bound"))
        for task, ti in run["task_instances"].items():
            rows = view.task_rows(ti)
            if not waited and (not rows or rows[-1]["new"] not in TASK_ENDED):
                return Unproven(f"the case was cut short before the task '{task}' had ended")
            if not rows or rows[-1]["new"] != "success":
                return Broken(
                    f"The task '{task}' after the fault did not succeed",
                    tuple(line(row, "old", "new") for row in rows[-4:]),
                )
    return Kept()


def _death(event: Event) -> Found:
    """What follows from the end of a scheduler, by whose defect its cause is."""
    cause = event.get("cause") or {}
    message = str(cause.get("message") or event.get("message") or "").strip() or str(event["what"])
    first = message.splitlines()[0]
    told = f"{cause['type']} in {cause['raised_in']}: {first}" if cause else first
    if cause.get("owner") == ENVIRONMENT:
        return Unproven(f"the scheduler ended for a reason of the environment: {told}")
    evidence = (line(event, "what", "where", "type", "message", "cause"),)
    if cause.get("owner") == CORE:
        return Broken(f"The scheduler ended by a defect of core's own: {told}", evidence, owner=CORE)
    return Broken(f"The scheduler did not survive: {told}", evidence)


def _beside(view: HistoryView, run: Event) -> Found | None:
    """What is wrong with the tasks of a run that went on beside the faults; None if nothing is."""
    waited = any(str(run["run_id"]) in str(bound.get("waiting_for")) for bound in view.of("bound"))
    for task, ti in run["task_instances"].items():
        rows = view.task_rows(ti)
        state = rows[-1]["new"] if rows else None
        if not waited and state not in TASK_ENDED:
            return Unproven(f"the case was cut short before the task '{task}' beside the fault had ended")
        wanted = TASK_ENDED if run["expect"] == "terminal" else (run["expect"],)
        if state not in wanted:
            return Broken(
                f"The task '{task}' beside the fault is {str(state or 'none').upper()} instead of "
                f"{'at its end' if run['expect'] == 'terminal' else run['expect'].upper()}",
                tuple(line(row, "old", "new") for row in rows[-4:]),
            )
    return None


def _never_ran(callback: CallbackView) -> bool:
    return callback.executions == 0


@decides("CRASH-6")
def no_success_without_running(view: HistoryView) -> Found:
    """A callable that never ran is not reported as a success."""
    for callback in view.subjects:
        if _never_ran(callback) and (
            (any(row["new"] == "success" for row in callback.rows) and not callback.differs_from_report)
            or any(event["state"] == "success" for event in callback.events)
        ):
            return Broken("The callable never ran and the callback is reported SUCCESS", callback.story())
    idle = [callback for callback in view.subjects if _never_ran(callback)]
    if not idle:
        return Undecided("the callable ran" if view.subjects else "no callback in this case")
    if not all(callback.settled for callback in idle):
        return Unproven("the case was cut short before the row had come to rest")
    return Kept()


def _workers_killed(view: HistoryView) -> list[Event]:
    """Faults by which a worker ended, whoever ended it."""
    return [event for event in view.faults() if event.get("victim") in WORKERS or event["name"] == "stopped"]


@decides("CRASH-7")
def output_tells_of_the_death(view: HistoryView) -> Found:
    """``output`` of a callback whose worker was killed says that something ended, and what."""
    killed = _workers_killed(view)
    told = []
    for callback in view.subjects:
        if callback.final != "failed" or not any(event["t"] >= callback.submitted["t"] for event in killed):
            continue
        text = callback.output
        if not DEATH.search(text):
            return Broken(f"`output` is '{text[:200]}', which does not tell that the worker died", callback.story(3))
        if not PLACE.search(text):
            return Broken(f"`output` is '{text[:200]}', which does not tell where a worker died", callback.story(3))
        told.append(text[:200])
    return Kept("; ".join(told)) if told else Undecided("no worker was killed, or the row did not end FAILED")


@decides("CRASH-8")
def no_effect_after_the_end(view: HistoryView) -> Found:
    """No report of the callable is later than the terminal row, or than the deletion of the row."""
    decided = False
    for callback in view.subjects:
        if (end := callback.terminal or callback.deleted) is None:
            continue
        decided = True
        late = [
            event for event in callback.effects if event["t"] > end["t"] + SLACK and event["what"] not in ("return",)
        ]
        if late:
            was = str(end["new"] or "deleted").upper()
            return Broken(
                f"The row was {was}, and {late[0]['t'] - end['t']:.1f} s later the callable had an effect: "
                f"{_whose_effect(view, callback, late[0])}",
                callback.story(),
            )
    return Kept() if decided else Undecided("no row of this case is terminal")


def _whose_effect(view: HistoryView, callback: CallbackView, late: Event) -> str:
    """Say which run of the callable had a late effect."""
    first = callback.reported("enter")[:1]
    another = any((event["pid"], event.get("space")) != (late["pid"], late.get("space")) for event in first)
    if another:
        return "a second delivery of the workload ran"
    return "an orphan of the killed worker went on" if _workers_killed(view) else "it had been running still"


@decides("CRASH-9")
def reported_success_stays(view: HistoryView) -> Found:
    """Where the worker's success reached the executor, or the data plane, the row does not end FAILED."""
    decided = False
    known = {event["callback"] for event in view.of("note", what="worker succeeded")}
    for callback in view.subjects:
        came_through = callback.reported("return") or callback.reported("effect")
        reported = callback.id in known or any(event["state"] == "success" for event in callback.events)
        if not came_through or not (reported or _told_the_server(callback)):
            continue
        decided = True
        if callback.final == "failed":
            return Broken("The worker reported success and the row ends FAILED", callback.story())
    return Kept() if decided else Undecided("the worker never said that the callable returned")


def _told_the_server(callback: CallbackView) -> bool:
    """True if the worker reported success to the server, which took it, or to which the executor had said FAILED."""
    if not callback.history.offers.end_is_final:
        return False
    said_failed = min((event["t"] for event in callback.events if event["state"] == "failed"), default=float("inf"))
    return any(
        answer["status"] < 300 or (answer["status"] == 409 and said_failed < answer["t"])
        for answer in callback.responses(callback.end_reports)
        if answer.get("says") == "success" and answer.get("by") != "rule"
    )
