"""Ctrl-C ends a run within ten seconds, whatever its subject does, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.test_session import until

WITHIN_S = 10.0
BUSY = 2.0
"""How much more time there is on a machine whose CPUs others use at the same time."""
PYTEST = ["-m", "pytest", "--pyargs", "executor_conformance.suites", "-m", "conformance", "-p", "no:cacheprovider"]
COMMAND = ["-c", "from executor_conformance.suites.cli import main; main()", "run"]
EXECUTOR = '''
import signal
import sys
import time
from pathlib import Path

from airflow.executors.local_executor import LocalExecutor

HERE = Path(__file__).parent


class Deaf(LocalExecutor):
    """Ignores signals, and never ends by itself; so do its workers."""

    def start(self):
        if "Inspection" not in sys.argv:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        super().start()

    def end(self):
        time.sleep(3600)

    terminate = end


class Spawns(Deaf):
    """Starts workers at each heartbeat; not as many as it could, for the machine is others' too."""

    def heartbeat(self):
        if len(self.workers) < 80:
            for _ in range(8):
                self._spawn_worker()
        else:
            (HERE / "begun").touch()
        super().heartbeat()


class Hangs(Deaf):
    """Its heartbeat does not come back."""

    def heartbeat(self):
        (HERE / "begun").touch()
        time.sleep(3600)
'''


def processes_of(folder: Path) -> list[int]:
    """Processes that have something of ``folder`` in their environment or command line."""
    mark = os.fsencode(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(mark in (entry / name).read_bytes() for name in ("environ", "cmdline")):
                found.append(int(entry.name))
    return found


def within(folder: Path) -> float:
    """Seconds for a run that is interrupted now: more, if processes of others want the CPUs at the same time."""
    ours, others = set(processes_of(folder)), 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
            others += state == b"R" and int(entry.name) not in ours
    return WITHIN_S * (BUSY if others > (os.cpu_count() or 1) else 1)


Run = Callable[..., tuple[subprocess.Popen[bytes], Path]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts a run against one of the executors, and returns once that does what it is named for."""
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "deaf_executors.py").write_text(EXECUTOR)

    def start(executor: str, *more: str, program: list[str] = PYTEST, begun: str = "begun") -> tuple:
        prefix = "--conformance-" if program is PYTEST else "--"
        options = {"backend": "local", "executor": f"deaf_executors.{executor}", "processes": "100000"}
        command = [sys.executable, *program, *(f"{prefix}{name}={value}" for name, value in options.items()), *more]
        output = tmp_path / "output"
        env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(tmp_path / "modules")}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env["PYTEST_ADDOPTS"] = "-p no:hypothesispytest"  # it imports much at the end
        with output.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=env,
                stdout=file,
                stderr=file,
                start_new_session=True,
                # a shell's background job is born ignoring it
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        started.append(process)
        until(lambda: (tmp_path / "modules" / begun).exists() or process.poll() is not None, 300, "the misdeed")
        assert process.poll() is None, output.read_text()
        return process, output

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: subprocess.Popen[bytes], group: bool) -> None:
    """As ``kill`` does, or as a terminal does for all that is in the foreground."""
    if group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("executor", "more", "group", "program", "code"),
    [
        ("Spawns", (), False, PYTEST, 2),
        ("Hangs", (), True, PYTEST, 2),
        ("Hangs", ("-n2",), False, PYTEST, 2),
        ("Spawns", ("-n2",), True, PYTEST, 2),
        ("Spawns", (), True, COMMAND, 130),
        ("Hangs", ("-n2",), False, COMMAND, 130),
    ],
    ids=["spawns", "hangs-group", "hangs-n2", "spawns-n2-group", "command-spawns-group", "command-hangs-n2"],
)
def test_ctrl_c(
    run: Run, tmp_path: Path, executor: str, more: tuple[str, ...], group: bool, program: list[str], code: int
) -> None:
    process, output = run(executor, *more, program=program)
    assert processes_of(tmp_path)
    bound = within(tmp_path)
    began = time.monotonic()
    interrupt(process, group)
    process.wait(60)
    left = processes_of(tmp_path)
    took = time.monotonic() - began
    print(f"{took:.1f} of {bound:g} s")
    assert took < bound, output.read_text()
    assert process.returncode == code, output.read_text()
    assert left == []  # nor a socket: those without a file end with their processes
    assert list(tmp_path.glob("executor-conformance-*/*")) == []
    assert "INTERNALERROR" not in output.read_text()


@pytest.mark.parametrize("more", [(), ("-n2",)], ids=["alone", "n2"])
@pytest.mark.parametrize("after_s", [0.05, 1.0])
def test_second_ctrl_c_leaves_nothing_either(run: Run, tmp_path: Path, more: tuple[str, ...], after_s: float) -> None:
    process, output = run("Spawns", *more)
    bound = within(tmp_path)
    began = time.monotonic()
    for _ in range(3):
        interrupt(process, group=True)
        time.sleep(after_s)
        if process.poll() is not None:
            break
    process.wait(60)
    took = time.monotonic() - began
    print(f"{took:.1f} of {bound:g} s")
    assert took < bound, output.read_text()
    until(lambda: not processes_of(tmp_path), 5, "the end of all processes")
    until(lambda: not list(tmp_path.glob("executor-conformance-*/*")), 5, "the removal of the environment's folder")
