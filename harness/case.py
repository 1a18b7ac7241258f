"""One case: what a scenario does to an environment."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil
from executor_conformance.harness.codec import digest, encode
from executor_conformance.harness.effects import Breakpoint
from executor_conformance.harness.errors import ConformanceError, SchedulerDied
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.rest import RestWatch
from executor_conformance.harness.rules import WireRule
from executor_conformance.harness.view import TERMINAL
from executor_conformance.harness.waits import Callback, Run, Waits

CALLABLES = "executor_conformance.suites.callables"

_probes = itertools.count(1)


class NotApplicable(ConformanceError):
    """The edition or the environment has no means for this case; the message says which."""


class DoesNotSupport(ConformanceError):
    """The subject declares that it runs no callbacks, and refuses them; the message says so."""


@dataclass
class Case(Waits):
    """A scenario's handle on its environment."""

    new_scheduler: bool = False
    """The scheduler was started or set otherwise than usual, so the next case needs a new one."""
    whole_afterwards: bool = True
    """False: the case leaves something behind that no later case can live with, so they get a new environment."""
    runs: list[Run] = field(default_factory=list)

    # -- callbacks and tasks ---------------------------------------------------------------------------------

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

    def run_dag_with_deadline(self, dag_id: str, probe: str) -> Callback:
        """Create a run whose deadline is already over; its callback becomes one of the case's."""
        made = self.env.create_run_beside(dag_id)
        return self.adopt(made["callbacks"][0], probe, dag_id)

    def control_task(self, dag_id: str, task_id: str) -> None:
        """Run a task to its end."""
        self.settle_task(self.run_dag(dag_id), dag_id, task_id)

    def settle_task(self, run: Run, dag_id: str, task_id: str) -> None:
        """Step until a task of ``run`` has ended, and its worker and its slot with it."""
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

    def stop_at(self, callback: Callback, what: str) -> Breakpoint:
        """Hold the callable when it reports ``what``."""
        return self.env.effects.stop_at(callback.probe, what)

    def rule(self, rule: WireRule) -> WireRule:
        """Apply a rule to the worker's requests to the Execution API."""
        self.env.wire.add_rule(rule)
        self.env.sink("fault", name="wire rule", rule=str(rule))
        return rule

    # -- faults, and what comes after them -------------------------------------------------------------------

    def fault(self, name: str, **fields: Any) -> None:
        """Note a fault that was just injected."""
        self.disturbed = True
        self.env.sink("fault", name=name, **fields)

    def needs_claim(self) -> None:
        """Go on only where the edition has a claim endpoint.

        :raises NotApplicable: it has none.
        """
        if not self.env.offers.has_claim:
            raise NotApplicable("The edition has no claim endpoint, so the point does not exist.")

    def needs_state_route(self) -> None:
        """Go on only where the worker itself reports the end of a callback.

        :raises NotApplicable: the edition has no route for it.
        """
        if not self.env.offers.worker_reports_end:
            raise NotApplicable("The edition has no route by which a worker reports the end of a callback.")

    def needs_way(self, point: str, way: str) -> None:
        """Go on only where the control plane or the data plane can fail at ``point`` by ``way``.

        :raises NotApplicable: it cannot.
        """
        if way not in self.env.backend.faults.get(point, ()):
            general = f"This environment has no means to reach the fault point '{point}'."
            raise NotApplicable(self.env.backend.unreachable.get(point, general))

    def inject(self, point: str, way: str, callback: Callback | None = None) -> None:
        """Let the control plane or the data plane fail at ``point`` by ``way``; see :meth:`Backend.inject`.

        :raises NotApplicable: the environment has no means for it.
        """
        self.needs_way(point, way)
        if why := self.env.refuses_callbacks():
            raise DoesNotSupport(why)
        done = self.env.backend.inject(point, way, callback.id if callback else "")
        self.fault(point, way=way, done=done)

    def heal(self) -> None:
        """Take back the faults of the control plane and the data plane, once a request has met them.

        :raises NotApplicable: none has, so nothing was tried; an executor may ask at intervals, so it gets a while.
        """
        until = time.monotonic() + self.env.poll_s(LIMITS.fault_hit)
        while (hits := self.env.backend.hits()) == 0 and time.monotonic() < until:
            self.pump()
            self.pause()
        self.env.backend.heal()
        self.env.sink("note", what="healed", hits=hits)
        if hits == 0:
            raise NotApplicable("The executor makes no request that the fault is for, so the point was not reached.")

    def renew_workers(self, settings: Mapping[str, str]) -> None:
        """Start workers with other values of these settings of the deployment, and with all others as usual.

        :raises NotApplicable: that cannot be done in this environment.
        """
        if not self.env.renew_workers(settings):
            raise NotApplicable("This environment has no means to start its workers with other settings.")

    def restart_scheduler(self, point: str) -> None:
        """SIGKILL the scheduler with all its children, and start another, as a service manager would."""
        self.new_scheduler = True
        self.fault(point, victim="scheduler", pid=self.env.site.scheduler_pid)
        self.env.stop_plain_scheduler()
        self.env.start_scheduler()

    def end_scheduler(self, how: str, limit: float) -> None:
        """End the scheduler by ``end`` or ``terminate`` of its executors, and start another."""
        self.new_scheduler = True
        self.env.end_scheduler(how, limit)
        self.env.start_scheduler()

    def needs_victim(self, victim: str) -> None:
        """Go on only where a fault can kill ``victim``; see :attr:`Backend.victims`.

        :raises NotApplicable: it cannot.
        """
        if victim not in self.env.backend.victims:
            raise NotApplicable(f"The environment has no means to kill '{victim}' alone.")

    def kill(self, pids: Iterable[int], point: str, victim: str) -> None:
        """SIGKILL processes, and wait until they are gone.

        :raises NotApplicable: the pids are of another machine or container.
        """
        self._of_this_host()
        pids = list(pids)
        self.fault(point, victim=victim, pids=pids)
        self.env.watcher.kill(pids)
        deadline = Deadline(LIMITS.stop_grace)
        while set(pids) & set(self.env.processes()) and not deadline.over():
            time.sleep(0.002)
        self.env.observe()

    def stop_processes(self, pids: Iterable[int]) -> None:
        """SIGSTOP processes.

        :raises NotApplicable: the pids are of another machine or container.
        """
        self._of_this_host()
        self.env.watcher.kill(list(pids), signal.SIGSTOP)

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

    def holdings(self, count: int) -> dict[str, Any]:
        """Return what the scheduler's process holds after ``count`` workloads, and how often it called.

        ``descriptors``, ``threads`` and ``children`` are numbers, ``memory`` is its own in bytes. ``calls`` and
        ``bounds`` are by operation of the control plane; ``calls`` is None where nobody counts them.
        """
        assert self.env.scheduler is not None
        process = psutil.Process(self.env.scheduler.pid)
        calls = self.env.backend.calls()
        return {
            "count": count,
            "pid": process.pid,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(process.children(recursive=True)),
            "memory": process.memory_full_info().uss,
            "calls": None if calls is None else dict(calls),
            "bounds": dict(self.env.backend.calls_per_workload),
        }

    def plain_scheduler(self) -> None:
        """Let the ``airflow scheduler`` command take the place of the stepped scheduler for this case."""
        self.new_scheduler = True
        self.env.start_plain_scheduler()

    def scheduler_survives(self, ended: Callable[[], Any], who: str, limit: float) -> None:
        """Step until ``ended``, or for ``limit`` seconds; a scheduler that ends meanwhile is noted, not raised.

        On an overloaded machine it is given up to three times as long, for it may not have got to anything yet.
        """
        deadline = Deadline(limit)
        try:
            while not ended() and not deadline.over():
                self.pump()
                self.pause()
            self.env.sink("scheduler", what="survived", who=who)
        except SchedulerDied as died:
            self.env.sink("note", what="scheduler ended", who=who, message=str(died))

    def _of_this_host(self) -> None:
        if not self.env.backend.on_this_host:
            raise NotApplicable("The workers are no processes of this host, so none of them can be signalled.")
