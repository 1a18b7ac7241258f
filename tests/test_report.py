"""The report: data, matrix, files, terminal text and exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.errors import HarnessError, UsageError
from executor_conformance.harness.report.markdown import code, escape
from executor_conformance.harness.report.model import (
    CaseResult,
    Report,
    RunInfo,
    SubjectInfo,
    case_verdict,
    clause_results,
    digest,
    matrix,
)
from executor_conformance.harness.report.outcome import apply_control_group, exit_code
from executor_conformance.harness.report.store import load_report, write_report
from executor_conformance.harness.report.terminal import failure_text, render_matrix
from executor_conformance.harness.verdicts import Decision, Verdict

P, F, E, K = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN


def case(case_id: str = "c", subject: str = "local", **verdicts: Verdict) -> CaseResult:
    """A case whose clauses are given as ``RUN_1=Verdict.PASS``."""
    decisions = [
        Decision(name.replace("_", "-"), verdict, f"{name} was {verdict}.", ("t=1 row | RUNNING",))
        for name, verdict in verdicts.items()
    ]
    clauses = clause_results(decisions)
    return CaseResult(
        id=case_id,
        subject=subject,
        backend="local",
        executor="airflow.executors.local_executor.LocalExecutor",
        verdict=case_verdict(clauses),
        clauses=clauses,
        duration_s=0.25,
        reproduce=f"pytest -k '{case_id}' --executor {subject}",
        history=f"histories/{case_id}.jsonl",
    )


def report(*cases: CaseResult, subjects: list[SubjectInfo] | None = None, problems: list[str] | None = None) -> Report:
    run = RunInfo(
        tool_version="2026.11.0",
        contract_version="2026.11",
        airflow_version="3.3.2",
        edition="claimless",
        python="3.11.7",
        database="sqlite",
        started="2026-11-20T10:00:00Z",
        duration_s=12.5,
        command="pytest -m conformance",
        providers={"celery": "3.26.0"},
    )
    own = [SubjectInfo("local", "local", "airflow.LocalExecutor", "process", "queue", "process")]
    return Report(run, own if subjects is None else subjects, list(cases), problems or [])


def rewrite(path: Path, change: Any, sign: bool) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    if sign:
        content["digest"] = digest(content)
    path.write_text(json.dumps(content), encoding="utf-8")


# ------------------------------------------------------------------------------------------------- model


def test_a_case_goes_through_plain_values_and_back() -> None:
    original = case(RUN_1=P, CRASH_1=F)
    plain = original.to_dict()
    assert type(plain["verdict"]) is str
    assert type(plain["clauses"]["CRASH-1"]["verdict"]) is str
    assert CaseResult.from_dict(json.loads(json.dumps(plain))) == original


def test_the_worst_verdict_is_the_cases_and_a_finding_does_not_fail_it() -> None:
    assert case(RUN_1=P, CRASH_1=F, CRASH_3=E).verdict is F
    finding = case(RUN_1=P, TOKEN_2=Verdict.FINDING)
    assert finding.verdict is Verdict.FINDING
    assert not finding.failed
    assert not case(RUN_1=K).failed
    assert case(RUN_1=E).failed
    assert case().verdict is Verdict.NOT_APPLICABLE


def test_a_clause_decided_twice_keeps_its_worst_and_its_listing() -> None:
    decisions = [
        Decision("RUN-1", P, "good"),
        Decision("RUN-1", K, "bad", ("e",), {"listed": True, "link": "https://x", "review": "2027-01-31", "pid": 1}),
        Decision("RUN-1", P, "good"),
    ]
    assert clause_results(decisions) == {
        "RUN-1": {
            "verdict": "known",
            "reason": "bad",
            "evidence": ["e"],
            "listed": True,
            "link": "https://x",
            "review": "2027-01-31",
        }
    }


def test_the_matrix_counts_decisions_and_shows_the_worst() -> None:
    gone = SubjectInfo("celery", "celery", "CeleryExecutor", unavailable="no broker")
    subjects = [*report().subjects, gone]
    row, celery = matrix(
        report(
            case("a", RUN_1=P, RUN_2=P, CRASH_1=F, TOKEN_1=Verdict.NOT_APPLICABLE),
            case("b", RUN_1=P, CRASH_1=P, CRASH_3=E, DECL_1=Verdict.UNSUPPORTED),
            subjects=subjects,
        )
    )
    assert row.subject == "local"
    assert row.squares["RUN"] == (P, 3, 3, {"pass": 3})
    assert row.squares["CRASH"] == (F, 1, 2, {"fail": 1, "error": 1, "pass": 1})
    assert row.squares["TOKEN"] == (Verdict.NOT_APPLICABLE, 0, 0, {"not applicable": 1})
    assert row.squares["DECL"] == (Verdict.UNSUPPORTED, 0, 1, {"unsupported": 1})
    assert row.squares["STATE"].verdict is None
    assert {square.verdict for square in celery.squares.values()} == {Verdict.UNAVAILABLE}


# ------------------------------------------------------------------------------------------------- files


def test_a_report_is_written_and_read_back(tmp_path: Path) -> None:
    original = report(case("a", RUN_1=P), case("b", CRASH_1=F), problems=["The expectation 1 passes now."])
    original.cases[1].clauses["CRASH-1"]["evidence"].append("bytes \udcff of a log, ünïcode")
    path = write_report(original, tmp_path / "new" / "folder")
    assert path.name == "report.json"
    assert load_report(path) == original
    assert load_report(path.parent) == original
    assert json.loads(path.read_text("utf-8"))["summary"] == {"local": {"RUN": {"pass": 1}, "CRASH": {"fail": 1}}}
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json", "summary.md"]


def test_the_summary_tells_what_failed_and_how_to_see_it(tmp_path: Path) -> None:
    listed = case("k", RUN_1=K)
    listed.clauses["RUN-1"].update(listed=True, review="2027-01-31", link="https://example.org/a_1")
    broken = case("crash[a|b]", CRASH_1=F)
    broken.clauses["CRASH-1"]["reason"] = "It is\nstuck | <b>."
    broken.clauses["CRASH-1"]["evidence"] = [f"line {n}" for n in range(9)]
    subjects = [*report().subjects, SubjectInfo("edge", "edge", "E", unavailable="no | api\nserver")]
    write_report(
        report(broken, listed, case("f", TOKEN_2=Verdict.FINDING), subjects=subjects, problems=["Wrong."]),
        tmp_path,
    )
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "| local | · | · | ~ 0/1 known 1 | · | ✗ 0/1 FAIL 1 |" in text
    assert "no \\| api server" in text
    assert "It is stuck \\| &lt;b>." in text
    assert "The row MUST reach a terminal state" in text
    assert "Reproduce: `pytest -k 'crash[a|b]' --executor local`" in text
    assert "History: `histories/crash[a|b].jsonl`" in text
    assert "  line 4\n" in text
    assert "line 5" not in text
    assert "… and 4 more lines in the history" in text
    assert "## Known failures" in text
    assert "review by 2027-01-31; <https://example.org/a_1>" in text
    assert "(not written down; history `histories/f.jsonl`)" in text
    assert "## Problems of the run\n\n- Wrong." in text


def test_markdown_is_escaped() -> None:
    assert escape("a|b\n`c` <i> *x* \\") == "a\\|b \\`c\\` &lt;i> \\*x\\* \\\\"
    assert code("a ``b`") == "``` a ``b` ```"
    assert code("plain") == "`plain`"


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"cannot be written to .*file.*; give a folder that is writable"):
        write_report(report(), tmp_path / "file")


def test_a_failed_write_leaves_the_old_report_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = report(case(RUN_1=P))
    write_report(old, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_report(report(case(RUN_1=F)), tmp_path)
    assert load_report(tmp_path) == old
    assert len(list(tmp_path.iterdir())) == 3


def test_a_report_that_breaks_the_schema_is_not_written(tmp_path: Path) -> None:
    bad = case(RUN_1=P)
    bad.level = "great"
    with pytest.raises(HarnessError, match=r"\$\.cases\[0\]\.level"):
        write_report(report(bad), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "sign", "sentence"),
    [
        (lambda c: c["run"].update(airflow_version="9"), False, "was edited: its digest does not fit"),
        (lambda c: c["cases"][0].update(verdict="pass"), False, "was edited"),
        (lambda c: c.update(version=2), True, "has format version 2; this tool reads 1"),
        (lambda c: c.update(format="bowtie"), True, "so it is no report"),
        (lambda c: c["cases"][0].update(verdict="great"), True, r"not valid at \$\.cases\[0\]\.verdict"),
        (lambda c: c.pop("digest"), False, "'digest' is a required property"),
        (lambda c: c.update(extra=1), True, "Additional properties"),
        (lambda c: c["cases"].extend([{"id": "x" * 5000}]), True, "is not valid at"),
    ],
)
def test_a_changed_report_is_refused(tmp_path: Path, change: Any, sign: bool, sentence: str) -> None:
    path = write_report(report(case(RUN_1=F)), tmp_path)
    rewrite(path, change, sign)
    with pytest.raises(UsageError, match=sentence) as raised:
        load_report(path)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no JSON .*truncated"),
        (b'{"format": "executor-conf', "is no JSON"),
        (b"[1, 2]", "so it is no report"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        load_report(path)


def test_a_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"report\.json cannot be read"):
        load_report(tmp_path)


# ------------------------------------------------------------------------------------------------- terminal


def test_the_terminal_shows_matrix_failures_problems_totals_and_path(tmp_path: Path) -> None:
    subjects = [*report().subjects, SubjectInfo("celery", "celery", "C", unavailable="no broker")]
    full = report(
        case("a[1]", RUN_1=P, RUN_2=P, CRASH_1=F),
        case("b", RUN_1=P, CRASH_1=F, CRASH_3=P),
        subjects=subjects,
        problems=["The expectation 1 passes now."],
    )
    text = render_matrix(full, 160, path=tmp_path / "report.json")
    [row] = [line for line in text.splitlines() if line.startswith("local ")]
    assert "✓ 3/3 pass" in row
    assert "✗ 1/3 FAIL 2" in row
    assert "✗ local CRASH-1 FAIL: CRASH_1 was fail. [a[1] and 1 more]" in text
    assert "celery unavailable: no broker" in text
    assert "problem: The expectation 1 passes now." in text
    assert "2 cases: 2 fail; Airflow 3.3.2 (edition claimless), 12 s" in text
    assert text.endswith(f"report: {tmp_path / 'report.json'}\n")
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [1, 60, 80, 100, 200])
def test_the_matrix_fits_the_width_and_loses_no_group(width: int) -> None:
    text = render_matrix(report(case(**{f"{group.id}_1": P for group in load_catalogue().groups})), width)
    assert all(len(line) <= max(width, 40) for line in text.splitlines())
    assert text.count("1/1 pass") == 8


def test_colour_is_on_request() -> None:
    assert "\x1b[" in render_matrix(report(case(RUN_1=F)), 100, color=True)


def test_a_failing_case_prints_how_to_reproduce_it_first() -> None:
    broken = case("x", RUN_1=P, CRASH_1=F, CRASH_5=F)
    broken.clauses["CRASH-5"]["evidence"] = [f"line {n}" for n in range(9)]
    lines = failure_text(broken, load_catalogue()).splitlines()
    assert lines[0] == "pytest -k 'x' --executor local"
    assert lines[1].startswith("CRASH-1 FAIL: The row MUST reach a terminal state")
    assert lines[2] == "  CRASH_1 was fail."
    assert lines[3].startswith("CRASH-5 FAIL: ")
    evidence = [line for line in lines if line.startswith("  | ")]
    assert len(evidence) == 6
    assert evidence[-1] == "  | … and 5 more lines in the history"
    assert lines[-1] == "history: histories/x.jsonl"


def test_a_case_that_broke_without_a_clause_prints_its_reason() -> None:
    broken = case("x")
    broken.verdict, broken.reason, broken.history = E, "The API server ended.", ""
    assert failure_text(broken, load_catalogue()).splitlines()[1:] == ["ERROR: The API server ended."]
    assert "! local ERROR: The API server ended. [x]" in render_matrix(report(broken), 100)


def test_a_clause_of_another_contract_is_still_shown() -> None:
    foreign = case("x", NEW_1=F)
    assert "has no clause NEW-1" in failure_text(foreign, load_catalogue())
    assert "NEW" in render_matrix(report(foreign), 200)


# ------------------------------------------------------------------------------------------------- outcome


def test_a_failed_control_group_turns_failures_into_errors_of_its_subject_only() -> None:
    before = [
        case("control", TASK_1=F, CRASH_5=F),
        case("a", RUN_1=F, RUN_2=P, RUN_8=K),
        case("a", "celery", RUN_1=F),
    ]
    control, turned, other = apply_control_group(before)
    assert control.clauses["TASK-1"]["verdict"] == "fail"
    assert control.clauses["CRASH-5"]["verdict"] == "error"
    assert turned.verdict is E
    assert turned.reason == "the control group failed: TASK_1 was fail."
    assert turned.clauses["RUN-1"]["reason"] == turned.reason
    assert turned.clauses["RUN-1"]["evidence"]
    assert [turned.clauses[name]["verdict"] for name in ("RUN-2", "RUN-8")] == ["pass", "known"]
    assert other is before[2]
    assert before[1].verdict is F
    assert apply_control_group([control, turned, other]) == [control, turned, other]


def test_only_a_control_group_that_passed_lets_anybody_be_accused() -> None:
    cases = [case("control", TASK_1=P), case("a", RUN_1=F)]
    assert apply_control_group(cases) == cases
    for verdict in (K, E, F, Verdict.NOT_APPLICABLE):
        assert apply_control_group([case("control", TASK_1=verdict), case("a", RUN_1=F)])[1].verdict is E


@pytest.mark.parametrize(
    ("cases", "problems", "code"),
    [
        ([case(RUN_1=P)], [], 0),
        ([case(RUN_1=P, RUN_8=K, TOKEN_2=Verdict.FINDING)], [], 0),
        ([case(TASK_1=P)], [], 0),
        ([case(RUN_1=P)], ["The expectation 1 passes now."], 1),
        ([case(RUN_1=P), case(RUN_1=F)], [], 1),
        ([case(RUN_1=F), case(RUN_1=E)], [], 1),
        ([case(RUN_1=P), case(RUN_1=E)], [], 3),
        ([case(RUN_1=E)], ["Wrong."], 3),
        ([], [], 3),
        ([], ["Wrong."], 3),
        ([case(RUN_1=Verdict.NOT_APPLICABLE), case(RUN_1=Verdict.UNAVAILABLE)], [], 3),
        ([case(RUN_1=P), case(TASK_1=F)], [], 3),
        ([case(RUN_1=F), case(TASK_1=F)], [], 3),
        ([case(TASK_1=F), case("c", "celery", RUN_1=F)], [], 1),
        ([case(TASK_2=F, TASK_1=P)], [], 1),
        ([case(TASK_1=E, RUN_1=P)], [], 3),
        ([case(TASK_1=E), case(RUN_1=F)], [], 3),
        ([case(TASK_1=K), case(RUN_1=P)], [], 3),
        ([case(TASK_1=Verdict.NOT_APPLICABLE), case(RUN_1=P)], [], 3),
    ],
)
def test_the_exit_code(cases: list[CaseResult], problems: list[str], code: int) -> None:
    assert exit_code(report(*cases, problems=problems)) == code


def test_a_case_that_broke_after_it_decided_is_an_error_of_the_run() -> None:
    broken = case(RUN_1=P)
    broken.verdict = E
    assert exit_code(report(broken)) == 3
