"""The harness's end of the scheduler side: start it, step it, ask it, and notice when it dies or hangs."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor_conformance.harness import programs
from executor_conformance.harness.channel import Channel, socket_address, socket_name
from executor_conformance.harness.errors import BoundReached, HarnessError, SchedulerDied, UsageError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.processes import is_alive

if TYPE_CHECKING:
    from executor_conformance.harness.supervisor import ManagedProcess, Supervisor


ASKING_S = 5.0
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends a process without a defect of its own: another process, or the kernel for want of memory."""


class Zygote:
    """The process that has imported Airflow; forks scheduler sides and inspections."""

    def __init__(self, supervisor: Supervisor, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.supervisor = folder, supervisor
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = socket_name(str(folder / "z.sock"))
        self._listener.bind(socket_address(self._path))
        self._listener.listen()
        self.process: ManagedProcess = supervisor.spawn(
            "airflow-side",
            [sys.executable, "-m", "executor_conformance.harness.airflow_side.zygote", str(self._path)],
            env,
            folder,
        )
        self._channel: Channel | None = None
        self.airflow_version = ""

    def _accept(self, deadline: Deadline, reason: str) -> Channel:
        while True:
            self._listener.settimeout(deadline.slice_s())
            try:
                connection, _ = self._listener.accept()
                return Channel(connection)
            except TimeoutError:
                self.supervisor.check()
                if not self.process.alive:
                    raise HarnessError(f"{reason} ended at its start: {self.process.log_tail(5)}") from None
                if deadline.over():
                    raise BoundReached(f"{reason} did not start within {deadline}.") from None

    def wait_ready(self) -> None:
        """Wait until Airflow is imported.

        :raises HarnessError: Airflow or the executor's module does not import.
        """
        deadline = Deadline(LIMITS.scheduler_start)
        self._channel = self._accept(deadline, "The process that imports Airflow")
        hello = self._channel.receive_by(deadline, "The import of Airflow")
        if not hello or not hello.get("ready"):
            raise HarnessError(f"Airflow does not import: {(hello or {}).get('error', self.process.log_tail(5))}")
        self.airflow_version = hello["airflow"]

    def fork(self, role: str, env: dict[str, str] | None = None) -> tuple[Channel, dict[str, Any]]:
        """Fork a process of ``role`` ('scheduler' or 'inspection'); returns its channel and its greeting."""
        assert self._channel is not None
        log = self.folder / "logs" / f"{role}-{secrets.token_hex(3)}.log"
        self._channel.send({"role": role, "env": env or {}, "socket": str(self._path), "log": str(log)})
        deadline = Deadline(LIMITS.scheduler_start)
        forked = self._channel.receive_by(deadline, f"The fork of the {role} process", lambda: self.process.alive)
        if forked is None:
            self.supervisor.check()
            raise HarnessError(f"The {role} process did not start: the process that forks it has ended.")
        channel = self._accept(deadline, f"The {role} process")
        pid = forked["pid"]
        greeting = channel.receive_by(deadline, f"The start of the {role} process", lambda: is_alive(pid))
        if not greeting or not greeting.get("ready"):
            self.supervisor.check()
            why = (greeting or {}).get("error") or _last_line(log)
            raise HarnessError(f"The {role} process did not start: {why}")
        greeting["log"] = str(log)
        return channel, greeting

    def status_of(self, pid: int) -> int | None:
        """The exit status of a fork, as of ``os.waitstatus_to_exitcode``; None if nobody can say."""
        assert self._channel is not None
        try:
            answer = self._channel.call("status", LIMITS.stop_grace + ASKING_S, pid=pid)
        except BoundReached:
            return None
        return answer["status"] if answer else None

    def close(self) -> None:
        """Close the sockets; the processes themselves belong to the supervisor."""
        if self._channel:
            self._channel.close()
        self._listener.close()


def _last_line(log: Path) -> str:
    try:
        return log.read_text("utf-8", "replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return "it ended without a word"


class SchedulerHandle:
    """One running scheduler side."""

    def __init__(self, zygote: Zygote, env: dict[str, str] | None = None) -> None:
        self._zygote = zygote
        self._channel, greeting = zygote.fork("scheduler", env)
        self.pid: int = greeting["pid"]
        self.log = Path(greeting["log"])
        self.executors: list[dict[str, Any]] = greeting["executors"]
        self.settings: dict[str, Any] = greeting["settings"]
        self.killed = ""
        """Who ended it, in a sentence, if it was neither the harness nor itself."""

    @property
    def parallelism(self) -> int:
        """Of the first executor."""
        return int(self.executors[0]["parallelism"])

    def _call(self, op: str, limit: float, **arguments: Any) -> dict[str, Any]:
        answer = self._ask(op, limit, arguments)
        if answer is None:
            self._zygote.supervisor.check()
            status = self._zygote.status_of(self.pid)
            if status is not None and -status in FROM_OUTSIDE:
                name = signal.Signals(-status).name
                self.killed = f"The scheduler process {self.pid} was ended by {name}, which the harness has not sent."
            raise SchedulerDied(f"The scheduler process {self.pid} ended during '{op}' (log: {self.log}).")
        if "failed" in answer:
            raise HarnessError(f"The scheduler side could not do '{op}': {answer['failed']}")
        return answer

    def _ask(self, op: str, limit: float, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None if the process has ended, also where what it forked still has its end of the channel."""
        deadline = Deadline(limit)
        try:
            self._channel.send({"op": op, **arguments})
        except OSError:
            return None
        return self._channel.receive_by(deadline, f"The answer to '{op}'", lambda: is_alive(self.pid))

    def step(self, **arguments: Any) -> dict[str, Any]:
        """One turn of the scheduler loop: ``events``, ``workloads``, ``slots``, ``error``.

        :raises SchedulerDied: the process ended.
        :raises BoundReached: the step did not come back.
        """
        return self._call("step", LIMITS.scheduler_step, **arguments)

    def end(self, how: str, limit: float) -> dict[str, Any]:
        """Call ``end`` or ``terminate`` of the executors; an answer as of :meth:`step`, ``took_s``, ``failed_with``.

        :raises SchedulerDied: the process ended.
        :raises BoundReached: the call did not come back within ``limit`` seconds.
        """
        return self._call("end", limit, how=how)

    def tokens(self) -> dict[str, str]:
        """The queued tokens that core has handed out lately, by workload key; never to be stored."""
        found: dict[str, str] = self._call("tokens", LIMITS.command)["tokens"]
        return found

    def submit(self, path: str, kwargs: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Make a missed deadline's callback row; returns ``callback`` (id) and ``path``."""
        return self._call("submit", LIMITS.command, path=path, kwargs=kwargs, **more)

    def create_run(self, dag_id: str, **more: Any) -> dict[str, Any]:
        """Create a Dag run: ``run_id``, ``task_instances`` (task id to id), ``callbacks`` of its deadlines."""
        return self._call("create_run", LIMITS.command, dag_id=dag_id, **more)

    def close(self) -> None:
        """Close the channel; the process ends by itself when it notices."""
        self._channel.close()


def check_executor_path(path: str) -> None:
    """Import the executor in a process of its own, so that a bad path is refused before anything starts.

    :raises UsageError: it does not import, also where its import waits, or is no executor.
    :raises BoundReached: the machine had no CPU left for the import.
    """
    script = (
        "import sys, inspect\n"
        "from importlib import import_module\n"
        "module, _, name = sys.argv[1].rpartition('.')\n"
        "try:\n"
        "    if not module: raise ImportError('it has no module part')\n"
        "    cls = getattr(import_module(module), name)\n"
        "except Exception as error:\n"
        "    print(f'does not import ({type(error).__name__}: {error})'); sys.exit(7)\n"
        "from airflow.executors.base_executor import BaseExecutor\n"
        "if not (inspect.isclass(cls) and issubclass(cls, BaseExecutor)):\n"
        "    print('is no subclass of airflow.executors.base_executor.BaseExecutor'); sys.exit(7)\n"
    )
    try:
        # -P: Airflow's processes have other current folders, so this one must not count
        result = programs.run([sys.executable, "-P", "-c", script, path], LIMITS.command)
    except programs.NotInTime as late:
        if late.deadline.starved:
            raise BoundReached(
                f"The executor {path} did not import within {late.deadline}; run again when the machine is less busy."
            ) from None
        raise UsageError(f"The executor {path} did not import within {late.deadline}; is its import waiting?") from None
    if result.returncode == 7:
        line = result.stdout.strip().splitlines()[-1]
        raise UsageError(
            f"The executor {path} {line}; give the full import path of an executor class that is installed or on "
            "PYTHONPATH."
        )
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise UsageError(f"The executor {path} could not be checked, because Airflow does not import here: {last}")
