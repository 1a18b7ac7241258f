"""The environment of LocalExecutor: what counts as work, also of an executor with processes of its own kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness.backend import LOCAL_WORKER, Options, Site
from executor_conformance.harness.processes import ProcessInfo

GUARDIAN, API, ZYGOTE, SCHEDULER = 1, 2, 3, 4
WORKER = "python -m airflow.sdk.execution_time.execute_workload"


def backend(executor: str | None, *, scheduler_spawned: bool = False) -> LocalBackend:
    spawned = [API, ZYGOTE, *([SCHEDULER] if scheduler_spawned else [])]
    supervisor: Any = SimpleNamespace(
        guardian_pid=GUARDIAN, processes=[SimpleNamespace(pid=pid, alive=True) for pid in spawned]
    )
    options = Options(executor=executor)
    return LocalBackend(Site(Path("/nowhere"), supervisor, options, LocalBackend.variants[0], scheduler_pid=SCHEDULER))


def processes(*more: tuple[int, int, str]) -> dict[int, ProcessInfo]:
    """Those that every environment has, and ``more``: pid, parent and title; parents first."""
    rows = [(API, GUARDIAN, "airflow api-server"), (ZYGOTE, GUARDIAN, "zygote"), (SCHEDULER, ZYGOTE, "zygote"), *more]
    return {pid: ProcessInfo(pid, ppid, title, "S", 0, pid) for pid, ppid, title in rows}


OWN = [
    pytest.param([], [], id="nothing but the environment"),
    pytest.param([(10, SCHEDULER, WORKER), (11, 10, WORKER)], [10, 11], id="a worker and the callable"),
    pytest.param([(11, GUARDIAN, WORKER)], [11], id="an orphan"),
    pytest.param([(11, GUARDIAN, WORKER), (12, 11, "sleep 9")], [11, 12], id="what an orphan started"),
    pytest.param([(20, API, "uvicorn worker")], [], id="a worker of the API server"),
    pytest.param([(10, SCHEDULER, "python -c spawn_main")], [10], id="a process that came with a workload"),
    pytest.param([(10, SCHEDULER, f"{LOCAL_WORKER}: <idle>")], [], id="an idle LocalExecutor"),
    pytest.param(
        [(10, SCHEDULER, f"{LOCAL_WORKER}: run"), (11, 10, f"{LOCAL_WORKER}: run")], [10, 11], id="a busy one"
    ),
]


@pytest.mark.parametrize(("more", "units"), OWN)
def test_units_of_an_executor_of_ones_own(more: list[tuple[int, int, str]], units: list[int]) -> None:
    assert sorted(backend("my.Executor").units(processes(*more))) == units


@pytest.mark.parametrize(
    ("more", "units"),
    [
        pytest.param([], [], id="helpers, and a pool that waits"),
        pytest.param([(20, 11, WORKER)], [11, 20], id="the pool works"),
        pytest.param([(20, 10, "a helper's helper"), (21, 20, WORKER)], [10, 20, 21], id="a worker below a helper"),
    ],
)
def test_what_was_there_before_the_first_workload_is_no_unit(
    more: list[tuple[int, int, str]], units: list[int]
) -> None:
    there = [(10, SCHEDULER, "python -c from multiprocessing.managers"), (11, SCHEDULER, "my pool")]
    own = backend("my.Executor")
    own.site.residents.begin(processes(*there).values())
    assert sorted(own.units(processes(*there, *more))) == units


def test_what_outlives_the_workloads_is_no_unit_unless_it_runs_the_worker_command() -> None:
    own, found = backend("my.Executor"), processes((10, SCHEDULER, "a proxy"), (11, SCHEDULER, WORKER))
    assert sorted(own.units(found)) == [10, 11]
    own.site.residents.add(found.values())
    assert own.units(found) == [11]


def test_a_later_process_with_the_pid_of_a_resident_is_a_unit() -> None:
    own, found = backend("my.Executor"), processes((10, SCHEDULER, "a proxy"))
    own.site.residents.begin(found.values())
    later = {**found, 10: replace(found[10], started=99)}
    assert (own.units(found), own.units(later)) == ([], [10])


def test_the_scheduler_command_starts_processes_for_itself() -> None:
    found = processes((10, SCHEDULER, "airflow serve-logs"))
    assert backend("my.Executor", scheduler_spawned=True).units(found) == []


def test_local_executor_is_told_by_its_titles() -> None:
    """Of the released executor only its own workers count, and what they forked."""
    found = processes((10, SCHEDULER, f"{LOCAL_WORKER}: run"), (11, 10, "callable"), (12, SCHEDULER, "something"))
    assert sorted(backend(None).units(found)) == [10, 11]


@pytest.mark.parametrize(
    ("executor", "idle"), [(None, [10]), ("my.Executor", [10, 12])], ids=["LocalExecutor", "of one's own"]
)
def test_idle_units(executor: str | None, idle: list[int]) -> None:
    found = processes(
        (10, SCHEDULER, f"{LOCAL_WORKER}: <idle>"),
        (11, SCHEDULER, f"{LOCAL_WORKER}: run"),
        (12, SCHEDULER, "my <idle>"),
    )
    assert backend(executor).idle_units(found) == idle
