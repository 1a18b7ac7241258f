"""One case: what a scenario does to an environment, and how it waits.

A wait ends on an event or on rest. Rest means that nothing which belongs to the callbacks is alive: no unit of
work, no request in flight, no message or timer that the backend declares, and the subject has synced since.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.harness.codec import encode
from executor_conformance.harness.effects import Breakpoint
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import BoundReached, ConformanceError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.rules import WireRule

TERMINAL = frozenset({"success", "failed"})
CALLABLES = "executor_conformance.suites.callables"

_probes = itertools.count(1)


class NotApplicable(ConformanceError):
    """The edition or the environment has no means for this case; the message says which."""


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
class Case:
    """A scenario's handle on its environment."""

    env: Environment
    scheduling: bool = False
    disturbed: bool = False
    """A process was killed or a state left behind, so the environment needs repair before the next case."""
    new_scheduler: bool = False
    """The scheduler was started or set otherwise than usual, so the next case needs a new one."""
    callbacks: list[Callback] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    _pause: float = LIMITS.pump_interval
    _seen: int = 0

    # -- doing --------------------------------------------------------------------------------------------

    def submit(
        self,
        callable_: str = "succeed",
        kwargs: dict[str, Any] | None = None,
        *,
        expect: str = "success",
        role: str = "subject",
        executor: str | None = None,
        probe: bool = True,
    ) -> Callback:
        """Miss a deadline whose callback is ``callable_``.

        :param callable_: a name of the suite's callables, ``dag-file:NAME``, or a dotted path.
        :param expect: 'success', 'failure' (the callable fails) or 'terminal' (a fault decides).
        :param role: 'subject', 'follow-up' or 'filler'.
        """
        name = f"p{next(_probes)}"
        path = callable_ if not callable_ or "." in callable_ or ":" in callable_ else f"{CALLABLES}.{callable_}"
        sent = encode(kwargs or {})
        all_kwargs = {**sent, "probe": name} if probe else sent
        assert self.env.scheduler is not None
        made = self.env.scheduler.submit(path, all_kwargs, executor=executor)
        callback = Callback(made["callback"], name)
        self.env.sink(
            "submitted",
            callback=callback.id,
            probe=name,
            path=made["path"],
            kwargs=sent if len(str(sent)) < 2000 else {"$large": len(str(sent))},
            digest=digest(sent),
            expect=expect,
            role=role,
            executor=executor,
        )
        self.callbacks.append(callback)
        return callback

    def run_dag(self, dag_id: str) -> Run:
        """Create a run of one of the environment's Dags; the scheduler schedules from now on."""
        assert self.env.scheduler is not None
        made = self.env.scheduler.create_run(dag_id)
        run = Run(made["run_id"], made["task_instances"], tuple(made["callbacks"]))
        self.env.sink("note", what="dag run", dag_id=dag_id, **made)
        self.runs.append(run)
        self.scheduling = True
        return run

    def stop_at(self, callback: Callback, what: str) -> Breakpoint:
        """Hold the callable when it reports ``what``."""
        return self.env.effects.stop_at(callback.probe, what)

    def rule(self, rule: WireRule) -> WireRule:
        """Apply a rule to the worker's requests to the Execution API."""
        self.env.wire.add_rule(rule)
        self.env.sink("fault", name="wire rule", rule=str(rule))
        return rule

    def fault(self, name: str, **fields: Any) -> None:
        """Note a fault that was just injected."""
        self.disturbed = True
        self.env.sink("fault", name=name, **fields)

    def kill(self, pids: Iterable[int], point: str, victim: str) -> None:
        """SIGKILL processes, and wait until they are gone."""
        pids = list(pids)
        self.fault(point, victim=victim, pids=pids)
        self.env.watcher.kill(pids)
        deadline = time.monotonic() + LIMITS.stop_grace
        while time.monotonic() < deadline and set(pids) & set(self.env.processes()):
            time.sleep(0.002)
        self.env.observe()

    # -- seeing -------------------------------------------------------------------------------------------

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

    # -- waiting ------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Between two steps: short while things happen, longer while nothing does, for a step costs CPU."""
        seen = len(self.env.history.events)
        self._pause = LIMITS.pump_interval if seen != self._seen else min(1.4 * self._pause, LIMITS.pump_interval_idle)
        self._seen = seen
        time.sleep(self._pause)

    def pump(self, **step: Any) -> None:
        """One step of the scheduler loop."""
        self.env.pump(scheduling=self.scheduling, **{name: value for name, value in step.items() if value})

    def until(self, condition: Callable[[], Any], reason: str, limit: float = LIMITS.settle, **step: Any) -> None:
        """Step the scheduler, with ``step``, until ``condition`` holds.

        :raises BoundReached: it did not within ``limit`` seconds; ``reason`` says what was waited for.
        """
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                self.env.sink("bound", waiting_for=reason, limit_s=limit)
                raise BoundReached(f"{reason}: not within {limit:g} s.")
            self.pump(**step)
            self.pause()

    def reach(self, point: Breakpoint | WireRule, reason: str) -> dict[str, Any]:
        """Step until a breakpoint or a wire rule is hit, or until it is clear that it will not be.

        :raises BoundReached: everything came to rest, or ended, without passing the point.
        """
        hit = (lambda: point.reached) if isinstance(point, Breakpoint) else (lambda: bool(point.hits))
        watch = RestWatch(self, self.callbacks)
        deadline = time.monotonic() + LIMITS.settle
        while not hit():
            self.pump()
            rest = watch.at_rest()
            if rest or time.monotonic() > deadline:
                if rest:
                    self.env.sink("rest", **watch.proof())
                else:
                    self.env.sink("bound", waiting_for=reason, limit_s=LIMITS.settle, **watch.proof())
                states = {callback.probe: self.state(callback) for callback in self.callbacks}
                raise BoundReached(f"{reason} was not reached; the rows are {states}.")
            self.pause()
        return (point.hit or {}) if isinstance(point, Breakpoint) else {"pid": point.hits[0].pid}

    def until_running_or_quiet(self, callback: Callback) -> None:
        """Step until the row is RUNNING, or until it is clear that it will not be while the callable is held."""
        deadline = time.monotonic() + LIMITS.settle
        steps = self.env.steps
        since = time.monotonic()
        mark = None
        while self.state(callback) != "running" and time.monotonic() < deadline:
            self.pump()
            now = (self.state(callback), str(self.env.slots), len(self.env.history.of("wire")))
            if now != mark:
                mark, steps, since = now, self.env.steps, time.monotonic()
            # Edge's worker and executor take turns of a second, so they get more than one
            quiet = time.monotonic() - since > 2 * LIMITS.quiet_window
            if quiet and self.env.steps - steps >= LIMITS.quiet_steps:
                return
            self.pause()
        for _ in range(2):
            self.pump()

    def linger(self) -> None:
        """Go on for one quiet window: time for what must not happen."""
        until = time.monotonic() + LIMITS.quiet_window
        while time.monotonic() < until:
            self.pump()
            self.pause()

    def settle_then(self, release: Callable[[], None]) -> None:
        """Settle while a callable is still held; then let it go on, and settle again.

        What an orphan does after the row is terminal is seen that way.
        """
        deadline = time.monotonic() + LIMITS.settle
        watch = RestWatch(self, self.callbacks, held=True)
        while not watch.at_rest() and time.monotonic() < deadline:
            self.pump()
            self.pause()
        release()
        self.settle()

    def stop_processes(self, pids: Iterable[int]) -> None:
        """SIGSTOP processes."""
        self.env.watcher.kill(list(pids), signal.SIGSTOP)

    def until_gone(self, pid: int, what: str) -> None:
        """Wait until a process has ended (a zombie has)."""
        deadline = time.monotonic() + LIMITS.start_of_callable
        while pid in self.env.processes():
            if time.monotonic() > deadline:
                raise BoundReached(f"{what} did not end within {LIMITS.start_of_callable:g} s.")
            time.sleep(0.005)
        self.env.observe()

    def idle_units(self) -> list[int]:
        """Worker processes that wait for a workload."""
        return self.env.backend.idle_units(self.env.processes())

    def lose_node(self, point: str) -> None:
        """Kill the whole worker and start a new one."""
        self.fault(point, victim="node", pids=[])
        killed = self.env.backend.lose_node()
        self.env.sink("note", what="node lost", pids=killed)
        self.env.observe()

    def settle(self, callbacks: Sequence[Callback] | None = None, limit: float = LIMITS.settle) -> None:
        """Step until everything about ``callbacks`` (default: all of the case) has come to rest.

        The history then holds a ``rest`` event with its proof, or a ``bound`` event.
        """
        watch = RestWatch(self, callbacks if callbacks is not None else self.callbacks)
        deadline = time.monotonic() + limit
        while True:
            self.pump()
            if watch.at_rest():
                self.env.sink("rest", **watch.proof())
                return
            if time.monotonic() > deadline:
                self.env.sink("bound", waiting_for="rest", limit_s=limit, **watch.proof())
                self.disturbed = True
                return
            self.pause()

    def follow_up(self, task: bool = True) -> None:
        """The next callback and the next task, in the environment as the fault has left it."""
        callback = self.submit("succeed", role="follow-up")
        self.settle([callback])
        if task:
            self.control_task("conformance_task_succeeds", "succeeds")

    def plain_scheduler(self) -> None:
        """Let the ``airflow scheduler`` command take the place of the stepped scheduler for this case."""
        self.new_scheduler = True
        self.env.start_plain_scheduler()

    def run_dag_with_deadline(self, dag_id: str, probe: str) -> Callback:
        """Create a run whose deadline is already over; its callback becomes one of the case's."""
        made = self.env.create_run_beside(dag_id)
        callback = Callback(made["callbacks"][0], probe)
        self.env.sink(
            "submitted",
            callback=callback.id,
            probe=probe,
            path=dag_id,
            kwargs={},
            digest=digest({}),
            expect="success",
            role="subject",
            executor=None,
        )
        self.callbacks.append(callback)
        return callback

    def control_task(self, dag_id: str, task_id: str) -> None:
        """Run a task to its end."""
        run = self.run_dag(dag_id)
        watch = RestWatch(self, [], tasks=[(run, task_id)])
        deadline = time.monotonic() + LIMITS.settle
        while self.task_state(run, task_id) not in TERMINAL | {"up_for_retry", "skipped"} or watch.live():
            self.pump()
            if time.monotonic() > deadline or watch.at_rest():
                self.env.sink("bound", waiting_for=f"task {dag_id}.{task_id}", **watch.proof())
                break
            self.pause()
        self.scheduling = False


class RestWatch:
    """Decides whether everything about some callbacks has come to rest, and keeps the proof."""

    def __init__(
        self,
        case: Case,
        callbacks: Sequence[Callback],
        tasks: Sequence[tuple[Run, str]] = (),
        held: bool = False,
    ) -> None:
        # ``held``: a callable is stopped by the harness itself, so its being alive is no sign of progress
        self.held = held
        self.case = case
        self.callbacks = list(callbacks)
        self.tasks = list(tasks)
        self._mark: Any = None
        self._since = 0.0
        self._steps = 0
        self._alive: list[str] = []

    def live(self) -> list[int]:
        """Live units of work, of any callback or task."""
        return self.case.env.units()

    def at_rest(self) -> bool:
        """To be asked once per step."""
        env = self.case.env
        processes = env.processes()
        units = env.units()
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
        self._alive = [] if self.held else [f"unit {pid}" for pid in units]
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
        if mark != self._mark or self._alive or (busy and not (ended and freed)):
            self._mark, self._since, self._steps = mark, time.monotonic(), env.steps
            return False
        steps = env.steps - self._steps
        if env.plain_scheduler:
            return ended and steps >= LIMITS.quiet_steps  # its loop cannot be watched, so it never proves 'stuck'
        if ended and freed:
            return steps >= 2  # nothing is left that could change it; the steps show that no event was waiting
        return steps >= LIMITS.quiet_steps and time.monotonic() - self._since >= LIMITS.quiet_window

    def _runnable(self, processes: dict[int, ProcessInfo]) -> bool:
        """Whether a worker process wants the CPU: on a loaded machine, it has not had its turn yet."""
        env = self.case.env
        main = {node.pid for node in env.backend.nodes()} | {env.api_server.pid, env.site.scheduler_pid}
        if env.zygote:
            main.add(env.zygote.process.pid)
        return any(
            process.state in ("R", "D") and pid not in main and process.ppid != env.api_server.pid
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


def digest(value: Any) -> str:
    """A short digest of a JSON-safe value, to compare what is too long to keep."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
