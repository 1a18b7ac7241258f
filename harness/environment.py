"""An environment: metadata database, API server, scheduler side and worker side, started for real.

It starts once and serves many cases. What happens in it goes into the history of the case that is on.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from executor_conformance.harness import bounds
from executor_conformance.harness.api_server import ApiServer
from executor_conformance.harness.backend import Backend, Options, Site, Variant, local_worker_units
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.channel import Channel
from executor_conformance.harness.database import make_database
from executor_conformance.harness.deaths import CORE, Cause, Origin, cause_of
from executor_conformance.harness.edition import Edition, edition_of
from executor_conformance.harness.effects import EffectsServer
from executor_conformance.harness.errors import BoundReached, HarnessError, SchedulerDied
from executor_conformance.harness.history import Clock, History
from executor_conformance.harness.journal import Journal
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.machine import crowd_of_this_machine
from executor_conformance.harness.pressure import Deadline, overloaded
from executor_conformance.harness.processes import ProcessInfo, ProcessWatcher, kill_frozen
from executor_conformance.harness.rules import keyed_fingerprint
from executor_conformance.harness.runaway import Budget, Runaway
from executor_conformance.harness.scheduler import FROM_OUTSIDE, SchedulerHandle, Zygote
from executor_conformance.harness.settings import base_environ
from executor_conformance.harness.supervisor import ManagedProcess, Supervisor
from executor_conformance.harness.wire import WireRecorder


def all_at_once(*steps: Callable[[], object]) -> None:
    """Carry out what ends something, and return when all is done; that one fails keeps no other from it."""

    def carry_out(step: Callable[[], object]) -> None:
        with contextlib.suppress(Exception):
            step()

    threads = [threading.Thread(target=carry_out, args=[step], daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Environment:
    """One backend, one executor class, one variant, running.

    :param folder: the run folder of this environment; removed at :meth:`stop` with everything in it.
    """

    def __init__(
        self,
        backend: type[Backend],
        options: Options,
        variant: Variant,
        folder: Path,
        clock: Clock | None = None,
    ) -> None:
        self.options = options
        self.variant = variant
        self.executor = options.executor or variant.executor or backend.executor
        self._refusals: dict[str, str] = {}
        self._origins: list[Origin] = []
        """Of the executors that were loaded last; the ``airflow scheduler`` command tells nothing of its own."""
        self.clock = clock or Clock()
        self.history = History(self.clock, {"case": "", "subject": variant.label})
        self.folder = folder
        self.edition = ""
        self.airflow_version = ""
        self.timings: dict[str, float] = {}
        self._fingerprint_key = secrets.token_hex(16)
        self._last_step = 0.0
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        budget = Budget.of(backend.worker_concurrency, options.processes)
        self.supervisor = Supervisor(folder, budget, self._nodes, self._note_runaway)
        self.site = Site(folder, self.supervisor, options, variant)
        self.site.events_of = lambda key: self.history.of("event", key=key)
        self.backend = backend(self.site)
        self.scheduler: SchedulerHandle | None = None
        self.zygote: Zygote | None = None
        self.steps = 0
        self.started_at_step = 0
        """What ``steps`` was when the scheduler started: the same as now if it has not done anything yet."""
        self.slots: dict[str, Any] = {}
        self.plain_scheduler: ManagedProcess | None = None
        self._usual: dict[str, str] = {}
        """What the settings are that workers have other values of at present."""
        self._whole = True
        self._killed = ""
        """Who ended the ``airflow scheduler`` command, in a sentence, if it was neither the harness nor itself."""

    # -- history ------------------------------------------------------------------------------------------

    def sink(self, kind: str, *, t: float | None = None, **fields: Any) -> Any:
        """Append to the history of the case that is on."""
        return self.history.append(kind, t=t, **fields)

    @property
    def offers(self) -> Edition:
        """What the running core offers for callbacks, once the environment has started."""
        return load_catalogue().edition_or_latest(self.edition)

    @property
    def whole(self) -> bool:
        """Whether everything that the next case needs is still alive."""
        return self._whole and not self.supervisor.runaway and self.scheduler is not None and not self.lost()

    @whole.setter
    def whole(self, value: bool) -> None:
        self._whole = value

    def check(self) -> None:
        """Go on only while the environment keeps to its budget; to be asked wherever something is waited for.

        :raises RanAway: it was exceeded, and nothing of the environment is left.
        """
        self.supervisor.check()

    def _nodes(self) -> list[int]:
        return [node.pid for node in self.backend.nodes()]

    def _note_runaway(self, runaway: Runaway) -> None:
        self.sink("runaway", **runaway.fields)

    # -- start and stop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; the parts that do not need one another start at the same time.

        :raises HarnessError: a part did not start; the message names it and quotes its log.
        """
        began = time.monotonic()
        try:
            self._start()
        except BaseException:
            runaway = self.supervisor.runaway  # it explains whatever else was seen
            self.stop()
            if runaway:
                raise HarnessError(runaway.sentence) from None
            raise
        self.timings["start_s"] = round(time.monotonic() - began, 2)

    def _start(self) -> None:
        began = time.monotonic()
        base = base_environ(self.folder, self.executor, self.backend.callable_timeout_s, self._fingerprint_key)
        self.database = make_database(
            self.options.database, self.folder / "database", base, spawn=self.supervisor.spawn
        )
        base |= self.database.environ
        self.journal = Journal(self.database)
        self.journal.install()
        self.site.journal = self.journal
        self.timings["database_s"] = round(time.monotonic() - began, 2)
        self.api_server = ApiServer(self.backend.api_apps)
        self.server_url = self.api_server.url
        host = self.backend.api_host()
        if host:
            base["NO_PROXY"] += f",{host}"
        self.effects = EffectsServer(self.sink, host, bounds.hold_s(self.backend))
        self.effects.start()
        fingerprint = self.fingerprint = keyed_fingerprint(self._fingerprint_key.encode())
        self.watcher = ProcessWatcher(self.supervisor, self.sink, self.backend.roots)
        for label in ("execution", *self.backend.apis):
            recorder = WireRecorder(label, self.server_url, self.sink, fingerprint, self._pids, host)
            recorder.start()
            self.site.recorders[label] = recorder
        self.wire = self.site.recorders["execution"]
        self.site.api_url = self.wire.url
        base["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = f"{self.wire.url}/execution/"
        base["EXECUTOR_CONFORMANCE_EFFECTS_URL"] = self.effects.url
        self.site.worker_env = {
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.wire.worker_url}/execution/",
            "EXECUTOR_CONFORMANCE_EFFECTS_URL": self.effects.worker_url,
        }
        own = self.backend.config()
        self.own_settings = sorted(name for name in own if name.startswith("AIRFLOW__"))
        self.site.env = {**base, **own}
        self.api_server.start(self.supervisor, self.site.env, self.folder)
        self.zygote = Zygote(self.supervisor, self.folder, self.site.env)
        self.backend.start()
        self.zygote.wait_ready()
        self.airflow_version = self.zygote.airflow_version
        self.start_scheduler(seed=True)
        self.timings["scheduler_s"] = round(time.monotonic() - began, 2)
        self.api_server.wait_ready()
        self.timings["api_server_s"] = round(time.monotonic() - began, 2)
        self.edition = edition_of(self.server_url, load_catalogue().editions).id
        self.backend.wait_ready()
        self.timings["worker_s"] = round(time.monotonic() - began, 2)
        self.journal.install()  # tables that a component made at its start

    def lost(self) -> str:
        """What of the environment itself has ended by itself, in a sentence; empty if all is there."""
        if not self.api_server.alive:
            return f"The environment's API server has ended; see {self.api_server.process.log}."
        if self.zygote is None or not self.zygote.process.alive:
            return "The environment's process that forks schedulers has ended."
        if self.scheduler is not None and self.scheduler.killed:
            return self.scheduler.killed
        return self._killed or self.backend.lost()

    def start_scheduler(self, *, seed: bool = False, env: dict[str, str] | None = None) -> None:
        """Start a scheduler side, in place of the one that is on, if any."""
        if self.scheduler:
            self.stop_scheduler()
        assert self.zygote is not None
        more = {
            "AIRFLOW__CORE__EXECUTOR": self.executor,
            "EXECUTOR_CONFORMANCE_SUBJECT": self.executor,
            **dict(self.variant.settings),
            **(env or {}),
        }
        if seed:
            more["EXECUTOR_CONFORMANCE_SEED"] = "1"
        self.scheduler = SchedulerHandle(self.zygote, more)
        self._origins = [Origin.of(told) for told in self.scheduler.executors]
        self.site.scheduler_pid = self.scheduler.pid
        self.site.residents.begin(self.processes().values())
        self.started_at_step = self.steps
        self.slots = {}
        self.sink("scheduler", what="started", pid=self.scheduler.pid)

    def stop_scheduler(self) -> None:
        """Kill the scheduler side and what it forked."""
        if not self.scheduler:
            return
        pid = self.scheduler.pid
        tree = kill_frozen(pid)  # while the channel is open: a scheduler that ends by itself leaves its workers behind
        self.scheduler.close()
        deadline = Deadline(LIMITS.stop_grace)
        while self.watcher.snapshot().keys() & set(tree) and not deadline.over():
            time.sleep(0.005)
        self.scheduler = None
        self.sink("scheduler", what="stopped", pid=pid)

    def start_plain_scheduler(self) -> None:
        """Replace the stepped scheduler by the ``airflow scheduler`` command, until :meth:`repair`."""
        self.stop_scheduler()
        argv = [sys.executable, "-m", "airflow", "scheduler"]
        env = self.site.env | {"AIRFLOW__CORE__EXECUTOR": self.executor} | dict(self.variant.settings)
        self.plain_scheduler = self.supervisor.spawn("scheduler", argv, env, self.folder)
        self.site.scheduler_pid = self.plain_scheduler.pid
        self.sink("scheduler", what="started", pid=self.plain_scheduler.pid, command="airflow scheduler")

    def stop_plain_scheduler(self) -> None:
        """Kill the ``airflow scheduler`` command and what it started, if it is on."""
        if self.plain_scheduler:
            self.plain_scheduler.kill_tree()
            self.plain_scheduler = None
            self.sink("scheduler", what="stopped")

    def create_run_beside(self, dag_id: str) -> dict[str, Any]:
        """Create a Dag run from a process of its own, as the API or a user would."""
        return self.ask_beside("create_run", dag_id=dag_id)

    def ask_beside(self, op: str, limit: float = LIMITS.command, **arguments: Any) -> dict[str, Any]:
        """Have a process of its own that knows Airflow do ``op``; see ``airflow_side.inspection``.

        :raises HarnessError: it could not.
        """
        assert self.zygote is not None
        channel, _ = self.zygote.fork("inspection")
        try:
            answer = channel.call(op, limit, **arguments)
        finally:
            channel.close()
        if not answer or "failed" in answer:
            self.check()
            why = (answer or {}).get("failed", "its process ended")
            raise HarnessError(f"The environment could not do '{op}' ({arguments}): {why}")
        return answer

    def renew_workers(self, settings: Mapping[str, str]) -> bool:
        """Start workers with other values of these settings of the deployment, and with all others as usual.

        False: nothing has changed, for it cannot be done in this environment.
        """
        self.site.env |= self._usual
        self._usual = {name: self.site.env[name] for name in settings}
        self.site.env |= settings
        anew = self.backend.renew_workers()
        if anew is None:
            self.site.env |= self._usual
            self._usual = {}
        elif anew:
            self.start_scheduler(env=dict(settings))
        return anew is not None

    def use_variant(self, variant: Variant) -> None:
        """Turn the environment into another variant of the same backend."""
        if variant.label != self.variant.label:
            self.variant = variant
            self.executor = self.options.executor or variant.executor or type(self.backend).executor
            self.backend.use_variant(variant)
            self.start_scheduler()

    def use_executor(self, executor: str) -> None:
        """Put another executor class into the running environment."""
        if executor != self.executor:
            self.executor = executor
            self.start_scheduler()

    @property
    def settle_s(self) -> float:
        """How long a callback may take to its end: longer than any timer that this environment has configured."""
        return bounds.settle_s(self.backend, self.variant)

    def poll_s(self, at_least: float) -> float:
        """For how long something may come of a poll of the executor's or of a worker's."""
        return bounds.poll_s(self.backend, at_least)

    @property
    def crowd(self) -> int:
        """How many callbacks are sent at once."""
        return self.backend.crowd or crowd_of_this_machine()

    @property
    def patience_s(self) -> float:
        """For how long nothing may move before 'stuck' is proven."""
        own = self.options.patience_s if self.options.executor else self.variant.patience_s
        return max(LIMITS.quiet_window, own, self.backend.patience_s)

    def refuses_callbacks(self) -> str:
        """Return why the executor runs no callbacks: it declares none and takes none; '' if it takes them."""
        if self.executor not in self._refusals:
            offer = self.inspect("offer")["offer"]
            refused = not offer.get("declares", True) and not offer.get("taken", True)
            name = self.executor.rpartition(".")[2]
            how = f"refuses an ExecuteCallback with {offer['raised']}" if offer.get("raised") else "takes none"
            self._refusals[self.executor] = f"{name} declares no callbacks, and {how}." if refused else ""
        return self._refusals[self.executor]

    def repair(self, thorough: bool = False, new_scheduler: bool = False) -> None:
        """Bring the environment back to health after a case that disturbed it.

        :param thorough: something did not work in it afterwards, so the worker side is made anew.
        :param new_scheduler: the scheduler is made anew in any case.
        """
        self.effects.clear()
        self.wire.clear_rules()
        for recorder in self.site.recorders.values():
            recorder.accept()
        self.stop_plain_scheduler()
        self.backend.heal()
        left = self.units()
        self.watcher.kill(left)
        if self._usual:
            self.renew_workers({})
        if self.backend.repair(thorough) or new_scheduler or self.scheduler is None:
            self.start_scheduler()
        self.observe()

    def inspect(self, *ops: str, **arguments: Any) -> dict[str, Any]:
        """Run inspections of the executor class in a process of their own; results by name."""
        assert self.zygote is not None
        channel: Channel
        env = {"AIRFLOW__CORE__EXECUTOR": self.executor, "EXECUTOR_CONFORMANCE_SUBJECT": self.executor}
        channel, _ = self.zygote.fork("inspection", env)
        found: dict[str, Any] = {}
        try:
            for op in ops:
                answer = channel.call(op, LIMITS.command, **arguments)
                self.check()
                found[op] = answer if answer is not None else {"failed": "the inspecting process ended"}
        finally:
            channel.close()
        return found

    def stop(self) -> None:
        """Stop and remove everything; safe to call twice, during a start and after a failed one."""
        with self._lock:
            self._end_subject()
            if self.scheduler:
                self.scheduler.close()
            if self.zygote:
                self.zygote.close()
            if hasattr(self, "journal"):
                self.journal.close()
            parts: list[Any] = [*self.site.recorders.values(), getattr(self, "effects", None), self.backend]
            steps = [part.stop for part in parts if part is not None]
            if hasattr(self, "database"):
                steps.append(self.database.drop)
            all_at_once(*steps)
            self.supervisor.stop(remove=True)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end_subject(self) -> None:
        """Kill the schedulers with all that they started: what else is to be stopped needs the CPU for it."""
        mains = [self.zygote.process if self.zygote else None, self.plain_scheduler]
        if pids := [process.pid for process in mains if process is not None and process.alive]:
            kill_frozen(*pids)

    # -- observing ----------------------------------------------------------------------------------------

    def _pids(self) -> list[int]:
        return list(self.watcher.snapshot())

    def processes(self) -> dict[int, ProcessInfo]:
        """Live processes of the environment by pid."""
        return self.watcher.snapshot()

    def units(self, processes: dict[int, ProcessInfo] | None = None) -> list[int]:
        """Those of ``processes`` (default: of all) that carry out a workload, of a second executor too."""
        processes = self.processes() if processes is None else processes
        companion = local_worker_units(processes, self.site.scheduler_pid)
        return sorted({*self.backend.units(processes), *companion})

    def observe(self) -> None:
        """Bring rows and processes up to date in the history, without a step of the scheduler."""
        self.watcher.poll()
        self.clock.follow()
        for entry in self.journal.read():
            t = max(0.0, self.clock.from_wall(entry.at))
            if entry.table == "callback":
                self.sink(
                    "row",
                    t=t,
                    seq=entry.seq,
                    callback=entry.row_id,
                    old=entry.old,
                    new=entry.new,
                    output=entry.info,
                )
            else:
                self.sink("task_row", t=t, table=entry.table, id=entry.row_id, old=entry.old, new=entry.new)

    def pump(self, **step: Any) -> bool:
        """One step of the scheduler loop, observed; whether it stopped where it was told to, and waits to be killed.

        :raises SchedulerDied: the real code raised, which ends a real scheduler, or its process is gone.
        """
        self.check()
        if self.scheduler is None:
            if self.plain_scheduler and not self.plain_scheduler.alive:
                self.check()
                self._note_end_of_plain_scheduler(self.plain_scheduler)
            time.sleep(LIMITS.pump_interval)
            self.steps += 1
            self.observe()
            return False
        try:
            seen = self.scheduler.step(**step)
        except BoundReached as hang:
            self.check()
            self.sink("scheduler", what="hang", pid=self.scheduler.pid, limit_s=LIMITS.scheduler_step)
            raise SchedulerDied(f"A step of the scheduler loop did not come back: {hang}") from None
        except SchedulerDied:
            self.observe()
            self.sink("scheduler", what="gone", pid=self.scheduler.pid)
            raise
        self.steps += 1
        self._record(seen)
        if error := seen["error"]:
            cause = self.cause_of(error["traceback"])
            told: dict[str, Any] = {"cause": cause.to_event()} if cause else {}
            self.sink("scheduler", what="error", pid=self.scheduler.pid, **error, **told)
            raise SchedulerDied(
                f"{error['type']} in {error['where']} ended the scheduler: {error['message']}",
                error["traceback"],
            )
        return "drained" in seen

    def _record(self, seen: dict[str, Any]) -> None:
        """Write into the history what the scheduler side has seen of its executors."""
        for workload in seen["workloads"]:
            at = workload.pop("at") - self.clock.origin
            self.sink("workload", t=at, **workload)
        for event in seen["events"]:
            at = event.pop("at") - self.clock.origin
            self.sink("event", t=at, **event)
        for call in seen["slow"]:
            at = call.pop("at") - self.clock.origin
            self.sink("slow call", t=at, **call, overloaded=overloaded())
        if seen["slots"] is not None:
            self.slots = seen["slots"]
            self.sink("slots", executors=seen["slots"])
        self.observe()

    def end_scheduler(self, how: str, limit: float) -> None:
        """End the scheduler as core ends it: ``end`` or ``terminate`` of its executors, then its process.

        The history has how long the call took, the events that it left in the buffer, and what outlives the process.

        :param limit: seconds within which the call has to come back.
        :raises SchedulerDied: the process ended in the call.
        """
        assert self.scheduler is not None
        pid, tree = self.scheduler.pid, self.watcher.tree_of(self.scheduler.pid)
        titles = {each: process.title for each, process in self.processes().items() if each in tree}
        self.sink("scheduler", what="ending", how=how, pid=pid, tree=tree)
        try:
            seen = self.scheduler.end(how, limit)
        except BoundReached:
            self.sink("scheduler", what="ended", how=how, pid=pid, limit_s=limit)
            self.stop_scheduler()
            return
        self._record(seen)
        self.sink("scheduler", what="ended", how=how, pid=pid, took_s=seen["took_s"], failed_with=seen["failed_with"])
        self.scheduler.close()
        deadline = Deadline(LIMITS.beyond_a_timer)
        while set(tree) & set(self.processes()) and not deadline.over():
            time.sleep(0.02)
        left = sorted(set(tree) & set(self.processes()))
        self.sink("probe", name="left behind", how=how, processes={str(each): titles.get(each, "?") for each in left})
        self.watcher.kill(left)
        self.scheduler = None

    def cause_of(self, text: str) -> Cause | None:
        """Return the cause of a scheduler's death that a traceback or a log tells; None if it tells none."""
        causes = [cause_of(text, origin) for origin in self._origins] or [cause_of(text, Origin())]
        # Where several executors are loaded, it is the defect of the one whose code the traceback goes through
        return next((cause for cause in causes if cause and cause.owner != CORE), causes[0])

    def _note_end_of_plain_scheduler(self, process: ManagedProcess) -> NoReturn:
        """Record why the ``airflow scheduler`` command has ended.

        :raises SchedulerDied: always.
        """
        cause = self.cause_of(process.log_text())
        with contextlib.suppress(BoundReached, HarnessError):
            process.wait(LIMITS.stop_grace, "the guardian's report of its end")
        status = process.exit_status
        if status is not None and -status in FROM_OUTSIDE:
            self._killed = f"The airflow scheduler command {process.pid} was ended by signal {-status} from outside."
        said = cause.sentence if cause else f"exit status {status}, and its log tells no exception"
        told: dict[str, Any] = {"cause": cause.to_event()} if cause else {}
        self.sink("scheduler", what="gone", pid=process.pid, message=said, **told)
        raise SchedulerDied(f"The airflow scheduler command ended: {said}.", process.log_tail())
