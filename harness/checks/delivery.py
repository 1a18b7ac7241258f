"""CRASH-10: one submission and one claim for each callback, from the control plane's record and from the wire."""

from __future__ import annotations

import itertools

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, decides
from executor_conformance.harness.history import Event
from executor_conformance.harness.view import CallbackView, HistoryView, line

BY_THE_TRANSPORT = ("redelivery", "during")
"""Faults after which the transport may rightly deliver a workload again: a copied message, a lost worker."""


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
    """Return a claim by another process than the first claim's, made while that one was alive."""
    first = next((claim for claim in callback.claims if claim.get("pid")), None)
    if first is None:
        return None
    ends = [event["t"] for event in view.of("process", what="gone", pid=first["pid"]) if event["t"] >= first["t"]]
    over = min(ends, default=float("inf"))
    return next(
        (claim for claim in callback.claims if claim.get("pid") not in (None, first["pid"]) and claim["t"] < over), None
    )
