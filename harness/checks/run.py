"""RUN: the success path."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.codec import digest
from executor_conformance.harness.view import GRANTED_TWICE, TERMINAL, CallbackView, HistoryView, line

LOST = "the workload was lost, see CRASH-1"
CUT_SHORT = "the case was cut short before the callback had come to rest"


def _healthy(view: HistoryView) -> list[CallbackView]:
    return [callback for callback in view.subjects if callback.expect == "success"]


@decides("RUN-1")
def runs_once(view: HistoryView) -> Found:
    """The callable was entered exactly once."""
    for callback in _healthy(view):
        entered = len(callback.reported("enter"))
        times = max(entered, callback.executions)
        if not times and not callback.settled:
            return Unproven(CUT_SHORT)
        if times > 1 and callback.granted_twice:
            return Undecided(GRANTED_TWICE)
        if entered != 1 or times > 1:
            return Broken(
                "The callable did not run" if not entered else f"The callable ran {times} times",
                callback.story(),
            )
    return Kept() if _healthy(view) else Undecided("no callback of this case is expected to succeed")


@decides("RUN-2")
def runs_in_a_process_of_its_own(view: HistoryView) -> Found:
    """The callable ran in a child of a worker, never in the scheduler process."""
    seen: dict[tuple[str, int], str] = {}
    born = {event["pid"] for event in view.of("process", what="born")}
    there = set(view.header.get("processes", ())) - born  # a number may be given again
    for callback in _healthy(view):
        for entered in callback.reported("enter"):
            pid, space = entered["pid"], entered.get("space") or ""
            if seen.get((space, pid), callback.id) != callback.id:
                return Broken("Two callables shared one process", (line(entered, "what", "pid", "ppid"),))
            seen[space, pid] = callback.id
            if space:
                continue  # a PID namespace without the scheduler; the same number means another process here
            if pid in view.scheduler_pids:
                return Broken("The callable ran in the scheduler process", (line(entered, "what", "pid", "ppid"),))
            if entered["ppid"] in view.scheduler_pids:
                return Broken(
                    "The callable ran in a child of the scheduler process without a supervisor",
                    (line(entered, "what", "pid", "ppid"),),
                )
            if pid in there:
                return Broken(
                    "The callable ran in a process that was there before its callback, not in a child of its own",
                    (line(entered, "what", "pid", "ppid"),),
                )
            if any(request["pid"] == pid for request in callback.claims):
                return Broken(
                    "The callable ran in the process that talks to the API, not in a supervised child",
                    (line(entered, "what", "pid", "ppid"), line(callback.claims[0], "path", "pid")),
                )
    return Kept(f"pids {sorted(pid for _, pid in seen)}") if seen else Undecided("the callable did not run")


@decides("RUN-3")
def kwargs_arrive_equal(view: HistoryView) -> Found:
    """What the callable received is what was sent."""
    decided = 0
    for callback in _healthy(view):
        entered = callback.reported("enter")
        if not entered and not callback.settled:
            return Unproven(CUT_SHORT)
        if not entered and callback.final == "failed":
            return Broken("The callback FAILED before its kwargs had come to the callable", callback.story())
        if not entered:
            continue  # it never ran: CRASH-1, or RUN-1 if it is said to have succeeded
        if "kwargs" not in entered[0]["data"]:
            continue  # a callable that does not tell what it received
        received = {k: v for k, v in entered[0]["data"]["kwargs"].items() if k not in ("context", "probe")}
        if digest(received) != callback.submitted["digest"]:
            return Broken(
                "The kwargs did not arrive as they were sent",
                (f"sent:     {str(callback.submitted['kwargs'])[:300]}", f"received: {str(received)[:300]}"),
            )
        decided += 1
    return Kept() if decided else Undecided("no callable of this case tells which kwargs it received")


@decides("RUN-4")
def context_where_accepted(view: HistoryView) -> Found:
    """The context came to those that accept it, and only to them; a notifier was instantiated and called."""
    decided = 0
    for callback in _healthy(view):
        kind = str(callback.submitted["path"]).rpartition(".")[2]
        entered = callback.reported("enter")
        if kind in ("with_context", "Notifier", "without_context") and not (entered or callback.settled):
            return Unproven(CUT_SHORT)
        if kind in ("with_context", "Notifier", "without_context") and not entered and callback.final not in TERMINAL:
            continue  # a workload that was lost is CRASH-1
        if kind in ("with_context", "Notifier", "without_context") and not entered:
            return Broken(f"The callable '{kind}' was not called as its signature asks", callback.story())
        if kind == "with_context" and "dag_run" not in str(entered[0]["data"].get("context")):
            return Broken("The callable accepts `context` and did not get one with a Dag run", callback.story())
        if kind == "Notifier" and not callback.reported("instantiate"):
            return Broken("The notifier class was not instantiated", callback.story())
        if kind == "Notifier" and "dag_run" not in str(entered[0]["data"].get("context")):
            return Broken("The notifier was called without its context", callback.story())
        decided += kind in ("with_context", "Notifier", "without_context")
    return Kept() if decided else Undecided("no callable of this case has to do with the context")


@decides("RUN-5")
def dag_file_callable_is_found(view: HistoryView) -> Found:
    """A callable of the Dag file ran."""
    found = [callback for callback in _healthy(view) if "unusual_prefix" in callback.submitted["path"]]
    for callback in found:
        if not callback.reported("enter"):
            if not callback.settled:
                return Unproven(CUT_SHORT)
            if callback.final not in TERMINAL:
                return Undecided(LOST)
            return Broken("The callable of the Dag file did not run", callback.story())
    return Kept() if found else Undecided("no callable of this case is defined in the Dag file")


@decides("RUN-6")
def row_goes_queued_running_success(view: HistoryView) -> Found:
    """The row's states from QUEUED on are QUEUED, RUNNING, SUCCESS."""
    healthy = _healthy(view)
    telling = [callback for callback in healthy if not _too_short_to_tell(view, callback)]
    for callback in telling:
        if callback.states != ["queued", "running", "success"]:
            if not callback.settled:
                return Unproven(CUT_SHORT)
            went = ", ".join(state.upper() for state in callback.states) or "nowhere"
            return Broken(f"The row went {went} instead of QUEUED, RUNNING, SUCCESS", callback.story())
    if healthy and not telling:
        return Undecided("no callable of this case ran until the executor could say RUNNING")
    return Kept() if healthy else Undecided("no callback of this case is expected to succeed")


def _too_short_to_tell(view: HistoryView, callback: CallbackView) -> bool:
    """Whether the row went from QUEUED to SUCCESS for its callable ended before the executor's next ``sync``.

    Without a claim RUNNING comes from the executor, whose event buffer holds the last event of each key only.
    """
    held = any(note["callback"] == callback.id for note in view.of("note", what="in flight"))
    return not view.offers.has_claim and callback.states == ["queued", "success"] and not held


@decides("RUN-7")
def connection_and_variable_are_readable(view: HistoryView) -> Found:
    """The callable returned the values of the Connection and the Variable."""
    readers = [callback for callback in view.subjects if str(callback.submitted["path"]).endswith("read_secrets")]
    for callback in readers:
        returned = callback.reported("return")
        refused = [event for event in callback.responses(callback.requests) if event["status"] >= 400]
        if not callback.reported("enter"):
            return Unproven("the callable did not run, so it asked for nothing")
        if not returned:
            if not callback.settled:
                return Unproven(CUT_SHORT)
            return Broken(
                "The callable could not read a Connection and a Variable",
                (
                    *(line(event, "method", "route", "status", "body_detail") for event in refused[:2]),
                    *callback.story(),
                ),
            )
        if (returned[0]["data"].get("port"), returned[0]["data"].get("value")) != (8443, "a value"):
            return Broken("The callable read other values than the metadata holds", (str(returned[0]["data"]),))
    return Kept() if readers else Undecided("no callable of this case reads a Connection")


@decides("RUN-8")
def log_is_where_log_path_says(view: HistoryView) -> Found:
    """The log at the workload's ``log_path`` holds what the callable printed."""
    looked = view.probe("log")
    if not looked:
        return Undecided("this case does not look for the log")
    if not any(callback.reported("enter") for callback in view.subjects):
        return Unproven("the callable did not run, so it printed nothing")
    data = looked[-1]["data"]
    if not data["files"]:
        return Broken("There is no log at the workload's log_path", (f"log_path: {data['log_path']}",))
    if not data["found"]:
        return Broken("The log does not hold what the callable printed", tuple(data["files"]))
    return Kept(data["found"])


CROWD = 100
"""How many callbacks RUN-9 speaks of."""


@decides("RUN-9")
def many_at_once_succeed(view: HistoryView) -> Found:
    """Each of the callbacks that were sent at once succeeded, and its callable ran once."""
    noted = view.of("note", what="crowd")
    if not noted:
        return Undecided("this case does not send many callbacks at once")
    count, sent = noted[-1]["count"], view.subjects
    if len(sent) < count:
        return Unproven(f"only {len(sent)} of {count} callbacks were sent")
    if not all(callback.settled for callback in sent):
        return Unproven(CUT_SHORT)
    for what, found in (
        ("did not succeed", [callback for callback in sent if callback.final != "success"]),
        (
            "did not run exactly once",
            [callback for callback in sent if callback.executions == 0 or callback.ran_again],
        ),
    ):
        if found:
            return Broken(f"{len(found)} of {count} callbacks that were sent at once {what}", found[0].story())
    fewer = "" if count >= CROWD else f", the limit of this environment, which is not {CROWD}"
    return Kept(f"{count} callbacks at once{fewer}")


@decides("RUN-10")
def supervisor_always_answers(view: HistoryView) -> Found:
    """Each question to the supervisor was answered, with a value or an error."""
    answers = []
    for callback in view.subjects:
        entered, answered = callback.reported("enter"), callback.reported("answered")
        if not str(callback.submitted["path"]).rpartition(".")[2].startswith("ask_") or not entered:
            continue
        if not answered:
            if not callback.settled and not view.of("note", what="unanswered"):
                return Unproven(CUT_SHORT)
            waited = max(event["t"] for event in view.events) - entered[0]["t"]
            question = str(callback.submitted["path"]).rpartition("ask_")[2]
            unanswered = view.of("note", what="unanswered")
            if unanswered:
                waited = unanswered[-1]["waited_s"]
            return Broken(f"The supervisor did not answer '{question}' within {waited:.1f} s", callback.story())
        answers.append(str(answered[0]["data"].get("answer"))[:200])
    return Kept("; ".join(answers)) if answers else Undecided("no callable of this case asked its supervisor")
