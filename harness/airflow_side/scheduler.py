"""The scheduler side: the real SchedulerJobRunner and the real executor, stepped by the harness.

A step is one turn of ``SchedulerJobRunner._run_scheduler_loop`` as far as it concerns executors. No method of
Airflow is replaced. What is seen is seen from beside: the event buffer is a dict that notes what is put into
it, and the interpreter's profile hook tells when core hands a workload to ``queue_workload``.
"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import os
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from executor_conformance.harness.airflow_side import origin, seeding
from executor_conformance.harness.airflow_side.failures import failure, raised, trace
from executor_conformance.harness.airflow_side.pace import Pace
from executor_conformance.harness.channel import Channel
from executor_conformance.harness.rules import without_tokens

KEPT_TOKENS = 20
"""How many of the last queued tokens are kept in memory, for a case that looks where else they are."""
MOST_OF_A_TRACE = 40_000
"""Characters of a traceback: the frames of a deep one, down to where the exception was raised."""


def describe_key(key: Any) -> dict[str, Any]:
    """The type and the text of a workload key, and its id where it has one."""
    identity = getattr(key, "id", None)
    return {"key_type": type(key).__name__, "key": str(identity if identity is not None else key)}


class EventRecorder(dict):
    """An executor's event buffer that notes each event at the moment it is put in."""

    def __init__(self, notes: list[dict[str, Any]], executor: str, content: dict[Any, Any]) -> None:
        super().__init__()
        self.notes = notes
        self.executor = executor
        for key, value in content.items():
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        state, info = (*value, None, None)[:2] if isinstance(value, tuple) else (value, None)
        self.notes.append(
            {
                "at": time.monotonic(),
                "executor": self.executor,
                **describe_key(key),
                "state": None if state is None else str(getattr(state, "value", state)),
                "state_type": type(state).__name__,
                "info": None if info is None else str(info)[:2000],
            }
        )
        super().__setitem__(key, value)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As of a dict, noting what is put in."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dict, noting what is put in."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self


TERMINAL = ("success", "failed")


class SchedulerSide:
    """What one scheduler process holds: the runner, its executors, and what was seen of them."""

    def __init__(self, channel: Channel) -> None:
        from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
        from airflow.executors.executor_loader import ExecutorLoader
        from airflow.jobs.job import Job
        from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

        self.channel = channel
        self.fingerprint_key = os.environ["EXECUTOR_CONFORMANCE_FINGERPRINT_KEY"].encode()
        executors = ExecutorLoader.init_executors()
        self.runner = SchedulerJobRunner(job=Job(), executors=executors)
        self.runner.job.job_type = self.runner.job_type
        seeding.save_job(self.runner.job)
        self.names = {id(executor): self._name(executor) for executor in executors}
        self.notes: list[dict[str, Any]] = []
        self.workloads: list[dict[str, Any]] = []
        self.ended = False
        self.slots: dict[str, Any] = {}
        self.tokens: dict[str, str] = {}
        self.pace = Pace()
        for executor in executors:
            executor.job_id = self.runner.job.id
            executor.callback_sink = DatabaseCallbackSink()  # as SchedulerJobRunner._execute does
            executor.start()

    @staticmethod
    def _name(executor: Any) -> str:
        name = executor.name
        return (name.alias or name.module_path) if name else type(executor).__name__

    def executors(self) -> list[dict[str, Any]]:
        """Tell what was loaded: name, class path, parallelism, and what tells its code from core's."""
        return [
            {
                "name": self.names[id(executor)],
                "class": f"{type(executor).__module__}.{type(executor).__qualname__}",
                "parallelism": executor.parallelism,
                **origin.origin_of(executor),
            }
            for executor in self.runner.executors
        ]

    # -- observing ----------------------------------------------------------------------------------------

    def _record_events(self) -> None:
        for executor in self.runner.executors:
            if not isinstance(executor.event_buffer, EventRecorder):
                name = self.names[id(executor)]
                executor.event_buffer = EventRecorder(self.notes, name, executor.event_buffer)

    def _fingerprint(self, token: str) -> str:
        return hmac.new(self.fingerprint_key, token.encode(), hashlib.sha256).hexdigest()[:16]

    def _watch_queueing(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or frame.f_code.co_name not in ("queue_workload", "register_queued_task"):
            return
        workload, executor = frame.f_locals.get("workload"), frame.f_locals.get("self")
        token = getattr(workload, "token", None)
        if workload is None or token is None or executor is None or id(executor) not in self.names:
            return
        key = describe_key(
            executor.get_workload_key(workload) if hasattr(executor, "get_workload_key") else workload.key
        )
        if any(seen["key"] == key["key"] for seen in self.workloads):
            return  # an override that calls its parent shows the same workload twice
        import jwt

        self.tokens[key["key"]] = token
        while len(self.tokens) > KEPT_TOKENS:
            del self.tokens[next(iter(self.tokens))]
        claims = jwt.decode(token, options={"verify_signature": False}) if token else None
        header = jwt.get_unverified_header(token) if token else None
        self.workloads.append(
            {
                "at": time.monotonic(),
                "executor": self.names[id(executor)],
                "workload_type": type(workload).__name__,
                **key,
                "log_path": getattr(workload, "log_path", None),
                "token": {"claims": claims, "header": header, "fingerprint": self._fingerprint(token)}
                if token
                else None,
            }
        )

    def _slots(self) -> dict[str, Any]:
        now = {}
        for executor in self.runner.executors:
            queues = getattr(executor, "executor_queues", None)
            if queues is not None:
                queued = [key for queue in queues.values() for key in queue]
            else:
                queued = [*executor.queued_tasks, *executor.queued_callbacks]
            now[self.names[id(executor)]] = {
                "running": sorted(describe_key(key)["key"] for key in executor.running),
                "queued": sorted(describe_key(key)["key"] for key in queued),
                "occupied": executor.slots_occupied,
                "parallelism": executor.parallelism,
            }
        return now

    def _set_parallelism(self, value: int) -> None:
        self.runner._parallelism = value
        self.runner.executors[0].parallelism = value

    def _stop_at_drain(self, key: str) -> Callable[[FrameType, str, Any], None]:
        """A profile hook that is a breakpoint: core has taken the terminal event of ``key`` and written nothing yet.

        The harness gets the answer of the step at once; the process then waits to be killed.
        """

        def hook(frame: FrameType, event: str, argument: Any) -> None:
            if event != "return" or frame.f_code.co_name != "get_event_buffer" or not isinstance(argument, dict):
                return
            for taken, value in argument.items():
                state = value[0] if isinstance(value, tuple) else value
                if describe_key(taken)["key"] == key and str(getattr(state, "value", state)) in TERMINAL:
                    self.channel.send({**self._seen(None), "drained": key})
                    self.channel.receive()
                    os._exit(1)

        return hook

    # -- operations ---------------------------------------------------------------------------------------

    def step(
        self, scheduling: bool = False, parallelism: list[int] | None = None, stop_at_drain: str = ""
    ) -> dict[str, Any]:
        """One turn of the scheduler loop; what came of it, and what it raised, if it did.

        ``stop_at_drain``: where core takes the terminal event of this key, the turn is never finished.

        ``parallelism`` sets the parallelism of the first executor and of the runner: the second value for the
        heartbeat, the first for the rest. That is how a queue is made longer than its slots.
        """
        from airflow.utils.session import create_session

        self._record_events()
        error = None
        where = ""
        if parallelism:
            self._set_parallelism(parallelism[0])
        try:
            if scheduling:
                where = "_do_scheduling"
                with create_session() as session:
                    self.runner._do_scheduling(session)
                    session.expunge_all()
            if parallelism:
                self._set_parallelism(parallelism[1])
            for executor in self.runner.executors:
                where = f"{type(executor).__name__}.heartbeat"
                self.pace.measure(self.names[id(executor)], "heartbeat", executor.heartbeat)
            if parallelism:
                self._set_parallelism(parallelism[0])
            where = "_process_executor_events"
            sys.setprofile(self._stop_at_drain(stop_at_drain) if stop_at_drain else None)
            try:
                with create_session() as session:
                    for executor in self.runner.executors:
                        self.runner._process_executor_events(executor=executor, session=session)
            finally:
                sys.setprofile(None)
            where = "_enqueue_executor_callbacks"
            sys.setprofile(self._watch_queueing)
            try:
                with create_session() as session:
                    self.runner._enqueue_executor_callbacks(session)
            finally:
                sys.setprofile(None)
        except Exception as raised:
            error = {
                "where": where,
                "type": type(raised).__name__,
                "message": without_tokens(str(raised))[:1000],
                "traceback": trace()[-MOST_OF_A_TRACE:],
            }
        return self._seen(error)

    def _seen(self, error: dict[str, Any] | None) -> dict[str, Any]:
        slots = self._slots()
        answer = {
            "events": self.notes.copy(),
            "workloads": self.workloads.copy(),
            "slots": slots if slots != self.slots else None,
            "slow": self.pace.take(),
            "error": error,
        }
        self.notes.clear()
        self.workloads.clear()
        self.slots = slots
        return answer

    def end(self, how: str) -> dict[str, Any]:
        """Call ``end()`` or ``terminate()`` of each executor, as core does at its end; it reads no event afterwards."""
        self._record_events()
        self.ended = True
        began, failed = time.monotonic(), None
        for executor in self.runner.executors:
            try:
                getattr(executor, how)()
            except Exception as error:
                failed = {**raised(error), "traceback": trace()[-MOST_OF_A_TRACE:]}
        return {**self._seen(None), "took_s": round(time.monotonic() - began, 3), "failed_with": failed}

    def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request of the harness."""
        op = message.pop("op")
        if op == "step":
            return self.step(**message)
        if op == "end":
            return self.end(**message)
        if op == "tokens":
            return {"tokens": self.tokens}
        if op == "executors":
            return {"executors": self.executors()}
        if op == "submit":
            return seeding.submit_callback(**message)
        if op == "create_run":
            return seeding.create_dag_run(**message)
        raise ValueError(f"unknown operation {op}")


def serve(channel: Channel) -> None:
    """Start the scheduler side and serve requests until the harness closes the connection."""
    from airflow.settings import configure_orm, dispose_orm
    from setproctitle import setproctitle

    setproctitle("airflow scheduler -- conformance")
    dispose_orm(do_log=False)
    configure_orm()
    try:
        if os.environ.get("EXECUTOR_CONFORMANCE_SEED"):
            seeding.seed_metadata()
        side = SchedulerSide(channel)
    except Exception as error:
        channel.send({"ready": False, "error": f"{type(error).__name__}: {error}", "details": trace()})
        raise
    from airflow.configuration import conf

    settings = {
        "task_queued_timeout": conf.getfloat("scheduler", "task_queued_timeout"),
        "audience": conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
    }
    channel.send({"ready": True, "pid": os.getpid(), "executors": side.executors(), "settings": settings})
    while (message := channel.receive()) is not None:
        try:
            answer = side.handle(message)
        except Exception as error:
            answer = failure(error)
        channel.send(answer)
    if side.ended:
        # As any interpreter does at its end: multiprocessing ends its daemonic processes, and waits for the others
        atexit._run_exitfuncs()
