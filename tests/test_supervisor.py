"""Supervision of processes: nothing of an environment stays, whatever dies, and nothing else is touched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from executor_conformance.harness import processes
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.processes import ProcessWatcher, is_alive, read_stat
from executor_conformance.harness.supervisor import ManagedProcess, Supervisor, sweep_stale

BOUND = 15.0
ENV = {"PATH": os.environ["PATH"]}

# A child, a grandchild in its session and an orphan (double fork, own session); pids in order to the file.
TREE = textwrap.dedent("""
    import os, subprocess, sys, time
    sleep = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    grandchild = subprocess.Popen(sleep)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) != 0:
            os.write(writer, str(pid).encode())
            os._exit(0)
        os.execv(sleep[0], sleep)
    os.wait()
    orphan = int(os.read(reader, 100))
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(f"{os.getpid()} {grandchild.pid} {orphan}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(600)
""")

HARNESS = textwrap.dedent("""
    import os, signal, sys, time
    from pathlib import Path
    from executor_conformance.harness.supervisor import Supervisor
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born ignoring it
    supervisor = Supervisor(Path(sys.argv[1]))
    env = {"PATH": os.environ["PATH"]}
    supervisor.spawn("tree", [sys.executable, "-I", "-S", "-c", sys.argv[3], sys.argv[2]], env, Path("/"))
    if sys.argv[4] == "fork" and os.fork() == 0:
        time.sleep(600)  # inherits the control socket without an exec
    time.sleep(600)
""")


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + BOUND
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {BOUND} s: {what}"
        time.sleep(0.01)
    return value


def pids_in(file: Path) -> dict[int, int]:
    """Start ticks by pid of child, grandchild, orphan."""
    until(file.exists, f"{file} written")
    stats = [read_stat(int(pid)) for pid in file.read_text().split()]
    assert all(stats)
    return {stat.pid: stat.started for stat in stats if stat}


def all_gone(tree: dict[int, int]) -> None:
    until(lambda: not any(is_alive(pid, started) for pid, started in tree.items()), f"{tree} gone")


def sleeper(supervisor: Supervisor, name: str = "sleeper") -> ManagedProcess:
    return supervisor.spawn(name, ["sleep", "600"], ENV, Path("/"))


def python(supervisor: Supervisor, code: str, *args: str, env: dict[str, str] = ENV) -> ManagedProcess:
    return supervisor.spawn("code", [sys.executable, "-I", "-S", "-c", code, *args], env, Path("/"))


def tree(supervisor: Supervisor, file: Path) -> dict[int, int]:
    python(supervisor, TREE, str(file))
    return pids_in(file)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "runs" / "env")
    yield made
    made.stop(remove=True)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path, dict[int, int]]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, how: str = "plain") -> tuple[subprocess.Popen[bytes], Path, dict[int, int]]:
        folder, pids = tmp_path / "runs" / name, tmp_path / f"{name}.pids"
        command = [sys.executable, "-c", HARNESS, str(folder), str(pids), TREE, how]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        return started[-1], folder, pids_in(pids)

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_stop_ends_everything_and_removes_the_folder(supervisor: Supervisor, tmp_path: Path) -> None:
    pids = tree(supervisor, tmp_path / "pids")
    assert set(pids) <= {process.pid for process in supervisor.descendants()}
    supervisor.stop(remove=True)
    assert not any(is_alive(pid) for pid in pids)
    assert not is_alive(supervisor.guardian_pid)
    assert not supervisor.folder.exists()
    assert not supervisor.lost
    supervisor.stop(remove=True)
    with pytest.raises(HarnessError, match="was stopped"):
        sleeper(supervisor)


def test_stop_keeps_the_folder_unless_asked(supervisor: Supervisor) -> None:
    process = sleeper(supervisor)
    supervisor.stop(remove=False)
    assert process.exit_status == -signal.SIGKILL
    assert process.log.exists()
    supervisor.stop(remove=True)
    assert not supervisor.folder.exists()


def test_stop_is_bounded_with_a_guardian_that_hangs(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor_conformance.harness.guardianship.STOP_BOUND", 0.3)
    pids = tree(supervisor, tmp_path / "pids")
    os.kill(supervisor.guardian_pid, signal.SIGSTOP)
    supervisor.stop(remove=True)
    all_gone(pids)
    assert not is_alive(supervisor.guardian_pid)
    assert not supervisor.folder.exists()


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "plain"),
        (signal.SIGKILL, "fork"),
        (signal.SIGINT, "plain"),
        (signal.SIGTERM, "plain"),
    ],
)
def test_nothing_survives_the_harness(harness: Any, number: int, how: str) -> None:
    process, folder, pids = harness("env", how)
    forks = [child for child in psutil.Process(process.pid).children() if "guardian.py" not in str(child.cmdline())]
    assert len(forks) == (how == "fork")
    try:
        process.send_signal(number)
        process.wait(BOUND)
        all_gone(pids)
        until(lambda: not folder.exists(), "folder removed")
    finally:
        for fork in forks:
            fork.kill()


def test_a_second_harness_is_not_disturbed(harness: Any) -> None:
    first, first_folder, first_pids = harness("one")
    second, second_folder, second_pids = harness("two")
    first.kill()
    first.wait()
    all_gone(first_pids)
    until(lambda: not first_folder.exists(), "folder removed")
    assert sweep_stale(second_folder.parent) == []
    assert all(is_alive(*item) for item in second_pids.items())
    assert second.poll() is None
    assert second_folder.exists()


def test_two_supervisors_in_one_process(supervisor: Supervisor, tmp_path: Path) -> None:
    other = Supervisor(tmp_path / "runs" / "other")
    theirs, ours = sleeper(other), sleeper(supervisor)
    other.stop(remove=True)
    assert not theirs.alive
    assert ours.alive
    assert supervisor.folder.exists()


def test_the_death_of_the_guardian_is_noticed(supervisor: Supervisor, tmp_path: Path) -> None:
    pids = tree(supervisor, tmp_path / "pids")
    # Without a mark in its environment or its log: found by its session.
    bare = tmp_path / "bare"
    code = (
        "import os,subprocess,sys; null=open(os.devnull,'w'); p=subprocess.Popen(['sleep','600'], env={}, "
        "stdout=null, stderr=null); print(p.pid, file=open(sys.argv[1]+'.new','w'), flush=True); "
        "os.rename(sys.argv[1]+'.new', sys.argv[1]); p.wait()"
    )
    process = python(supervisor, code, str(bare))
    pids |= pids_in(bare)
    os.kill(supervisor.guardian_pid, signal.SIGKILL)
    until(lambda: supervisor.lost, "loss noticed")
    all_gone(pids)
    assert not process.alive
    with pytest.raises(HarnessError, match="ended unexpectedly"):
        process.wait(BOUND, "its end")
    with pytest.raises(HarnessError, match="guardian"):
        sleeper(supervisor)
    assert supervisor.descendants() == []


def test_sigterm_to_the_guardian_cleans_up(supervisor: Supervisor, tmp_path: Path) -> None:
    pids = tree(supervisor, tmp_path / "pids")
    os.kill(supervisor.guardian_pid, signal.SIGTERM)
    all_gone(pids)
    until(lambda: supervisor.lost and not supervisor.folder.exists(), "folder removed")


def test_sweep_removes_what_harness_and_guardian_left(harness: Any, tmp_path: Path) -> None:
    process, folder, pids = harness("env")
    guardian = json.loads((folder / "owner.json").read_text())["guardian"]["pid"]
    # Stopped, neither of the two can clean up after the other before both are dead.
    process.send_signal(signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)
    child, *rest = pids
    until(lambda: not is_alive(child), "direct child gone with the guardian")
    assert all(is_alive(pid) for pid in rest)
    process.kill()
    process.wait()
    same_name = tmp_path / "elsewhere" / "env"
    namesake = Supervisor(same_name)
    stranger = sleeper(namesake)
    (folder.parent / "foreign").mkdir()
    try:
        assert sweep_stale(folder.parent) == [folder]
        all_gone(pids)
        assert not folder.exists()
        assert (folder.parent / "foreign").exists()
        assert sweep_stale(same_name.parent) == []
        assert stranger.alive
    finally:
        namesake.stop(remove=True)


def test_sweep_is_not_fooled_by_a_reused_pid(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    other = {"pid": os.getpid(), "create_time": 1.0, "started": 1}
    (folder / "owner.json").write_text(json.dumps({"harness": other, "guardian": None}))
    assert sweep_stale(tmp_path) == [folder]
    assert sweep_stale(tmp_path / "missing") == []


def test_exit_statuses_also_of_orphans(supervisor: Supervisor, tmp_path: Path) -> None:
    assert python(supervisor, "raise SystemExit(7)").wait(BOUND, "its end") == 7
    pids = list(tree(supervisor, tmp_path / "pids"))
    orphan = pids[2]
    processes.kill([orphan], signal.SIGUSR1)
    assert supervisor.await_exit(orphan, BOUND) == -signal.SIGUSR1
    assert supervisor.exits[orphan] == -signal.SIGUSR1


def test_kill_tree_and_terminate(supervisor: Supervisor, tmp_path: Path) -> None:
    child, grandchild, orphan = tree(supervisor, tmp_path / "pids")
    process = supervisor.processes[-1]
    assert process.kill_tree() == [child, grandchild]
    assert process.wait(BOUND, "SIGKILL") == -signal.SIGKILL
    until(lambda: not is_alive(grandchild), "grandchild gone")
    assert is_alive(orphan)
    assert process.kill_tree() == []
    assert sleeper(supervisor).terminate(BOUND) == -signal.SIGTERM
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    deaf = python(supervisor, code)
    until(lambda: deaf.log_tail() == "deaf", "signal ignored")
    with pytest.raises(BoundReached, match=r"code \(pid \d+\) did not end within 0\.01 s \(a miracle\)"):
        deaf.wait(0.01, "a miracle")
    assert deaf.terminate(0.05) == -signal.SIGKILL


def test_what_a_child_inherits(supervisor: Supervisor) -> None:
    code = (
        "import os; fds = sorted(map(int, os.listdir('/proc/self/fd')))\n"
        "print(fds[:3], len(fds), os.getsid(0) == os.getpid(), os.environ['EXECUTOR_CONFORMANCE_RUN'])\n"
        "print([l.split()[1] for l in open('/proc/self/status') if l[:7] in ('SigBlk:', 'SigIgn:')])"
    )
    process = python(supervisor, code)
    assert process.wait(BOUND, "its end") == 0
    # The fourth is the listing's own; of the ignored ones Python sets SIGPIPE and SIGXFSZ itself.
    assert process.log_tail().splitlines() == [
        "[0, 1, 2] 4 True env",
        "['0000000000000000', '0000000001001000']",
    ]
    assert process.log_tail(1).startswith("['0000")
    again = python(supervisor, "pass")
    assert (process.log.name, again.log.name) == ("code.log", "code-2.log")


@pytest.mark.parametrize(
    ("command", "cwd", "says"),
    [
        (["no-such-command", "x"], "/", "cannot run no-such-command: No such file or directory"),
        (["/etc/passwd"], "/", "cannot run /etc/passwd: Permission denied"),
        (["true"], "/no/such", "cannot enter the folder /no/such: No such file or directory"),
    ],
)
def test_a_command_that_cannot_run(supervisor: Supervisor, command: list[str], cwd: str, says: str) -> None:
    with pytest.raises(HarnessError, match=f"^thing did not start: {re.escape(says)}"):
        supervisor.spawn("thing", command, ENV, Path(cwd))
    assert supervisor.processes == []
    assert sleeper(supervisor).alive


def test_births_and_deaths_are_recorded(supervisor: Supervisor) -> None:
    events: list[dict[str, Any]] = []
    watcher = ProcessWatcher(supervisor, lambda kind, **fields: events.append({"kind": kind, **fields}))
    watcher.poll()
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    process = supervisor.spawn("s", ["sh", "-c", f": '{token}'; sleep 600; :"], ENV, Path("/"))
    until(lambda: len(processes.tree_of(process.pid)) == 2, "sleep started")
    child = processes.tree_of(process.pid)[1]
    watcher.poll()
    watcher.poll()
    title = "sh -c : '<token>'; sleep 600; :"
    assert events[0] == {
        "kind": "process",
        "what": "born",
        "pid": process.pid,
        "ppid": supervisor.guardian_pid,
        "title": title,
    }
    assert [(event["what"], event["pid"], event["ppid"]) for event in events[1:]] == [("born", child, process.pid)]
    info = watcher.snapshot()[process.pid]
    assert (info.ppid, info.title, info.started) == (supervisor.guardian_pid, title, process.started)
    assert info.state in "SR"
    assert watcher.is_alive(process.pid, info.started)
    assert not watcher.is_alive(process.pid, info.started + 1)

    later: list[dict[str, Any]] = []
    watcher.sink = lambda kind, **fields: later.append({"kind": kind, **fields})
    process.kill_tree()
    until(lambda: not is_alive(process.pid) and not is_alive(child), "both dead")
    watcher.poll()
    assert [(event["what"], event["pid"]) for event in later] == [("gone", process.pid), ("gone", child)]
    assert later[0]["status"] == -signal.SIGKILL
    assert later[0]["title"] == title
    assert watcher.snapshot() == {}


def test_polling_is_cheap(supervisor: Supervisor) -> None:
    supervisor.spawn("many", ["sh", "-c", "for i in $(seq 40); do sleep 600 & done; wait"], ENV, Path("/"))
    watcher = ProcessWatcher(supervisor, lambda kind, **fields: None)
    until(lambda: len(watcher.snapshot()) == 41, "40 processes")
    costs = []
    for _ in range(30):
        begin = time.thread_time()
        watcher.poll()
        costs.append(time.thread_time() - begin)
    assert min(costs) < 0.02  # generous, for slow machines; about 3 ms
    print(f"poll: {min(costs) * 1000:.2f} ms")
