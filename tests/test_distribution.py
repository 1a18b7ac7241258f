from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is not installed")

from executor_conformance.suites.distribution import CHUNK, ByBackend, backend_of

BACKENDS = {"local": "local", "edge": "edge", "edge-stubbed": "edge", "ecs": "ecs", "Mine@local": "local"}


class Node:
    """A worker as the scheduler of pytest-xdist sees it."""

    def __init__(self) -> None:
        self.gateway = SimpleNamespace(id="gw")
        self.queue: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.queue += indices

    def shutdown(self) -> None:
        self.shutting_down = True


Run = Callable[[list[str], int], dict[Node, list[str]]]


@pytest.fixture
def run(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Tells which worker runs which cases, if all take equally long."""

    def play(cases: list[str], workers: int) -> dict[Node, list[str]]:
        monkeypatch.setattr(pytestconfig.option, "tx", [f"{workers}*popen"])
        return _play(cases, workers, pytestconfig)

    return play


def _play(cases: list[str], workers: int, config: pytest.Config) -> dict[Node, list[str]]:
    scheduler = ByBackend(config, None, BACKENDS)
    nodes = [Node() for _ in range(workers)]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, cases)
    scheduler.schedule()
    done: dict[Node, list[str]] = {node: [] for node in nodes}
    while any(node.queue for node in nodes):
        for node in nodes:
            # a worker keeps one case back, until it knows what follows
            if node.queue and (len(node.queue) > 1 or node.shutting_down):
                index = node.queue.pop(0)
                done[node].append(cases[index])
                scheduler.mark_test_complete(node, index)
    assert scheduler.tests_finished
    return done


def cases_of(label: str, count: int) -> list[str]:
    return [f"suites/test_run.py::test_{n}[{label}]" for n in range(count)]


@pytest.mark.parametrize(
    ("nodeid", "backend"),
    [
        ("suites/test_run.py::test_success[local]", "local"),
        ("suites/test_run.py::test_success[Mine@local]", "local"),
        ("suites/test_run.py::test_kwargs[edge-stubbed-64-KiB]", "edge"),
        ("suites/test_faults.py::test_hang[edge-hang]", "edge"),
        ("suites/test_run.py::test_success[ecs]", "ecs"),
        ("tests/test_mine.py::test_something[localhost]", "tests/test_mine.py::test_something[localhost]"),
        ("tests/test_mine.py::test_plain", "tests/test_mine.py::test_plain"),
    ],
)
def test_backend_of_a_case(nodeid: str, backend: str) -> None:
    assert backend_of(nodeid, BACKENDS) == backend


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_every_case_runs_once(workers: int, run: Run) -> None:
    cases = cases_of("local", 40) + cases_of("edge", 5) + cases_of("edge-stubbed", 60) + cases_of("ecs", 3)
    done = run(cases, workers)
    assert Counter(case for ran in done.values() for case in ran) == Counter(cases)


def test_as_many_backends_as_workers_each_has_its_own(run: Run) -> None:
    done = run(cases_of("local", 20) + cases_of("edge", 20), 2)
    assert [{backend_of(case, BACKENDS) for case in ran} for ran in done.values()] == [{"local"}, {"edge"}]


def test_who_has_nothing_left_helps_where_much_is_left(run: Run) -> None:
    done = run(cases_of("local", 10) + cases_of("edge", 100), 2)
    helper = next(ran for ran in done.values() if "[local]" in ran[0])
    assert {backend_of(case, BACKENDS) for case in helper} == {"local", "edge"}
    assert abs(len(helper) - 55) <= CHUNK + 2


def test_nobody_starts_an_environment_for_the_last_few_cases(run: Run) -> None:
    done = run(cases_of("local", 4) + cases_of("edge", 2 * CHUNK), 2)
    helper = next(ran for ran in done.values() if "[local]" in ran[0])
    assert {backend_of(case, BACKENDS) for case in helper} == {"local"}
