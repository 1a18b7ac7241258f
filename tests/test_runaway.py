"""A subject that takes processes, memory or descriptors without end is stopped, and nothing else is disturbed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness import guardianship, runaway
from executor_conformance.harness.backend import Options
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.checker import decide
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.errors import HarnessError, RanAway
from executor_conformance.harness.expectations import Expectations
from executor_conformance.harness.history import read_history
from executor_conformance.harness.processes import all_pids, is_alive, read_stat
from executor_conformance.harness.report.model import CaseResult, case_verdict, clause_results
from executor_conformance.harness.report.outcome import apply_control_group, control_failures
from executor_conformance.harness.runaway import GIB, Budget, Runaway
from executor_conformance.harness.session import CaseSpec, Recorder, Subject
from executor_conformance.harness.supervisor import ManagedProcess, Supervisor
from executor_conformance.harness.verdicts import Decision, Verdict
from executor_conformance.suites import test_scheduler

from tests.test_supervisor import BOUND, ENV, TREE, until
from tests.written import Written, history

BUDGET = Budget(processes=30, memory=300 << 20, descriptors=600)
MANY = "import os, time\nwhile True:\n    {fork}\n    time.sleep({pause})\n"
"""A program that starts processes without end; each sleeps."""
SLEEP = "(os.execvp('sleep', ['sleep', '600']) if os.fork() == 0 else None)"
DAEMON = (
    "pid = os.fork()\n"
    "    if pid == 0:\n"
    "        os.setsid()\n"
    "        os.execvp('sleep', ['sleep', '600']) if os.fork() == 0 else os._exit(0)\n"
    "    os.waitpid(pid, 0)"
)
MEMORY = "import time\nheld = []\nwhile True:\n    held.append(b'x' * (20 << 20))\n    time.sleep(0.05)\n"
FILES = (
    "import os, resource, time\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    "for _ in range({limit} - 20):\n"
    "    os.open('/dev/null', os.O_RDONLY)\n"
    "    time.sleep(0.002)\n"
    "time.sleep(600)\n"
)


@pytest.fixture
def told() -> list[Runaway]:
    """What the supervisor was told."""
    return []


@pytest.fixture
def supervisor(tmp_path: Path, told: list[Runaway]) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "runs" / "env", BUDGET, on_runaway=told.append)
    yield made
    made.stop(remove=True)


def start(supervisor: Supervisor, code: str, name: str = "scheduler") -> ManagedProcess:
    return supervisor.spawn(name, [sys.executable, "-I", "-S", "-c", code], ENV, Path("/"))


def below(supervisor: Supervisor) -> list[int]:
    return [process.pid for process in supervisor.descendants()]


def stopped(supervisor: Supervisor) -> Runaway:
    """What the guardian has told, once nothing is left of what it is about."""
    found: Runaway = until(lambda: supervisor.runaway, "a runaway")
    until(lambda: not below(supervisor), "the end of all of it")
    return found


@pytest.mark.parametrize(
    ("fork", "pause"),
    [(SLEEP, 0.02), (DAEMON, 0.02), ("os.fork()", 0.4)],
    ids=["children", "daemons", "each-forks"],
)
def test_processes_without_end(supervisor: Supervisor, told: list[Runaway], fork: str, pause: float) -> None:
    bystander = start(supervisor, "import time; time.sleep(600)", "api-server")
    started = start(supervisor, MANY.format(fork=fork, pause=pause))
    found = stopped(supervisor)
    assert told == [found]
    fields = found.fields
    part = runaway.ORPHANS if fork == DAEMON else "scheduler"
    assert (fields["what"], fields["limit"], fields["part"], found.subject) == ("processes", 30, part, True)
    assert 30 < fields["processes"] < 300
    if fork == SLEEP:
        assert fields["parents"][0]["pid"] == started.pid
        assert fields["parents"][0]["children"] >= 25
        assert f"are children of '{sys.executable} -I -S -c import os, time" in found.sentence
    assert fields["growth"][0]["processes"] < 10
    assert not bystander.alive
    with pytest.raises(RanAway, match="its budget is 30"):
        start(supervisor, "pass")
    supervisor.guardian.ping()


def test_nothing_new_appears_while_it_is_stopped(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, told: list[Runaway]
) -> None:
    """The harness sees everything as it was: stopped, and not gone yet."""
    seen: list[dict[int, str]] = []

    def look(found: Runaway) -> None:
        for _ in range(3):
            stats = {pid: stat.state for pid in below(supervisor) if (stat := read_stat(pid))}
            seen.append(stats)
            time.sleep(0.1)

    monkeypatch.setattr(supervisor, "_on_runaway", look)
    start(supervisor, MANY.format(fork=SLEEP, pause=0.005))
    stopped(supervisor)
    assert seen[0].keys() == seen[1].keys() == seen[2].keys()
    assert set(seen[2].values()) <= {"T", "Z"}


def test_harness_that_does_not_answer(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its guardian ends what it has stopped all the same."""
    monkeypatch.setattr(supervisor, "_on_runaway", lambda found: time.sleep(8))
    began = time.monotonic()
    start(supervisor, MANY.format(fork=SLEEP, pause=0.01))
    until(lambda: len(below(supervisor)) > 30, "many processes")
    until(lambda: not below(supervisor), "the end of all of it")
    assert supervisor.runaway is None
    assert time.monotonic() - began < BOUND


def test_memory_without_end(supervisor: Supervisor) -> None:
    started = start(supervisor, MEMORY)
    found = stopped(supervisor)
    assert (found.fields["what"], found.fields["part"], found.subject) == ("memory", "scheduler", True)
    assert found.fields["limit"] == 300
    assert found.fields["largest"][0]["pid"] == started.pid
    assert found.fields["largest"][0]["memory_mb"] > 250
    assert "MB of memory, and its budget is 300: most has" in found.sentence


def test_memory_that_is_shared_counts_once(supervisor: Supervisor) -> None:
    code = "import os, time\nheld = b'x' * (100 << 20)\nfor _ in range(6):\n    if os.fork() == 0: break\n"
    code += "time.sleep(600)\n"
    start(supervisor, code)
    until(lambda: len(below(supervisor)) == 7, "the forks")
    time.sleep(3)
    assert supervisor.runaway is None
    assert len(below(supervisor)) == 7


@pytest.mark.parametrize(("limit", "least"), [(900, 600), (400, 300)], ids=["many", "near-its-own-limit"])
def test_descriptors_without_end(supervisor: Supervisor, limit: int, least: int) -> None:
    started = start(supervisor, FILES.format(limit=limit))
    found = stopped(supervisor)
    assert (found.fields["what"], found.fields["part"], found.subject) == ("descriptors", "scheduler", True)
    assert found.fields["largest"][0]["pid"] == started.pid
    assert found.fields["largest"][0]["descriptors"] >= least


@pytest.mark.parametrize(
    ("name", "code", "nodes", "subject"),
    [
        ("api-server", MANY.format(fork=SLEEP, pause=0.02), False, False),
        ("celery-worker", MANY.format(fork=SLEEP, pause=0.02), True, True),
        ("kubernetes", FILES.format(limit=900), True, False),
    ],
    ids=["server", "workers", "emulator's-own-descriptors"],
)
def test_whose_doing_it_is(tmp_path: Path, name: str, code: str, nodes: bool, subject: bool) -> None:
    """The API server's and an emulator's own are not the executor's; how many workers there are is."""
    supervisor = Supervisor(
        tmp_path / "env", BUDGET, lambda: [process.pid for process in supervisor.processes if nodes]
    )
    try:
        start(supervisor, code, name)
        found = stopped(supervisor)
        assert (found.fields["part"], found.subject) == (name, subject)
    finally:
        supervisor.stop(remove=True)


def test_another_environment_is_not_disturbed(supervisor: Supervisor, tmp_path: Path) -> None:
    other = Supervisor(tmp_path / "runs" / "other", BUDGET)
    try:
        theirs = start(other, "import time; time.sleep(600)")
        start(supervisor, MANY.format(fork=SLEEP, pause=0.01))
        stopped(supervisor)
        assert theirs.alive
        assert other.runaway is None
    finally:
        other.stop(remove=True)


def test_stop_and_death_of_the_harness_in_the_middle(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_on_runaway", lambda found: time.sleep(1))
    start(supervisor, MANY.format(fork=SLEEP, pause=0.01))
    until(lambda: len(below(supervisor)) > 30, "many processes")
    pids = below(supervisor)
    supervisor.stop(remove=True)
    assert not any(is_alive(pid) for pid in pids)
    assert not supervisor.folder.exists()


def test_end_kills_and_closes(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.spawn("tree", [sys.executable, "-I", "-S", "-c", TREE, str(tmp_path / "pids")], ENV, Path("/"))
    until((tmp_path / "pids").exists, "the tree")
    supervisor.end("the run is over")
    assert below(supervisor) == []
    with pytest.raises(HarnessError, match="the run is over"):
        start(supervisor, "pass")
    supervisor.end("again")


def test_guardian_that_watches_is_cheap_and_comes_first(supervisor: Supervisor) -> None:
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    supervisor.spawn("many", ["sh", "-c", "for i in $(seq 25); do sleep 600 & done; wait"], ENV, Path("/"))
    until(lambda: len(below(supervisor)) == 26, "25 processes")
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in below(supervisor)} == {nice}
    if os.geteuid() == 0:
        assert os.getpriority(os.PRIO_PROCESS, supervisor.guardian_pid) < nice
    before = read_stat(supervisor.guardian_pid)
    time.sleep(5)
    after = read_stat(supervisor.guardian_pid)
    assert before is not None
    assert after is not None
    share = (after.cpu_ticks - before.cpu_ticks) / os.sysconf("SC_CLK_TCK") / 5
    print(f"guardian: {100 * share:.1f} % of one CPU, {len(all_pids())} processes on the machine")
    assert share < 0.05  # generous, for slow machines; it is below 0.01
    assert supervisor.runaway is None


def test_budget_follows_the_environment_and_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(runaway, "memory_of_machine", lambda: 64 * GIB)
    assert Budget.of(5) == Budget(180, 32 * GIB, 4096)
    assert Budget.of(50).processes == 540
    assert Budget.of(5, 77).processes == 77
    monkeypatch.setattr(runaway, "memory_of_machine", lambda: 4 * GIB)
    assert Budget.of(5).memory == 3 * GIB
    monkeypatch.undo()
    (tmp_path / "limit").write_text(f"{GIB}\n")
    monkeypatch.setattr(runaway, "_LIMITS", (str(tmp_path / "none"), str(tmp_path / "limit")))
    assert runaway.memory_of_machine() == GIB


# ------------------------------------------------------------------------------------------------------- verdicts


def ran_away(subject: bool = True, what: str = "processes") -> Written:
    """A case in which the environment was stopped."""
    fields: dict[str, Any] = {"what": what, "limit": 180, "processes": 203, "memory_mb": 900, "descriptors": 31}
    fields |= {"part": "airflow-side", "parents": [{"pid": 7, "title": "airflow scheduler", "children": 190}]}
    fields |= {"largest": [], "growth": [{"before_s": 2.0, "processes": 9, "memory_mb": 600, "descriptors": 31}]}
    return history().callback().started().add("runaway", subject=subject, **fields)


def ended(written: Written, **more: Any) -> Written:
    nothing = {"trouble": "", "not_applicable": "", "unsupported": "", "scheduler_died": False, "lost": ""}
    return written.add("end", **{**nothing, **more})


def test_it_is_asked_whatever_the_case_is_about() -> None:
    written = ended(ran_away(), trouble="stopped", runaway="The environment had 203 processes.", not_applicable="")
    decisions = {each.clause: each for each in decide(written.stored(), ["RUN-1", "CRASH-1"], load_catalogue())}
    assert {clause: each.verdict for clause, each in decisions.items()} == {
        "ROUTE-4": Verdict.FAIL,
        "RUN-1": Verdict.NOT_APPLICABLE,
        "CRASH-1": Verdict.NOT_APPLICABLE,
    }
    assert "had 203 processes, most of it in 'airflow-side'" in decisions["ROUTE-4"].reason
    assert "pid 7 (airflow scheduler) had 190 children" in decisions["ROUTE-4"].evidence
    assert "see ROUTE-4: The environment had 203 processes." in decisions["RUN-1"].reason


def test_what_is_not_the_subjects_accuses_nobody() -> None:
    written = ended(ran_away(subject=False), lost="The environment had 203 processes.")
    decisions = decide(written.stored(), ["RUN-1", "ROUTE-4"], load_catalogue())
    assert [each.verdict for each in decisions] == [Verdict.ERROR] * 2


def test_failure_stands_without_a_control_group() -> None:
    """The control group ran away itself, so no plain task is there to stand beside it."""

    def result(case: str, *decisions: Decision) -> CaseResult:
        clauses = clause_results(decisions)
        return CaseResult(case, "mine", "local", "mine.Executor", case_verdict(clauses), clauses)

    stopped = Decision("ROUTE-4", Verdict.FAIL, "203 processes", data={"runaway": True})
    control = result("task.control_group", stopped, Decision("TASK-1", Verdict.NOT_APPLICABLE, "stopped"))
    again = result("run.success", stopped, Decision("RUN-1", Verdict.NOT_APPLICABLE, "stopped"))
    other = result("crash.a", Decision("CRASH-1", Verdict.FAIL, "stuck"))
    assert control_failures([control])
    judged = apply_control_group([control, again, other])
    assert [each.verdict for each in judged] == [Verdict.FAIL, Verdict.FAIL, Verdict.ERROR]
    assert judged[1] == again
    assert apply_control_group(judged) == judged


def test_stop_of_a_guardian_is_bounded_below_ten_seconds() -> None:
    assert guardianship.STOP_BOUND + guardianship.KILLED_BOUND / 5 < 10


def test_answer_of_a_scheduler_that_is_stopped(supervisor: Supervisor, tmp_path: Path) -> None:
    """A wait of a minute for an answer ends when the environment is stopped, and says why."""
    from executor_conformance.harness.channel import Channel
    from executor_conformance.harness.scheduler import SchedulerHandle

    path = tmp_path / "s"
    code = (
        "import os, socket, sys, time\n"
        f"path = {str(path)!r}; s = socket.socket(socket.AF_UNIX)\n"
        "s.bind(path); s.listen(); os.rename(path, path + '2')\n"
        "c, _ = s.accept(); c.recv(10)\n" + MANY.format(fork=SLEEP, pause=0.02)
    )
    process = start(supervisor, code)
    until(Path(f"{path}2").exists, "the socket")
    handle = SchedulerHandle.__new__(SchedulerHandle)
    handle._channel = Channel.connect(f"{path}2")
    handle._zygote = type("Zygote", (), {"supervisor": supervisor})()  # type: ignore[assignment]
    handle.pid, handle.log = process.pid, process.log
    began = time.monotonic()
    with pytest.raises(RanAway, match="its budget is 30"):
        handle._call("step", 60.0)
    assert time.monotonic() - began < BOUND


# --------------------------------------------------------------------------------------------- whole environments

AT_ITS_START = """
from airflow.executors.local_executor import LocalExecutor


class StartsWithoutEnd(LocalExecutor):
    def start(self):
        super().start()
        while True:
            self._spawn_worker()
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Environment]]:
    """Makes an environment for an executor of the mutants or of the test, with a small budget."""
    made: list[Environment] = []
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "starting_executor.py").write_text(AT_ITS_START)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent / 'mutants'}:{tmp_path / 'modules'}")

    def make(executor: str) -> Environment:
        options = Options(executor=executor, processes=60)
        made.append(Environment(LocalBackend, options, LocalBackend.variants[0], tmp_path / "env"))
        return made[-1]

    yield make
    for env in made:
        env.stop()


def test_plain_scheduler_that_runs_away(environment: Callable[[str], Environment], tmp_path: Path) -> None:
    """The scheduler command is the victim, and nobody steps it; the history is valid and says what it did."""
    env = environment("slot_mutants.StartsWorkersWithoutEnd")
    env.start()
    spec = CaseSpec("scheduler.missed_deadline_of_a_dag", ("RUN-1", "CRASH-1"), "core", "pytest")
    subject = Subject("local", LocalBackend, LocalBackend.variants[0], env.options)
    recorder = Recorder(load_catalogue(), Expectations(), tmp_path / "report")
    run = recorder.begin(spec, subject, env)
    with pytest.raises(RanAway) as stopped:
        test_scheduler.test_missed_deadline_of_a_dag(run.case)
    result = recorder.finish(run, stopped.value)
    assert {clause: found["verdict"] for clause, found in result.clauses.items()} == {
        "ROUTE-4": "fail",
        "RUN-1": "not applicable",
        "CRASH-1": "not applicable",
    }
    assert not env.whole
    until(lambda: not env.supervisor.descendants(), "the end of all of it")
    stored = read_history(run.path)
    (event,) = stored.of("runaway")
    (end,) = stored.of("end")
    assert (event["part"], event["subject"]) == ("scheduler", True)
    assert event["processes"] < 120
    assert end["t"] - event["t"] < 10
    assert decide(stored, spec.clauses, load_catalogue())[0].verdict is Verdict.FAIL
    began = time.monotonic()
    env.stop()
    assert time.monotonic() - began < 10


def test_executor_that_runs_away_at_its_start(environment: Callable[[str], Environment]) -> None:
    env = environment("starting_executor.StartsWithoutEnd")
    with pytest.raises(HarnessError, match=r"The environment had \d+ processes, and its budget is 60: \d+ of them are"):
        env.start()
    assert env.supervisor.descendants() == []
    assert not env.folder.exists()
