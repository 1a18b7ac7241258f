"""What tells a slow machine from an executor that does nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from executor_conformance.harness import pressure
from executor_conformance.harness.pressure import Progress, overloaded
from executor_conformance.harness.processes import ProcessInfo

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
