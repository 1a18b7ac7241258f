"""ROUTE: queueing, routing, slots."""

from __future__ import annotations

import pytest
from executor_conformance.harness.backend import OTHER_QUEUE
from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.effects import Breakpoint
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.settings import PARALLELISM
from executor_conformance.harness.waits import Callback
from executor_conformance.suites.marks import decides

SECOND = "executor_conformance.backends.companion.CompanionExecutor"


@decides("ROUTE-1")
def test_alias(case: Case) -> None:
    """Beside a second executor, each callback runs where its alias says."""
    env = case.env
    env.start_scheduler(env={"AIRFLOW__CORE__EXECUTOR": f"subject:{env.executor},second:{SECOND}"})
    case.new_scheduler = True  # the scheduler with both executors gives way to the usual one
    case.submit("succeed", executor="subject")
    case.submit("succeed", executor="second")
    case.settle()


@decides("ROUTE-2")
def test_callback_before_task(case: Case) -> None:
    """With one free slot, a queued callback starts before a queued task."""
    backend = case.env.backend
    case.new_scheduler = True  # the one that follows has its usual parallelism
    by_worker = backend.chooses == "worker"
    slots = backend.worker_concurrency if by_worker else PARALLELISM
    # Where the executor chooses, none of its slots is open while both queue up, then one is. Where a worker
    # chooses, the executor hands everything on, and the worker's slots are what is scarce.
    full, closed = [20, 20], [PARALLELISM + 2, slots - 1]
    fillers = [case.submit("hold", role="filler") for _ in range(slots if by_worker else slots - 1)]
    holds = [case.stop_at(filler, "enter") for filler in fillers]

    def taken(callback: Callback, hold: Breakpoint) -> bool:
        # A worker that has taken a callback has a slot less, long before the callable starts on a busy machine
        return hold.reached or (by_worker and case.state(callback) == "running")

    case.until(lambda: all(map(taken, fillers, holds)), "full slots", parallelism=full if by_worker else None)
    if not by_worker and not all(case.holds_slot(filler.id) for filler in fillers):
        raise NotApplicable("The executor does not count what it runs (ROUTE-8), so no queue builds up in it.")
    contender = case.submit("succeed")
    run = case.run_dag("conformance_task_succeeds")
    case.env.sink("note", what="contention", callback=contender.id, task=run.run_id)
    case.until(
        lambda: case.holds_slot(contender.id) and case.holds_task(run) and all(hold.reached for hold in holds),
        "both in the executor",
        parallelism=full if by_worker else closed,
    )
    if by_worker:
        holds[0].release()
    else:
        case.pump(parallelism=[PARALLELISM + 2, slots])
    case.until(
        lambda: case.effects(contender, "enter") or case.env.history.of("effect", probe="task-succeeds"),
        "the callback or the task",
        parallelism=full if by_worker else [PARALLELISM + 2, slots],
    )
    for hold in holds:
        hold.release()
    case.settle()
    case.until(lambda: case.task_state(run, "succeeds") == "success", "the end of the task")


@decides("ROUTE-5")
@pytest.mark.parametrize("queue", ["default", "named"])
def test_queue(case: Case, queue: str) -> None:
    """A callback is in the configured default queue, or in the queue that its data names."""
    backend = case.env.backend
    if not backend.has_queues:
        raise NotApplicable("The executor has no queues that Airflow's configuration names.")
    named = OTHER_QUEUE if queue == "named" else None
    if named and "queue" not in case.env.inspect("callback_parameters")["callback_parameters"]["parameters"]:
        raise NotApplicable("A SyncCallback of the running core takes no queue, so its data names none.")
    if not named:
        case.new_scheduler = True
        case.env.start_scheduler(env={"AIRFLOW__OPERATORS__DEFAULT_QUEUE": OTHER_QUEUE})
    callback = case.submit("hold", queue=named)
    entered = case.stop_at(callback, "enter")
    # An executor may put it where nobody listens, so the control plane is asked before the callable starts, if it tells
    case.until(lambda: backend.queue_of(callback.id) or entered.reached, "the callback at the control plane")
    if backend.queue_of(callback.id) is None:
        backend.remember(callback.id)
    found = backend.queue_of(callback.id)
    entered.release()
    if found is None:
        raise NotApplicable("The control plane does not tell in which queue it had a callback.")
    case.env.sink("probe", name="queue", data={"wanted": OTHER_QUEUE, "found": found})
    case.settle()


@decides("ROUTE-4", "ROUTE-9", "ROUTE-3")
def test_parallelism(case: Case) -> None:
    """Twice as many callbacks as slots: as many at work as `parallelism` allows, and never more."""
    case.env.sink("note", what="burst", count=2 * PARALLELISM)
    callbacks = [case.submit("hold", role="filler") for _ in range(2 * PARALLELISM)]
    holds = [case.stop_at(callback, "enter") for callback in callbacks]
    case.until_all_or_quiet(holds, PARALLELISM)
    case.linger()
    case.env.sink("note", what="filled")
    for hold in holds:
        hold.release()
    case.settle()


LARGE = {"blob": "x" * 65536}
"""Kwargs that fill a pipe of the kernel by themselves."""


@decides("ROUTE-7")
def test_large_workloads_while_busy(case: Case) -> None:
    """While a callable is held in each slot, large workloads wait: the scheduler's loop is not held up by them."""
    fillers = [case.submit("hold", role="filler") for _ in range(PARALLELISM)]
    holds = [case.stop_at(filler, "enter") for filler in fillers]
    case.until_all_or_quiet(holds, PARALLELISM)
    for _ in range(PARALLELISM):
        case.submit("succeed", LARGE, expect="terminal")
    # A call that waits for a worker comes back when the callables do: clearly above its bound on an overloaded machine
    bound = Deadline.SLOWER * LIMITS.executor_call
    with case.released_after(bound + 2 * LIMITS.quiet_window, holds) as released:
        case.until(released.is_set, "the callables to be let go")
    case.settle()
