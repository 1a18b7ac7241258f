"""The plan of a sweep, and what a stopped one finds again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.explore.boundaries import NOT_YET, Boundary
from executor_conformance.harness.explore.plan import Sweep, duration, load, path_of
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.report.model import CaseResult
from executor_conformance.harness.verdicts import Verdict

ABOUT = {"executor": "a.B", "Airflow": "3.4.0", "broker": ""}
BOUNDARIES = [
    Boundary("row queued", "row", "queued", 1, 0.1, NOT_YET),
    Boundary("row running", "row", "running", 1, 0.2),
    Boundary("callable enter", "callable", "enter", 1, 0.3),
]


def result(name: str, verdict: Verdict = Verdict.PASS) -> CaseResult:
    return CaseResult(f"sweep.killed[{name}]", "local", "local", "a.B", verdict, duration_s=2.0)


def sweep(**results: Verdict) -> Sweep:
    kept = [result(name.replace("_", " "), verdict) for name, verdict in results.items()]
    return Sweep(
        "local",
        "unit",
        ABOUT,
        healthy_s=3.0,
        boundaries=BOUNDARIES,
        recording=result("recording"),
        results={each.id: each for each in kept},
        facts={"subject": {"label": "local"}, "run": {"edition": "claim"}},
    )


def test_the_plan_tells_runs_time_and_each_boundary() -> None:
    lines = sweep().plan_lines()
    expected = duration(2 * (3.0 + LIMITS.quiet_window))
    assert lines[0] == (
        f"sweep of local, killing the unit: 3 boundaries, 2 runs, about {expected} (the healthy run took 3.0 s)"
    )
    assert [line.split() for line in lines[1:]] == [
        ["-", "row", "queued", "skipped:", *NOT_YET.split()],
        ["1", "row", "running"],
        ["2", "callable", "enter"],
    ]


def test_the_plan_of_a_resumption_counts_what_is_left() -> None:
    line = sweep().plan_lines(done=1)[0]
    assert "2 runs, 1 of them already done, about 4 s" in line


def test_what_is_left_takes_as_long_as_what_was() -> None:
    kept = sweep(row_running=Verdict.PASS)  # 2 s
    assert kept.left(done=1) == 2.0
    assert kept.left(done=2) == 0.0


def test_no_plan_has_its_reason() -> None:
    assert Sweep("local", "unit", ABOUT, trouble="the row is FAILED").plan_lines() == [
        "sweep of local, killing the unit: the row is FAILED"
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42.2, "42 s"), (99, "99 s"), (130, "2 min"), (6600, "1 h 50 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    before = sweep(row_running=Verdict.FAIL)
    before.save(tmp_path)
    assert load(tmp_path, "local", "unit", ABOUT) == before


def test_only_what_was_decided_is_finished() -> None:
    kept = sweep(row_running=Verdict.FAIL, callable_enter=Verdict.ERROR)
    assert kept.finished("sweep.killed[row running]") is not None
    assert kept.finished("sweep.killed[callable enter]") is None
    assert kept.finished("sweep.killed[row success]") is None


def test_each_victim_has_its_own(tmp_path: Path) -> None:
    sweep().save(tmp_path)
    assert load(tmp_path, "local", "child", ABOUT) is None
    assert load(tmp_path, "other", "unit", ABOUT) is None


@pytest.mark.parametrize("changed", [{"Airflow": "3.3.2"}, {"broker": "redis"}, {"celery": "5.6"}])
def test_a_sweep_of_something_else_is_refused(tmp_path: Path, changed: dict[str, str]) -> None:
    sweep().save(tmp_path)
    with pytest.raises(UsageError, match=f"is of {next(iter(changed))} .*start it anew"):
        load(tmp_path, "local", "unit", {**ABOUT, **changed})


def test_a_broken_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    sweep().save(tmp_path)
    path = path_of(tmp_path, "local", "unit")
    whole = json.loads(path.read_text())
    for broken in ("", "[]", "{}", json.dumps({**whole, "version": 99}), json.dumps({**whole, "boundaries": [{}]})):
        path.write_text(broken)
        with pytest.raises(UsageError, match="cannot be taken up") as raised:
            load(tmp_path, "local", "unit", ABOUT)
        assert "\n" not in str(raised.value)


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    replace(sweep(), subject="My Executor@local").save(tmp_path)
    assert [path.name for path in (tmp_path / "sweeps").iterdir()] == ["My-Executor-local--unit.json"]
