"""The checks of the ROUTE and STATE clauses on written histories."""

from __future__ import annotations

from typing import Any

import pytest

from tests.written import EXECUTOR, Written, assert_decides, history

PASS, FAIL, ERROR, NA = "pass", "fail", "error", "not applicable"


def restarted(written: Written) -> Written:
    """Another scheduler takes the place of a killed one."""
    return written.add("scheduler", what="stopped", pid=1).add("scheduler", what="started", pid=2)


def hung(written: Written) -> Written:
    """A step of the scheduler loop does not come back."""
    return written.add("scheduler", what="hang", pid=1, limit_s=20.0)


OTHER = "other.Executor"


def aliased(*, entered: bool = True) -> Written:
    """A callback for the alias 'subject', run there."""
    written = history(executor="subject").callback(executor="subject")
    return written.succeeded() if entered else written


def contention(*, fillers: int = 1) -> Written:
    """Held callables take all slots but one, and a callback and a task want it."""
    written = history()
    for number in range(fillers):
        written.callback(f"f{number}", role="filler").effect(f"f{number}", "enter", pid=400 + number)
    return written.callback("c1", path="succeed").task("t").note("contention", callback="c1", task="run-t")


def burst(held: int, *, limit: int = 3) -> Written:
    """As many callables at work at once as ``held``."""
    written = history(parallelism=limit).note("burst", count=2 * limit)
    for number in range(held):
        written.callback(f"f{number}", role="filler").effect(f"f{number}", "enter", pid=400 + number)
    return written


ALIAS = [
    ("kept", aliased(), PASS, "1 callbacks"),
    (
        "event-of-another",
        aliased().event("c1", "success", executor="second"),
        FAIL,
        "was run by ['second']",
    ),
    ("counted-by-another", aliased().slots("c1", executor="second"), FAIL, "was run by ['second']"),
    ("failed-there", history(executor="subject").callback(executor="subject").failed(), FAIL, "did not run to success"),
    (
        "never-entered",
        history(executor="subject").callback(executor="subject").row("c1", "success"),
        FAIL,
        "did not run to success",
    ),
    ("cut-short", aliased(entered=False), ERROR, "cut short"),
    ("core-chose-another", history().callback(executor="subject", handed="second"), ERROR, "core handed"),
    ("never-queued", history().callback(executor="subject", handed=None).rest(), ERROR, "not queued by core"),
    # The executor beside the subject is the harness's own
    ("companion-fails", history(executor="second").callback(executor="second").failed(), ERROR, "harness's own"),
    (
        "companion-is-run-by-the-subject",
        history(executor="second").callback(executor="second").succeeded().event("c1", "success", executor="subject"),
        FAIL,
        "was run by ['subject']",
    ),
    ("no-alias", history().callback().succeeded(), NA, "names an executor"),
]

PRIORITY = [
    ("callback-first", contention().effect("c1", "enter").effect(None, "enter", probe="task-succeeds"), PASS, "first"),
    ("callback-only", contention().effect("c1", "enter"), PASS, "came first"),
    (
        "task-first",
        contention().effect(None, "enter", probe="task-succeeds").effect("c1", "enter"),
        FAIL,
        "task was started before the callback",
    ),
    ("task-only", contention().effect(None, "enter", probe="task-succeeds").rest(), FAIL, "task was started before"),
    ("neither", contention().rest(), ERROR, "neither the callback nor the task"),
    (
        "filler-not-started",
        contention().callback("f9", role="filler").effect("c1", "enter"),
        ERROR,
        "not every callable",
    ),
    (
        "filler-died",
        contention().row("f0", "failed").effect(None, "enter", probe="task-succeeds"),
        ERROR,
        "should have held its slot",
    ),
    (
        "two-slots-free",
        contention(fillers=2)
        .effect("f0", "effect")
        .effect("f1", "effect")
        .effect(None, "enter", probe="task-succeeds"),
        ERROR,
        "more than one slot",
    ),
    (
        "one-slot-freed-by-its-filler",
        contention(fillers=2).effect("f0", "effect").effect(None, "enter", probe="task-succeeds"),
        FAIL,
        "task was started",
    ),
    ("no-contention", history().callback().succeeded(), NA, "no contention"),
]

FREED = [
    ("freed", history().callback().succeeded(), PASS, ""),
    ("never-counted", history().callback().event("c1", "success").row("c1", "success").rest(), PASS, ""),
    ("running", history().callback().slots("c1").row("c1", "success").rest(), FAIL, "still taken"),
    ("queued", history().callback().slots(queued=("c1",)).row("c1", "failed").rest(), FAIL, "still taken"),
    ("event-only", history().callback().slots("c1").event("c1", "failed").rest(), FAIL, "still taken"),
    ("follow-up", history().callback("n", role="follow-up").slots("n").row("n", "success").rest("n"), FAIL, "still"),
    # A snapshot from before the last step accuses nobody
    ("last-seen-before", history().callback().slots("c1").event("c1", "success").row("c1", "success"), NA, "not seen"),
    ("just-ended-at-the-bound", history().callback().slots("c1").row("c1", "success").bound(), NA, "not seen"),
    (
        "long-ended-at-the-bound",
        history().callback().slots("c1").row("c1", "success").bound(t=9.0),
        FAIL,
        "still taken",
    ),
    ("freed-after-rest", history().callback().slots("c1").row("c1", "success").rest().slots(), PASS, ""),
    (
        "scheduler-died",
        history().callback().slots("c1").row("c1", "failed").rest().add("scheduler", what="error"),
        NA,
        "not seen after",
    ),
    (
        "plain-scheduler",
        history().callback(handed=None).row("c1", "success").rest(),
        NA,
        "not seen after the end",
    ),
    (
        "count-not-back",
        history().callback().slots("c1").row("c1", "success").slots(occupied=1).rest(),
        FAIL,
        "slots_occ",
    ),
    (
        "counts-more-from-the-start",
        history().callback().slots("c1", occupied=2).row("c1", "success").slots(occupied=1).rest(),
        PASS,
        "",
    ),
    ("not-ended", history().callback().slots("c1").rest(), NA, "no callback of this case ended"),
]

PARALLEL = [
    ("full", burst(3), PASS, "at most 3 at once, parallelism 3"),
    ("too-many-at-work", burst(4), FAIL, "4 callables were at work at once"),
    ("too-many-counted", burst(3).slots("f0", "f1", "f2", "f3"), FAIL, "counts 4 running at parallelism 3"),
    ("one-after-the-other", burst(3).effect("f0", "effect").callback("f9").effect("f9", "enter"), PASS, "at most 3"),
    ("one-has-died", burst(3).row("f0", "failed").callback("f9").effect("f9", "enter"), PASS, "at most 3"),
    (
        "strangers-do-not-hide-it",
        burst(3).effect(None, "effect", probe="p-earlier").callback("f9").effect("f9", "enter"),
        FAIL,
        "4 callables",
    ),
    ("its-own-parallelism", burst(3).slots("c1", parallelism=9), FAIL, "has a parallelism of 9, the configuration"),
    ("never-full", burst(2), NA, "never filled, see ROUTE-9"),
    ("no-burst", history().callback().succeeded(), NA, "does not fill"),
]

KEYS = [
    ("own", history().callback().succeeded(), PASS, ""),
    ("text", history().callback().event("c1", "success", key_type="str"), FAIL, "is a str, not a CallbackKey"),
    ("task-key", history().callback().event("c1", "failed", key_type="TaskInstanceKey"), FAIL, "not a CallbackKey"),
    ("state", history().callback().event("c1", "finished"), FAIL, "'finished' is no CallbackState"),
    ("no-state", history().callback().event("c1", None), FAIL, "'None' is no CallbackState"),
    ("stranger", history().callback().event("c9", "failed"), FAIL, "of no callback that was queued"),
    ("earlier", history(earlier_callbacks=["c0"]).callback().event("c0", "failed"), PASS, ""),
    ("of-a-dag-run", history().note("dag run", task_instances={}, callbacks=["d"]).event("d", "success"), PASS, ""),
    ("only-of-tasks", history().callback().task("t").event("t", "success", key_type="TaskInstanceKey"), NA, "no event"),
    ("task-by-text", history().callback().task("t").event("t", "success", key_type="str"), NA, "no event"),
    ("none", history().callback(), NA, "no event"),
]

COUNTED = [
    ("counted", history().callback().started().note("in flight", callback="c1"), PASS, ""),
    (
        "queued-only",
        history().callback().slots(queued=("c1",)).note("in flight", callback="c1"),
        FAIL,
        "does not count",
    ),
    ("never", history().callback().note("in flight", callback="c1"), FAIL, "does not count"),
    ("no-slot", history().callback().slots("c1", occupied=0).note("in flight", callback="c1"), FAIL, "takes no slot"),
    ("too-late", history().callback().note("in flight", callback="c1").slots("c1"), FAIL, "does not count"),
    ("no-more", history().callback().succeeded().note("in flight", callback="c1"), ERROR, "had ended before"),
    ("not-looked", history().callback().succeeded(), NA, "does not look"),
]

SEQUENCE = [
    *(
        ("-".join(states), history().callback().event("c1", *states), PASS, "")
        for states in (
            ("success",),
            ("failed",),
            ("running", "success"),
            ("queued", "running", "failed"),
            ("queued", "success"),
            ("running",),
        )
    ),
    *(
        ("-".join(map(str, states)), history().callback().event("c1", *states), FAIL, "The executor's events are")
        for states in (
            ("success", "success"),
            ("failed", "success"),
            ("success", "running"),
            ("running", "queued"),
            ("running", "running"),
            ("scheduled",),
            (None,),
        )
    ),
    ("second", history().callback().succeeded().callback("c2").event("c2", "failed", "failed"), FAIL, "FAILED, FAILED"),
    ("two-callbacks", history().callback().succeeded().callback("c2").succeeded("c2"), PASS, ""),
    ("none", history().callback(), NA, "emitted no event"),
    (
        "restart",
        restarted(history().callback().event("c1", "queued", "running")).event("c1", "running", "success"),
        PASS,
        "",
    ),
    (
        "again-after-restart",
        restarted(history().callback().event("c1", "running", "success")).event("c1", "running", "success"),
        PASS,
        "",
    ),
    (
        "wrong-after-restart",
        restarted(history().callback().event("c1", "queued")).event("c1", "success", "failed"),
        FAIL,
        "SUCCESS, FAILED",
    ),
    ("twice-in-one-life", history().callback().event("c1", "running", "running", "success"), FAIL, "RUNNING, RUNNING"),
]


def call(held_up_s: float, overloaded: bool = False) -> dict[str, Any]:
    """A call that was noted because it took long."""
    return {
        "executor": EXECUTOR,
        "call": "heartbeat",
        "took_s": held_up_s + 2,
        "held_up_s": held_up_s,
        "overloaded": overloaded,
    }


def filled(at_work: int, parallelism: int = 3) -> Written:
    """A burst of six callbacks, of which ``at_work`` were entered when the case looked."""
    written = history().note("burst", count=6)
    for number in range(6):
        written.callback(f"c{number}", role="filler")
    for number in range(at_work):
        written.effect(f"c{number}", "enter", pid=300 + number)
    return written.slots(*(f"c{number}" for number in range(at_work)), parallelism=parallelism).note("filled")


FREE = [
    ("all", filled(3), PASS, "3 callables in 3 slots, 3 waiting"),
    ("half", filled(2), FAIL, "runs 2 workloads at once, has 3 slots by its configuration, and lets 4 wait"),
    ("one-of-its-own", filled(1, parallelism=1), FAIL, "runs 1 workloads at once"),
    ("later", filled(2).effect("c3", "enter", pid=309), FAIL, "runs 2 workloads at once"),
    ("cut-short", history().note("burst", count=6).callback(), ERROR, "cut short"),
    ("no-burst", history().callback().succeeded(), NA, "does not fill"),
]

HANG = [
    ("comes-back", history().callback().fault("hang", way="create").slots("c1"), PASS, "came back"),
    (
        "does-not",
        hung(history().callback().fault("hang", way="create")),
        FAIL,
        "did not come back within 20 s",
    ),
    ("other-fault", hung(history().callback().fault("clean-up", way="500")), FAIL, "did not come back within 20 s"),
    ("no-fault", history().callback().succeeded(), PASS, "came back in time"),
    ("slow", history().callback().add("slow call", **call(5.0)).succeeded(), FAIL, "held up the scheduler for 5.0 s"),
    ("not-so-slow", history().callback().add("slow call", **call(3.9)).succeeded(), PASS, "came back in time"),
    (
        "slow-while-refused",
        history().callback().fault("submit-refused").add("slow call", **call(9.0)).succeeded(),
        PASS,
        "came back in time",
    ),
    (
        "much-too-slow-while-refused",
        history().callback().fault("submit-refused").add("slow call", **call(31.0)).succeeded(),
        FAIL,
        "the bound is 30 s",
    ),
    (
        "slow-on-a-loaded-machine",
        history().callback().add("slow call", **call(5.0, overloaded=True)).succeeded(),
        NA,
        "the machine was overloaded",
    ),
    ("no-step", history(), NA, "no step of a scheduler was seen"),
]

QUEUE = [
    ("right", history().add("probe", name="queue", data={"wanted": "a", "found": "a"}), PASS, "the queue 'a'"),
    ("wrong", history().add("probe", name="queue", data={"wanted": "a", "found": "b"}), FAIL, "'b' instead of 'a'"),
    ("not-looked", history().callback().succeeded(), NA, "does not look for the queue"),
]


def shared(*touched: str) -> Written:
    """Two deployments share a control plane, and somebody looks at what became of the other's things."""
    return history().add("probe", name="foreign", data={"planted": ["3 pods of another"], "touched": list(touched)})


FOREIGN = [
    ("left-alone", shared().callback().succeeded(), PASS, "3 pods of another"),
    ("deleted", shared("The pod a was deleted.").callback().succeeded(), FAIL, "The pod a was deleted."),
    (
        "two",
        shared("The pod a was deleted.", "The pod b was changed.").callback().succeeded(),
        FAIL,
        "The pod a was deleted. (and 1 more)",
    ),
    # Also where the executor's own work came to nothing
    ("deleted-and-cut-short", shared("The pod a was deleted.").callback(), FAIL, "The pod a was deleted."),
    ("own-work-failed", shared().callback().failed(), PASS, "3 pods"),
    ("cut-short", shared().callback().started(), ERROR, "cut short"),
    ("one-cut-short", shared().callback().succeeded().callback("c2"), ERROR, "cut short"),
    ("did-nothing", shared(), ERROR, "cut short"),
    ("tasks-only", shared().task("t", "success"), PASS, "3 pods"),
    ("task-cut-short", shared().task("t", "running"), ERROR, "cut short"),
    ("not-shared", history().callback().succeeded(), NA, "nothing of another deployment"),
]

TABLES = {
    "ROUTE-10": FOREIGN,
    "ROUTE-5": QUEUE,
    "ROUTE-1": ALIAS,
    "ROUTE-2": PRIORITY,
    "ROUTE-3": FREED,
    "ROUTE-4": PARALLEL,
    "ROUTE-6": KEYS,
    "ROUTE-7": HANG,
    "ROUTE-8": COUNTED,
    "ROUTE-9": FREE,
    "STATE-3": SEQUENCE,
}


@pytest.mark.parametrize(
    ("clause", "written", "verdict", "reason"),
    [pytest.param(clause, *row[1:], id=f"{clause}-{row[0]}") for clause, rows in TABLES.items() for row in rows],
)
def test_route(clause: str, written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, clause, verdict, reason)


def test_each_executor_has_its_own_slots() -> None:
    written = history().callback().slots("c1").row("c1", "success")
    both = {"running": [], "queued": [], "occupied": 0, "parallelism": 3}
    written.add("slots", executors={EXECUTOR: both, OTHER: {**both, "running": ["c1"]}}).rest()
    assert_decides(written, "ROUTE-3", FAIL, "still taken")
