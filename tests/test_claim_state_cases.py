"""The cases of `claim-state` in a real environment, with a stand-in for the state route before its API server.

Airflow's scheduler, API server and worker command run as released. The executors' workers report the end in addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness import environment
from executor_conformance.harness.backend import Options
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.expectations import Expectations
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.report.model import CaseResult
from executor_conformance.harness.session import Recorder, Subject

from tests.fronted import FrontedServer
from tests.test_mutants import LINE, run_case

PASS, FAIL, FINDING, NA = "pass", "fail", "finding", "not applicable"
VARIANT = LocalBackend.variants[0]
KNOWN = {"CRASH-7"}
"""What LocalExecutor fails itself: its `output` does not tell that a worker was killed."""
Run = Callable[..., CaseResult]

pytestmark = pytest.mark.skipif(LINE == "3.3", reason="Airflow 3.3 has no claim")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """A local environment whose API server seems to have the state route."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "mutants"))
        patch.setattr(environment, "ApiServer", FrontedServer)
        made = Environment(LocalBackend, Options(), VARIANT, tmp_path_factory.mktemp("claim-state") / "env")
        made.start()
    assert isinstance(made.api_server, FrontedServer)
    made.api_server.front.described = made.ask_beside("openapi", limit=LIMITS.api_server_start)
    yield made
    made.stop()
    made.api_server.close()


@pytest.fixture
def run(env: Environment, tmp_path: Path) -> Run:
    """Run one case against an executor, before a front with these faults."""

    def one(case: str, executor: str, *faults: str) -> CaseResult:
        assert isinstance(env.api_server, FrontedServer)
        env.api_server.front.faults = frozenset(faults)
        env.use_executor(executor if "." in executor else f"reporting.{executor}")
        recorder = Recorder(load_catalogue(), Expectations(), tmp_path)
        return run_case(env, recorder, case, Subject(VARIANT.label, LocalBackend, VARIANT, Options()))

    return one


def verdicts(result: CaseResult) -> dict[str, str]:
    """The verdict of each clause."""
    return {clause: str(found["verdict"]) for clause, found in result.clauses.items()}


def told(result: CaseResult, clause: str) -> str:
    """Verdict and reason of one clause."""
    found = result.clauses[clause]
    return f"{found['verdict']}: {found['reason']}"


def test_the_edition_is_detected(env: Environment) -> None:
    assert env.edition == "claim-state"


@pytest.mark.parametrize("executor", ["Reports", "ReportsAndSays"])
@pytest.mark.parametrize("case", ["success", "end-success", "end-lost", "child-killed", "worker-killed", "secrets"])
def test_an_executor_whose_workers_report_keeps_the_contract(case: str, executor: str, run: Run) -> None:
    result = run(case, executor)
    decided = verdicts(result)
    assert {clause for clause, verdict in decided.items() if verdict not in (PASS, NA)} <= KNOWN, result.clauses
    if case in ("success", "end-success", "end-lost", "secrets"):
        assert decided["STATE-5"] == PASS
    if case == "end-success":
        assert [decided[clause] for clause in ("RUN-11", "RUN-12")] == [PASS, PASS]
    if case == "end-lost":
        assert decided["CRASH-9"] == decided["CRASH-4"] == decided["CRASH-1"] == PASS


def test_a_failure_that_only_the_worker_reports(run: Run) -> None:
    for case in ("end-failure", "raises"):
        result = run(case, "Reports")
        assert set(verdicts(result).values()) <= {PASS, NA}, result.clauses
    assert told(result, "FAIL-4").startswith("pass: The callable's process ended with exit code 1")


def test_todays_core_writes_over_the_output_that_a_worker_has_reported(run: Run) -> None:
    assert told(run("end-failure", "ReportsAndSays"), "STATE-5").startswith("finding: The worker reported the output")


def test_the_route_is_guarded(run: Run) -> None:
    result = run("end-guarded", "Reports")
    assert told(result, "TOKEN-10").startswith("pass: 20 reports of an end; 9 requests with wrong tokens"), result


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("queued token everywhere", "with the queued token"),
        ("ends what is queued", "while QUEUED it answers 204, not 409"),
        ("any subject", "with another callback's subject"),
    ],
)
def test_a_route_that_is_not_guarded(fault: str, reason: str, run: Run) -> None:
    found = run("end-guarded", "Reports", fault).clauses["TOKEN-10"]
    assert (str(found["verdict"]), reason in f"{found['reason']} {found['evidence']}") == (FINDING, True), found


def test_the_matrix_of_tokens_and_the_states_that_are_told(run: Run) -> None:
    matrix = run("every-route", "Reports")
    decided = verdicts(matrix)
    assert [clause for clause, verdict in decided.items() if verdict != PASS] == ["TOKEN-7"], matrix.clauses
    assert {"TOKEN-2", "TOKEN-4", "TOKEN-6", "STATE-5"} <= set(decided)
    states = told(run("api-states", "Reports"), "STATE-2")
    assert "PATCH /callbacks/{callback_id}/state" in states, states
    assert states.startswith("pass"), states


def test_a_report_that_core_does_not_keep_is_not_held_against_the_executor(run: Run) -> None:
    result = run("end-success", "Reports", "takes for the opposite")
    assert told(result, "STATE-5").startswith("finding: The server took SUCCESS from the worker, and the row went FAIL")
    assert FAIL not in verdicts(result).values(), result.clauses


def test_an_executor_that_says_the_end_before_its_worker(run: Run) -> None:
    decided = verdicts(result := run("end-success", "SaysTheEndFirst"))
    assert decided["RUN-12"] == FAIL, result.clauses
    assert [clause for clause, verdict in decided.items() if verdict == FAIL] == ["RUN-12"], result.clauses


def test_an_executor_that_leaves_the_end_to_a_dead_worker(run: Run) -> None:
    assert told(run("worker-killed", "NeverSays"), "CRASH-1").startswith("fail: The row stays RUNNING")


def test_todays_workers_report_nothing(run: Run) -> None:
    local = "airflow.executors.local_executor.LocalExecutor"
    result = run("end-success", local)
    assert told(result, "RUN-11") == "finding: The worker reported no end, and the row is SUCCESS"
    assert FAIL not in verdicts(result).values(), result.clauses
    assert "no answer to lose" in told(run("end-lost", local), "CRASH-9")


def test_no_report_of_the_executor_can_be_lost_where_it_has_none(run: Run) -> None:
    result = run("report-lost", "Reports")
    assert set(verdicts(result).values()) == {NA}
    assert "The worker has reported the end" in told(result, "CRASH-1")
