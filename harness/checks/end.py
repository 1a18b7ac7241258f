"""RUN-11, RUN-12, STATE-5 and TOKEN-10: the end of a callback where its worker reports it by the state route."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.checks.run import CUT_SHORT
from executor_conformance.harness.checks.token import asked_of_the_state_route
from executor_conformance.harness.checks.token_routes import GONE, REFUSED, Requests, broken_by, lines_about
from executor_conformance.harness.history import Event
from executor_conformance.harness.matrix import ANOTHER, OWN
from executor_conformance.harness.view import TERMINAL, CallbackView, HistoryView, line


@decides("RUN-11")
def worker_reports_the_end(view: HistoryView) -> Found:
    """Each worker that claimed a callback, and was left alone, reports its end with its execution token."""
    undisturbed = _undisturbed(view)
    if not all(callback.settled for callback in undisturbed):
        return Unproven(CUT_SHORT)
    claimed = [callback for callback in undisturbed if callback.claims_answered]
    for callback in claimed:
        if not callback.end_reports:
            return Broken(f"The worker reported no end, and the row is {str(callback.final).upper()}", callback.story())
        for report in callback.end_reports:
            scope = ((report.get("token") or {}).get("claims") or {}).get("scope", "execution")
            if scope != "execution":
                shown = line(report, "method", "route", "pid")
                return Broken(f"The worker reported the end with a token of scope '{scope}'", (shown,))
    return Kept(f"{len(claimed)} ends") if claimed else Undecided("no worker claimed a callback and was left alone")


@decides("RUN-12")
def executor_leaves_the_end_to_the_worker(view: HistoryView) -> Found:
    """The executor says a terminal state after the worker has reported the end, or not at all."""
    undisturbed = _undisturbed(view)
    if not all(callback.settled for callback in undisturbed):
        return Unproven(CUT_SHORT)
    reporting = [callback for callback in undisturbed if callback.end_reports]
    for callback in reporting:
        first = callback.end_reports[0]
        early = [event for event in callback.events if event["state"] in TERMINAL and event["t"] < first["t"]]
        if early:
            return Broken(
                f"The executor said {str(early[0]['state']).upper()} before the worker reported the end",
                (line(first, "method", "route", "pid"), *callback.story()),
            )
    return Kept(f"{len(reporting)} ends") if reporting else Undecided("no worker reported an end, see RUN-11")


def _undisturbed(view: HistoryView) -> list[CallbackView]:
    """The callbacks of the case that no fault is for."""
    return [callback for callback in view.subjects if callback.expect != "terminal"]


@decides("STATE-5")
def reported_end_stands(view: HistoryView) -> Found:
    """Once the server has taken a report of the end, the row is as reported and does not change any more."""
    decided, later = 0, 0
    for callback in view.callbacks:
        if (taken := callback.end_taken) is None:
            continue
        if callback.terminal is None and not callback.settled:
            return Unproven(CUT_SHORT)
        if wrong := _not_as_reported(callback, taken) or _output_changed(view, callback):
            return Broken(wrong, (line(taken, "method", "route", "status", "says"), *callback.story()))
        decided += 1
        later += any(event["state"] in TERMINAL and event["t"] > taken["t"] for event in callback.events)
    if not decided:
        return Undecided("the server took no report of an end in this case")
    return Kept(f"{decided} ends, {later} of them followed by a terminal event of the executor")


def _not_as_reported(callback: CallbackView, taken: Event) -> str:
    if not callback.differs_from_report:
        return ""
    said = str(taken.get("says") or "an end").upper()
    went = ", ".join(callback.from_the_end_on).upper()
    became = f"went {went}" if went else f"is {str(callback.final).upper()}"
    return f"The server took {said} from the worker, and the row {became}"


def _output_changed(view: HistoryView, callback: CallbackView) -> str:
    """Compare ``output`` with what it was when the row ended; the journal has no write that leaves the state."""
    looked = [one for one in view.probe("row") if one["callback"] == callback.id]
    before = callback.terminal["output"] if callback.terminal else None
    if not looked or looked[-1]["output"] == before:
        return ""
    return f"The worker reported the output '{before}', and it is '{looked[-1]['output']}' afterwards"


@decides("TOKEN-10")
def state_route_is_guarded(view: HistoryView) -> Found:
    """Only the callback's own execution token reports its end, and only while the row is RUNNING."""
    requests = Requests(view)
    probed = asked_of_the_state_route(view)
    if not requests.ends or isinstance(probed, Broken):
        return probed
    lines = [text for one in requests.ends if (wrong := _wrong_end(one)) for text in lines_about(wrong, [one])]
    if lines:
        return broken_by("The state route is not guarded", lines)
    if not any(one["status"] == 204 for one in requests.ends):
        return Unproven("no report of an end was taken, so a refusal proves nothing")
    more = f"; {probed.reason} with wrong tokens" if isinstance(probed, Kept) else ""
    return Kept(f"{len(requests.ends)} reports of an end{more}")


def _wrong_end(one: Event) -> str:
    """What is wrong with the answer to the report of an end; empty if nothing is."""
    scope, row, status, changed = one["scope"], one["row"], one["status"], one.get("changed", {})
    wanted: tuple[int, ...] = (409,)
    if scope != "execution" or one["subject"] == ANOTHER:
        wanted = REFUSED
    elif one["subject"] != OWN:
        wanted = (*REFUSED, *GONE)
    elif row in ("unknown", "running"):
        wanted = (404,) if row == "unknown" else (204,)
    asked = f"with scope {scope} for {one['subject']} while {row.upper()}"
    if status not in wanted:
        return f"{asked} it answers {status}, not {' or '.join(map(str, wanted))}"
    if status == 204:
        return "" if changed.get("own", [""])[0] in TERMINAL else "the report of an end leaves the row as it was"
    if changed:
        return f"{asked} it refuses, and changes a row"
    return f"{asked} it does not tell the row's state" if status == 409 and not one.get("reported") else ""
