"""The checks of what users reported: residue, deliveries, polite ends, construction, odd answers, expired tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.written import CHILD, SCHEDULER, WORKER, Written, assert_decides, history

PASS, FAIL, ERROR, NA, FINDING = "pass", "fail", "error", "not applicable", "finding"
MEBIBYTE = 1 << 20


# ------------------------------------------------------------------------------------------- what is kept of workloads


def holdings(*looks: dict[str, Any]) -> Written:
    """Looks after 8, 16, 24 workloads; each says what differs from a process that keeps nothing."""
    written = history()
    for number, look in enumerate(looks, 1):
        usual = {
            "count": 8 * number,
            "pid": SCHEDULER,
            "descriptors": 40,
            "threads": 5,
            "children": 3,
            "memory": 90 * MEBIBYTE,
            "calls": None,
            "bounds": {},
        }
        written.add("probe", name="holdings", data={**usual, **look})
    return written


def growing(name: str, *values: int) -> Written:
    """Looks of which one figure changes."""
    return holdings(*({name: value} for value in values))


def called(deleted: int, *, bounds: dict[str, float] | None = None) -> Written:
    """16 workloads from the first to the last look, and how many deletions they have cost."""
    bounds = {"create pods": 1, "delete pods": 1} if bounds is None else bounds
    first = {"calls": {"create pods": 8, "delete pods": 8, "list pods": 3}, "bounds": bounds}
    last = {"calls": {"create pods": 24, "delete pods": 8 + deleted, "list pods": 99}, "bounds": bounds}
    return holdings(first, first, last)


RESIDUE = [
    ("nothing", holdings({}, {}, {}), PASS, "descriptors after 8, 16, 24 workloads: 40, 40, 40"),
    ("descriptor", growing("descriptors", 40, 48, 56), FAIL, "keeps descriptors of each workload"),
    ("thread", growing("threads", 5, 13, 21), FAIL, "keeps threads of each workload"),
    ("child", growing("children", 3, 11, 19), FAIL, "keeps child processes of each workload"),
    ("memory", growing("memory", 0, 24 * MEBIBYTE, 48 * MEBIBYTE), FAIL, "grows by 3.0 MiB with each workload"),
    ("pool", growing("descriptors", 40, 48, 48), PASS, ""),
    ("late-pool", growing("descriptors", 40, 40, 48), PASS, ""),
    ("a-few", growing("descriptors", 40, 42, 44), PASS, ""),
    ("cut-short", growing("descriptors", 40, 48), ERROR, "cut short"),
    ("another-process", holdings({}, {"pid": 7}, {}), ERROR, "was another at each look"),
    ("not-looked", history().callback().succeeded(), NA, "does not look"),
]

CALLS = [
    ("one-each", called(16), PASS, "delete pods: 16 for 16 workloads"),
    ("two-each", called(32), FAIL, "delete pods: 32 for 16 workloads, at most 1 for each"),
    ("no-bound", called(32, bounds={}), NA, "states no bound"),
    ("not-counted", holdings({}, {}, {}), NA, "does not count"),
]


# ----------------------------------------------------------------------------------------------------------- deliveries


def delivered(*spans: tuple[float, float | None], **fault: Any) -> Written:
    """A callback that the control plane accepted at the beginning of each span, which ended at its end."""
    written = history().callback()
    if fault:
        written.fault(**fault)
    for number, (accepted, ended) in enumerate(spans):
        written.add("delivery", accepted, callback="c1", id=f"run-{number}", accepted=accepted, ended=ended)
    return written


def claimed_by(first: int, second: int, *, gone: bool = False, lives: bool = False, gone_s: float = 0.0) -> Written:
    """Two claims.

    :param gone: the first worker had ended before the second claim.
    :param lives: the first worker's child does something after the second claim.
    :param gone_s: the first worker's end is seen so many seconds after the second claim.
    """
    written = history().callback().wire_claim(pid=first)
    if gone:
        written.add("process", what="gone", pid=first, ppid=1, title="worker")
    written.wire_claim(status=409, pid=second)
    if lives:
        written.add("effect", what="effect", pid=first + 1, ppid=first, probe="p1")
    if gone_s:
        written.add("process", written.t + gone_s, what="gone", pid=first, ppid=1, title="worker")
    return written


DELIVERY = [
    ("once", delivered((1.0, 4.0)), PASS, ""),
    ("again-after-its-end", delivered((1.0, 4.0), (4.5, 6.0)), PASS, ""),
    ("twice-at-once", delivered((1.0, 4.0), (2.0, 3.0)), FAIL, "accepted the callback 2 times"),
    ("first-still-waits", delivered((1.0, None), (2.0, 3.0)), FAIL, "while the first delivery still waited or ran"),
    ("copied-by-the-harness", delivered((1.0, None), (2.0, 3.0), name="redelivery"), NA, "the transport itself"),
    ("worker-lost", delivered((1.0, None), (2.0, 3.0), name="during", victim="node"), NA, "the transport itself"),
    ("child-killed", delivered((1.0, None), (2.0, 3.0), name="during", victim="child"), FAIL, "accepted the callback"),
    ("one-worker-asks-twice", claimed_by(WORKER, WORKER), PASS, ""),
    ("two-workers", claimed_by(WORKER, 201, lives=True), FAIL, "A second worker wanted to claim"),
    ("long-after-the-other", claimed_by(WORKER, 201, gone_s=5.0), FAIL, "A second worker wanted to claim"),
    ("its-end-is-seen-late", claimed_by(WORKER, 201, gone_s=1.0), PASS, ""),
    ("its-end-is-never-seen", claimed_by(WORKER, 201), PASS, ""),
    ("one-after-the-other", claimed_by(WORKER, 201, gone=True), PASS, ""),
    ("nothing-seen", history().callback(), NA, "neither a delivery nor a claim"),
]


# ----------------------------------------------------------------------------------------------------------- polite end


def ending(how: str = "end", *, told: bool = True, below: bool = True, over: bool = True, **ended: Any) -> Written:
    """A scheduler that ends while a callable runs; ``below``: in a process of its own."""
    written = history().callback().started()
    tree = [SCHEDULER, WORKER, CHILD] if below else [SCHEDULER]
    written.add("scheduler", what="ending", how=how, pid=SCHEDULER, tree=tree)
    if told:
        written.event("c1", "success")
    if over:
        written.add("scheduler", what="ended", how=how, **{"took_s": 1.5, "failed_with": None, **ended})
    return written


def left_behind(written: Written, **processes: str) -> Written:
    """What was still there after the end."""
    return written.add("probe", name="left behind", how="end", processes=processes)


IDLE = history().callback().add("scheduler", what="ending", how="end", tree=[])
IDLE.add("scheduler", what="ended", how="end", took_s=0.1)
STUCK = history().callback().started().add("scheduler", what="ending", how="end", tree=[])
ENDING = [
    ("told", left_behind(ending()), PASS, "end() returned after 1.5 s"),
    ("lost", left_behind(ending(told=False)), FAIL, "the end of a callable that ran is in no event"),
    ("on-a-remote-worker", left_behind(ending(told=False, below=False)), PASS, ""),
    ("terminated", left_behind(ending("terminate", told=False)), PASS, "terminate() returned"),
    ("left", left_behind(ending(), **{"301": "worker: hold"}), FAIL, "1 processes of the scheduler do not end"),
    (
        "raises",
        ending(took_s=0.1, failed_with={"raised": "OSError", "message": "x"}),
        FAIL,
        "end() with work in flight raises OSError",
    ),
    ("never-returns", STUCK.add("scheduler", what="ended", how="end", limit_s=39.0), FAIL, "not return within 39 s"),
    ("cut-short", ending(over=False), ERROR, "cut short"),
    ("nothing-ran", IDLE, ERROR, "no callable was running"),
    ("no-end", history().callback().succeeded(), NA, "no scheduler of this case ends politely"),
]


# --------------------------------------------------------------------------------------------------------- construction

NOTHING: dict[str, Any] = {"started": [], "left": {}}


def constructed(**steps: dict[str, Any]) -> Written:
    """What came of loading and constructing."""
    data = {"load": NOTHING, "construct": NOTHING, "unconfigured": NOTHING, **steps}
    return history().inspection("construction", data)


def raising(raised: str, message: str) -> dict[str, Any]:
    """A step that raised."""
    return {**NOTHING, "raised": raised, "message": message}


CONSTRUCTION = [
    ("nothing", constructed(), PASS, "nothing was started"),
    ("process", constructed(construct={"started": ["a process is forked"], "left": {}}), FAIL, "a process is forked"),
    ("thread", constructed(load={"started": [], "left": {"threads": 1}}), FAIL, "Loading its module starts something"),
    (
        "raises",
        constructed(construct=raising("OSError", "no broker")),
        FAIL,
        "Constructing the executor raises OSError",
    ),
    ("clear", constructed(unconfigured=raising("AirflowConfigException", "section/key [x/y] not found")), PASS, ""),
    ("unclear", constructed(unconfigured=raising("KeyError", "'y'")), FAIL, "does not say what is missing"),
    ("silent", constructed(unconfigured=raising("RuntimeError", " ")), FAIL, "does not say what is missing"),
    ("not-inspected", history().callback().succeeded(), NA, "does not inspect"),
]


# -------------------------------------------------------------------------------------------------- answers and tokens


def start_refused(*states: str, after: str = "success", ran: int = 1) -> Written:
    """A task whose start met an odd answer, and the task after it; ``ran`` tells how often the tasks' code ran."""
    written = history()
    written.note(
        "dag run",
        dag_id="conformance_task_succeeds",
        run_id="r1",
        role="start refused",
        task_instances={"succeeds": "t1"},
        callbacks=[],
    )
    written.request("t1", "/execution/task-instances/t1/run", 502, by="rule", claims={"sub": "t1"})
    for state in states:
        written.add("task_row", table="task_instance", id="t1", old=None, new=state)
    written.task("t2", "queued", "running", after)
    for number in range(ran):
        written.effect(None, "enter", probe="task-succeeds", pid=300 + number)
    return written


START = [
    ("ended", start_refused("queued", "failed"), PASS, ""),
    ("tried-again", start_refused("queued", "up_for_retry"), PASS, ""),
    ("stuck", start_refused("queued").bound(waiting_for="task conformance_task_succeeds.succeeds"), FAIL, "is QUEUED"),
    ("next-fails", start_refused("failed", after="failed"), FAIL, "The task after it is FAILED"),
    ("ran-all-the-same", start_refused("failed", ran=2), FINDING, "although its start was not granted"),
    ("cut-short", start_refused("queued"), ERROR, "cut short"),
    ("not-met", history().task("t1", "failed"), NA, "the start of no task"),
]


def raced(*rounds: tuple[int, ...]) -> Written:
    """Rounds of claims at once, by the statuses of their answers."""
    written = history()
    for number, statuses in enumerate(rounds):
        written.add("probe", name="claims at once", round=number, statuses=list(statuses), state="running")
    return written


RACE = [
    ("one", raced((204, 409, 409, 409), (204, 409, 409, 409)), PASS, "2 rounds of 4 claims at once"),
    ("two", raced((204, 409), (204, 204)), FINDING, "In 1 of 2 rounds the server let in several claims"),
    ("none", raced((409, 409)), ERROR, "in 1 of 1 rounds no claim was let in"),
]


def outlived(status: int = 403) -> Written:
    """A callable that asks for a Variable after its token has expired."""
    written = history().callback(path="hold_then_read_secrets").started().fault("token-expired")
    return written.request("c1", "/execution/variables/x", status)


OUTLIVED = [
    ("refused", outlived(), FINDING, "is refused by the API server"),
    ("let-in", outlived(200), PASS, "1 requests"),
    ("asked-nothing", history().callback().started().fault("token-expired"), ERROR, "asked the API server for nothing"),
    ("not-expired", history().callback().succeeded(), NA, "no token expires"),
]


def unclaimed(by: str) -> Written:
    """Code that ran after a claim which something answered 200."""
    return history().callback().wire_claim(status=200, by=by, refreshed=None).effect("c1", "enter")


def twice(second_status: int) -> Written:
    """A callable that two workers ran; the second claim was answered so."""
    written = history().callback().started()
    return written.wire_claim(status=second_status, pid=201).effect("c1", "enter", pid=301, ppid=201)


CLAIMS = [
    ("CRASH-2", "not-the-server-s-success", unclaimed("rule"), FINDING, "takes 200 for a success, whoever answers it"),
    ("CRASH-3", "refused-and-run", twice(409), FAIL, "ran 2 times"),
    ("CRASH-3", "granted-twice", twice(204), NA, "let in the claims of two workers"),
    ("RUN-1", "granted-twice", twice(204), NA, "let in the claims of two workers"),
    (
        "CRASH-8",
        "second-delivery",
        history().callback().started().row("c1", "failed").effect("c1", "enter", pid=301, ppid=201),
        FAIL,
        "a second delivery of the workload ran",
    ),
    (
        "CRASH-8",
        "orphan",
        history().callback().started().fault(victim="supervisor").row("c1", "failed").effect("c1", "effect"),
        FAIL,
        "an orphan of the killed worker went on",
    ),
    (
        "CRASH-8",
        "deleted",
        history().callback().row("c1", None).effect("c1", "enter"),
        FAIL,
        "The row was DELETED",
    ),
]

TABLES = {
    "RUN-13": RESIDUE,
    "ROUTE-11": CALLS,
    "CRASH-10": DELIVERY,
    "CRASH-11": ENDING,
    "DECL-8": CONSTRUCTION,
    "TASK-3": START,
    "TOKEN-4": RACE,
    "TOKEN-11": OUTLIVED,
}
ROWS = [(clause, *row) for clause, rows in TABLES.items() for row in rows] + CLAIMS


@pytest.mark.parametrize(
    ("clause", "written", "verdict", "reason"),
    [pytest.param(clause, *row, id=f"{clause}-{name}") for clause, name, *row in ROWS],
)
def test_reported(clause: str, written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, clause, verdict, reason)
