"""The checks of the CRASH clauses on written histories."""

from __future__ import annotations

import pytest

from tests.written import CHILD, SCHEDULER, WORKER, Written, assert_decides, history

PASS, FAIL, ERROR, NA, FINDING = "pass", "fail", "error", "not applicable", "finding"


def crashed(edition: str = "claim", state: str = "failed", **more: object) -> Written:
    """A callback whose worker was killed while it ran."""
    written = history(edition).callback(expect="terminal").started().fault(victim="unit", pids=[200, 300])
    return written.ended("c1", state, **more)  # type: ignore[arg-type]


def claimed_and_killed() -> Written:
    """A callback whose worker was killed between its claim and the callable."""
    return history().callback(expect="terminal").wire_claim().fault("after-claim", victim="unit", pids=[200])


def lost_answer(*again: int) -> Written:
    """A claim whose answer was dropped on its way, and more claims of the same worker with these answers."""
    written = history().callback(expect="terminal").wire_claim()
    request = next(event for event in reversed(written.events) if event["kind"] == "wire")
    dropped = {key: request[key] for key in ("seq", "api", "method", "path", "route", "pid", "token")}
    written.add("wire", phase="fault", action="drop-response", **dropped)
    for status in again or (409,):
        written.wire_claim(status=status)
    return written


def hung() -> Written:
    """A callback that was waited for in vain while its control plane gave no answer; now it does."""
    return history().fault("hang").callback().bound().note("healed")


def family() -> Written:
    """A worker (150) with two supervisors (200, 270); the first has the callable's process and another one (250)."""
    written = history().callback()
    for pid, ppid in ((150, 100), (200, 150), (250, 200), (270, 150)):
        written.add("process", what="born", pid=pid, ppid=ppid, title="worker")
    return written


def ended_politely(*states: str) -> Written:
    """A scheduler that has ended by itself while a callable ran; its executor had reported ``states`` by then."""
    written = history().callback().started().add("scheduler", what="ending", how="end", tree=[SCHEDULER, WORKER, CHILD])
    return written.event("c1", *states).add("scheduler", what="ended", how="end", took_s=1.0, failed_with=None).rest()


LIVENESS = [
    ("terminal", crashed(), PASS, ""),
    ("at-rest", history().callback().slots("c1").rest(), FAIL, "The row stays QUEUED: nothing"),
    ("bound", history().callback().slots("c1").bound(), FAIL, "The row is still QUEUED after 30 s"),
    # A wait that gave up is no proof of rest, whatever its name
    ("rest-but-alive", history().callback().rest(alive=["unit 300"], quiet_steps=0), FAIL, "still QUEUED after"),
    ("late", history().callback().bound().row("c1", "running", "failed"), FAIL, "FAILED only after the bound of 30 s"),
    ("hung", hung().row("c1", "running", "success"), PASS, ""),
    ("hung-and-lost", hung().rest(), FAIL, "The row stays QUEUED: nothing"),
    ("hung-and-late", hung().bound().row("c1", "success"), FAIL, "SUCCESS only after the bound of 30 s"),
    ("slow-but-in-time", history().callback().rest().row("c1", "running", "failed"), PASS, ""),
    ("moved-since-rest", history().callback().rest().row("c1", "running"), ERROR, "neither rest nor bound"),
    ("cut-short", history().callback(), ERROR, "neither rest nor bound"),
    (
        "second-is-stuck",
        history().callback().succeeded().callback("c2").rest("c2"),
        FAIL,
        "The row stays QUEUED",
    ),
    (
        "cut-short-does-not-hide-the-stuck",
        history().callback().callback("c2").rest("c2"),
        FAIL,
        "The row stays QUEUED",
    ),
    ("filler", history().callback().succeeded().callback("f", role="filler").rest("f"), FAIL, "The row stays QUEUED"),
    ("follow-up", history().callback().succeeded().callback("n", role="follow-up").rest("n"), FAIL, "stays QUEUED"),
    ("nobody-runs-it", history().callback().add("scheduler", what="survived", who="the next"), NA, "runs callbacks"),
    ("deleted", history().callback().row("c1", None).rest(), PASS, ""),
    ("ended-politely", ended_politely(), NA, "the scheduler was ended while the callables ran"),
    (
        "ended-politely-and-told",
        ended_politely("success"),
        FINDING,
        "The executor reported SUCCESS before its end() returned, and core ended without reading it",
    ),
    ("nothing", history(), NA, "no callback"),
]

CLAIM_FIRST = [
    ("after", crashed(), PASS, "each after its claim"),
    ("no-claim", history().callback().effect("c1", "enter"), FAIL, "although no claim succeeded"),
    ("refused", history().callback().wire_claim(status=409).effect("c1", "enter"), FAIL, "no claim succeeded"),
    # An answer that the harness made up has claimed nothing
    ("made-up", history().callback().wire_claim(by="rule").effect("c1", "enter"), FINDING, "its claim was not granted"),
    ("before", history().callback().effect("c1", "enter").wire_claim(), FAIL, "before the claim succeeded"),
    ("import", history().callback(expect="terminal").effect(None, "import").wire_claim(), FAIL, "before the claim"),
    ("no-code", history().callback().wire_claim(status=500), PASS, "no code ran"),
    ("unreachable", history().fault("claim-unreachable").callback().rest(), PASS, "no code ran"),
    ("nothing-shown", history().callback().rest(), NA, "neither a claim nor code"),
    ("no-callback", history().fault("during"), NA, "neither a claim nor code"),
    ("claimless", crashed("claimless"), NA, "no claim endpoint"),
    ("idempotent", history("claim-idempotent").callback().effect("c1", "enter"), FAIL, "no claim succeeded"),
    (
        "another-worker",
        claimed_and_killed().wire_claim(status=409, pid=210).effect("c1", "enter", pid=310, ppid=210),
        FAIL,
        "in a worker whose own claim did not succeed",
    ),
    ("another-worker-never-asked", claimed_and_killed().effect("c1", "enter", pid=310, ppid=210), FAIL, "own claim"),
    ("answer-lost", lost_answer().effect("c1", "enter"), FAIL, "in a worker whose own claim did not succeed"),
    ("answer-lost-and-asked-again", lost_answer(204).effect("c1", "enter"), PASS, "each after its claim"),
    ("claims-itself", history().callback().wire_claim(pid=300).effect("c1", "enter"), PASS, ""),
    ("a-brother-claims", family().wire_claim(pid=250).effect("c1", "enter"), PASS, ""),
    ("another-unit-claims", family().wire_claim(pid=270).effect("c1", "enter"), FAIL, "own claim did not succeed"),
    ("a-grandparent-claims", family().wire_claim(pid=150).effect("c1", "enter"), PASS, ""),
    # The supervisor is dead, and the orphan has another parent; its first report names who claimed
    ("orphan", crashed().effect("c1", "effect", ppid=1), PASS, ""),
    ("elsewhere", history().callback().wire_claim().effect("c1", "enter", ppid=9).within("4026"), PASS, ""),
    ("nobody-knows-who", history().callback().wire_claim(pid=None).effect("c1", "enter"), PASS, ""),
    (
        "only-the-second-breaks-it",
        history().callback().succeeded().callback("c2").effect("c2", "enter", pid=301),
        FAIL,
        "although no claim succeeded",
    ),
]

ONCE = [
    ("once", crashed(), PASS, ""),
    ("never", history().callback().wire_claim(status=500), PASS, ""),
    ("twice", crashed().effect("c1", "enter", pid=301), FAIL, "ran 2 times"),
    ("filler", history().callback("f", role="filler").effect("f", "enter", "enter"), FAIL, "ran 2 times"),
    ("nameless", history().callback(path="no_arguments").effect(None, "enter", "enter"), FAIL, "ran 2 times"),
    # A module that is imported by two workers has run its callable at most once
    ("imported-twice", history().callback().effect(None, "import", "import").effect("c1", "enter"), PASS, ""),
    (
        "others-are-not-its-own",
        history().callback().callback("c2").effect("c1", "enter").effect("c2", "enter"),
        PASS,
        "",
    ),
    ("task-reports", history().callback().effect("c1", "enter").effect(None, "enter", probe="task-succeeds"), PASS, ""),
    ("nothing", history(), NA, "no callback"),
]

ONE_END = [
    ("one", crashed(), PASS, ""),
    ("failed-then-success", crashed().row("c1", "success"), FAIL, "was FAILED and became SUCCESS"),
    ("back-to-running", crashed(state="success").row("c1", "running"), FAIL, "was SUCCESS and became RUNNING"),
    ("deleted-later", crashed().row("c1", None), PASS, ""),
    ("follow-up-too", crashed().followed().row("next", "failed"), FAIL, "was SUCCESS and became FAILED"),
    ("after-the-end-of-the-case", crashed().add("end", trouble="").row("c1", "success"), PASS, ""),
    ("never", history().callback().rest(), NA, "no row of this case is terminal"),
]

SURVIVES = [
    ("kept", crashed().followed(), PASS, ""),
    (
        "error",
        crashed().add("scheduler", what="error", message="boom", where="heartbeat"),
        FAIL,
        "did not survive: boom",
    ),
    ("gone", crashed().add("scheduler", what="gone", pid=100), FAIL, "did not survive: gone"),
    ("hang", crashed().add("scheduler", what="hang", pid=100), FAIL, "did not survive: hang"),
    ("restart-by-the-case", crashed().add("scheduler", what="started", pid=101).followed(), PASS, ""),
    (
        "slot",
        history().callback().slots("c1").row("c1", "failed").rest().followed().slots("c1"),
        FAIL,
        "still takes a slot",
    ),
    ("slot-stuck", history().callback().slots("c1").rest(), FAIL, "still takes a slot"),
    # What a scheduler counted that is no more says nothing
    (
        "slot-of-a-dead-scheduler",
        history().callback().slots("c1").rest().add("scheduler", what="started", pid=101).followed(),
        PASS,
        "",
    ),
    ("slot-not-waited-for", history().callback().slots("c1").row("c1", "failed").followed(), PASS, ""),
    (
        "follow-up-fails",
        crashed().callback("next", role="follow-up").failed("next"),
        FAIL,
        "callback after the fault did not succeed",
    ),
    (
        "follow-up-stuck",
        crashed().callback("next", role="follow-up").rest("next"),
        FAIL,
        "callback after the fault did not succeed",
    ),
    ("follow-up-cut-short", crashed().callback("next", role="follow-up"), ERROR, "cut short"),
    ("task-fails", crashed().followed(task=False).task("t", "running", "failed"), FAIL, "task 'succeeds'"),
    (
        "task-never-starts",
        crashed().followed(task=False).task("t").bound(waiting_for="task conformance_task_succeeds.succeeds"),
        FAIL,
        "task 'succeeds'",
    ),
    ("task-cut-short", crashed().followed(task=False).task("t", "running"), ERROR, "cut short"),
    (
        "other-tables-have-the-same-id",
        crashed().followed().add("task_row", table="celery_taskmeta", id="ti-next", old=None, new="SUCCESS"),
        PASS,
        "",
    ),
    ("no-task", crashed().followed(task=False), NA, "no task followed"),
    ("nothing-followed", crashed(), NA, "nothing followed"),
]

NOT_SUCCESS = [
    ("failed", history().callback(expect="terminal").row("c1", "failed").rest(), PASS, ""),
    ("stuck", history().callback(expect="terminal").rest(), PASS, ""),
    ("row", history().callback(expect="terminal").row("c1", "success"), FAIL, "never ran"),
    ("event", history().callback(expect="terminal").event("c1", "success").row("c1", "failed"), FAIL, "never ran"),
    (
        "import-is-no-run",
        history().callback(expect="terminal").effect(None, "import").row("c1", "success"),
        FAIL,
        "never ran",
    ),
    ("ran", crashed(), NA, "the callable ran"),
    ("nothing", history(), NA, "no callback"),
    ("cut-short", history().callback(expect="terminal"), ERROR, "cut short"),
    ("second", history().callback().succeeded().callback("c2").row("c2", "success"), FAIL, "never ran"),
]

TELLS = [
    ("not-where", crashed(output="It was killed by SIGKILL"), FAIL, "does not tell where"),
    ("not-that", crashed(output="The worker failed"), FAIL, "does not tell that the worker died"),
    ("exit-code", crashed(output="container base: Error, exit code 137"), PASS, "137"),
    ("signal-code", crashed(output="Process exited with code -9"), PASS, "-9"),
    ("exited", crashed(output="the worker exited unexpectedly"), PASS, "exited"),
    # What raises has an exit code too
    ("exit-code-of-what-raises", crashed(output="container base: Error, exit code 1"), FAIL, "that the worker died"),
    ("code-of-what-raises", crashed(output="Process exited with code 1"), FAIL, "does not tell that the worker died"),
    ("raised", crashed(output="ValueError: on purpose"), FAIL, "does not tell that the worker died"),
    (
        "stopped-from-outside",
        history().callback().fault("stopped", way="evicted").failed(output=""),
        FAIL,
        "does not tell that the worker died",
    ),
    (
        "scheduler-killed",
        history().callback().fault("scheduler-restart", victim="scheduler").failed(output=""),
        NA,
        "no worker was killed",
    ),
    ("told", crashed(output="Worker 200 was killed by SIGKILL"), PASS, "SIGKILL"),
    ("bare", crashed(output="Execution failed"), FAIL, "which does not tell that the worker died"),
    ("empty", crashed(), FAIL, "which does not tell"),
    (
        "second",
        crashed(output="Worker was killed").callback("c2").failed("c2", "").fault(victim="unit"),
        FAIL,
        "which does not tell",
    ),
    ("nobody-killed", history().callback().failed(output=""), NA, "no worker was killed"),
    ("killed-before", history().fault(victim="unit").callback().failed(output=""), NA, "no worker was killed"),
    ("idle-killed", history().callback().fault(victim="idle").failed(output=""), NA, "no worker was killed"),
    ("success", crashed(state="success"), NA, "no worker was killed, or"),
]

NO_ORPHAN = [
    ("none", crashed(), PASS, ""),
    ("orphan", crashed().effect("c1", "effect", ppid=1), FAIL, "an orphan of the killed worker went on"),
    (
        "nobody-killed",
        history().callback().started().ended("c1", "failed").effect("c1", "effect"),
        FAIL,
        "it had been running still",
    ),
    ("repair-lets-it-go", crashed().add("end", trouble="").effect("c1", "effect", ppid=1), PASS, ""),
    ("not-terminal", history().callback().started().rest(), NA, "no row"),
]

REPORTED = [
    ("kept", crashed(state="success").effect("c1", "effect"), PASS, ""),
    (
        "lost",
        history().callback().started().effect("c1", "return").event("c1", "success").row("c1", "failed"),
        FAIL,
        "reported success and the row ends FAILED",
    ),
    # A success that is a lie is another clause's matter
    ("never-returned", history().callback().event("c1", "success").row("c1", "failed"), NA, "never said"),
    ("not-reported", crashed().effect("c1", "return"), NA, "never said"),
]

TABLES = {
    "CRASH-1": LIVENESS,
    "CRASH-2": CLAIM_FIRST,
    "CRASH-3": ONCE,
    "CRASH-4": ONE_END,
    "CRASH-5": SURVIVES,
    "CRASH-6": NOT_SUCCESS,
    "CRASH-7": TELLS,
    "CRASH-8": NO_ORPHAN,
    "CRASH-9": REPORTED,
}


@pytest.mark.parametrize(
    ("clause", "written", "verdict", "reason"),
    [pytest.param(clause, *row[1:], id=f"{clause}-{row[0]}") for clause, rows in TABLES.items() for row in rows],
)
def test_crash(clause: str, written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, clause, verdict, reason)


@pytest.mark.parametrize(("late_s", "verdict"), [(-0.5, PASS), (0.0, PASS), (0.015, PASS), (0.05, FAIL), (3.0, FAIL)])
def test_an_effect_is_late_beyond_the_skew_of_the_clocks(late_s: float, verdict: str) -> None:
    written = crashed()
    end = next(event["t"] for event in written.events if event["kind"] == "row" and event["new"] == "failed")
    assert_decides(written.effect("c1", "effect", t=end + late_s), "CRASH-8", verdict, "")


def beside(*states: str, expect: str = "success") -> Written:
    """A task that ran beside a callback that was killed."""
    written = crashed().note(
        "dag run",
        dag_id="conformance_task_succeeds",
        run_id="run-b",
        task_instances={"t": "ti-b"},
        callbacks=[],
        role="beside",
        expect=expect,
    )
    for state in states:
        written.add("task_row", table="task_instance", id="ti-b", old=None, new=state)
    return written


def stuck(*states: str, expect: str = "success") -> Written:
    """The same, and the wait for the task has ended without its end."""
    return beside(*states, expect=expect).add("bound", waiting_for="task t of run-b", states={}).followed()


BESIDE = [
    ("as-it-should", beside("queued", "success").followed(), PASS, ""),
    ("raises-as-it-should", beside("queued", "failed", expect="failed").followed(), PASS, ""),
    (
        "fails",
        beside("queued", "failed").followed(),
        FAIL,
        "The task 't' beside the fault is FAILED instead of SUCCESS",
    ),
    ("raises-and-succeeds", beside("success", expect="failed").followed(), FAIL, "is SUCCESS instead of FAILED"),
    ("a-fault-decides", beside("queued", "failed", expect="terminal").followed(), PASS, ""),
    ("stuck", stuck("queued"), FAIL, "is QUEUED instead of SUCCESS"),
    ("stuck-in-a-fault", stuck("queued", expect="terminal"), FAIL, "at its end"),
    ("never-began", stuck(), FAIL, "is NONE instead of SUCCESS"),
    ("cut-short", beside("queued").followed(), ERROR, "beside the fault had ended"),
    ("nothing-followed", beside("success"), NA, "nothing followed"),
]


@pytest.mark.parametrize(("written", "verdict", "reason"), [case[1:] for case in BESIDE], ids=[c[0] for c in BESIDE])
def test_tasks_beside_a_fault(written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, "CRASH-5", verdict, reason)
