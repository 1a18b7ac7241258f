"""The environments of Celery and Edge: accepted workloads, pending ones, faults and timers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.backends.celery.backend import QUEUES, REDELIVERY_S, SYNC_PARALLELISM, CeleryBackend
from executor_conformance.backends.celery.base import VISIBILITY_TIMEOUT_S, Broker
from executor_conformance.backends.celery.messages import Publication, Publications
from executor_conformance.backends.edge import ORPHANED_AFTER_S, EdgeBackend
from executor_conformance.backends.moments import monotonic_at, monotonic_of
from executor_conformance.harness import journal
from executor_conformance.harness.backend import OTHER_QUEUE, Options, Site
from executor_conformance.harness.limits import KILL_S
from executor_conformance.harness.processes import ProcessInfo


class StubBroker(Broker):
    """Accepts what a test tells it."""

    label, url = "stub", "stub://"
    ways = {"submit-refused": ("broker-away",)}

    def __init__(self) -> None:
        self.published: Publications = Publications()
        self.healed = 0

    def start(self) -> None:
        pass

    def hits(self) -> int | None:
        return 7

    def heal(self) -> None:
        self.healed += 1

    def accept(self, task_id: str, workload: str, queue: str = "default") -> None:
        self.published.add(Publication(task_id, workload, queue, time.monotonic()))


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CeleryBackend:
    supervisor: Any = SimpleNamespace(
        spawn=lambda *given: SimpleNamespace(alive=True, kill_tree=lambda: [], given=given)
    )
    backend = CeleryBackend(Site(tmp_path, supervisor, Options(), CeleryBackend.variants[0]))
    backend.broker = StubBroker()
    monkeypatch.setattr(backend, "wait_ready", lambda: None)
    with contextlib.closing(sqlite3.connect(tmp_path / "celery-results.db")) as results:
        results.execute("CREATE TABLE celery_taskmeta (task_id TEXT, status TEXT, date_done TEXT)")
        results.commit()
    backend.start()
    return backend


def store(backend: CeleryBackend, task_id: str, status: str, done: str | None = None) -> None:
    with contextlib.closing(sqlite3.connect(backend.site.folder / "celery-results.db")) as results:
        results.execute("DELETE FROM celery_taskmeta WHERE task_id = ?", (task_id,))
        results.execute("INSERT INTO celery_taskmeta VALUES (?, ?, ?)", (task_id, status, done))
        results.commit()


def broker_of(backend: CeleryBackend) -> StubBroker:
    assert isinstance(backend.broker, StubBroker)
    return backend.broker


def test_the_pool_that_publishes_runs_and_the_worker_comes_past_the_relay(backend: CeleryBackend) -> None:
    settings = backend.config()
    assert int(settings["AIRFLOW__CELERY__SYNC_PARALLELISM"]) == SYNC_PARALLELISM >= 2
    assert json.loads(settings["AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"]) == {"worker_lost_wait": 2.0}
    spawned: Any = backend.nodes()[0]
    assert spawned.given[2]["AIRFLOW__CELERY__BROKER_URL"] == "stub://"
    assert ",".join(QUEUES) in spawned.given[1]


def test_a_workload_that_was_published_twice_has_two_deliveries(backend: CeleryBackend) -> None:
    broker_of(backend).accept("t1", "c1")
    broker_of(backend).accept("t2", "c1")
    broker_of(backend).accept("t3", "c2")
    store(backend, "t1", "SUCCESS", "2026-11-29 08:51:32.817701")
    store(backend, "t2", "STARTED")
    first, second = backend.deliveries("c1") or []
    assert (first.id, second.id) == ("t1", "t2")
    assert first.ended is not None
    assert first.ended >= first.accepted
    assert second.ended is None
    assert backend.deliveries("c9") == []
    assert backend.accepted("c2")
    assert not backend.accepted("c9")
    assert backend.succeeded("c1")
    assert not backend.succeeded("c2")


def test_each_message_of_a_workload_may_still_act(backend: CeleryBackend) -> None:
    broker_of(backend).accept("first", "c1")
    store(backend, "first", "STARTED")
    backend.site.events_of = lambda key: [{"state": "queued", "info": "second"}]
    assert backend.pending("c1") == [
        "the Celery task first is STARTED and the worker lives",
        "the Celery task second is sent and the worker lives",
    ]
    store(backend, "first", "SUCCESS")
    assert len(backend.pending("c1")) == 1
    store(backend, "second", "FAILURE")
    assert backend.pending("c1") == []


def test_nothing_comes_of_a_message_that_did_not_arrive(backend: CeleryBackend) -> None:
    backend.site.events_of = lambda key: [{"state": "queued", "info": "t1"}]
    broker_of(backend).dropped = {"t1"}
    assert backend.pending("c1") == []
    broker_of(backend).accept("t1", "c1")  # the publisher has tried again
    assert len(backend.pending("c1")) == 1


def test_nothing_comes_of_a_message_where_nobody_listens(backend: CeleryBackend) -> None:
    broker_of(backend).accept("t1", "c1", "acme")
    assert backend.queue_of("c1") == "acme"
    assert backend.pending("c1") == []
    broker_of(backend).accept("t2", "c2", OTHER_QUEUE)
    assert len(backend.pending("c2")) == 1


def test_what_nobody_listened_to_stays_lost(backend: CeleryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    purged: list[str] = []
    monkeypatch.setattr(
        "executor_conformance.backends.celery.backend.purge", lambda broker, queue: purged.append(queue)
    )
    broker_of(backend).accept("earlier", "c0")
    assert backend.hits() == 7
    done = backend.inject("accepted-lost", "no-consumer", "")
    assert f"'{OTHER_QUEUE}' only" in done
    spawned: Any = backend.nodes()[-1]
    assert OTHER_QUEUE in spawned.given[1]
    assert backend.hits() == 0
    broker_of(backend).accept("t1", "c1")
    assert backend.hits() == 1
    assert backend.pending("c1") == []
    backend.heal()
    assert purged == ["default"]
    assert backend.pending("c1") == []
    assert len(backend.pending("c0")) == 1, "its message was not in the queue"
    broker_of(backend).accept("t2", "c2")
    assert len(backend.pending("c2")) == 1
    backend.heal()
    assert purged == ["default"]
    assert broker_of(backend).healed == 2


def test_processes_that_publish_are_no_units(backend: CeleryBackend) -> None:
    node: Any = backend.nodes()[0]
    node.pid = 10
    rows = [(4, 3, "airflow scheduler -- conformance"), (5, 4, "airflow scheduler -- conformance")]
    rows += [(10, 1, "[celeryd: celery@host:MainProcess]"), (11, 10, "[celeryd: celery@host:ForkPoolWorker-1]")]
    processes = {pid: ProcessInfo(pid, ppid, title, "S", 0, pid) for pid, ppid, title in rows}
    assert backend.units(processes) == []
    processes[12] = ProcessInfo(12, 11, "airflow supervisor: callback", "S", 0, 12)
    assert backend.units(processes) == [11, 12]


def test_a_visibility_timeout_gives_the_callback_time_for_its_second_worker(tmp_path: Path) -> None:
    supervisor: Any = SimpleNamespace()
    site = Site(tmp_path, supervisor, Options(broker="redis://h/0"), CeleryBackend.variants[0])
    backend = CeleryBackend(site)
    assert backend.settle_s == VISIBILITY_TIMEOUT_S + REDELIVERY_S
    assert VISIBILITY_TIMEOUT_S in backend.timers().values()
    assert CeleryBackend.callable_timeout_s + KILL_S + 5 <= VISIBILITY_TIMEOUT_S, "clearly above"
    assert EdgeBackend.callable_timeout_s + KILL_S + 5 <= ORPHANED_AFTER_S


def test_moments_of_a_database() -> None:
    now = time.monotonic()
    assert monotonic_at(time.time() - 5) == pytest.approx(now - 5, abs=1)
    assert monotonic_of("2026-11-29 08:51:32.817701") == pytest.approx(
        monotonic_of("2026-11-29T09:51:32.817701+01:00"), abs=1
    )


# -- Edge ---------------------------------------------------------------------------------------------------------


class StubJournal:
    """Answers queries like a database."""

    def __init__(self, noted: list[tuple[float, str | None]], rows: list[tuple[Any, ...]]) -> None:
        self.noted, self.rows = noted, rows

    def query(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return list(self.noted) if journal.TABLE in sql else self.rows


def edge(noted: list[tuple[float, str | None]], rows: list[tuple[Any, ...]]) -> EdgeBackend:
    backend = EdgeBackend.__new__(EdgeBackend)
    backend.site = SimpleNamespace(journal=StubJournal(noted, rows))  # type: ignore[assignment]
    return backend


def test_a_job_that_becomes_queued_again_is_a_second_delivery() -> None:
    now = time.time()
    noted = [(now - 9, "queued"), (now - 8, "running"), (now - 6, "failed"), (now - 5, "queued"), (now - 4, "running")]
    first, second = edge(noted, []).deliveries("c1") or []
    assert first.id != second.id
    assert first.ended == pytest.approx(first.accepted + 3, abs=0.1)
    assert second.ended is None


def test_the_job_of_a_task_is_its_row() -> None:
    key = ("dag", "succeeds", "run", -1, 1)
    jobs = [
        ('{"ti": {"id": "t1"}}', *key, "success", "2026-11-29 08:00:00", "2026-11-29 08:00:02"),
        ('{"ti": {"id": "t2"}}', *key, "running", "2026-11-29 08:00:00", "2026-11-29 08:00:02"),
        ("cut off", *key, "running", "2026-11-29 08:00:00", None),
    ]
    backend = edge([], jobs)
    [done] = backend.deliveries("t1") or []
    [runs] = backend.deliveries("t2") or []
    assert done.id == "dag/succeeds/run/-1/1"
    assert done.ended == pytest.approx(done.accepted + 2, abs=0.1)
    assert runs.ended is None
    assert backend.deliveries("t3") == []
