"""ROUTE: queueing, routing and slots."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.history import Event
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.view import TASK_ENDED, TERMINAL, HistoryView, line

CALLBACK_STATES = frozenset({"scheduled", "pending", "queued", "running", "success", "failed"})
COMPANION = "second"
"""Alias of the harness's own executor beside the subject; what it fails to do accuses nobody."""


@decides("ROUTE-1")
def runs_where_its_alias_says(view: HistoryView) -> Found:
    """Each callback that names an executor was handed to it, and only its events speak of it."""
    named = [callback for callback in view.callbacks if callback.submitted.get("executor")]
    if not named:
        return Undecided("no callback of this case names an executor")
    companion_failed = False
    for callback in named:
        alias = callback.submitted["executor"]
        handed = callback.workload["executor"] if callback.workload else None
        speaking = {event["executor"] for event in callback.events}
        if handed is not None and handed != alias:
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
        if handed is None:
            return Unproven(f"the callback for '{alias}' was not queued by core")
        if callback.reported("enter") and callback.final == "success":
            continue
        if not callback.settled:
            return Unproven(f"the case was cut short before the callback for '{alias}' had come to rest")
        if alias == COMPANION:
            companion_failed = True
        else:
            return Broken(f"The callback for the alias '{alias}' did not run to success there", callback.story())
    if companion_failed:
        return Unproven(f"the harness's own executor '{COMPANION}' did not run its callback")
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
    fillers = [callback for callback in view.callbacks if callback.role == "filler"]
    if not all(filler.reported("enter") for filler in fillers):
        return Unproven("not every callable that should have filled a slot was started")
    for filler in fillers:
        if filler.terminal and filler.terminal["t"] < first and not filler.reported("effect"):
            return Unproven("a callable that should have held its slot ended before the contention was over")
    if sum(event["t"] < first for filler in fillers for event in filler.reported("effect")) > 1:
        return Unproven("more than one slot became free, so the order shows nothing")
    if not entered and not tasks:
        return Unproven("neither the callback nor the task was started, so there is no order")
    if not entered or (tasks and tasks[0]["t"] < entered[0]["t"]):
        return Broken(
            "The task was started before the callback",
            (
                line(tasks[0], "what", "probe", "pid"),
                *(line(event, "what", "probe", "pid") for event in entered[:1]),
            ),
        )
    return Kept("the callback came first")


def _leaked(view: HistoryView) -> str:
    """Which executor counts more slots than keys at the end, although it did not at first."""
    for name, last in view.slots[-1]["executors"].items() if view.slots else ():
        first = next(slots["executors"][name] for slots in view.slots if name in slots["executors"])
        before, now = (slots["occupied"] - len(slots["running"]) - len(slots["queued"]) for slots in (first, last))
        if now > before:
            return f"{name} counts {last['occupied']} slots as occupied for {last['running'] + last['queued']}"
    return ""


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
        if callback.keeps_slot:
            return Broken(
                "The slot of a callback that has ended is still taken",
                (*callback.story(4), *(line(slots, "executors") for slots in view.slots[-1:])),
            )
    if all(callback.keeps_slot is None for callback in ended):
        return Undecided("the slots were not seen after the end of a callback")
    if len(ended) == len(view.callbacks) and (leak := _leaked(view)):
        return Broken("`slots_occupied` is not back at its former value", (leak,))
    return Kept()


def _told(runaway: Event) -> str:
    amounts = {"processes": "processes", "memory": "MB of memory", "descriptors": "descriptors in one process"}
    had = runaway["memory_mb" if runaway["what"] == "memory" else runaway["what"]]
    return (
        f"The environment had {had} {amounts[runaway['what']]}, most of it in '{runaway['part']}', and was stopped: "
        f"a sound executor is far below {runaway['limit']}"
    )


def _grew(runaway: Event) -> tuple[str, ...]:
    lines = [line(runaway, "what", "limit", "processes", "memory_mb", "descriptors", "part")]
    lines += [f"pid {each['pid']} ({each['title']}) had {each['children']} children" for each in runaway["parents"][:2]]
    largest = [{name: value for name, value in each.items() if name != "title"} for each in runaway["largest"][:2]]
    lines += [f"{each} ({told['title']})" for each, told in zip(largest, runaway["largest"], strict=False)]
    for each in runaway["growth"][-4:]:
        amounts = f"{each['processes']} processes, {each['memory_mb']} MB, {each['descriptors']} descriptors"
        lines.append(f"{each['before_s']:.2f} s before: {amounts}")
    return tuple(lines)


@decides("ROUTE-4")
def never_more_than_parallelism(view: HistoryView) -> Found:
    """Neither ``running`` nor the callables at work ever exceed ``parallelism``, and what they take has an end."""
    for runaway in view.of("runaway"):
        if runaway["subject"]:
            return Broken(_told(runaway), _grew(runaway))
    limit = view.header.get("parallelism")
    if not limit or not view.of("note", what="burst"):
        return Undecided("this case does not fill the executor")
    for slots in view.of("slots"):
        for name, executor in slots["executors"].items():
            if executor["parallelism"] > limit:
                return Broken(
                    f"{name} has a parallelism of {executor['parallelism']}, the configuration says {limit}",
                    (line(slots, "executors"),),
                )
            if len(executor["running"]) > executor["parallelism"]:
                return Broken(
                    f"{name} counts {len(executor['running'])} running at parallelism {executor['parallelism']}",
                    (line(slots, "executors"),),
                )
    marks = []
    for callback in view.callbacks:
        marks += [(event["t"], 1) for event in callback.reported("enter")]
        ends = callback.reported("effect") or ([callback.terminal] if callback.terminal else [])
        marks += [(event["t"], -1) for event in ends[: len(callback.reported("enter"))]]
    at_work = peak = 0
    for _, change in sorted(marks):
        at_work += change
        peak = max(peak, at_work)
    if peak > limit:
        return Broken(
            f"{peak} callables were at work at once at parallelism {limit}",
            tuple(line(event, "what", "probe", "pid") for event in view.of("effect"))[:8],
        )
    if peak < limit:
        return Undecided("the executor was never filled, see ROUTE-9")
    return Kept(f"at most {peak} at once, parallelism {limit}")


@decides("ROUTE-9")
def free_slots_are_used(view: HistoryView) -> Found:
    """While more callbacks waited than there are slots, a callable was held in each slot."""
    limit = view.header.get("parallelism")
    if not limit or not view.of("note", what="burst"):
        return Undecided("this case does not fill the executor")
    if not (looked := view.of("note", what="filled")):
        return Unproven("the case was cut short before the executor could fill its slots")
    at_work = {
        callback.id
        for callback in view.callbacks
        if any(event["t"] <= looked[0]["t"] for event in callback.reported("enter"))
    }
    waiting = len(view.callbacks) - len(at_work)
    if len(at_work) >= limit:
        return Kept(f"{len(at_work)} callables in {limit} slots, {waiting} waiting")
    slots = [slots for slots in view.of("slots") if slots["t"] <= looked[0]["t"]]
    return Broken(
        f"The executor runs {len(at_work)} workloads at once, has {limit} slots by its configuration, and lets "
        f"{waiting} wait",
        tuple(line(each, "executors") for each in slots[-1:]),
    )


@decides("ROUTE-5")
def goes_to_its_queue(view: HistoryView) -> Found:
    """The control plane had the callback in the queue that the configuration or its data names."""
    looked = view.probe("queue")
    if not looked:
        return Undecided("this case does not look for the queue of a callback")
    wanted, found = looked[-1]["data"]["wanted"], looked[-1]["data"]["found"]
    if found != wanted:
        return Broken(f"The callback was put into the queue '{found}' instead of '{wanted}'")
    return Kept(f"the queue '{found}'")


REMOTE_FAULTS = ("submit-refused", "start-impossible", "accepted-lost", "observation", "clean-up", "adoption", "hang")
"""Fault points at which the remote side keeps an executor waiting, so that a call may take as long as a request."""


@decides("ROUTE-7")
def comes_back_in_time(view: HistoryView) -> Found:
    """Each heartbeat(), with the sync() in it, came back in time; more time while the control plane does not answer."""
    if hangs := view.of("scheduler", what="hang"):
        return Broken(
            f"A step of the scheduler loop did not come back within {hangs[0]['limit_s']:g} s",
            (line(hangs[0], "what", "pid"),),
        )
    remote = any(fault["name"] in REMOTE_FAULTS for fault in view.faults())
    limit = LIMITS.scheduler_step if remote else LIMITS.executor_call
    late = [call for call in view.of("slow call") if call["held_up_s"] > limit]
    for call in late:
        # On a machine without CPU left, what a call waits for gets none
        if call["held_up_s"] > (Deadline.SLOWER * limit if call["overloaded"] else limit):
            return Broken(
                f"{call['call']}() of {call['executor']} held up the scheduler for {call['held_up_s']:.1f} s; "
                f"the bound is {limit:g} s",
                (line(call, "executor", "call", "took_s", "held_up_s"),),
            )
    if late:
        return Undecided("a heartbeat() took long while the machine was overloaded")
    if not (view.of("slots") or view.of("event") or view.of("workload")):
        return Undecided("no step of a scheduler was seen in this case")
    return Kept("every heartbeat() came back in time")


@decides("ROUTE-10")
def leaves_others_alone(view: HistoryView) -> Found:
    """Nothing that was planted for another deployment was changed, while the executor did its own work."""
    looked = view.probe("foreign")
    if not looked:
        return Undecided("nothing of another deployment is at the control plane in this case")
    planted, touched = looked[-1]["data"]["planted"], looked[-1]["data"]["touched"]
    if touched:
        rest = f" (and {len(touched) - 1} more)" if len(touched) > 1 else ""
        return Broken(f"{touched[0]}{rest}", tuple(touched[:8]))
    ended = [ti for ti in view.task_instances if (rows := view.task_rows(ti)) and rows[-1]["new"] in TASK_ENDED]
    if not all(callback.settled for callback in view.callbacks) or not (view.callbacks or ended):
        return Unproven("the case was cut short before the executor had done its own work")
    return Kept("; ".join(planted))


@decides("ROUTE-6")
def events_carry_the_callback_key(view: HistoryView) -> Found:
    """Each event of a callback has its CallbackKey and a CallbackState value; no event is of a stranger."""
    own = {callback.id for callback in view.callbacks}
    own |= {made for event in view.of("note", what="dag run") for made in event.get("callbacks", ())}
    seen = 0
    for event in view.of("event"):
        of_a_task = event["key_type"].startswith("TaskInstance") or event["key"] in view.task_instances
        if of_a_task and event["key"] not in own:
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
        over = [each.terminal for each in view.callbacks if each.id == moment["callback"] and each.terminal]
        if over and over[0]["t"] <= moment["t"]:
            return Unproven("the callback had ended before the executor was looked at")
        before = [slots for slots in view.of("slots") if slots["t"] <= moment["t"]]
        counted = before and any(
            moment["callback"] in executor["running"] and executor["occupied"] >= len(executor["running"])
            for executor in before[-1]["executors"].values()
        )
        if not counted:
            return Broken(
                "The executor does not count a callback that is running: its key is not in `running`, or takes no slot",
                (line(moment, "callback"), *(line(slots, "executors") for slots in before[-1:])),
            )
    return Kept()
