"""The command ``executor-conformance``; nothing here starts an environment."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.session import backends
from executor_conformance.suites import cli
from executor_conformance.suites.cli import main, suite_cases

CALLBACK = "01a1fb5c-e94d-701f-8570-f358a22eac97"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def one_line(result: Result, code: int = 2) -> str:
    """The message of a refused command: one line, and no traceback."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("executor-conformance: ")
    return line


def test_version() -> None:
    assert importlib.metadata.version("airflow-executor-conformance") in invoke("--version").stdout


def test_unknown_command_is_bad_usage() -> None:
    assert invoke("nothing-of-the-kind").exit_code == 2


# -- list


def test_list() -> None:
    result = invoke("list")
    assert result.exit_code == 0
    assert "crash.killed_during[child]" in result.stdout
    assert result.stdout.strip().endswith("cases")


def test_list_as_json_with_subjects() -> None:
    result = invoke("list", "--json", "--backend", "local,edge", "--level", "core")
    rows = {row["id"]: row for row in json.loads(result.stdout)}
    assert rows["run.success"]["subjects"] == ["local", "edge", "edge-log-push-stubbed"]
    assert rows["crash.killed_after_claim"]["subjects"] == ["local", "edge-log-push-stubbed"]
    assert rows["token.tokens_on_every_route"]["subjects"] == ["local"]
    assert "RUN-1" in rows["run.success"]["clauses"]


def test_list_tells_what_the_core_level_leaves_out() -> None:
    result = invoke("list", "--json", "--backend", "local,edge")
    rows = {row["id"]: row for row in json.loads(result.stdout)}
    assert rows["run.success"]["subjects"] == ["local", "edge", "edge-log-push-stubbed", "edge-without-log-push"]
    assert rows["token.tokens_on_every_route"]["subjects"] == ["local", "edge-log-push-stubbed"]


def test_the_core_level_tries_every_fault_point() -> None:
    for backend in backends().values():
        assert set(backend.further) <= set(backend.faults)
        for point, ways in backend.faults.items():
            further = set(backend.further.get(point, ()))
            assert further < set(ways), f"{backend.name}: no way of {point} is of the core level"


@pytest.mark.parametrize(
    ("case", "level"),
    [
        ("faults.submit_refused[throttled]", "core"),
        ("faults.submit_refused[access-denied]", "extended"),
        ("faults.submit_refused[500]", "extended"),
        ("faults.stopped[out-of-memory]", "core"),  # of Kubernetes
        ("faults.hang[create]", "extended"),  # is about ROUTE-7
        ("fail.callable_fails[timeout]", "core"),
        ("fail.callable_fails[segfault]", "extended"),
        ("fail.callable_raises", "core"),
        ("crash.claim_error[403]", "extended"),
        ("run.many_at_once", "extended"),  # is about RUN-9
    ],
)
def test_the_level_of_a_case(case: str, level: str) -> None:
    assert {each.id: each.level for each in suite_cases(load_catalogue())}[case] == level


def collected(folder: Path, *options: str) -> str:
    """The cases of a run, a line each."""
    arguments = ["-m", "conformance", "--conformance-report", str(folder), *options]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 5), done.stdout  # 5: none
    return done.stdout


@pytest.mark.parametrize("case", ["test_api_and_row_agree", "test_tokens_on_every_route"])
def test_what_is_of_core_is_asked_once_at_the_core_level(tmp_path: Path, case: str) -> None:
    options = ["--conformance-backend", "edge,celery,lambda", "-k", case]
    core = [line for line in collected(tmp_path, *options, "--conformance-level", "core").splitlines() if case in line]
    whole = [line for line in collected(tmp_path, *options).splitlines() if case in line]
    assert len(core) == 1
    assert len(whole) == 3
    assert core[0] in whole


def test_the_levels_are_those_of_the_run(tmp_path: Path) -> None:
    out = collected(tmp_path, "--conformance-backend", "ecs", "--conformance-level", "core")
    for left_out in (
        "test_submit_refused[ecs-500]",
        "test_stopped[ecs-default-attempts",
        "test_killed_after_effect[ecs-default-attempts",
        "test_hang[",
        "test_many_at_once",
        "test_callable_fails[ecs-segfault",
    ):
        assert left_out not in out
    for kept in (
        "test_submit_refused[ecs-throttled]",
        "test_stopped[ecs-host-lost]",
        "test_callable_fails[ecs-timeout",
        "test_killed_after_claim[ecs-default-attempts",
    ):
        assert kept in out


def test_a_variant_may_be_for_the_extended_level_as_a_whole(tmp_path: Path) -> None:
    options = ["--conformance-backend", "edge", "-k", "edge-without-log-push"]
    assert "edge-without-log-push" not in collected(tmp_path, *options, "--conformance-level", "core")
    whole = collected(tmp_path, *options)
    assert "test_success[edge-without-log-push]" in whole
    assert "test_killed_before_claim[edge-without-log-push]" in whole
    assert "test_killed_after_claim[edge-without-log-push]" not in whole


def test_list_refuses_an_unknown_backend() -> None:
    assert "'nope' is unknown" in one_line(invoke("list", "--backend", "nope"))


def test_the_ids_are_those_of_the_run(tmp_path: Path) -> None:
    """What is read from the marks is what pytest collects."""

    code = (
        "import sys, json, pytest\n"
        "from executor_conformance.suites.items import case_id\n"
        "class Collected:\n"
        "    ids = []\n"
        "    def pytest_itemcollected(self, item):\n"
        "        self.ids.append([case_id(item), item.name])\n"
        "pytest.main(sys.argv[1:], plugins=[Collected()])\n"
        "print(json.dumps(Collected.ids))\n"
    )
    arguments = ["--collect-only", "-p", "no:cacheprovider", "-m", "not conformance"]
    arguments += ["-c", str(tmp_path / "pytest.ini"), "--rootdir", str(tmp_path), "--import-mode=importlib"]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--pyargs", "executor_conformance.suites"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    collected = {tidy(case_id) for case_id, _ in json.loads(done.stdout.splitlines()[-1])}
    # Without an environment a case that has its ways from it is collected once
    by_way = {case_id.partition("[none")[0] for case_id in collected if "[none" in case_id}
    listed = {case.id for case in suite_cases(load_catalogue())}
    assert {case_id for case_id in collected if "[none" not in case_id} == {
        case_id for case_id in listed if case_id.partition("[")[0] not in by_way
    }
    assert by_way == {case_id.partition("[")[0] for case_id in listed} & by_way


def tidy(case_id: str) -> str:
    """The id without the stand-in for a subject."""
    return case_id.replace("[deselected]", "").replace("deselected-", "").replace("-deselected", "")


# -- explain


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("CRASH-2", ["before a claim succeeded", "level: core", "owner: executor", "not applicable on claimless"]),
        ("crash-3", ["at most one execution", "every one, as an invariant"]),
        ("RUN-7", ["owner: executor, core on claimless", "run.reads_connection_and_variable"]),
        ("CRASH", ["Fault points", "CRASH-1", "CRASH-9"]),
        ("before-claim", ["SIGKILL", "crash.killed_before_claim"]),
        ("claim", ["claim (released)", "Airflow 3.4", "detected:", "not applicable on it: RUN-11, RUN-12, STATE-5"]),
        ("claim-state", ["claim-state (proposed)", "detected:", "not applicable on it: nothing"]),
        ("claim-idempotent", ["claim-idempotent (historical)", "superseded"]),
        ("end-response-lost", ["crash.end_response_lost"]),
        ("TOKEN-10", ["owner: core", "since: claim-state", "not applicable on claim: The edition has no route"]),
    ],
)
def test_explain(identifier: str, words: list[str]) -> None:
    result = invoke("explain", identifier)
    assert result.exit_code == 0
    assert [word for word in words if word not in result.stdout] == []


def test_every_part_of_the_contract_can_be_explained() -> None:
    catalogue = load_catalogue()
    for item in (*catalogue.clauses, *catalogue.groups, *catalogue.points, *catalogue.editions):
        assert invoke("explain", item.id).exit_code == 0


def test_explain_names_what_is_near() -> None:
    assert "did you mean CRASH-3" in one_line(invoke("explain", "CRSH-3"))
    assert "its groups are DECL" in one_line(invoke("explain", "§"))


# -- check


def history(path: Path, *, final: str = "success", **changes: Any) -> Path:
    """A short written history of a callback that ran once."""
    header = {
        "format": "executor-conformance/history",
        "version": 1,
        "case": "run.success",
        "subject": "written",
        "clauses": ["RUN-1"],
        "edition": "claim",
        "parallelism": 3,
        "scheduler_pid": 1,
        "earlier_callbacks": [],
        **changes,
    }
    row = {"kind": "row", "callback": CALLBACK, "output": None}
    sent = {"callback": CALLBACK, "probe": "p1", "path": "a.b", "kwargs": {}, "digest": "", "executor": None}
    effect = {"kind": "effect", "probe": "p1", "pid": 3, "ppid": 2, "data": {}}
    events: list[dict[str, Any]] = [
        {"kind": "header", **header},
        {"kind": "submitted", **sent, "expect": "success", "role": "subject"},
        {**row, "seq": 1, "old": None, "new": "queued"},
        {**row, "seq": 2, "old": "queued", "new": "running"},
        {**effect, "what": "enter"},
        {**effect, "what": "effect"},
        {**effect, "what": "return"},
        {**row, "seq": 3, "old": "running", "new": final},
        {"kind": "rest", "states": {CALLBACK: final}, "holding_slots": [], "alive": [], "quiet_s": 1, "quiet_steps": 5},
        {"kind": "end", "trouble": ""},
    ]
    path.write_text("".join(json.dumps({"t": t, **event}) + "\n" for t, event in enumerate(events)), "utf-8")
    return path


def test_check_decides_again(tmp_path: Path) -> None:
    result = invoke("check", str(history(tmp_path / "a.jsonl")))
    assert result.exit_code == 0, result.output
    assert "✓ RUN-1 pass" in result.stdout


def test_check_of_a_broken_clause(tmp_path: Path) -> None:
    path = history(tmp_path / "a.jsonl")
    lines = path.read_text().splitlines()
    again = json.dumps({**json.loads(lines[4]), "pid": 9, "t": 6.5})
    path.write_text("\n".join([*lines[:7], again, *lines[7:]]) + "\n")
    result = invoke("check", str(tmp_path))
    assert result.exit_code == 1, result.output
    assert "✗ RUN-1 fail" in result.stdout


def test_check_of_a_case_that_did_not_end(tmp_path: Path) -> None:
    path = history(tmp_path / "a.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    result = invoke("check", str(path))
    assert result.exit_code == 3
    assert "the history ends before its case does" in result.stdout


def test_check_refuses_what_is_no_history(tmp_path: Path) -> None:
    assert "cannot be read" in one_line(invoke("check", str(tmp_path / "missing.jsonl")))
    assert "no history in" in one_line(invoke("check", str(tmp_path)))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"t": 0, "kind": "header"')
    assert "line 1" in one_line(invoke("check", str(broken)))
    assert "which clauses" in one_line(invoke("check", str(history(broken, clauses=[]))))
    assert "no clause 'NOPE-1'" in one_line(invoke("check", str(history(broken, clauses=["NOPE-1"]))))
    lines = history(broken).read_text().replace('"role": "subject"', '"role": []').replace('"states"', '"x"')
    broken.write_text(lines.replace('"probe": "p1", "path"', '"path"'))
    result = invoke("check", str(broken))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


@pytest.mark.parametrize("line", ["[" * 200_000, "9" * 5_000], ids=["nested", "digits"])
def test_check_refuses_what_python_cannot_read(tmp_path: Path, line: str) -> None:
    path = history(tmp_path / "a.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:], ""]))
    assert "broken at line 4: no JSON" in one_line(invoke("check", str(path)))


@pytest.mark.parametrize("command", [("check",), ("gate",), ("html",), ("badge",)])
def test_a_path_that_is_too_long_is_refused(command: tuple[str, ...]) -> None:
    assert "longer than a path can be; give a shorter one" in one_line(invoke(*command, "x" * 300))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--case", ""), "An empty --case chooses nothing"),
        (("run", "--backend", ""), "The backend '' is unknown"),
        (("list", "--backend", ""), "The backend '' is unknown"),
        (("up", ""), "The backend '' is unknown"),
    ],
)
def test_an_option_from_an_unset_variable_is_refused(arguments: tuple[str, ...], told: str) -> None:
    assert told in one_line(invoke(*arguments))


PROGRAM = "from executor_conformance.suites.cli import main; main()"


def test_check_quotes_what_no_encoding_has(tmp_path: Path) -> None:
    path = history(tmp_path / "a.jsonl")
    lines = path.read_text().splitlines()
    lines[-2:-2] = [json.dumps({"t": 7, "kind": "effect", "what": "enter", "probe": "p1", "pid": 9, "ppid": "\udce9"})]
    path.write_text("\n".join([*lines, ""]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "check", str(path)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1


def test_a_bad_file_among_good_ones_is_found_first(tmp_path: Path) -> None:
    good, bad = history(tmp_path / "a.jsonl"), tmp_path / "b.jsonl"
    bad.write_text("no json\n")
    result = invoke("check", str(good), str(bad))
    assert "broken at line 1" in one_line(result)
    assert result.stdout == ""


# -- doctor


def test_doctor() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for word in ("local", "celery", "edge", "Airflow", "redis-server", "free disk", "cache"):
        assert word in result.stdout


@pytest.mark.parametrize("found", [None, "3.1.8"])
def test_doctor_without_a_fitting_airflow(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "apache-airflow-core":
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = invoke("doctor")
    assert result.exit_code == 3, result.output
    assert result.stderr == ""
    assert ("too old" if found else "not installed") in result.stdout


def test_doctor_shows_a_backend_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    group = "executor_conformance.backends"
    points = [EntryPoint("odd", "no_such_module:Backend", group)]
    points.append(EntryPoint("local", "executor_conformance.backends.local:LocalBackend", group))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "no_such_module" in result.stdout


# -- run: bad input is refused before anything starts


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"from {cli.__name__} import main; main()", "run", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_run_refuses_what_no_case_is_like() -> None:
    assert "did you mean run.success" in one_line(invoke("run", "--case", "run.sucess"))
    assert "did you mean run.success" in one_line(invoke("run", "--case", "run.success", "--case", "run.sucess"))


@pytest.mark.parametrize("arguments", [["--level", "high"], ["-n", "0"], ["--substrate", "moon"], ["--odd"]])
def test_run_refuses_bad_usage(arguments: list[str]) -> None:
    assert invoke("run", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "nope"], "'nope' is unknown"),
        (["--backend", "nope", "-n", "1"], "'nope' is unknown"),
        (["--executor", "a.B"], "needs one environment"),
        (["--database", "mysql"], "'mysql' is unknown"),
    ],
)
def test_run_refuses_bad_input(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Also where the current folder has a pytest configuration and a conftest of its own, which are ignored."""
    (tmp_path / "conftest.py").write_text("raise SystemExit(77)\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    done = run_in(tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(("code", "message", "ours"), [(0, "", 0), (1, "", 1), (4, "", 2), (5, "", 3), (2, "", 3)])
def test_exit_codes_of_pytest(code: int, message: str, ours: int) -> None:
    assert cli._Ending().exit_code(code) == ours


def test_interruption() -> None:
    ending = cli._Ending()
    ending.pytest_keyboard_interrupt(SimpleNamespace(value=KeyboardInterrupt()))
    assert ending.exit_code(2) == 130


def test_keywords_select_their_case_alone() -> None:
    """pytest's own matcher, on the names that the items have with one subject."""
    from _pytest.mark.expression import Expression

    cases = suite_cases(load_catalogue())
    for case in cases:
        expression = Expression.compile(case.keyword)
        found = []
        for other in cases:
            module, _, rest = other.id.partition(".")
            parameters = rest.partition("[")[2].removesuffix("]")
            name = f"{other.function}[{'local-' if parameters else 'local'}{parameters}]"
            names = [f"test_{module}.py", name]
            if expression.evaluate(lambda word, names=names, **_: any(word.lower() in n.lower() for n in names)):
                found.append(other.id)
        assert found == [case.id]
