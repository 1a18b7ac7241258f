"""RUN-13 and ROUTE-11: what each workload costs the scheduler's process, and the control plane."""

from __future__ import annotations

import itertools

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.view import HistoryView

COUNTED = {"descriptors": "descriptors", "threads": "threads", "children": "child processes"}
LEAK_SHARE = 0.75
"""Of a thing for each workload: from here on growth is no coincidence. Pools and caches grow once, and then no more."""
MEBIBYTE = 1 << 20
MEMORY_PER_WORKLOAD = 2 * MEBIBYTE
"""Above what an allocator keeps of a workload; a leaked workload, client or session is larger, or is one in many."""


@decides("RUN-13")
def scheduler_keeps_nothing(view: HistoryView) -> Found:
    """From N to 2N and from 2N to 3N workloads, nothing that the scheduler's process holds grew with their number."""
    looks = [probe["data"] for probe in view.probe("holdings")]
    if not looks:
        return Undecided("this case does not look at what the scheduler's process holds")
    if len(looks) < 3:
        return Unproven("the case was cut short before the third look at the scheduler's process")
    if len({look["pid"] for look in looks}) > 1:
        return Unproven("the scheduler's process was another at each look")
    steps = list(itertools.pairwise(looks))
    for name, title in COUNTED.items():
        grown = [(later[name] - earlier[name]) / (later["count"] - earlier["count"]) for earlier, later in steps]
        if min(grown) >= LEAK_SHARE:
            return Broken(f"The scheduler's process keeps {title} of each workload", (_told(looks, name),))
    grown = [(later["memory"] - earlier["memory"]) / (later["count"] - earlier["count"]) for earlier, later in steps]
    if min(grown) >= MEMORY_PER_WORKLOAD:
        return Broken(
            f"The scheduler's process grows by {min(grown) / MEBIBYTE:.1f} MiB with each workload",
            (_told(looks, "memory"),),
        )
    return Kept("; ".join(_told(looks, name) for name in (*COUNTED, "memory")))


def _told(looks: list[dict[str, int]], name: str) -> str:
    return f"{name} after {', '.join(str(look['count']) for look in looks)} workloads: " + ", ".join(
        str(look[name]) for look in looks
    )


@decides("ROUTE-11")
def calls_are_bounded(view: HistoryView) -> Found:
    """No operation of the control plane was called more often for each workload than the environment states."""
    looks = [probe["data"] for probe in view.probe("holdings")]
    told = [look for look in looks if look.get("calls") is not None]
    if len(told) < 2:
        return Undecided("this case, or this environment, does not count the calls of the control plane")
    first, last = told[0], told[-1]
    workloads = last["count"] - first["count"]
    bounds = last["bounds"]
    counted = {name: last["calls"].get(name, 0) - first["calls"].get(name, 0) for name in bounds}
    wrong = [
        f"{name}: {number} for {workloads} workloads, at most {bounds[name]:g} for each"
        for name, number in counted.items()
        if number > bounds[name] * workloads
    ]
    if wrong:
        return Broken("The control plane is called more often than a workload needs", tuple(wrong))
    if not bounds:
        return Undecided("the environment states no bound for the calls of its control plane")
    return Kept("; ".join(f"{name}: {number} for {workloads} workloads" for name, number in counted.items()))
