"""Fault points that concern several parts of an environment at once: a report, the network, the transport."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from executor_conformance.harness.case import NotApplicable
from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.view import TERMINAL, HistoryView

if TYPE_CHECKING:
    from executor_conformance.harness.case import Case
    from executor_conformance.harness.waits import Callback


LIVENESS = ("CRASH-1", "CRASH-2", "CRASH-3", "CRASH-4", "CRASH-5", "CRASH-6", "CRASH-8", "CRASH-9")
"""The clauses that are decided wherever a worker is disturbed."""


def lose_report(case: Case, callback: Callback) -> None:
    """Let core take the callback's terminal event, SIGKILL the scheduler before it writes, and start another.

    :raises BoundReached: the executor reported no end, so there was nothing to lose.
    :raises NotApplicable: the worker reported the end, and the executor needs not.
    """
    watch = RestWatch(case, [callback])
    while not case.env.pump(scheduling=case.scheduling, stop_at_drain=callback.id):
        if watch.over("a report", case.env.settle_s):
            if case.env.offers.worker_reports_end and case.state(callback) in TERMINAL:
                raise NotApplicable("The worker has reported the end, and the executor reports none that can be lost.")
            raise BoundReached(f"The executor reported no end of the callback; its row is {case.state(callback)}.")
        case.pause()
    case.env.sink("note", what="report drained", callback=callback.id, state=case.state(callback))
    case.restart_scheduler("report-lost")


def part(case: Case) -> None:
    """Cut the workers off from the API server: open connections are reset, new ones refused."""
    for recorder in case.env.site.recorders.values():
        recorder.refuse()
    case.fault("partition")


def join(case: Case) -> None:
    """Let the workers find the API server again."""
    for recorder in case.env.site.recorders.values():
        recorder.accept()
    case.env.sink("note", what="healed")


def until_delivered_again(case: Case, callback: Callback, before: Collection[int]) -> None:
    """Step until a second worker process has claimed the callback or has begun to run it, or clearly will not.

    An executor, or a worker, may know a workload that it had before; then nothing comes of the second delivery.

    :param before: pids that were at work before it; while there are others, something may come of it.
    """
    began = since = time.monotonic()
    mark = None
    again = case.env.poll_s(LIMITS.second_delivery)
    while time.monotonic() - since <= again and time.monotonic() - began <= case.env.settle_s:
        case.pump()
        view = next(each for each in HistoryView(case.env.history).callbacks if each.id == callback.id)
        if len(view.responses(view.claims)) > 1 or view.executions > 1:
            case.env.sink("note", what="delivered again", callback=callback.id)
            return
        now = (len(view.requests), case.env.effects.reports, tuple(case.env.units()))
        if now != mark or set(now[2]) - set(before):
            mark, since = now, time.monotonic()
        case.pause()
    case.env.sink("note", what="second delivery came to nothing", callback=callback.id)


def while_it_matters(case: Case, callback: Callback, before: Collection[int]) -> None:
    """Go on until the row has ended by a second delivery, or for two quiet windows after its worker, if it does not.

    What the case lets go on afterwards is then clearly later than that end.

    :param before: pids that were at work before the second delivery.
    """
    began = since = time.monotonic()
    again = case.env.poll_s(LIMITS.second_delivery)
    while case.state(callback) not in TERMINAL:
        now = time.monotonic()
        if set(case.env.units()) - set(before):
            since = now
        if now - since > case.env.poll_s(2 * LIMITS.quiet_window) or now - began > 2 * again:
            return
        case.pump()
        case.pause()
    case.linger(LIMITS.clearly_later)


def until_returned(case: Case, callback: Callback, pid: int) -> None:
    """Wait, without a step of the scheduler, until the callable has returned and its process has ended.

    Where the process cannot be seen, the callable's last report has to do.

    :raises BoundReached: it did not.
    """
    if case.env.backend.on_this_host:
        case.until_gone(pid, "the callable's process")
        return
    deadline = Deadline(case.env.settle_s)
    while not case.effects(callback, "effect"):
        case.env.check()
        if deadline.over():
            raise BoundReached(f"The callable did not return within {deadline}.")
        time.sleep(LIMITS.pump_interval)
