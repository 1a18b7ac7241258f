"""What goes wrong around a run accuses nobody, is said, leaves nothing running, and what was recorded can be read."""

from __future__ import annotations

import ast
import contextlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from executor_conformance.backends.kubernetes.backend import KubernetesBackend
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness.backend import Backend, Options
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.expectations import Expectations
from executor_conformance.harness.history import Clock, History, read_history
from executor_conformance.harness.report.model import CaseResult
from executor_conformance.harness.session import CaseRun, CaseSpec, Recorder, Subject
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.suites.cli import main

from tests.test_session import marked, until

ROOT = Path(__file__).parent.parent
EARLIER: dict[int, list[str]] = {}
"""Callbacks of earlier cases by environment: what a scheduler did not live to do is done by the next."""
SPEC = CaseSpec("run.success", ("RUN-1", "RUN-6", "CRASH-1", "CRASH-5"), "core", "pytest")


def subject_of(backend: type[Backend]) -> Subject:
    """The first variant of a backend."""
    return Subject(backend.variants[0].label, backend, backend.variants[0], Options())


# --------------------------------------------------------------------------------------------- one environment


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """One environment for all that does not end it."""
    env = Environment(LocalBackend, Options(), LocalBackend.variants[0], tmp_path_factory.mktemp("robust") / "env")
    env.start()
    yield env
    env.stop()


def run_with(env: Environment, folder: Path, mischief: Callable[[CaseRun], object]) -> CaseResult:
    """A callback from beginning to end, with ``mischief`` when it has been submitted."""
    subject = subject_of(type(env.backend))
    recorder = Recorder(load_catalogue(), Expectations(), folder, _earlier=EARLIER)
    run = recorder.begin(SPEC, subject, env)
    try:
        run.case.submit("succeed")
        mischief(run)
        run.case.settle()
    except Exception as error:
        return recorder.finish(run, error)
    return recorder.finish(run)


def accuses_nobody(result: CaseResult, why: str) -> None:
    """Every clause is an error, for one reason that is said."""
    assert {found["verdict"] for found in result.clauses.values()} == {Verdict.ERROR}, result.clauses
    assert re.search(why, result.reason), result.reason


def checked(path: Path) -> tuple[int, str]:
    """Exit code and output of ``executor-conformance check``."""
    outcome = CliRunner().invoke(main, ["check", str(path)])
    assert "Traceback" not in outcome.output, outcome.output
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
    return outcome.exit_code, outcome.output


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_scheduler_that_somebody_else_ends(env: Environment, tmp_path: Path, sent: signal.Signals) -> None:
    assert env.scheduler is not None
    pid = env.scheduler.pid
    result = run_with(env, tmp_path, lambda run: os.kill(pid, sent))
    accuses_nobody(result, f"scheduler process {pid} was ended by {sent.name}")
    assert env.whole  # there is a new one
    assert env.scheduler.pid != pid
    assert checked(tmp_path / "histories")[0] == 3
    after = run_with(env, tmp_path, lambda run: None)
    assert after.verdict is Verdict.PASS, after.reason


def test_scheduler_that_ends_by_itself_is_the_executors_fault(env: Environment, tmp_path: Path) -> None:
    assert env.scheduler is not None
    pid = env.scheduler.pid
    result = run_with(env, tmp_path, lambda run: os.kill(pid, signal.SIGSEGV))
    assert result.clauses["CRASH-5"]["verdict"] == Verdict.FAIL
    assert "gone" in result.clauses["CRASH-5"]["reason"]


@pytest.mark.parametrize("by", [-3600.0, 0.5], ids=["back", "forward"])
def test_clock_that_is_set(env: Environment, tmp_path: Path, by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's reading of the wall clock jumps; that of the machine is not ours to set."""
    real = time.time
    result = run_with(env, tmp_path, lambda run: monkeypatch.setattr(time, "time", lambda: real() + by))
    monkeypatch.undo()
    env.clock.follow()
    accuses_nobody(result, rf"clock of this machine was set by {abs(by):.2f}")


def test_report_folder_that_is_removed(env: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    accuses_nobody(run_with(env, folder, lambda run: shutil.rmtree(folder)), "was removed while its case was on")
    assert run_with(env, folder, lambda run: None).verdict is Verdict.PASS


@pytest.mark.parametrize("name", ["local", "kubernetes"])
def test_emulator_or_server_that_is_killed(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The last of its environment: the API server of the one, the emulated control plane of the other."""
    backend: type[Backend] = {"local": LocalBackend, "kubernetes": KubernetesBackend}[name]
    if missing := backend.missing(Options()):
        pytest.skip(missing)
    victim = {"local": "api-server", "kubernetes": "kubernetes"}[name]
    variant = backend.variants[-1]  # of Kubernetes, the one that takes callbacks
    env = Environment(backend, Options(), variant, tmp_path_factory.mktemp("ended") / "env")
    env.start()
    try:
        process = next(process for process in env.supervisor.processes if victim in process.name)

        def kill(run: CaseRun) -> None:
            process.kill_tree()
            process.wait(10, "SIGKILL")

        accuses_nobody(run_with(env, tmp_path, kill), "ended")
        assert not env.whole
        assert checked(tmp_path / "histories")[0] == 3
    finally:
        env.stop()
    assert not env.supervisor.descendants()
    assert not env.folder.exists()


@pytest.mark.parametrize("answers", [False, True], ids=["silent", "as-a-server"])
def test_port_that_is_taken(answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program has the port when the API server wants it, and may even answer there."""

    class Anything(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answers else 503)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Anything) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        port = other.server_address[1]
        monkeypatch.setattr("executor_conformance.harness.api_server.free_port", lambda: port)
        env = Environment(LocalBackend, Options(), LocalBackend.variants[0], tmp_path / "env")
        with pytest.raises(HarnessError, match=f"Another program took the port {port} before the API server could"):
            env.start()
        other.shutdown()
    assert not env.supervisor.descendants()
    assert not env.folder.exists()


# --------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_history_on_a_full_disk(small_disk: Path) -> None:
    history = History(Clock(), {"case": "c", "subject": "s", "clauses": ["RUN-1"]}, small_disk / "h.jsonl")
    for number in range(200):
        history.append("note", what="filling", number=number, text="x" * 1000)
    assert "cannot be written on (No space left on device)" in history.lost()
    assert len(history.events) == 201
    stored = read_history(small_disk / "h.jsonl")
    assert 10 < len(stored.events) < 100
    assert stored.events == history.events[: len(stored.events)]
    assert checked(small_disk / "h.jsonl")[0] == 3
    with pytest.raises(HarnessError, match="No space left"):
        History(Clock(), {"case": "c", "subject": "x" * 70000}, small_disk / "h2.jsonl")
    assert not (small_disk / "h2.jsonl").exists()


def whole_run(
    tmp_path: Path, cases: str, report: Path, mischief: Callable[[subprocess.Popen[bytes], Path], object]
) -> tuple[int, str]:
    """Exit code and output of a run in which ``mischief`` is done at the first case; nothing is left of it."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "executor_conformance.suites", "-m", "conformance"]
    command += ["-p", "no:cacheprovider", "--conformance-backend", "local", "-k", cases]
    command += ["--conformance-report", str(report)]
    output = tmp_path / "output"
    with output.open("w") as file:
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        run = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=file, stderr=file)
        try:
            until(lambda: list(report.glob("histories/*.jsonl")) or run.poll() is not None, 200, "the first case")
            assert run.poll() is None, output.read_text()
            mischief(run, next(report.glob("histories/*.jsonl")))
            code = run.wait(300)
        finally:
            run.kill()
    until(lambda: not marked(run.pid), 15, "the end of all processes")
    until(lambda: not list(tmp_path.glob("executor-conformance-*/*")), 15, "the removal of the environment's folder")
    return code, output.read_text()


def test_run_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    def fill(run: subprocess.Popen[bytes], history: Path) -> None:
        with (small_disk / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 1024):
                pass

    code, output = whole_run(tmp_path, "test_success or test_callable_raises", small_disk / "report", fill)
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output, output
    assert re.search(r"The report cannot be written to .*No space left on device", output), output
    assert code == 3
    assert checked(small_disk / "report" / "histories")[0] in (0, 1, 3)  # 1: what LocalExecutor of 3.3 fails


@pytest.mark.parametrize("how", ["killed", "scheduler", "removed"])
def test_run_around_which_something_happens(tmp_path: Path, how: str) -> None:
    """SIGKILL to pytest itself, SIGKILL to the scheduler, and the report folder removed."""
    report = tmp_path / "report"

    def act(run: subprocess.Popen[bytes], history: Path) -> None:
        until(lambda: history.stat().st_size > 600, 60, "the header")
        if how == "killed":
            run.kill()
        elif how == "scheduler":
            os.kill(read_history(history).events[0]["scheduler_pid"], signal.SIGKILL)
        else:
            shutil.rmtree(report)

    code, output = whole_run(tmp_path, "test_killed_during and child", report, act)
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output, output
    if how == "killed":
        assert code == -signal.SIGKILL
        assert checked(report / "histories")[0] == 3
        return
    assert code == 3, output
    assert {"scheduler": "which the harness has not sent", "removed": "was removed while its case"}[how] in output
    if how == "scheduler":
        assert checked(report / "histories")[0] == 3


# ------------------------------------------------------------------------------------------------------- clocks

WALL = {
    "backends/aws/account.py": "the names of what is made in an account, by which a later run tells what is old",
    "backends/aws/preflight.py": "how old that is",
    "backends/aws/emulator": "what AWS answers has times of the wall clock",
    "backends/moments.py": "the translation of a control plane's own times",
    "backends/kubernetes/emulator": "what Kubernetes answers has times of the wall clock",
    "backends/kubernetes/preflight.py": "the age of a certificate",
    "harness/airflow_side/seeding.py": "the dates of Dag runs and deadlines",
    "harness/expectations.py": "whether an entry is to be looked at again",
    "harness/history.py": "the translation of the rows' times, which notices that the clock was set",
    "harness/tokens.py": "when tokens were given out and expire",
    "suites/run_state.py": "when a run began, for the report",
}
"""Where the wall clock is asked, and what for; nowhere is it waited by."""


def _asks_the_wall_clock(tree: ast.AST) -> list[int]:
    wall = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (getattr(node.value, "attr", getattr(node.value, "id", "")), node.attr) in wall
    ]


def _files() -> list[Path]:
    return [path for folder in ("harness", "backends", "suites") for path in (ROOT / folder).rglob("*.py")]


def test_wall_clock_is_asked_for_nothing_else() -> None:
    asked = {
        path.relative_to(ROOT).as_posix()
        for path in _files()
        if _asks_the_wall_clock(ast.parse(path.read_text("utf-8")))
    }
    assert sorted(name for name in asked if not name.startswith(tuple(WALL))) == []
    assert [place for place in WALL if not any(name.startswith(place) for name in asked)] == []


def test_no_loop_waits_by_the_wall_clock() -> None:
    waits = [
        f"{path.relative_to(ROOT)}:{loop.lineno}"
        for path in _files()
        for loop in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(loop, ast.While) and _asks_the_wall_clock(loop)
    ]
    assert waits == []


def test_clock_follows_what_is_slewed_and_notices_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = monotonic = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: monotonic)
    monkeypatch.setattr(time, "time", lambda: wall)
    clock = Clock()
    for _ in range(1000):
        monotonic, wall = monotonic + 1.0, wall + 1.0005
        clock.follow()
        assert clock.from_wall(wall) == pytest.approx(clock.now())
    assert clock.set_s == 0.0
    wall -= 3600
    clock.follow()
    assert clock.set_s == pytest.approx(3600)
    assert clock.from_wall(wall) == pytest.approx(clock.now())
