"""ROUTE: queueing, routing and slots."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.view import TERMINAL, CallbackView, HistoryView, line

CALLBACK_STATES = frozenset({"scheduled", "pending", "queued", "running", "success", "failed"})


@decides("ROUTE-1")
def runs_where_its_alias_says(view: HistoryView) -> Found:
    """Each callback that names an executor was handed to it, and only its events speak of it."""
    named = [callback for callback in view.callbacks if callback.submitted.get("executor")]
    if not named:
        return Undecided("no callback of this case names an executor")
    for callback in named:
        alias = callback.submitted["executor"]
        handed = callback.workload["executor"] if callback.workload else None
        speaking = {event["executor"] for event in callback.events}
        if handed is None:
            return Unproven(f"the callback for '{alias}' was not queued by core")
        if handed != alias:
            return Unproven(f"core handed the callback for '{alias}' to '{handed}'")
        counting = {
            name
            for slots in view.of("slots")
            for name, executor in slots["executors"].items()
            if callback.id in executor["running"]
        }
        if (speaking | counting) - {alias}:
            return Broken(
                f"The callback for the alias '{alias}' was run by {sorted((speaking | counting) - {alias})}",
                callback.story(),
            )
        if not callback.reported("enter") or callback.final != "success":
            return Broken(f"The callback for the alias '{alias}' did not run to success there", callback.story())
    return Kept(f"{len(named)} callbacks, each on its own executor")


@decides("ROUTE-2")
def callback_before_task(view: HistoryView) -> Found:
    """With one free slot the callback was entered before the task."""
    contenders = [callback for callback in view.subjects if callback.submitted.get("role") == "subject"]
    tasks = [event for event in view.of("effect", what="enter") if str(event["probe"]).startswith("task-")]
    if not contenders or not view.of("note", what="contention"):
        return Undecided("this case makes no contention for a slot")
    entered = contenders[0].reported("enter")
    first = min(event["t"] for event in (*entered, *tasks)) if entered or tasks else view.events[-1]["t"]
    for filler in (callback for callback in view.callbacks if callback.role == "filler"):
        released = filler.reported("effect")
        if filler.terminal and filler.terminal["t"] < first and not released:
            return Unproven("a callable that should have held its slot ended before the contention was over")
    if not entered:
        return Broken("The callback was not started although a slot was free", contenders[0].story())
    if tasks and tasks[0]["t"] < entered[0]["t"]:
        return Broken(
            "The task was started before the callback",
            (line(tasks[0], "what", "probe", "pid"), line(entered[0], "what", "probe", "pid")),
        )
    return Kept("the callback came first")


def _kept_slot(callback: CallbackView, view: HistoryView) -> bool:
    return view.last_slots is not None and callback.holds_slot(view.last_slots)


@decides("ROUTE-3")
def slot_is_free_after_the_end(view: HistoryView) -> Found:
    """After a terminal event or row the key is in no queue and not in ``running``."""
    ended = [
        callback
        for callback in view.callbacks
        if callback.final in TERMINAL or any(event["state"] in TERMINAL for event in callback.events)
    ]
    if not ended:
        return Undecided("no callback of this case ended")
    for callback in ended:
        if _kept_slot(callback, view):
            assert view.last_slots is not None
            return Broken(
                "The slot of a callback that has ended is still taken",
                (*callback.story(4), line(view.last_slots, "executors")),
            )
    return Kept()


@decides("ROUTE-4")
def never_more_than_parallelism(view: HistoryView) -> Found:
    """Neither ``running`` nor the callables at work ever exceed ``parallelism``."""
    limit = view.header.get("parallelism")
    if not limit or not view.of("note", what="burst"):
        return Undecided("this case does not fill the executor")
    for slots in view.of("slots"):
        for name, executor in slots["executors"].items():
            if len(executor["running"]) > executor["parallelism"]:
                return Broken(
                    f"{name} counts {len(executor['running'])} running at parallelism {executor['parallelism']}",
                    (line(slots, "executors"),),
                )
    marks = [(event["t"], 1) for event in view.of("effect", what="enter")]
    marks += [(event["t"], -1) for event in view.of("effect", what="effect")]
    at_work = peak = 0
    for _, change in sorted(marks):
        at_work += change
        peak = max(peak, at_work)
    if peak > limit:
        return Broken(
            f"{peak} callables were at work at once at parallelism {limit}",
            tuple(line(event, "what", "probe", "pid") for event in view.of("effect"))[:8],
        )
    if peak < 2:
        return Unproven("the executor was never filled, so nothing is shown")
    return Kept(f"at most {peak} at once, parallelism {limit}")


@decides("ROUTE-6")
def events_carry_the_callback_key(view: HistoryView) -> Found:
    """Each event of a callback has its CallbackKey and a CallbackState value; no event is of a stranger."""
    own = {callback.id for callback in view.callbacks}
    tasks = {ti for event in view.of("note", what="dag run") for ti in event["task_instances"].values()}
    seen = 0
    for event in view.of("event"):
        if event["key_type"].startswith("TaskInstance") or event["key"] in tasks:
            continue
        seen += 1
        if event["key_type"] != "CallbackKey":
            return Broken(
                f"An event's key is a {event['key_type']}, not a CallbackKey",
                (line(event, "key", "key_type", "state"),),
            )
        if event["state"] not in CALLBACK_STATES:
            return Broken(
                f"An event's state '{event['state']}' is no CallbackState",
                (line(event, "key", "state", "state_type"),),
            )
    strangers = [event for event in view.of("event", key_type="CallbackKey") if event["key"] not in own]
    earlier = view.header.get("earlier_callbacks", [])
    strangers = [event for event in strangers if event["key"] not in earlier]
    if strangers:
        return Broken("An event's key is of no callback that was queued", (line(strangers[0], "key", "state"),))
    return Kept() if seen else Undecided("the executor emitted no event for a callback")


@decides("ROUTE-8")
def in_flight_is_counted(view: HistoryView) -> Found:
    """While the callable was held at its start, the executor had the key in ``running``."""
    moments = view.of("note", what="in flight")
    if not moments:
        return Undecided("this case does not look at a callback in flight")
    for moment in moments:
        before = [slots for slots in view.of("slots") if slots["t"] <= moment["t"]]
        counted = before and any(
            moment["callback"] in executor["running"] for executor in before[-1]["executors"].values()
        )
        if not counted:
            return Broken(
                "The executor does not count a callback that is running: its key is not in `running`",
                (line(moment, "callback"), *(line(slots, "executors") for slots in before[-1:])),
            )
    return Kept()
