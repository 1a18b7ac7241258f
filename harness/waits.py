"""The part of a case that sees and waits.

A wait ends on an event or on rest. Rest means that nothing which belongs to the callbacks is alive: no unit of
work, no request in flight, no message or timer that the backend declares, and the subject has synced since.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.harness.effects import Breakpoint
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.rules import WireRule
from executor_conformance.harness.view import TERMINAL


@dataclass(frozen=True)
class Callback:
    """A callback of the case; ``probe`` is the name under which its callable reports."""

    id: str
    probe: str


@dataclass(frozen=True)
class Run:
    """A Dag run of the case with its task instances' ids by task id."""

    run_id: str
    task_instances: dict[str, str]
    callbacks: tuple[str, ...] = ()


@dataclass
class Waits:
    """What a scenario sees of its callbacks and tasks, and how it waits for them."""

    env: Environment
    scheduling: bool = False
    disturbed: bool = False
    """A process was killed or a state left behind, so the environment needs repair before the next case."""
    callbacks: list[Callback] = field(default_factory=list)
    _pause: float = LIMITS.pump_interval
    _seen: int = 0
    _step_s: float = 0.0

    # -- seeing ----------------------------------------------------------------------------------------------

    def state(self, callback: Callback) -> str | None:
        """The row's state as last seen."""
        rows = self.env.history.of("row", callback=callback.id)
        return rows[-1]["new"] if rows else None

    def task_state(self, run: Run, task_id: str) -> str | None:
        """The task instance's state as last seen."""
        rows = self.env.history.of("task_row", table="task_instance", id=run.task_instances[task_id])
        return rows[-1]["new"] if rows else None

    def holds_slot(self, key: str) -> bool:
        """Whether an executor counts the workload with this key, as running or as queued."""
        return any(key in executor["running"] or key in executor["queued"] for executor in self.env.slots.values())

    def holds_task(self, run: Run) -> bool:
        """Whether an executor counts a task of ``run``; Airflow 3.3 keys it by coordinates, 3.4 by its id."""
        names = (run.run_id, *run.task_instances.values())
        return any(
            name in key
            for executor in self.env.slots.values()
            for key in (*executor["running"], *executor["queued"])
            for name in names
        )

    def effects(self, callback: Callback, what: str) -> list[dict[str, Any]]:
        """What the callable reported."""
        return self.env.history.of("effect", probe=callback.probe, what=what)

    # -- waiting ---------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Between two steps: short while things happen, longer while nothing does or a step takes long.

        A step costs CPU, which the workers need.
        """
        seen = len(self.env.history.events)
        self._pause = LIMITS.pump_interval if seen != self._seen else min(1.4 * self._pause, LIMITS.pump_interval_idle)
        self._seen = seen
        time.sleep(max(self._pause, min(LIMITS.pump_times_step * self._step_s, LIMITS.pump_interval_most)))

    def pump(self, **step: Any) -> None:
        """One step of the scheduler loop."""
        began = time.monotonic()
        self.env.pump(scheduling=self.scheduling, **{name: value for name, value in step.items() if value})
        self._step_s = time.monotonic() - began

    def until(
        self,
        condition: Callable[[], Any],
        reason: str,
        limit: float | None = None,
        tasks: Sequence[tuple[Run, str]] = (),
        **step: Any,
    ) -> None:
        """Step the scheduler, with ``step``, until ``condition`` holds.

        :param limit: in seconds; as long as a callback may take, unless told.
        :param tasks: that it has to do with, so that their movement counts.
        :raises BoundReached: it did not, and nothing has moved for as long (see :meth:`RestWatch.expired`);
            ``reason`` says what was waited for.
        """
        limit = limit or self.env.settle_s
        watch = RestWatch(self, [], tasks)  # no callbacks: giving up on the condition says nothing of their rows
        while not condition():
            self.pump(**step)
            watch.at_rest()  # so that it sees what moves; rest may well be what is waited for
            if watch.expired(limit):
                watch.give_up(reason, limit)
                raise BoundReached(f"{reason}: not within {limit:g} s.")
            self.pause()

    def reach(self, point: Breakpoint | WireRule, reason: str) -> dict[str, Any]:
        """Step until a breakpoint or a wire rule is hit, or until it is clear that it will not be.

        :raises BoundReached: everything came to rest, or ended, without passing the point.
        """
        hit = (lambda: point.reached) if isinstance(point, Breakpoint) else (lambda: bool(point.hits))
        watch = RestWatch(self, self.callbacks)
        while not hit():
            self.pump()
            if watch.over(reason, self.env.settle_s):
                states = {callback.probe: self.state(callback) for callback in self.callbacks}
                raise BoundReached(f"{reason} was not reached; the rows are {states}.")
            self.pause()
        return (point.hit or {}) if isinstance(point, Breakpoint) else {"pid": point.hits[0].pid}

    def until_running_or_quiet(self, callback: Callback) -> None:
        """Step until the row is RUNNING, or until it is clear that it will not be while the callable is held."""
        self._until_or_quiet(callback, ("running",))

    def until_ended_or_quiet(self, callback: Callback) -> None:
        """Step until the row has ended, or until it is clear that it will not while its worker is held.

        What the case lets go on afterwards is then clearly later than that end.
        """
        self._until_or_quiet(callback, TERMINAL)
        self.linger(LIMITS.clearly_later)

    def _until_or_quiet(self, callback: Callback, states: Collection[str]) -> None:
        deadline = time.monotonic() + self.env.settle_s
        steps = self.env.steps
        since = time.monotonic()
        mark = None
        while self.state(callback) not in states and time.monotonic() < deadline:
            self.pump()
            now = (self.state(callback), str(self.env.slots), len(self.env.history.of("wire")))
            if now != mark:
                mark, steps, since = now, self.env.steps, time.monotonic()
            # A worker and an executor may take turns in asking, so they get more than one
            quiet = time.monotonic() - since > self.env.poll_s(2 * LIMITS.quiet_window)
            if quiet and self.env.steps - steps >= LIMITS.quiet_steps:
                return
            self.pause()
        for _ in range(2):
            self.pump()

    @contextlib.contextmanager
    def released_after(self, seconds: float, holds: Iterable[Breakpoint]) -> Iterator[threading.Event]:
        """Let held callables go after ``seconds``, also while a step of the scheduler does not come back.

        Gives an event that is set once they have been let go.
        """
        released = threading.Event()

        def release() -> None:
            for hold in holds:
                hold.release()
            released.set()

        timer = threading.Timer(seconds, release)
        timer.start()
        try:
            yield released
        finally:
            timer.cancel()
            release()

    def until_all_or_quiet(self, holds: Sequence[Breakpoint], enough: int) -> None:
        """Step until ``enough`` of the callables are held, or until it is clear that no more of them will start."""
        watch = RestWatch(self, self.callbacks, held=holds)
        while sum(hold.reached for hold in holds) < enough:
            self.pump()
            if watch.at_rest() or watch.expired(self.env.settle_s):
                return
            self.pause()

    def linger(self, seconds: float = LIMITS.quiet_window) -> None:
        """Go on for a quiet window, or so many seconds: time for what must not happen."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.pump()
            self.pause()

    def settle(self, callbacks: Sequence[Callback] | None = None, limit: float | None = None) -> None:
        """Step until everything about ``callbacks`` (default: all of the case) has come to rest.

        The history then holds a ``rest`` event with its proof, or a ``bound`` event.
        """
        watch = RestWatch(self, callbacks if callbacks is not None else self.callbacks)
        limit = max(limit or 0.0, self.env.settle_s)
        while True:
            self.pump()
            if watch.at_rest():
                self._note_successes()
                self.env.sink("rest", **watch.proof())
                return
            if watch.expired(limit):
                watch.give_up("rest", limit)
                self.disturbed = True
                return
            self.pause()

    def settle_then(self, release: Callable[[], None]) -> None:
        """Settle while a callable is still held; then let it go on, and settle again.

        What an orphan does after the row is terminal is seen that way.
        """
        watch = RestWatch(self, self.callbacks, held=True)
        while not watch.at_rest() and not watch.expired(self.env.settle_s):
            self.pump()
            self.pause()
        if any(self.state(callback) in TERMINAL for callback in self.callbacks):
            self.linger(LIMITS.clearly_later)
        release()
        self.settle()

    def _note_successes(self) -> None:
        """Note of which callbacks the data plane says that they succeeded: of earlier ones too, for a row that has
        ended is at rest before its worker has reported.
        """
        noted = {event["callback"] for event in self.env.history.of("note", what="worker succeeded")}
        for callback in self.callbacks:
            if callback.id not in noted and self.env.backend.succeeded(callback.id):
                self.env.sink("note", what="worker succeeded", callback=callback.id)

    def until_gone(self, pid: int, what: str) -> None:
        """Wait until a process has ended (a zombie has)."""
        deadline = Deadline(self.env.settle_s)
        while pid in self.env.processes():
            self.env.check()
            if deadline.over():
                raise BoundReached(f"{what} did not end within {deadline}.")
            time.sleep(0.005)
        self.env.observe()
