"""One case: what a scenario does to an environment, and how it waits.

A wait ends on an event or on rest. Rest means that nothing which belongs to the callbacks is alive: no unit of
work, no request in flight, no message or timer that the backend declares, and the subject has synced since.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.harness.codec import digest, encode
from executor_conformance.harness.effects import Breakpoint
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import BoundReached, ConformanceError, SchedulerDied
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import overloaded
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.rules import WireRule
from executor_conformance.harness.view import TERMINAL

CALLABLES = "executor_conformance.suites.callables"

_probes = itertools.count(1)


class NotApplicable(ConformanceError):
    """The edition or the environment has no means for this case; the message says which."""


class DoesNotSupport(ConformanceError):
    """The subject declares that it runs no callbacks, and refuses them; the message says so."""


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
    whole_afterwards: bool = True
    """False: the case leaves something behind that no later case can live with, so they get a new environment."""
    callbacks: list[Callback] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    _pause: float = LIMITS.pump_interval
    _seen: int = 0
    _step_s: float = 0.0

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
        queue: str | None = None,
    ) -> Callback:
        """Miss a deadline whose callback is ``callable_``.

        :param callable_: a name of the suite's callables, ``dag-file:NAME``, or a dotted path.
        :param expect: 'success', 'failure' (the callable fails) or 'terminal' (a fault decides).
        :param role: 'subject', 'follow-up' or 'filler'.
        :param queue: that its data names, where the running core can express that.
        """
        if executor is None and (why := self.env.refuses_callbacks()):
            raise DoesNotSupport(why)
        name = f"p{next(_probes)}"
        path = callable_ if not callable_ or "." in callable_ or ":" in callable_ else f"{CALLABLES}.{callable_}"
        sent = encode(kwargs or {})
        all_kwargs = {**sent, "probe": name} if probe else sent
        assert self.env.scheduler is not None
        more = {"queue": queue} if queue else {}
        made = self.env.scheduler.submit(path, all_kwargs, executor=executor, **more)
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

    def run_dag(self, dag_id: str, **more: Any) -> Run:
        """Create a run of one of the environment's Dags; the scheduler schedules from now on.

        :param more: for the note of it; ``role`` 'beside' for tasks that run beside faults, with ``expect``: the state
            that each ends in, or 'terminal' where a fault decides.
        """
        assert self.env.scheduler is not None
        made = self.env.scheduler.create_run(dag_id)
        run = Run(made["run_id"], made["task_instances"], tuple(made["callbacks"]))
        self.env.sink("note", what="dag run", dag_id=dag_id, **made, **more)
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

    def inject(self, point: str, way: str, callback: Callback | None = None) -> None:
        """Let the control plane or the data plane fail at ``point`` by ``way``; see :meth:`Backend.inject`.

        :raises NotApplicable: the environment has no means for it.
        """
        self.needs_way(point, way)
        if why := self.env.refuses_callbacks():
            raise DoesNotSupport(why)
        done = self.env.backend.inject(point, way, callback.id if callback else "")
        self.fault(point, way=way, done=done)

    def needs_way(self, point: str, way: str) -> None:
        """Go on only where the control plane or the data plane can fail at ``point`` by ``way``.

        :raises NotApplicable: it cannot.
        """
        if way not in self.env.backend.faults.get(point, ()):
            general = f"This environment has no means to reach the fault point '{point}'."
            raise NotApplicable(self.env.backend.unreachable.get(point, general))

    def heal(self) -> None:
        """Take back the faults of the control plane and the data plane, once a request has met them.

        :raises NotApplicable: none has, so nothing was tried; an executor may ask at intervals, so it gets a while.
        """
        until = time.monotonic() + LIMITS.fault_hit
        while (hits := self.env.backend.hits()) == 0 and time.monotonic() < until:
            self.pump()
            self.pause()
        self.env.backend.heal()
        self.env.sink("note", what="healed", hits=hits)
        if hits == 0:
            raise NotApplicable("The executor makes no request that the fault is for, so the point was not reached.")

    def restart_scheduler(self, point: str) -> None:
        """SIGKILL the scheduler with all its children, and start another, as a service manager would."""
        self.new_scheduler = True
        self.fault(point, victim="scheduler", pid=self.env.site.scheduler_pid)
        self.env.stop_plain_scheduler()
        self.env.start_scheduler()

    def kill(self, pids: Iterable[int], point: str, victim: str) -> None:
        """SIGKILL processes, and wait until they are gone.

        :raises NotApplicable: the pids are of another machine or container.
        """
        self._of_this_host()
        pids = list(pids)
        self.fault(point, victim=victim, pids=pids)
        self.env.watcher.kill(pids)
        deadline = time.monotonic() + LIMITS.stop_grace
        while time.monotonic() < deadline and set(pids) & set(self.env.processes()):
            time.sleep(0.002)
        self.env.observe()

    def needs_victim(self, victim: str) -> None:
        """Go on only where a fault can kill ``victim``; see :attr:`Backend.victims`.

        :raises NotApplicable: it cannot.
        """
        if victim not in self.env.backend.victims:
            raise NotApplicable(f"The environment has no means to kill '{victim}' alone.")

    def _of_this_host(self) -> None:
        if not self.env.backend.on_this_host:
            raise NotApplicable("The workers are no processes of this host, so none of them can be signalled.")

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
        deadline = time.monotonic() + LIMITS.settle
        steps = self.env.steps
        since = time.monotonic()
        mark = None
        while self.state(callback) not in states and time.monotonic() < deadline:
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

    def linger(self, seconds: float = LIMITS.quiet_window) -> None:
        """Go on for a quiet window, or so many seconds: time for what must not happen."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.pump()
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

    def stop_processes(self, pids: Iterable[int]) -> None:
        """SIGSTOP processes.

        :raises NotApplicable: the pids are of another machine or container.
        """
        self._of_this_host()
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

    def lose_node(self, point: str) -> list[int]:
        """Kill the whole worker and start a new one; the pids of what was killed."""
        self.fault(point, victim="node", pids=[])
        killed = self.env.backend.lose_node()
        self.env.sink("note", what="node lost", pids=killed)
        self.env.observe()
        return killed

    def settle(self, callbacks: Sequence[Callback] | None = None, limit: float | None = None) -> None:
        """Step until everything about ``callbacks`` (default: all of the case) has come to rest.

        The history then holds a ``rest`` event with its proof, or a ``bound`` event.
        """
        watch = RestWatch(self, callbacks if callbacks is not None else self.callbacks)
        limit = limit or self.env.settle_s
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

    def _note_successes(self) -> None:
        """Note of which callbacks the data plane says that they succeeded: of earlier ones too, for a row that has
        ended is at rest before its worker has reported.
        """
        noted = {event["callback"] for event in self.env.history.of("note", what="worker succeeded")}
        for callback in self.callbacks:
            if callback.id not in noted and self.env.backend.succeeded(callback.id):
                self.env.sink("note", what="worker succeeded", callback=callback.id)

    def follow_up(self, task: bool = True) -> None:
        """The next callback and the next task, in the environment as the fault has left it.

        A worker that has ended by itself, as one does that has not reached its API for long, is started again first, as
        a service manager would.
        """
        if "node" in self.env.backend.victims and not self.env.backend.nodes():
            self.env.backend.repair(thorough=False)
            self.env.sink("note", what="worker started again")
            self.env.observe()
        callback = self.submit("succeed", role="follow-up")
        self.settle([callback])
        if task:
            self.control_task("conformance_task_succeeds", "succeeds")

    def plain_scheduler(self) -> None:
        """Let the ``airflow scheduler`` command take the place of the stepped scheduler for this case."""
        self.new_scheduler = True
        self.env.start_plain_scheduler()

    def scheduler_survives(self, ended: Callable[[], Any], who: str, limit: float) -> None:
        """Step until ``ended``, or for ``limit`` seconds; a scheduler that ends meanwhile is noted, not raised.

        On an overloaded machine it is given up to three times as long, for it may not have got to anything yet.
        """
        began = time.monotonic()
        try:
            while not ended() and time.monotonic() - began < (3 * limit if overloaded() else limit):
                self.pump()
                self.pause()
            self.env.sink("scheduler", what="survived", who=who)
        except SchedulerDied as died:
            self.env.sink("note", what="scheduler ended", who=who, message=str(died))

    def run_dag_with_deadline(self, dag_id: str, probe: str) -> Callback:
        """Create a run whose deadline is already over; its callback becomes one of the case's."""
        made = self.env.create_run_beside(dag_id)
        return self.adopt(made["callbacks"][0], probe, dag_id)

    def adopt(self, callback_id: str, probe: str, path: str) -> Callback:
        """Take a callback that core has made by itself for one of the case's; it is to succeed."""
        callback = Callback(callback_id, probe)
        self.env.sink(
            "submitted",
            callback=callback.id,
            probe=probe,
            path=path,
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
        ended = TERMINAL | {"up_for_retry", "skipped"}
        # Its slot too: what cleans up after the case must not come between the executor and the end of the unit
        while self.task_state(run, task_id) not in ended or watch.live() or self.holds_task(run):
            self.pump()
            if watch.at_rest() or watch.expired(self.env.settle_s):
                watch.give_up(f"task {dag_id}.{task_id}", self.env.settle_s)
                break
            self.pause()
        self.scheduling = False
