"""Which processes are below the guardian, asked again and again."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from executor_conformance.harness import processes
from executor_conformance.harness.processes import Descendants, descendants_of


class Host:
    """Processes by pid, with their parents, in the place of /proc; what was read of them is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, parents: dict[int, int]) -> None:
        self.parents = parents
        self.read: list[int] = []
        self.gone_when_read: set[int] = set()
        monkeypatch.setattr(processes, "all_pids", lambda: sorted(self.parents))
        monkeypatch.setattr(processes, "read_proc", self._read_proc)

    def _read_proc(self, pid: int, name: str, size: int = 0) -> bytes:
        self.read.append(pid)
        if pid in self.gone_when_read or pid not in self.parents:
            return b""
        return f"{pid} (a b) c) S {self.parents[pid]} 0 {pid} {'0 ' * 30}".encode()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    # 1 and 2 are the host's; 10 is the guardian below the shell 5; 20 and 21 are of the environment
    return Host(monkeypatch, {1: 0, 2: 0, 3: 2, 5: 1, 10: 5, 20: 10, 21: 20, 30: 1})


def test_strangers_are_not_read_at_each_step(host: Host) -> None:
    descendants = Descendants()
    assert list(descendants.of([10])) == [20, 21]
    host.read.clear()
    assert list(descendants.of([10])) == [20, 21]
    assert host.read == [20, 21]


def test_what_is_born_is_seen_at_once(host: Host) -> None:
    descendants = Descendants()
    descendants.of([10])
    host.parents |= {22: 21, 31: 30}
    assert list(descendants.of([10])) == [20, 21, 22]


def test_orphan_is_seen_when_it_is_inherited(host: Host) -> None:
    descendants = Descendants()
    host.gone_when_read = {20}  # listed, and gone by the time it is read: 21 has no parent for a moment
    assert list(descendants.of([10])) == []
    del host.parents[20]
    host.parents[21] = 10
    assert list(descendants.of([10])) == [21]


def test_other_roots_are_read_anew(host: Host) -> None:
    descendants = Descendants()
    host.parents |= {40: 30}
    assert list(descendants.of([10])) == [20, 21]
    assert list(descendants.of([10, 30])) == [20, 40, 21]


def test_a_pid_given_anew_is_no_stranger_for_long(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    descendants = Descendants()
    assert list(descendants.of([10])) == [20, 21]
    host.parents[30] = 20
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + Descendants.STRANGERS_S + 0.01)
    assert list(descendants.of([10])) == [20, 21, 30]


def test_a_pid_that_was_gone_is_read_again(host: Host) -> None:
    descendants = Descendants()
    descendants.of([10])
    del host.parents[30]
    descendants.of([10])
    host.parents[30] = 20
    assert list(descendants.of([10])) == [20, 21, 30]


def test_real_processes() -> None:
    descendants = Descendants()
    descendants.of([os.getpid()])
    child = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
    try:
        end = time.monotonic() + 10
        while len(found := descendants.of([child.pid])) < 1:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert found.keys() == descendants_of(child.pid).keys()
        assert child.pid in descendants.of([os.getpid()])
    finally:
        processes.kill_frozen(child.pid)
        child.wait()
    assert child.pid not in descendants.of([os.getpid()])
