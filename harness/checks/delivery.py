"""CRASH-10: one submission and one claim for each callback, from the control plane's record and from the wire."""

from __future__ import annotations

import itertools

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, decides
from executor_conformance.harness.history import Event
from executor_conformance.harness.view import CallbackView, HistoryView, line

BY_THE_TRANSPORT = ("redelivery", "during")
"""Faults after which the transport may rightly deliver a workload again: a copied message, a lost worker."""
SEEN_LATE_S = 2.0
"""How much later than it happened the end of a process may be seen on a loaded machine."""


@decides("CRASH-10")
def in_one_pair_of_hands(view: HistoryView) -> Found:
    """No callback was accepted, or claimed, once more while an earlier delivery of it still waited or ran."""
    if any(fault["name"] in BY_THE_TRANSPORT and fault.get("victim") in (None, "node") for fault in view.faults()):
        return Undecided("the transport itself may deliver a workload again in this case")
    decided = False
    for callback in view.callbacks:
        deliveries = sorted(view.of("delivery", callback=callback.id), key=lambda event: event["accepted"])
        decided = decided or bool(deliveries or callback.claims)
        for earlier, later in itertools.pairwise(deliveries):
            if earlier["ended"] is None or earlier["ended"] > later["accepted"]:
                return Broken(
                    f"The control plane accepted the callback {len(deliveries)} times, the second time while the first "
                    "delivery still waited or ran",
                    tuple(line(each, "id", "accepted", "ended") for each in deliveries[:4]),
                )
        if another := _another_claimant(view, callback):
            return Broken(
                "A second worker wanted to claim the callback while the first one was alive",
                tuple(line(each, "method", "route", "pid") for each in (callback.claims[0], another)),
            )
    return Kept() if decided else Undecided("neither a delivery nor a claim was seen")


def _another_claimant(view: HistoryView, callback: CallbackView) -> Event | None:
    """Return a claim by another process than the first claim's, made while that one was alive for sure."""
    first = next((claim for claim in callback.claims if claim.get("pid")), None)
    if first is None:
        return None
    until = _surely_alive_until(view, first)
    return next(
        (claim for claim in callback.claims if claim.get("pid") not in (None, first["pid"]) and claim["t"] < until),
        None,
    )


def _surely_alive_until(view: HistoryView, claim: Event) -> float:
    """Return the last moment at which the claimant was alive for sure: what it did itself, or well before it was gone.

    Its end alone proves nothing: a process that lives for a moment only may never be seen, and an end is seen late.
    """
    pid = claim["pid"]
    killed = min((fault["t"] for fault in view.faults() if pid in fault.get("pids", ())), default=float("inf"))
    did = [event["t"] for kind in ("wire", "effect") for event in view.of(kind) if pid in _owners(event)]
    gone = [event["t"] - SEEN_LATE_S for event in view.of("process", what="gone", pid=pid) if event["t"] >= claim["t"]]
    return min(max([claim["t"], *did, *gone[:1]]), killed)


def _owners(event: Event) -> tuple[int | None, ...]:
    """Return the process that an event is of; an answer is the server's doing."""
    return () if event.get("phase", "request") != "request" else (event.get("pid"), event.get("ppid"))
