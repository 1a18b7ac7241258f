"""CRASH-11: what a scheduler leaves behind that ends politely."""

from __future__ import annotations

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.history import Event
from executor_conformance.harness.view import TERMINAL, HistoryView, line


@decides("CRASH-11")
def ends_with_work_in_flight(view: HistoryView) -> Found:
    """The call came back, each result that it waited for is in an event, and no process of the scheduler is left."""
    if not (endings := view.of("scheduler", what="ending")):
        return Undecided("no scheduler of this case ends politely")
    if not (ended := view.of("scheduler", what="ended")):
        return Unproven("the case was cut short before the scheduler had ended")
    begun, over = endings[-1], ended[-1]
    if not any(event["t"] <= begun["t"] for callback in view.subjects for event in callback.reported("enter")):
        return Unproven("no callable was running when the scheduler ended")
    call = f"{over['how']}()"
    if "took_s" not in over:
        return Broken(
            f"{call} with work in flight did not return within {over['limit_s']:g} s", (line(over, "what", "how"),)
        )
    if failed := over.get("failed_with"):
        return Broken(f"{call} with work in flight raises {failed['raised']}", (str(failed["message"])[:300],))
    if over["how"] == "end" and (lost := _lost(view, begun, over)):
        return lost
    left = view.probe("left behind")
    if left and left[-1]["processes"]:
        return Broken(
            f"{call} returned, and {len(left[-1]['processes'])} processes of the scheduler do not end",
            tuple(f"{pid}: {title}" for pid, title in list(left[-1]["processes"].items())[:8]),
        )
    return Kept(f"{call} returned after {over['took_s']:.1f} s")


def _lost(view: HistoryView, begun: Event, over: Event) -> Found | None:
    """Look for callables below the scheduler whose end nobody will ever report: their executor is gone."""
    below = set(begun.get("tree", ()))
    for callback in view.subjects:
        entered = callback.reported("enter")
        if not entered or entered[0].get("space") or entered[0]["pid"] not in below:
            continue
        told = any(event["state"] in TERMINAL and event["t"] <= over["t"] for event in callback.events)
        if not told and callback.final not in TERMINAL:
            return Broken("end() returned, and the end of a callable that ran is in no event", callback.story())
    return None
