"""DECL: declaration and interface, from inspections of the class."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.checks.inspected import inspection
from executor_conformance.harness.view import HistoryView

ACCIDENTS = ("AttributeError", "KeyError", "IndexError", "NameError", "UnboundLocalError", "AssertionError")
"""Exceptions that come of not having thought of something, not of refusing it."""


@decides("DECL-1")
def declared_and_done_agree(view: HistoryView) -> Found:
    """Declared: taken. Not declared: NotImplementedError that names executor and workload type."""
    data = inspection(view, "offer")
    if not isinstance(data, dict):
        return data
    declares, taken, raised = data["declares"], data["taken"], data.get("raised")
    executor = str(view.header.get("executor", "")).rpartition(".")[2]
    if declares and (raised or not taken):
        return Broken(
            f"{executor} declares callbacks and refuses an ExecuteCallback",
            (f"queue_workload: {raised or 'no exception, but the workload is nowhere'}: {data.get('message', '')}",),
        )
    if not declares and not raised and taken:
        return Broken(
            f"{executor} accepts an ExecuteCallback that it does not declare",
            (
                f"declares callbacks: {declares}",
                f"queue_workload returned {data.get('returned')} and took a slot",
            ),
        )
    if not declares and not raised:
        return Broken(f"{executor} neither declares nor refuses an ExecuteCallback: it drops it in silence")
    if not declares and raised != "NotImplementedError":
        return Broken(
            f"{executor} refuses an undeclared ExecuteCallback with {raised} instead of NotImplementedError",
            (str(data.get("message")),),
        )
    if not declares and not all(word in data["message"] for word in (executor, data["workload_type"])):
        return Broken("The refusal does not name the executor and the workload type", (data["message"],))
    return Kept("declared and taken" if declares else "not declared and refused")


SCHEDULERS = 2
"""How many meet a callback that nobody can run: one, and the next."""


@decides("DECL-2")
def unsupported_callback_harms_nothing(view: HistoryView) -> Found:
    """The scheduler that was given a callback for an executor without support is alive, and so is the one after it."""
    ended = view.of("note", what="scheduler ended")
    survived = view.of("scheduler", what="survived")
    if not ended and not survived:
        return Undecided("no callback was routed to an executor without support")
    if ended:
        return Broken(
            "An ExecuteCallback for an executor without support ended " + " and ".join(note["who"] for note in ended),
            tuple(f"{note['who']}: {str(note['message'])[:300]}" for note in ended),
        )
    if len(survived) < SCHEDULERS:
        return Unproven("the case was cut short before the next scheduler had met the callback")
    for callback in view.subjects:
        if not any(row["new"] not in (None, "scheduled") and row["t"] <= survived[0]["t"] for row in callback.rows):
            return Unproven("the callback was still SCHEDULED when the first scheduler was stopped: it met nobody")
        if callback.final in ("running", "success"):
            end = str(callback.final).upper()
            return Broken(f"A callback for an executor without support is {end}, which runs nothing", callback.story())
    return Kept(" and ".join(note["who"] for note in survived) + " survived")


@decides("DECL-3")
def attributes_are_readable(view: HistoryView) -> Found:
    """Each attribute of the running BaseExecutor is readable on the class and has its type."""
    data = inspection(view, "attributes")
    if not isinstance(data, dict):
        return data
    if not data:
        return Unproven("the inspection of the executor's attributes found none to compare")
    wrong = [
        f"{name}: {found.get('raised') or 'is ' + found['type'] + ', BaseExecutor has ' + found['expected']}"
        for name, found in data.items()
        if found.get("raised") or found["type"] != found["expected"] != "NoneType"
    ]
    if wrong:
        return Broken("Attributes that core reads from the class are missing or of another type", tuple(wrong))
    return Kept(f"{len(data)} attributes")


@decides("DECL-4")
def loads_by_path_and_alias(view: HistoryView) -> Found:
    """ExecutorLoader loads it by path and alias, alone and beside another."""
    data = inspection(view, "load")
    if not isinstance(data, dict):
        return data
    # A path may name a class that is defined elsewhere, so the classes are compared with one another
    wanted = data.get("by path", {}).get("class")
    if wanted is None and not any(found.get("raised") for found in data.values()):
        return Unproven("the executor was not loaded by path, so there is nothing to compare with")
    wrong = [
        f"{how}: {found.get('raised', '')} {found.get('message', found.get('class', ''))}"
        for how, found in data.items()
        if found.get("raised") or found.get("class") != wanted
    ]
    if wrong:
        return Broken("ExecutorLoader does not load the executor", tuple(wrong))
    return Kept("by path and by alias, alone and beside another")


@decides("DECL-5")
def commands_merge(view: HistoryView) -> Found:
    """The CLI commands are GroupCommands, collide with none, and the parser builds."""
    data = inspection(view, "commands")
    if not isinstance(data, dict):
        return data
    if data.get("raised"):
        return Broken("get_cli_commands() raises", (f"{data['raised']}: {data['message']}",))
    foreign = [
        f"{command['name']} is a {command['type']}" for command in data["commands"] if command["type"] != "GroupCommand"
    ]
    if foreign:
        return Broken("get_cli_commands() returns something else than GroupCommand objects", tuple(foreign))
    if data["collides"]:
        return Broken("The executor's commands collide with those of core", tuple(data["collides"]))
    if (data["parser"] or {}).get("raised"):
        return Broken("The merged parser does not build", (str(data["parser"]["message"]),))
    return Kept(f"{len(data['commands'])} commands")


@decides("DECL-6")
def methods_are_implemented(view: HistoryView) -> Found:
    """No method that core calls raises anything, and ending twice is harmless."""
    data = inspection(view, "methods")
    if not isinstance(data, dict):
        return data
    if data["start"].get("raised"):
        return Unproven(f"the executor could not be started: {data['start']['message']}")
    wrong = [
        f"{name}() raises {found['raised']}{': ' + found['message'] if found['message'] else ''}"
        for name, found in data.items()
        if found.get("raised")
    ]
    if data["get_task_log"].get("lists") is False:
        wrong.append(f"get_task_log returns {data['get_task_log']['returned']}, not two lists")
    if wrong:
        return Broken("Methods that core calls are missing or fail", tuple(wrong))
    return Kept(f"{len(data)} calls")


@decides("DECL-7")
def unknown_workload_is_refused(view: HistoryView) -> Found:
    """Refused with an exception that names the type of the workload; queues, slots and rows are as before."""
    data = inspection(view, "unknown_workload")
    if not isinstance(data, dict):
        return data
    executor = str(view.header.get("executor", "")).rpartition(".")[2]
    kind, raised, before, after = data["workload_type"][0], data.get("raised"), data["before"], data["after"]
    changed = tuple(f"{name}: {before[name]}, then {after[name]}" for name in before if before[name] != after[name])
    refusal = f"queue_workload: {raised}: {data.get('message', '')}"
    if not raised:
        return Broken(f"{executor} takes a workload of the unknown type {kind} without an exception", changed)
    if changed:
        return Broken(
            f"{executor} refuses a workload of an unknown type and keeps something of it", (refusal, *changed)
        )
    if raised in ACCIDENTS or not any(name in data["message"] for name in data["workload_type"]):
        return Broken(f"{executor}'s refusal of a workload of an unknown type does not say what is wrong", (refusal,))
    return Kept(f"refused with {raised}")


STEPS = {
    "load": "Loading its module",
    "construct": "Constructing the executor",
    "unconfigured": "Constructing it without its settings",
}


@decides("DECL-8")
def construction_starts_nothing(view: HistoryView) -> Found:
    """No process, thread or connection came of it; what is not configured is told by an exception that says so."""
    data = inspection(view, "construction")
    if not isinstance(data, dict):
        return data
    for step, name in STEPS.items():
        found = data[step]
        left = [f"{count} more {what}" for what, count in found["left"].items()]
        if found["started"] or left:
            return Broken(f"{name} starts something", (*found["started"], *left))
        if not (raised := found.get("raised")):
            continue
        told = (f"{raised}: {found['message']}",)
        if step != "unconfigured":
            return Broken(f"{name} raises {raised}", told)
        if raised in ACCIDENTS or raised == "TypeError" or not found["message"].strip():
            return Broken(f"{name} raises {raised}, which does not say what is missing", told)
    return Kept("nothing was started")
