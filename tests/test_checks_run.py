"""The checks of the RUN, FAIL and TASK clauses on written histories."""

from __future__ import annotations

import ast
import inspect

import pytest
from executor_conformance.harness.checks.fail import LAST_REPORTS
from executor_conformance.suites import callables

from tests.written import SCHEDULER, Written, assert_decides, history

PASS, FAIL, FINDING, ERROR, NA = "pass", "fail", "finding", "error", "not applicable"
CUT = "cut short"
SECRETS = {"port": 8443, "value": "a value"}


def ran(path: str = "succeed", **more: object) -> Written:
    """A callback of ``path`` that went as it should."""
    return history().callback(path=path).succeeded(**more)  # type: ignore[arg-type]


def never(path: str = "succeed", edition: str = "claim") -> Written:
    """One that failed before its callable was entered."""
    return history(edition).callback(path=path).row("c1", "failed").rest()


def sent(kwargs: dict[str, object], received: dict[str, object] | None, id: str = "c1") -> Written:
    """kwargs that were sent and, if the callable was entered, received."""
    written = history().callback(id, path="succeed", kwargs=kwargs)
    return written if received is None else written.succeeded(id, data={"kwargs": received})


def asked(path: str = "read_secrets", edition: str = "claim") -> Written:
    """A callable that was entered and asks its supervisor."""
    return history(edition).callback(path=path, expect="terminal").started()


def elsewhere(*spaces: str, pid: int = 8) -> Written:
    """Callbacks that ran as the process ``pid`` of a PID namespace each, which is not the harness's own."""
    written = history()
    for number, space in enumerate(spaces, 1):
        written.callback(f"c{number}").wire_claim(f"c{number}", pid=None)
        written.add("effect", what="enter", probe=f"p-c{number}", pid=pid, ppid=1, data={}, space=space)
    return written


ONCE = [
    ("once", ran(), PASS, ""),
    ("never", never(), FAIL, "did not run"),
    ("stuck", history().callback().rest(), FAIL, "did not run"),
    ("twice", ran().effect("c1", "enter", pid=301), FAIL, "ran 2 times"),
    ("half-twice", ran().effect("c1", "return", pid=301), FAIL, "ran 2 times"),
    ("second-never", ran().callback("c2").rest("c2"), FAIL, "did not run"),
    ("cut-short", history().callback(), ERROR, CUT),
    ("expects-failure", history().callback(expect="failure").rest(), NA, "no callback"),
    ("fillers-only", history().callback("f", role="filler").rest("f"), NA, "no callback"),
    ("nothing", history(), NA, "no callback"),
]


def pool() -> Written:
    """A callback, beside workers that were there before it, in an edition that has no claim."""
    return history("claimless", processes=[100, 150, 250]).callback()


FAIL_ON_PURPOSE = {
    *("raise_error", "no_arguments", "exit_3", "os_exit_9", "segfault", "run_too_long", "big_log_then_raise"),
}


def test_the_last_report_of_each_callable_is_known() -> None:
    """FAIL-5 takes a callable without it for one that was cut off; one that fails on purpose needs none."""
    last: dict[str, str] = {}
    for function in ast.parse(inspect.getsource(callables)).body:
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        for call in sorted(calls, key=lambda node: node.lineno):
            if isinstance(call.func, ast.Name) and call.func.id == "report":
                assert isinstance(function, ast.FunctionDef | ast.ClassDef)
                last[function.name] = ast.literal_eval(call.args[0])
    assert {name: what for name, what in last.items() if what not in ("return", "enter", "late")} == LAST_REPORTS
    assert {name for name, what in last.items() if what != "return"} - set(LAST_REPORTS) == FAIL_ON_PURPOSE


OWN_PROCESS = [
    ("own", ran(), PASS, "pids [300]"),
    ("scheduler", ran(pid=SCHEDULER, ppid=1), FAIL, "ran in the scheduler process"),
    ("child-of-the-scheduler", ran(ppid=SCHEDULER), FAIL, "without a supervisor"),
    ("scheduler-of-later", ran(pid=101).add("scheduler", what="started", pid=101), FAIL, "in the scheduler process"),
    ("worker-itself", history().callback().wire_claim(pid=300).effect("c1", "enter"), FAIL, "process that talks to"),
    ("second-run", ran().effect("c1", "enter", pid=SCHEDULER), FAIL, "in the scheduler process"),
    ("shared", ran().callback("c2").succeeded("c2"), FAIL, "shared one process"),
    ("not-shared", ran().callback("c2").succeeded("c2", pid=301), PASS, "pids [300, 301]"),
    ("number-of-the-scheduler-elsewhere", elsewhere("pod-1", pid=SCHEDULER), PASS, "pids [100]"),
    ("same-number-elsewhere", elsewhere("pod-1", "pod-2"), PASS, "pids [8, 8]"),
    ("shared-elsewhere", elsewhere("pod-1", "pod-1"), FAIL, "shared one process"),
    ("pool", pool().effect("c1", "enter", pid=250, ppid=150), FAIL, "was there before its callback"),
    ("child-of-the-pool", pool().effect("c1", "enter", pid=300, ppid=250), PASS, "pids [300]"),
    (
        "number-of-the-pool-again",
        pool().add("process", what="born", pid=250, ppid=251, title="x").effect("c1", "enter", pid=250, ppid=251),
        PASS,
        "pids [250]",
    ),
    ("did-not-run", never(), NA, "did not run"),
]

ARRIVED = [
    ("equal", sent({"a": [1, None]}, {"a": [1, None], "context": {}, "probe": "p"}), PASS, ""),
    ("empty", sent({}, {}), PASS, ""),
    ("changed", sent({"a": 1}, {"a": "1"}), FAIL, "did not arrive as they were sent"),
    ("dropped", sent({"a": 1}, {}), FAIL, "received: {}"),
    ("added", sent({}, {"b": 1}), FAIL, "did not arrive as they were sent"),
    ("never-entered", never(), FAIL, "FAILED before its kwargs had come to the callable"),
    ("lost", history().callback().rest(), NA, "no callable of this case tells which kwargs it received"),
    (
        "second-changed",
        sent({}, {}).callback("c2", kwargs={"a": 1}).succeeded("c2", data={"kwargs": {}}),
        FAIL,
        "as they",
    ),
    ("cut-short", sent({"a": 1}, None), ERROR, CUT),
    ("not-told", ran("hold"), NA, "tells which kwargs"),
    ("nothing", history(), NA, "tells which"),
]

CONTEXT = [
    ("with", ran("with_context", data={"context": ["dag_run"]}), PASS, ""),
    ("without", ran("without_context"), PASS, ""),
    ("notifier", ran("Notifier", data={"context": ["dag_run"]}).effect("c1", "instantiate"), PASS, ""),
    ("withheld", ran("with_context", data={"context": "None"}), FAIL, "did not get one"),
    ("forced", never("without_context"), FAIL, "not called as its signature asks"),
    ("not-called", never("Notifier"), FAIL, "not called as its signature asks"),
    ("not-instantiated", ran("Notifier", data={"context": ["dag_run"]}), FAIL, "was not instantiated"),
    (
        "notifier-without",
        ran("Notifier", data={"context": []}).effect("c1", "instantiate"),
        FAIL,
        "without its context",
    ),
    ("cut-short", history().callback(path="with_context"), ERROR, CUT),
    ("others", ran(), NA, "has to do with the context"),
]

DAG_FILE = [
    ("found", ran("unusual_prefix_x.in_the_dag_file"), PASS, ""),
    ("not-found", never("unusual_prefix_x.in_the_dag_file"), FAIL, "did not run"),
    ("cut-short", history().callback(path="unusual_prefix_x.f"), ERROR, CUT),
    ("others", ran(), NA, "defined in the Dag file"),
]

ORDER = [
    ("in-order", ran(), PASS, ""),
    (
        "before-queued-is-core's",
        history().callback(handed=None).row("c1", "pending", "queued", "running", "success"),
        PASS,
        "",
    ),
    ("no-running", history().callback().row("c1", "success"), FAIL, "went QUEUED, SUCCESS instead"),
    (
        "no-claim-and-short",
        history("claimless").callback().row("c1", "success"),
        NA,
        "ran until the executor could say RUNNING",
    ),
    (
        "no-claim-and-held",
        history("claimless").callback().note("in flight", callback="c1").row("c1", "success"),
        FAIL,
        "went QUEUED, SUCCESS instead",
    ),
    (
        "no-claim-and-another",
        history("claimless").callback("c2").row("c2", "success").callback().row("c1", "running", "success"),
        PASS,
        "",
    ),
    ("failed", history().callback().failed(), FAIL, "went QUEUED, RUNNING, FAILED"),
    ("stuck", history().callback().rest(), FAIL, "went QUEUED instead"),
    ("nowhere", history().callback(handed=None).rest(), FAIL, "went nowhere"),
    ("again", ran().row("c1", "running", "success"), FAIL, "went QUEUED, RUNNING, SUCCESS, RUNNING"),
    ("second", ran().callback("c2").rest("c2"), FAIL, "went QUEUED instead"),
    ("cut-short", history().callback(), ERROR, CUT),
    ("terminal", history().callback(expect="terminal").rest(), NA, "expected to succeed"),
]

READS = [
    ("read", asked().effect("c1", "return", data=SECRETS).ended(), PASS, ""),
    ("other-values", asked().effect("c1", "return", data={"port": 1}).ended(), FAIL, "other values"),
    ("refused", asked().request("c1", "/execution/connections/x", 403).ended("c1", "failed"), FAIL, "status=403"),
    (
        "refused-by-the-edition",
        asked(edition="claimless").request("c1", "/execution/connections/x", 403).ended("c1", "failed"),
        FINDING,
        "could not read",
    ),
    ("never-entered", never("read_secrets", "claimless"), ERROR, "asked for nothing"),
    ("cut-short", asked(), ERROR, CUT),
    ("others", ran(), NA, "reads a Connection"),
]

ANSWERS = [
    ("value", asked("ask_xcom").effect("c1", "answered", data={"answer": "None"}).ended(), PASS, "None"),
    ("error", asked("ask_xcom").effect("c1", "answered", data={"answer": "KeyError: x"}).ended(), PASS, "KeyError"),
    ("hangs", asked("ask_variable_set").note("unanswered", waited_s=5.0), FINDING, "'variable_set' within 5.0 s"),
    ("died-of-it", asked("ask_xcom").ended("c1", "failed"), FINDING, "did not answer 'xcom'"),
    ("cut-short", asked("ask_xcom"), ERROR, CUT),
    ("never-entered", never("ask_xcom"), NA, "asked its supervisor"),
    ("others", ran(), NA, "asked its supervisor"),
]


def logged(**data: object) -> Written:
    """A callable that printed, and what the log was found to hold."""
    return ran("speak").add("probe", name="log", data={"log_path": "a/b", "files": ["a/b"], "found": "a/b", **data})


LOG = [
    ("found", logged(), PASS, "a/b"),
    ("no-file", logged(files=[], found=""), FAIL, "log_path: a/b"),
    ("not-in-it", logged(found=""), FAIL, "does not hold what the callable printed"),
    ("never-printed", never().add("probe", name="log", data={"log_path": "a", "files": []}), ERROR, "printed nothing"),
    ("not-looked", ran(), NA, "does not look for the log"),
]

RAISED = history().callback(expect="failure").failed().followed(task=False)


def failing(id: str = "c1") -> Written:
    """A callback whose callable is to fail, before it did."""
    return history().callback(id, expect="failure")


ENDS_FAILED = [
    ("failed", failing().failed(), PASS, ""),
    ("success", failing().succeeded(), FAIL, "the row is SUCCESS"),
    ("stuck", failing().rest(), FAIL, "the row is QUEUED"),
    ("bound", failing().started().bound(), FAIL, "the row is RUNNING"),
    ("late", failing().started().bound().row("c1", "failed"), FAIL, "FAILED only after the bound"),
    ("second", failing().failed().callback("c2", expect="failure").rest("c2"), FAIL, "the row is QUEUED"),
    ("cut-short", failing(), ERROR, CUT),
    ("others", ran(), NA, "no callable of this case fails"),
]

NOT_AGAIN = [
    ("once", failing().failed(), PASS, ""),
    ("not-at-all", failing().rest(), PASS, ""),
    ("again", failing().failed().effect("c1", "enter", pid=301), FAIL, "ran 2 times"),
    ("others", ran().effect("c1", "enter"), NA, "no callable of this case fails"),
]

GOES_ON = [
    ("kept", RAISED, PASS, ""),
    ("slot", failing().slots("c1").row("c1", "failed").rest(), FAIL, "still takes a slot"),
    ("next-fails", failing().failed().callback("n", role="follow-up").failed("n"), FAIL, "did not succeed"),
    ("next-stuck", failing().failed().callback("n", role="follow-up").rest("n"), FAIL, "did not succeed"),
    ("next-cut-short", failing().failed().callback("n", role="follow-up"), ERROR, CUT),
    ("no-next", failing().failed(), NA, "no callback followed"),
    ("others", ran().followed(), NA, "no callable of this case fails"),
]

CAUSE = [
    ("told", failing().failed(), PASS, "ValueError"),
    ("bare", failing().failed(output="Execution failed"), FAIL, "which tells no cause"),
    ("empty", failing().failed(output=None), FAIL, "`output` is ''"),
    ("other-words", failing().failed(output="Callback execution failed."), FAIL, "which tells no cause"),
    ("none", failing().failed(output="None"), FAIL, "which tells no cause"),
    ("many-words", failing().failed(output="a " * 60 + "KeyError"), PASS, "a a a"),
    ("code", failing().failed(output="Execution failed with exit code 1"), PASS, "exit code 1"),
    ("cause", failing().failed(output="Callback failed: KeyError"), PASS, "KeyError"),
    (
        "second",
        failing().failed().callback("c2", expect="failure").failed("c2", " execution failed "),
        FAIL,
        "no cause",
    ),
    ("not-failed", failing().rest(), NA, "no row of this case ended FAILED"),
]


def killed(path: str, *reports: str) -> Written:
    """A callback whose worker was killed when its callable had made these reports."""
    return history().callback(path=path, expect="terminal").wire_claim().effect("c1", *reports).fault(victim="child")


NEVER_SUCCESS = [
    ("never", failing().failed(), PASS, ""),
    ("row", failing().row("c1", "success", "failed"), FAIL, "was SUCCESS in its row"),
    ("event", failing().event("c1", "success").row("c1", "failed"), FAIL, "reported SUCCESS"),
    ("follow-up-may", RAISED, PASS, ""),
    ("others", ran(), NA, "no callable of this case failed or was cut off"),
    ("cut-off", killed("hold", "enter").ended("c1", "failed"), PASS, ""),
    ("cut-off-row", killed("hold", "enter").row("c1", "success"), FAIL, "never came to its end was SUCCESS"),
    ("cut-off-event", killed("succeed", "enter").event("c1", "success"), FAIL, "SUCCESS for a callback whose"),
    ("cut-off-on-the-way", killed("whole_way", "enter", "effect").row("c1", "success"), FAIL, "its end was SUCCESS"),
    ("at-its-end", killed("hold", "enter", "effect").row("c1", "success"), NA, "failed or was cut off"),
    ("at-its-end-too", killed("whole_way", "enter", "effect", "last").row("c1", "success"), NA, "cut off"),
    ("never-entered", killed("hold").row("c1", "success"), NA, "cut off"),
    # Nobody knows how a user's own callable ends
    ("of-others", killed("mine.callables.hold", "enter").row("c1", "success"), NA, "cut off"),
]


def control(succeeds: str = "success", raises: str = "failed") -> Written:
    """The control group with its ends."""
    written = history().task("t1", "running", succeeds)
    return written.task("t2", "running", raises, dag="conformance_task_raises", name="raises")


CONTROL = [
    ("kept", control(), PASS, "2 tasks"),
    ("succeeds-failed", control("failed"), FAIL, "'succeeds' is FAILED instead of SUCCESS"),
    ("raises-succeeded", control(raises="success"), FAIL, "'raises' is SUCCESS instead of FAILED"),
    ("retry", control(raises="up_for_retry"), FAIL, "is UP_FOR_RETRY"),
    ("stuck", history().task("t").bound(waiting_for="task conformance_task_succeeds.succeeds"), FAIL, "never started"),
    ("cut-short", history().task("t", "running"), ERROR, CUT),
    ("half", history().task("t", "success"), ERROR, "without conformance_task_raises"),
    (
        "celery's-own-table",
        control().add("task_row", table="celery_taskmeta", id="t1", old=None, new="SUCCESS"),
        PASS,
        "2 tasks",
    ),
    ("other-dags", history().task("t", "failed", dag="conformance_task_holds"), NA, "no task of the control group"),
]


def crowd(count: int, sent: int | None = None) -> Written:
    """So many callbacks at once, all but the last of which have succeeded, and the last one submitted."""
    written = history().note("crowd", count=count)
    ids = [f"c{number}" for number in range(count if sent is None else sent)]
    for number, id in enumerate(ids):
        written.callback(id, path="succeed")
        if number < len(ids) - 1:
            written.succeeded(id, pid=1000 + number)
    return written


MANY = [
    ("hundred", crowd(100).succeeded("c99", pid=9), PASS, "100 callbacks at once"),
    ("fewer-is-said", crowd(3).succeeded("c2", pid=9), PASS, "the limit of this environment, which is not 100"),
    ("failed", crowd(3).failed("c2"), FAIL, "1 of 3 callbacks that were sent at once did not succeed"),
    ("stuck", crowd(3).bound("c2"), FAIL, "1 of 3 callbacks that were sent at once did not succeed"),
    ("twice", crowd(3).succeeded("c2", pid=9).effect("c2", "enter", pid=10), FAIL, "did not run exactly once"),
    ("never-ran", crowd(3).ended("c2"), FAIL, "did not run exactly once"),
    ("cut-short", crowd(3), ERROR, CUT),
    ("not-all-sent", crowd(3, 2).succeeded("c1", pid=9), ERROR, "only 2 of 3 callbacks were sent"),
    ("others", ran(), NA, "does not send many"),
]


def remembered(value: str | None = "kept", *, killed: bool = True, try_number: int = 2) -> Written:
    """A task that wrote into its state store in its first try, and looked in the next."""
    written = history()
    for what, data in (("enter", {}), ("found", {"value": None}), ("kept", {})):
        written.effect(None, what, probe="task-remembers", data={**data, "try_number": 1})
    if killed:
        written.fault("task-killed", victim="unit")
    data = {"value": value, "try_number": try_number}
    return written.effect(None, "found", probe="task-remembers", pid=301, data=data)


REMEMBERED = [
    ("kept", remembered(), PASS, "written in try 1, found in try 2"),
    ("lost", remembered(None), FAIL, "was not there on the next try"),
    ("other", remembered("x"), FAIL, "was not there on the next try"),
    ("not-killed", remembered(killed=False), ERROR, "was not killed"),
    ("the-same-try", remembered(None, try_number=1), NA, "was not tried again"),
    ("nothing-written", history().task("t", "success"), NA, "no task of this case wrote"),
]

TABLES = {
    "RUN-9": MANY,
    "TASK-2": REMEMBERED,
    "RUN-1": ONCE,
    "RUN-2": OWN_PROCESS,
    "RUN-3": ARRIVED,
    "RUN-4": CONTEXT,
    "RUN-5": DAG_FILE,
    "RUN-6": ORDER,
    "RUN-7": READS,
    "RUN-8": LOG,
    "RUN-10": ANSWERS,
    "FAIL-1": ENDS_FAILED,
    "FAIL-2": NOT_AGAIN,
    "FAIL-3": GOES_ON,
    "FAIL-4": CAUSE,
    "FAIL-5": NEVER_SUCCESS,
    "TASK-1": CONTROL,
}


@pytest.mark.parametrize(
    ("clause", "written", "verdict", "reason"),
    [pytest.param(clause, *row[1:], id=f"{clause}-{row[0]}") for clause, rows in TABLES.items() for row in rows],
)
def test_run(clause: str, written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, clause, verdict, reason)
