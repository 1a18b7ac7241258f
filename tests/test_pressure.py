"""What tells a slow machine from an executor that does nothing, and how bounds grow on it."""

from __future__ import annotations

import ast
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_conformance.harness import pressure, programs, scheduler
from executor_conformance.harness.channel import Channel
from executor_conformance.harness.errors import BoundReached, ConformanceError, HarnessError, UsageError
from executor_conformance.harness.limits import Limits
from executor_conformance.harness.pressure import Deadline, Progress, overloaded
from executor_conformance.harness.processes import ProcessInfo, is_alive

TICKS = os.sysconf("SC_CLK_TCK")


class Time:
    """A clock that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def unit(pid: int, seconds: float) -> dict[int, ProcessInfo]:
    return {pid: ProcessInfo(pid, 1, "worker", "S", int(seconds * TICKS), 0)}


@pytest.mark.parametrize(("used", "working"), [(0.05, False), (0.3, True)], ids=["heartbeats", "imports"])
def test_a_worker_that_uses_the_cpu_makes_progress(monkeypatch: pytest.MonkeyPatch, used: float, working: bool) -> None:
    clock = Time(monkeypatch)
    progress = Progress()
    assert not progress.look(unit(7, 1.0), [7])
    clock.now += 2
    assert not progress.look(unit(7, 3.0), [7])  # within the window
    clock.now += 3.5
    assert progress.look(unit(7, 1.0 + used), [7]) is working
    assert progress.working is working
    clock.now += 6
    assert not progress.look(unit(7, 1.0 + used), [7])
    assert not progress.working


def test_a_new_worker_is_progress_and_none_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time(monkeypatch)
    progress = Progress()
    progress.look(unit(7, 1.0), [7])
    clock.now += 6
    assert progress.look(unit(7, 1.0) | unit(8, 0.4), [7, 8])
    clock.now += 6
    assert not progress.look({}, [])
    assert not progress.working


@pytest.mark.parametrize(("average", "expected"), [("3.10", False), ("87.40", True)])
def test_overload_as_the_kernel_measures_it(
    average: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu"
    file.write_text(f"some avg10={average} avg60=1.00 avg300=1.00 total=1\nfull avg10=0.00 avg60=0.00\n")
    monkeypatch.setattr(pressure, "_PRESSURE", file)
    assert overloaded() is expected


@pytest.mark.parametrize(("load", "expected"), [(1.0, False), (9.0, True)])
def test_overload_by_the_load_where_the_kernel_does_not_measure_it(
    load: float, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "_PRESSURE", tmp_path / "none")
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert overloaded() is expected


# ------------------------------------------------------------------------------------------------------ deadlines

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("busy", "lasts"), [(False, 60), (True, 180)], ids=["quiet", "overloaded"])
def test_deadline_is_three_times_as_long_under_pressure(
    busy: bool, lasts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time(monkeypatch)
    monkeypatch.setattr(pressure, "overloaded", lambda: busy)
    deadline = Deadline(60)
    for _ in range(lasts - 1):
        clock.now += 1
        assert not deadline.over()
    assert 0 < deadline.slice_s() <= 1
    clock.now += 1.01
    assert deadline.over()
    assert deadline.slice_s() > 0
    assert deadline.starved is busy
    assert str(deadline) == ("180 s (180 s of them on an overloaded machine)" if busy else "60 s")


def test_deadline_follows_the_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time(monkeypatch)
    busy = True
    monkeypatch.setattr(pressure, "overloaded", lambda: busy)
    deadline = Deadline(60)
    for _ in range(30):
        clock.now += 1
        deadline.over()
    assert deadline.remaining() == pytest.approx(50)
    busy = False
    for _ in range(49):
        clock.now += 1
        assert not deadline.over()
    assert not deadline.starved
    clock.now += 1.01
    assert deadline.over()
    assert str(deadline) == "80 s (30 s of them on an overloaded machine)"


@pytest.mark.parametrize(
    ("busy", "raised", "says"),
    [(False, UsageError, "is its import waiting"), (True, BoundReached, "when the machine is less busy")],
    ids=["quiet", "overloaded"],
)
def test_import_in_time_is_for_the_user_on_a_quiet_machine_only(
    busy: bool,
    raised: type[ConformanceError],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "waiting_executor.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(scheduler, "LIMITS", Limits(command=0.5))
    monkeypatch.setattr(pressure, "overloaded", lambda: busy)
    began = time.monotonic()
    with pytest.raises(ConformanceError, match=says) as refused:
        scheduler.check_executor_path("waiting_executor.WaitingExecutor")
    assert type(refused.value) is raised
    assert refused.value.exit_code == (3 if busy else 2)
    assert time.monotonic() - began >= (1.5 if busy else 0.5)


def test_message_that_comes_late_is_waited_for_under_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(pressure, "overloaded", lambda: True)
    ours, theirs = socket.socketpair()
    answer = threading.Timer(1.0, lambda: theirs.sendall(b'{"ok": 1}\n'))
    answer.start()
    channel = Channel(ours)
    assert channel.receive_by(Deadline(0.6), "The answer") == {"ok": 1}
    with pytest.raises(BoundReached, match=r"The next did not come within 1 s \(1 s of them on an overloaded machine"):
        channel.receive_by(Deadline(0.3), "The next")
    assert channel.receive_by(Deadline(60), "What nobody sends", goes_on=lambda: False) is None
    theirs.close()
    channel.close()


def _starts() -> Iterator[tuple[str, ast.AST]]:
    """Where a bound on a start or a command is used, with what it is an argument or an operand of."""
    bounds = {"api_server_start", "scheduler_start", "worker_start", "template_migration", "command", "plain_scheduler"}
    for folder in ("harness", "backends", "suites"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text("utf-8"))
            for parent in (node for node in ast.walk(tree) if not isinstance(node, ast.keyword)):
                for child in ast.iter_child_nodes(parent):
                    child = child.value if isinstance(child, ast.keyword) else child
                    if (
                        isinstance(child, ast.Attribute)
                        and child.attr in bounds
                        and ast.unparse(child.value) == "LIMITS"
                    ):
                        yield f"{path.relative_to(ROOT)}:{child.lineno}", parent


def test_no_bound_on_a_start_is_bare_seconds() -> None:
    """Each is given to what makes a deadline of it; a request to a running server is no start."""
    takers = ("Deadline", "run", "_call", "call", "ask_beside", "settle", "scheduler_survives", "urlopen")
    found = dict(_starts())
    assert len(found) > 15
    bare = [
        place
        for place, parent in found.items()
        if not (isinstance(parent, ast.Call) and ast.unparse(parent.func).endswith(takers))
        and not isinstance(parent, ast.arguments | ast.BinOp)
    ]
    assert bare == []
    sums = [
        place for place, parent in found.items() if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Add)
    ]
    assert sums == []


# ------------------------------------------------------------------------------------------------------- programs


def test_program_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {file}; echo begun; wait"
    with pytest.raises(programs.NotInTime, match="'sh -c") as late:
        programs.run(["sh", "-c", script], 0.7)
    assert late.value.output == "begun\n"
    assert not is_alive(int(file.read_text()))


def test_program_ends_with_the_work_it_is_for(tmp_path: Path) -> None:
    """A start that is no longer wanted runs nothing more, and its program is no failure of its own."""
    raised: list[BaseException] = []

    def start() -> None:
        try:
            programs.run([sys.executable, "-c", "import time; time.sleep(600)"], 600)
        except HarnessError as error:
            raised.append(error)
        try:
            programs.run(["touch", str(tmp_path / "more")], 600)
        except HarnessError as error:
            raised.append(error)
        programs.run(["touch", str(tmp_path / "cleaned")], 600, always=True)

    thread = threading.Thread(target=start)
    thread.start()
    while not programs._running:
        time.sleep(0.01)
    programs.end_in(thread)
    thread.join(20)
    assert not thread.is_alive()
    assert [str(error) for error in raised] == ["The run was ended meanwhile."] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["cleaned"]
    assert programs.run(["echo", "a"], 60).stdout == "a\n"
