"""A run as a whole: environments that break are made anew, and nothing is left, however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness import session
from executor_conformance.harness.backend import Options
from executor_conformance.harness.case import Case
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.errors import HarnessError, SchedulerDied
from executor_conformance.harness.expectations import Expectations
from executor_conformance.harness.history import Clock
from executor_conformance.harness.processes import RUN_VARIABLE
from executor_conformance.harness.report.model import CaseResult
from executor_conformance.harness.session import CaseSpec, EnvironmentPool, Recorder, Subject
from executor_conformance.harness.verdicts import Decision, Verdict
from executor_conformance.suites.reporting import LOST, RESULT, Collected

from tests.reports import made
from tests.test_report import case

SUBJECT = Subject("local", LocalBackend, LocalBackend.variants[0], Options())


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll for ``condition``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


def marked(pid: int) -> list[int]:
    """Processes of the environments that the process ``pid`` started."""
    mark = f"{RUN_VARIABLE}={pid}-".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[EnvironmentPool]:
    """A pool whose environments live in a folder of the test's own."""
    pool = EnvironmentPool(tmp_path, Clock(), lambda text: None)
    yield pool
    pool.close()


def test_environment_that_lost_its_api_server_accuses_nobody_and_is_made_anew(
    pool: EnvironmentPool, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = pool.acquire(SUBJECT)
    assert pool.acquire(SUBJECT) is first
    recorder = Recorder(load_catalogue(), Expectations(), tmp_path_factory.mktemp("report"))
    run = recorder.begin(CaseSpec("run.success", ("RUN-1", "RUN-6"), "core", "pytest"), SUBJECT, first)
    first.api_server.kill_tree()
    until(lambda: not first.api_server.alive, 5, "the end of the API server")
    run.case.submit("succeed", expect="success")  # fails, for nobody answers the worker
    run.case.settle()
    result = recorder.finish(run)
    assert {found["verdict"] for found in result.clauses.values()} == {Verdict.ERROR}
    assert "API server has ended" in result.reason
    second = pool.acquire(SUBJECT)
    assert second is not first
    case = Case(second)
    callback = case.submit("succeed")
    case.settle()
    assert case.state(callback) == "success"
    pool.close()
    assert list(tmp_path.iterdir()) == []


PICKY = """
from airflow.executors.local_executor import LocalExecutor


class PickyExecutor(LocalExecutor):
    def queue_workload(self, workload, session):
        if str(getattr(workload, "callback", "")).find("callables.raises") >= 0:
            raise ValueError(f"it does not fit\\nas SQLAlchemy does: {workload.token}")
        super().queue_workload(workload, session)
"""


def test_a_history_says_which_clauses_its_run_asked_about_and_which_processes_were_there(
    pool: EnvironmentPool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    env = pool.acquire(SUBJECT)
    recorder = Recorder(load_catalogue(), Expectations(), tmp_path_factory.mktemp("report"), levels=("core",))
    run = recorder.begin(CaseSpec("fail.callable_raises", ("FAIL-1", "FAIL-4"), "core", "pytest"), SUBJECT, env)
    assert set(recorder.finish(run).clauses) == {"FAIL-1"}
    header = run.history.events[0]
    assert header["clauses"] == ["FAIL-1"]
    assert {env.scheduler.pid, env.api_server.pid} <= set(header["processes"])


def test_a_callback_that_takes_the_scheduler_down_accuses_nobody_in_the_next_case(
    pool: EnvironmentPool, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is PENDING again, for the transaction was rolled back, and core would take it up in each step."""
    module = tmp_path_factory.mktemp("picky") / "picky_executor.py"
    module.write_text(PICKY)
    monkeypatch.setenv("PYTHONPATH", str(module.parent))
    options = Options(executor="picky_executor.PickyExecutor")
    subject = Subject("local", LocalBackend, LocalBackend.variants[0], options)
    env = pool.acquire(subject)
    recorder = Recorder(load_catalogue(), Expectations(), tmp_path_factory.mktemp("report"))
    run = recorder.begin(CaseSpec("fail.callable_raises", ("FAIL-1",), "core", "pytest"), subject, env)
    callback = run.case.submit("raises", expect="failure")
    with pytest.raises(SchedulerDied) as died:
        run.case.settle()
    result = recorder.finish(run, died.value)
    assert result.verdict is Verdict.FAIL
    assert result.reason.startswith("The scheduler did not survive: ValueError in ")
    assert result.reason.endswith("picky_executor.py: queue_workload: it does not fit")
    assert result.clauses["FAIL-1"]["verdict"] == Verdict.NOT_APPLICABLE
    assert "see CRASH-5" in result.clauses["FAIL-1"]["reason"]
    assert "as SQLAlchemy does: <token>" in run.path.read_text()
    assert "eyJ" not in run.path.read_text()
    env.observe()
    assert run.case.state(callback) is None
    assert pool.acquire(subject) is env
    run = recorder.begin(CaseSpec("run.success", ("RUN-1", "RUN-6"), "core", "pytest"), subject, env)
    run.case.submit("succeed", expect="success")
    run.case.settle()
    assert recorder.finish(run).verdict is Verdict.PASS


def test_environment_that_cannot_be_repaired_costs_no_verdict(
    pool: EnvironmentPool, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = pool.acquire(SUBJECT)
    recorder = Recorder(load_catalogue(), Expectations(), tmp_path_factory.mktemp("report"))
    run = recorder.begin(CaseSpec("run.success", ("RUN-1", "RUN-6"), "core", "pytest"), SUBJECT, env)
    run.case.submit("succeed", expect="success")
    run.case.settle()
    run.case.disturbed = True
    monkeypatch.setattr(env, "repair", Mock(side_effect=HarnessError("It does not answer.")))
    result = recorder.finish(run)
    assert result.verdict is Verdict.PASS
    assert (env.whole, run.environment_lost) == (False, "It does not answer.")


def test_the_summary_tells_of_environments_that_were_lost() -> None:
    """They cost time, which nobody would look for."""
    collected = Collected(Mock())
    for number in range(2):
        found = case(f"crash.c{number}", RUN_1=Verdict.PASS).to_dict()
        properties = [(RESULT, found), (LOST, f"reason {number}")]
        collected.take(Mock(user_properties=properties, when="call"))
    collected.report = made()
    terminal = Mock()
    terminal._tw = Mock(fullwidth=80, hasmarkup=False)
    collected.show(terminal)
    said = terminal.write_line.call_args.args[0]
    assert "environment 'local' could not be used again after 2 cases" in said
    assert said.endswith("[crash.c0] reason 0")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_nothing_is_left_of_a_run_that_was_ended(tmp_path: Path, sent: signal.Signals) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "executor_conformance.suites", "-m", "conformance"]
    command += ["-p", "no:cacheprovider", "--conformance-backend", "local", "-k", "test_crash"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    runs = tmp_path / f"executor-conformance-{os.getuid()}"
    with (tmp_path / "output").open("w") as output:
        run = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=env,
            stdout=output,
            stderr=output,
            # a shell's background job is born ignoring it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            histories = "conformance-report/histories/*.jsonl"
            until(lambda: list(tmp_path.glob(histories)) or run.poll() is not None, 120, "the first case")
            assert run.poll() is None, (tmp_path / "output").read_text()
            assert marked(run.pid)
            run.send_signal(sent)
            run.wait(60)
        finally:
            run.kill()
    until(lambda: not marked(run.pid), 10, "the end of all processes")
    until(lambda: list(runs.iterdir()) == [], 10, "the removal of the environment's folder")


@pytest.mark.parametrize("control", [Verdict.FAIL, Verdict.ERROR])
def test_after_a_control_group_that_did_not_pass_nothing_is_held_against_the_subject(
    control: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(load_catalogue(), Expectations(), tmp_path)
    decided = iter(
        [
            Decision("CRASH-1", Verdict.FAIL, "stuck"),
            Decision("TASK-1", control, "no task ran"),
            Decision("CRASH-1", Verdict.FAIL, "stuck"),
        ]
    )
    monkeypatch.setattr(session, "decide", lambda *arguments: [next(decided)])

    def result() -> CaseResult:
        spec = SimpleNamespace(id="crash.a", clauses=(), reproduce="", level="core")
        subject = SimpleNamespace(label="mine", backend=SimpleNamespace(name="local"))
        env = SimpleNamespace(executor="mine.Executor")
        run: Any = SimpleNamespace(
            spec=spec, subject=subject, case=SimpleNamespace(env=env), history=None, path=tmp_path / "h"
        )
        return recorder._decide(run, 0.1)

    before, itself, after = result(), result(), result()
    assert (before.verdict, itself.verdict, after.verdict) == (Verdict.FAIL, control, Verdict.ERROR)
    assert after.reason == "the control group failed: no task ran"
