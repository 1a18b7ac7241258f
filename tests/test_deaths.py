"""Whose defect ended a scheduler, told from the text of its last traceback."""

from __future__ import annotations

import pytest
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.checker import decide
from executor_conformance.harness.deaths import CORE, ENVIRONMENT, EXECUTOR, Cause, Origin, cause_of
from executor_conformance.harness.verdicts import Verdict

from tests.written import Written

SITE = "/opt/venv/lib/python3.11/site-packages"
LOCAL = f"{SITE}/airflow/executors/local_executor.py"
BASE = f"{SITE}/airflow/executors/base_executor.py"
RUNNER = f"{SITE}/airflow/jobs/scheduler_job_runner.py"
IN_BASE, IN_RUNNER = "airflow/executors/base_executor.py: ", "airflow/jobs/scheduler_job_runner.py: "
STEP = "/src/harness/airflow_side/scheduler.py"
EDGE = f"{SITE}/airflow/providers/edge3"


def traceback_of(raised: str, *frames: tuple[str, str]) -> str:
    """A traceback as Python writes it; frames outermost first."""
    lines = ["Traceback (most recent call last):"]
    for file, function in frames:
        lines += [f'  File "{file}", line 7, in {function}', "    some(code)", "    ^^^^^^^^^^"]
    return "\n".join([*lines, raised])


REFUSAL = traceback_of(
    "NotImplementedError: TasksOnly does not support ExecuteCallback workloads.",
    (STEP, "step"),
    (RUNNER, "_enqueue_executor_callbacks"),
    (BASE, "queue_workload"),
)
OWN_REFUSAL = traceback_of(
    "NotImplementedError: not these",
    (STEP, "step"),
    (RUNNER, "_enqueue_executor_callbacks"),
    ("/src/mine/executor.py", "queue_workload"),
)
UNPICKLED = traceback_of(
    "TypeError: HTTPStatusError.__init__() missing 2 required keyword-only arguments: 'request' and 'response'",
    (STEP, "step"),
    (BASE, "heartbeat"),
    (LOCAL, "_read_results"),
    ("/usr/lib/python3.11/multiprocessing/queues.py", "get"),
)
ABSTRACT = traceback_of("NotImplementedError: must implement", (STEP, "step"), (BASE, "_process_workloads"))
OF_CORE = traceback_of("KeyError: 'x'", (STEP, "step"), (RUNNER, "process_executor_events"))
OWN_TABLE = traceback_of(
    "sqlalchemy.exc.DataError: (psycopg2.errors.X) too long\n\n[SQL: INSERT INTO edge_job (dag_id) VALUES (1)]",
    (STEP, "step"),
    (RUNNER, "_enqueue_executor_callbacks"),
    (f"{SITE}/sqlalchemy/orm/session.py", "flush"),
)
LOCKED = traceback_of(
    "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database is locked",
    (STEP, "step"),
    (f"{EDGE}/executors/edge_executor.py", "sync"),
)


@pytest.mark.parametrize(
    ("text", "origin", "owner", "raised_in"),
    [
        pytest.param(
            REFUSAL,
            Origin(("/src/mine",), (), False),
            CORE,
            IN_BASE + "queue_workload",
            id="undeclared-refused-by-base",
        ),
        pytest.param(
            OWN_REFUSAL,
            Origin(("/src/mine",), (), False),
            CORE,
            "src/mine/executor.py: queue_workload",
            id="undeclared-refused-by-itself",
        ),
        pytest.param(
            REFUSAL, Origin(("/src/mine",), (), True), EXECUTOR, IN_BASE + "queue_workload", id="declared-and-refused"
        ),
        pytest.param(
            UNPICKLED,
            Origin((LOCAL,)),
            EXECUTOR,
            "airflow/executors/local_executor.py: _read_results",
            id="raised-below-the-executor",
        ),
        pytest.param(ABSTRACT, Origin(("/src/mine",)), EXECUTOR, IN_BASE + "_process_workloads", id="not-implemented"),
        pytest.param(OF_CORE, Origin((LOCAL,)), CORE, IN_RUNNER + "process_executor_events", id="raised-by-core-alone"),
        pytest.param(
            OWN_TABLE,
            Origin((EDGE,), ("edge_job",)),
            EXECUTOR,
            IN_RUNNER + "_enqueue_executor_callbacks",
            id="row-of-its-own-table",
        ),
        pytest.param(
            OWN_TABLE, Origin((LOCAL,)), CORE, IN_RUNNER + "_enqueue_executor_callbacks", id="row-of-another-table"
        ),
        pytest.param(
            LOCKED,
            Origin((EDGE,)),
            ENVIRONMENT,
            "airflow/providers/edge3/executors/edge_executor.py: sync",
            id="sqlite-locked",
        ),
    ],
)
def test_owner_follows_from_whose_code_raised(text: str, origin: Origin, owner: str, raised_in: str) -> None:
    cause = cause_of(text, origin)
    assert cause is not None
    assert (cause.owner, cause.raised_in) == (owner, raised_in)


def test_log_of_the_scheduler_command_is_read_past_what_follows_the_exception() -> None:
    of_a_worker = traceback_of("ValueError: the callable raised", ("/src/suites/callables.py", "raise_error"))
    uncaught = traceback_of(
        "RuntimeError: the reason\nin two lines",
        (f"{SITE}/airflow/__main__.py", "main"),
        (RUNNER, "_run_scheduler_loop"),
        (BASE, "heartbeat"),
        (LOCAL, "sync"),
    )
    log = "\n".join(
        [
            "2026-11-29T08:27:41.1Z [info     ] started",
            uncaught.replace(f"{SITE}/airflow/__main__.py", RUNNER),
            "2026-11-29T08:27:41.2Z [info     ] Exited execute loop",
            uncaught,
            of_a_worker,
            "2026-11-29T08:27:43.7Z [info     ] Finished server process [12157] [uvicorn.error]",
        ]
    )
    cause = cause_of(log, Origin((LOCAL,)))
    assert cause == Cause(
        EXECUTOR, "RuntimeError", "the reason\nin two lines", "airflow/executors/local_executor.py: sync"
    )
    assert cause.sentence == "RuntimeError in airflow/executors/local_executor.py: sync: the reason"


def test_chain_of_exceptions_is_told_by_its_last() -> None:
    first = traceback_of("KeyError: 'a'", (LOCAL, "sync"))
    last = traceback_of("ValueError: b", (LOCAL, "sync"), (LOCAL, "_finish"))
    joined = f"{first}\n\nDuring handling of the above exception, another exception occurred:\n\n{last}\n"
    cause = cause_of(joined, Origin((LOCAL,)))
    assert cause is not None
    assert (cause.type, cause.raised_in) == ("ValueError", "airflow/executors/local_executor.py: _finish")


def test_log_without_a_traceback_tells_no_cause() -> None:
    assert cause_of("2026-11-29 [info] Finished server process", Origin()) is None


def died(owner: str) -> Written:
    """A history in which the callable ran twice before the scheduler ended."""
    cause = Cause(owner, "KeyError", "'x'", IN_RUNNER + "process_executor_events").to_event()
    written = Written().callback().effect("c1", "enter", "effect").effect("c1", "enter", "effect", pid=301)
    written.add("scheduler", what="error", type="KeyError", message="'x'", cause=cause)
    return written.add("end", trouble="the scheduler ended", scheduler_died=True)


@pytest.mark.parametrize(
    ("owner", "verdicts"),
    [
        (EXECUTOR, {"CRASH-5": Verdict.FAIL, "CRASH-3": Verdict.FAIL}),
        (CORE, {"CRASH-5": Verdict.FINDING, "CRASH-3": Verdict.NOT_APPLICABLE, "CRASH-1": Verdict.NOT_APPLICABLE}),
    ],
)
def test_what_core_died_of_is_held_against_no_executor(owner: str, verdicts: dict[str, Verdict]) -> None:
    decided = {
        each.clause: each.verdict for each in decide(died(owner).stored(), ["CRASH-1", "CRASH-3"], load_catalogue())
    }
    assert {clause: decided[clause] for clause in verdicts} == verdicts


def test_what_the_environment_died_of_is_an_error() -> None:
    written = Written().callback()
    cause = Cause(ENVIRONMENT, "OperationalError", "database is locked", "x.py: sync").to_event()
    written.add("scheduler", what="error", message="database is locked", cause=cause)
    written.add("end", trouble="the scheduler ended", scheduler_died=True)
    assert {each.verdict for each in decide(written.stored(), ["CRASH-1"], load_catalogue())} == {Verdict.ERROR}
