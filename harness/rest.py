"""Rest: the proof that nothing which belongs to some callbacks will still move.

No unit of work is alive, no request is in flight, the backend declares no message or timer, and the subject has synced
since. Then a row that is not terminal is stuck, and that is proven in a second instead of after a timeout.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import WINDOW_S, Progress, overloaded
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.view import TASK_ENDED, TERMINAL

if TYPE_CHECKING:
    from executor_conformance.harness.effects import Breakpoint
    from executor_conformance.harness.waits import Callback, Run, Waits

OUTLIVED_S = 1.5 * WINDOW_S
"""For how long a process is idle after the end of all workloads before it is taken for a resident."""


class RestWatch:
    """Decides whether everything about some callbacks has come to rest, and keeps the proof."""

    def __init__(
        self,
        case: Waits,
        callbacks: Sequence[Callback],
        tasks: Sequence[tuple[Run, str]] = (),
        held: bool | Sequence[Breakpoint] = False,
    ) -> None:
        # ``held``: the harness itself stops callables, so their being alive is no sign of progress. True: no live unit
        # is one; breakpoints: the callables that these have stopped are none, with the workers above them
        self.held = held
        self.case = case
        self.callbacks = list(callbacks)
        self.tasks = list(tasks)
        self._mark: Any = None
        self._began = self._moved = time.monotonic()
        self._since = 0.0
        self._steps = 0
        self._alive: list[str] = []
        self._progress = Progress()

    def live(self) -> list[int]:
        """Live units of work, of any callback or task."""
        return self.case.env.units()

    def expired(self, limit: float) -> bool:
        """Whether the wait has lasted ``limit`` seconds and nothing has moved for as long, or three times ``limit``.

        On an overloaded machine things move late, and that is nobody's failure. A worker that uses the CPU moves.
        """
        now = time.monotonic()
        return now - max(self._began, self._moved) > limit or now - self._began > 3 * limit

    def at_rest(self) -> bool:
        """To be asked once per step."""
        env = self.case.env
        processes = env.processes()
        units = env.units(processes)
        flights = [
            f"{flight.method} {flight.route}"
            for wire in env.site.recorders.values()
            for flight in wire.in_flight
            if flight.api == "execution" or "fetch" not in flight.path
        ]
        pending = [why for callback in self.callbacks for why in env.backend.pending(callback.id)]
        for run, task in self.tasks:
            # Airflow 3.3 keys a task by its coordinates, 3.4 by its id
            keys = {event["key"] for event in env.history.of("event") if run.run_id in event["key"]}
            pending += [why for key in {run.task_instances[task], *keys} for why in env.backend.pending(key)]
        pending += [
            f"the task {task} is still with the scheduler"
            for run, task in self.tasks
            if self.case.task_state(run, task) in (None, "none", "scheduled")
        ]
        busy = self._runnable(processes)
        self._alive = [f"unit {pid}" for pid in self._at_work(units, processes)]
        self._alive += [f"in flight: {flight}" for flight in flights] + pending
        states = tuple(self.case.state(callback) for callback in self.callbacks)
        ended = all(state in TERMINAL for state in states) and not self.tasks
        freed = not any(self.case.holds_slot(callback.id) for callback in self.callbacks)
        mark = (
            states,
            str(env.slots),
            env.effects.reports,
            tuple(sorted(units)),
            len([1 for event in env.history.of("wire") if event["api"] == "execution"]),
            tuple(self.case.task_state(run, task) for run, task in self.tasks),
        )
        if mark != self._mark or self._progress.look(processes, units):
            self._moved = time.monotonic()
        elif units and not (self.held or self._progress.working) and self._nothing_left(states, freed):
            self._learn(units, processes)
        if mark != self._mark or self._alive or (busy and not (ended and freed)):
            self._mark, self._since, self._steps = mark, time.monotonic(), env.steps
            return False
        steps = env.steps - self._steps
        if env.plain_scheduler:
            return ended and steps >= LIMITS.quiet_steps  # its loop cannot be watched, so it never proves 'stuck'
        if ended and freed:
            return steps >= 2  # nothing is left that could change it; the steps show that no event was waiting
        return steps >= LIMITS.quiet_steps and time.monotonic() - self._since >= env.patience_s

    def _at_work(self, units: Sequence[int], processes: dict[int, ProcessInfo]) -> list[int]:
        """Return the units that may still get somewhere by themselves."""
        if isinstance(self.held, bool):
            return [] if self.held else list(units)
        stopped = {point.hit["pid"] for point in self.held if point.hit}
        while above := {processes[pid].ppid for pid in stopped if pid in processes} & set(units) - stopped:
            stopped |= above
        return [pid for pid in units if pid not in stopped]

    def _nothing_left(self, states: Sequence[str | None], freed: bool) -> bool:
        """Return True if all that was waited for has ended, so long ago that a live process is none of its workers."""
        ended = all(state in TERMINAL for state in states) and all(
            self.case.task_state(run, task) in TASK_ENDED and not self.case.holds_task(run) for run, task in self.tasks
        )
        anything = bool(self.callbacks or self.tasks)
        return anything and ended and freed and time.monotonic() - max(self._began, self._moved) > OUTLIVED_S

    def _learn(self, units: Sequence[int], processes: dict[int, ProcessInfo]) -> None:
        """Take for residents what is idle although every workload has ended; a callable's own process is none."""
        env = self.case.env
        callables = {event["pid"] for event in env.history.of("effect") if not event.get("space")}
        outlived = [
            processes[pid] for pid in units if pid not in callables and processes[pid] not in env.site.residents
        ]
        env.site.residents.add(outlived)
        for process in outlived:
            env.sink("note", what="resident", pid=process.pid, title=process.title)

    def _runnable(self, processes: dict[int, ProcessInfo]) -> bool:
        """Whether a worker process wants the CPU: on a loaded machine, it has not had its turn yet."""
        env = self.case.env
        main = {node.pid for node in env.backend.nodes()} | {env.api_server.pid, env.site.scheduler_pid}
        if env.zygote:
            main.add(env.zygote.process.pid)
        return any(
            process.state in ("R", "D")
            and pid not in main
            and process.ppid != env.api_server.pid
            and process not in env.site.residents
            for pid, process in processes.items()
        )

    def proof(self) -> dict[str, Any]:
        """What rest rests on: states, slots held, what is still alive, quiet time and steps."""
        return {
            "states": {callback.id: self.case.state(callback) for callback in self.callbacks},
            "holding_slots": [callback.id for callback in self.callbacks if self.case.holds_slot(callback.id)],
            "alive": self._alive,
            "quiet_s": round(time.monotonic() - self._since, 3),
            "quiet_steps": self.case.env.steps - self._steps,
        }

    def over(self, waiting_for: str, limit: float) -> bool:
        """To be asked once per step: whether all is at rest, or has expired; then the proof is in the history."""
        if self.at_rest():
            self.case.env.sink("rest", waiting_for=waiting_for, **self.proof())
            return True
        if self.expired(limit):
            self.give_up(waiting_for, limit)
            return True
        return False

    def give_up(self, waiting_for: str, limit: float) -> None:
        """Record a bound of ``limit`` seconds, and whether workers still worked then, on a machine without CPU left."""
        starved = bool(self._alive) and self._progress.working and overloaded()
        self.case.env.sink("bound", waiting_for=waiting_for, limit_s=limit, **self.proof(), starved=starved)
