"""The gate: what opens it, what closes it, and what it says."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.expectations import load_expectations
from executor_conformance.harness.report.gate import Outcome, judge
from executor_conformance.harness.report.model import CaseResult, Report, SubjectInfo
from executor_conformance.harness.report.store import load_report
from executor_conformance.harness.report.vote import vote_block
from executor_conformance.harness.verdicts import Verdict

from tests.reports import controlled, made, run, stored
from tests.test_cli import one_line
from tests.test_report import case

P, F, E, K, N = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN, Verdict.NOT_APPLICABLE
FINDING = Verdict.FINDING


def whole(*cases: CaseResult, **changes: str) -> Report:
    """A report of ``local`` with a control group that passed."""
    return made(*controlled(*cases), **changes)


def reasons(outcome: Outcome) -> list[str]:
    return [reason.text for reason in outcome.reasons]


def expectations(path: Path, clause: str, name: str = "*", review: str = "2999-01-31") -> Path:
    path.write_text(
        f'[[expected]]\nsubject = "local"\nclause = "{clause}"\ncase = "{name}"\n'
        f'reason = "It is so"\nreview = {review}\n'
    )
    return path


# -- a run by itself


@pytest.mark.parametrize("verdict", [P, K, FINDING, Verdict.UNSUPPORTED])
def test_what_accuses_nobody_leaves_the_gate_open(verdict: Verdict) -> None:
    outcome = judge(whole(case(RUN_1=verdict, RUN_2=N)))
    assert outcome.open
    assert outcome.reasons == ()


@pytest.mark.parametrize("verdict", [F, E])
def test_a_failure_and_an_error_close_it(verdict: Verdict) -> None:
    cases = [case(f"c{number}", RUN_1=verdict, RUN_2=P) for number in range(5)]
    [reason] = judge(whole(*cases)).reasons
    assert reason.subject == "local"
    assert reason.text == f"local RUN-1 {verdict.upper()} in c0, c1, c2 and 2 more: RUN_1 was {verdict}."


def test_a_case_that_broke_without_a_clause_closes_it() -> None:
    broke = case("x")
    broke.verdict, broke.reason = E, "The API server ended."
    assert reasons(judge(whole(case(RUN_1=P), broke))) == ["local ERROR in x: The API server ended."]


@pytest.mark.parametrize(
    "cases",
    [[], controlled(), controlled(case(RUN_1=N, RUN_2=Verdict.UNAVAILABLE)), controlled(case())],
    ids=["no case", "only the control group", "nothing applies", "no clause"],
)
def test_a_run_that_decided_nothing_never_passes(cases: list[CaseResult]) -> None:
    outcome = judge(made(*cases))
    assert "The run decided nothing of the contract." in reasons(outcome)
    assert not outcome.open
    # not even beside a baseline that decided nothing either
    assert not judge(made(*cases), made(*cases)).open


def test_a_subject_about_which_nothing_was_decided_closes_it() -> None:
    outcome = judge(made(*controlled(case(RUN_1=P)), *controlled(case("c", "edge", RUN_1=N), subject="edge")))
    assert reasons(outcome) == ["The run decided nothing of the contract for edge."]
    assert outcome.closed_for("edge")
    assert not outcome.closed_for("local")


@pytest.mark.parametrize("verdict", [F, E, K, N])
def test_a_control_group_that_did_not_pass_closes_it_for_its_subject(verdict: Verdict) -> None:
    control = case("task.control_group", TASK_1=verdict)
    outcome = judge(
        made(control, case(RUN_1=P), case("d", RUN_1=F), *controlled(case("c", "edge", RUN_1=P), subject="edge"))
    )
    text = f"The control group (TASK-1) of local is '{verdict}' and not 'pass': TASK_1 was {verdict}."
    assert reasons(outcome) == [text]
    assert outcome.distrusted == ("local",)
    assert not outcome.closed_for("edge")
    assert "1 failure or error of local accuse nobody." in outcome.notes


def test_a_subject_without_a_control_group_closes_it() -> None:
    outcome = judge(made(*controlled(case(RUN_1=P)), case("c", "edge", RUN_1=P)))
    assert reasons(outcome) == [
        "The control group (TASK-1) of edge was not run, so nothing that it shows can be believed."
    ]


def test_neither_baseline_nor_expectations_excuse_the_control_group(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", case("task.control_group", TASK_1=F), case(RUN_1=P))
    listed = expectations(tmp_path / "e.toml", "TASK-1")
    result = run("gate", path, "--baseline", path, "--expectations", listed)
    assert result.exit_code == 3
    assert "- The control group (TASK-1) of local is 'known' and not 'pass'" in result.stdout


def test_problems_of_the_run_close_it() -> None:
    outcome = judge(made(*controlled(case(RUN_1=P)), problems=["The expectation 1 passes now."]))
    assert reasons(outcome) == ["The run has a problem: The expectation 1 passes now."]


def test_a_subject_that_could_not_run_is_said_and_closes_it_only_if_it_is_required() -> None:
    report = whole(case(RUN_1=P))
    report.subjects.append(SubjectInfo("celery", "celery", "C", unavailable="no broker"))
    assert judge(report).open
    assert judge(report).notes == ("celery could not run: no broker",)
    assert judge(report, required=["local"]).open
    outcome = judge(report, required=["local", "celery", "kubernetes"])
    assert reasons(outcome) == [
        "The required subject celery is unavailable: no broker",
        "The required subject kubernetes is not in the report, which has local, celery.",
    ]


# -- with expectations


def test_listed_failures_are_tolerated(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case("a", RUN_1=F), case("b", RUN_1=P)))
    assert run("gate", path).exit_code == 1
    result = run("gate", path, "--expectations", expectations(tmp_path / "e.toml", "RUN-1", "a"))
    assert result.exit_code == 0, result.stdout
    assert "note: 1 failure listed in the expectations.\n" in result.stdout
    assert "- Expectations: e.toml, sha256:" in result.stdout
    assert "| known |" in result.stdout


@pytest.mark.parametrize(
    ("clause", "name", "review", "sentence"),
    [
        ("RUN-2", "a", "2999-01-31", "passes now in local a RUN-2; remove it."),
        ("RUN-1", "*", "2999-01-31", "lists more than what fails"),
        ("RUN-1", "a", "2020-01-31", "was to be reviewed by 2020-01-31"),
    ],
)
def test_expectations_are_strict(tmp_path: Path, clause: str, name: str, review: str, sentence: str) -> None:
    path = stored(tmp_path / "r", *controlled(case("a", RUN_1=F, RUN_2=P), case("b", RUN_1=P)))
    result = run("gate", path, "--expectations", expectations(tmp_path / "e.toml", clause, name, review))
    assert result.exit_code == 1
    assert sentence in result.stdout


def test_an_error_cannot_be_listed(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case("a", RUN_1=E, RUN_2=P)))
    result = run("gate", path, "--expectations", expectations(tmp_path / "e.toml", "RUN-1"))
    assert result.exit_code == 3
    assert "- local RUN-1 ERROR in a" in result.stdout


@pytest.mark.parametrize(
    ("cases", "code"),
    [
        ([], 3),
        ([case("a", RUN_1=P)], 3),
        ([case("task.control_group", TASK_1=E), case("a", RUN_1=F)], 3),
        (controlled(case("a", RUN_1=E, RUN_2=P)), 3),
        (controlled(case("a", RUN_1=F, RUN_2=P)), 1),
        (controlled(case("a", RUN_1=F), case("b", RUN_1=E)), 1),
        (controlled(case("a", RUN_1=P)), 0),
    ],
)
def test_it_ends_with_3_where_nothing_was_shown(tmp_path: Path, cases: list[CaseResult], code: int) -> None:
    assert run("gate", stored(tmp_path / "r", *cases)).exit_code == code


@pytest.mark.parametrize(
    "control", [[], [case("task.control_group", TASK_1=E)], [case("task.control_group", TASK_1=F)]]
)
def test_a_baseline_that_cannot_be_believed_excuses_nothing(control: list[CaseResult]) -> None:
    now = made(*controlled(case("a", RUN_1=F, RUN_2=P)))
    assert judge(now, made(*controlled(case("a", RUN_1=F, RUN_2=P)))).open
    outcome = judge(now, made(*control, case("a", RUN_1=F, RUN_2=P)))
    assert any("RUN-1 FAIL in a" in reason for reason in reasons(outcome))


def test_what_only_the_run_itself_listed_is_a_failure_for_the_given_file(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case("a", RUN_1=K, RUN_2=K)))
    assert "note: 2 failures listed in the expectations of the run itself." in run("gate", path).stdout
    result = run("gate", path, "--expectations", expectations(tmp_path / "e.toml", "RUN-1"))
    assert result.exit_code == 1
    assert [line for line in result.stdout.splitlines() if line.startswith("- local")] == [
        "- local RUN-2 FAIL in a: RUN_2 was known."
    ]


def test_a_finding_has_to_be_listed_in_the_given_file(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case("a", RUN_1=P, RUN_10=FINDING)))
    assert "Platform findings, which are Airflow's own: local RUN-10." in run("gate", path).stdout
    other = stored(tmp_path / "s", *controlled(case("a", RUN_1=F, RUN_10=FINDING)))
    result = run("gate", other, "--expectations", expectations(tmp_path / "e.toml", "RUN-1"))
    assert result.exit_code == 1
    assert "A platform finding that is not written down: local breaks RUN-10 in a" in result.stdout
    assert run("gate", path, "--expectations", expectations(tmp_path / "e.toml", "RUN-10")).exit_code == 0


def test_the_reason_of_a_listed_failure_is_said_once(tmp_path: Path) -> None:
    file = load_expectations(expectations(tmp_path / "e.toml", "RUN-1"), load_catalogue(), datetime.date(2026, 1, 1))
    first = judge(whole(case("a", RUN_1=F)), expectations=file).report
    assert first.cases[1].verdict is K
    assert first.cases[1].clauses["RUN-1"]["reason"] == "It is so: RUN_1 was fail."
    second = judge(first, expectations=file).report
    assert second.cases[1].clauses["RUN-1"]["reason"] == "It is so: RUN_1 was fail."


@pytest.mark.parametrize(
    ("core", "edge3", "code"), [("3.4.0b2", "5.1.0", 0), ("3.4.0", "5.1.0", 0), ("3.4.1", "5.1.0", 1), ("3.4.0", "", 1)]
)
def test_a_report_is_judged_by_the_versions_that_it_names(tmp_path: Path, core: str, edge3: str, code: int) -> None:
    providers = {"apache-airflow-providers-edge3": edge3} if edge3 else {}
    failing = stored(tmp_path / "f", *controlled(case("a", RUN_1=F)), airflow_version=core, providers=providers)
    passing = stored(tmp_path / "p", *controlled(case("a", RUN_1=P)), airflow_version=core, providers=providers)
    listed = expectations(tmp_path / "e.toml", "RUN-1")
    listed.write_text(listed.read_text() + 'versions = { core = "<3.4.1", edge3 = "<5.1.1" }\n')
    assert run("gate", failing, "--expectations", listed).exit_code == code
    # outside of its versions the entry does not exist, so that it is not stale either
    assert run("gate", passing, "--expectations", listed).exit_code == 1 - code


# -- with a baseline


@pytest.mark.parametrize("before", [F, K])
def test_what_was_failing_in_the_baseline_is_tolerated(before: Verdict) -> None:
    outcome = judge(whole(case("a", RUN_1=F, RUN_2=P)), whole(case("a", RUN_1=before, RUN_2=P)))
    assert outcome.open
    assert "1 failure that the baseline has as well: local RUN-1 in a." in outcome.notes


@pytest.mark.parametrize(("before", "after"), [(P, F), (P, E), (N, F), (E, F), (E, E), (F, E), (FINDING, F)], ids=str)
def test_what_is_broken_since_the_baseline_closes_it(before: Verdict, after: Verdict) -> None:
    outcome = judge(whole(case("a", RUN_1=after, RUN_2=P)), whole(case("a", RUN_1=before, RUN_2=P)))
    assert [text.partition(" in ")[0] for text in reasons(outcome)] == [f"local RUN-1 {after.upper()}"]


def test_a_failure_of_another_case_or_subject_of_the_baseline_excuses_nothing() -> None:
    baseline = made(*controlled(case("a", RUN_1=F)), *controlled(case("b", "edge", RUN_1=F), subject="edge"))
    now = made(
        *controlled(case("a", RUN_1=F), case("b", RUN_1=F)), *controlled(case("b", "edge", RUN_1=F), subject="edge")
    )
    assert reasons(judge(now, baseline)) == ["local RUN-1 FAIL in b: RUN_1 was fail."]


def test_a_case_that_was_decided_and_is_gone_closes_it() -> None:
    baseline = whole(case("a", RUN_1=P), case("b", RUN_1=F), case("c", RUN_1=N), case("d", RUN_1=E))
    outcome = judge(whole(case("a", RUN_1=P)), baseline)
    assert reasons(outcome) == ["local b was decided in the baseline and is gone."]


def test_a_subject_that_was_decided_and_is_gone_closes_it() -> None:
    baseline = made(*controlled(case("a", RUN_1=P)), *controlled(case("a", "edge", RUN_1=P), subject="edge"))
    now = whole(case("a", RUN_1=P))
    assert reasons(judge(now, baseline)) == ["edge had 2 decided cases in the baseline and is gone."]
    now.subjects.append(SubjectInfo("edge", "edge", "E", unavailable="no port"))
    assert reasons(judge(now, baseline)) == [
        "edge had 2 decided cases in the baseline and is gone, for it is unavailable: no port"
    ]


def test_a_clause_that_no_case_has_any_more_closes_it() -> None:
    baseline = whole(case("a", RUN_1=P, RUN_2=P), case("b", RUN_1=P, RUN_2=N))
    outcome = judge(whole(case("a", RUN_1=P), case("b", RUN_1=P)), baseline)
    assert reasons(outcome) == ["local RUN-2 was decided in the baseline and is gone from a."]


def test_a_clause_that_only_one_case_has_lost_is_said() -> None:
    # an invariant that a history says nothing about is left out of its case
    baseline = whole(case("a", RUN_1=P, TOKEN_5=P), case("b", RUN_1=P, TOKEN_5=P))
    outcome = judge(whole(case("a", RUN_1=P), case("b", RUN_1=P, TOKEN_5=P)), baseline)
    assert outcome.open
    assert outcome.notes == ("1 decision that passed in the baseline, now 'not decided': local TOKEN-5 in a.",)


def test_a_clause_that_the_edition_does_not_have_is_not_lost() -> None:
    catalogue = load_catalogue()
    edition, clause = next(
        (edition.id, clause.id.replace("-", "_"))
        for edition in catalogue.editions
        for clause in catalogue.clauses
        if clause.applies_to(edition.id)
    )
    baseline = whole(case("a", RUN_1=P, **{clause: P}))
    assert judge(whole(case("a", RUN_1=P), edition=edition), baseline).open
    assert not judge(whole(case("a", RUN_1=P), edition="unheard of"), baseline).open


def test_a_case_that_broke_is_told_of_once() -> None:
    baseline, now = whole(case("a", RUN_1=P, CRASH_3=P)), whole(case("a", RUN_1=E), case("b", RUN_1=P))
    assert reasons(judge(now, baseline)) == ["local RUN-1 ERROR in a: RUN_1 was error."]


def test_another_contract_is_said_and_closes_it_only_if_clauses_vanished() -> None:
    baseline = whole(case("a", RUN_1=P, RUN_2=P), contract_version="2026.10")
    outcome = judge(whole(case("a", RUN_1=P), case("b", RUN_2=P)), baseline)
    assert outcome.open
    assert outcome.notes[0] == "The baseline has another contract: 2026.10, now 2026.11."
    outcome = judge(whole(case("a", RUN_1=P)), baseline)
    assert reasons(outcome) == ["local RUN-2 was decided in the baseline and is gone from a."]


@pytest.mark.parametrize("after", [K, FINDING, N, Verdict.UNSUPPORTED])
def test_what_passed_and_is_no_pass_now_is_at_least_said(after: Verdict) -> None:
    outcome = judge(whole(case("a", RUN_1=after, RUN_2=P)), whole(case("a", RUN_1=P, RUN_2=P)))
    assert outcome.open
    assert f"1 decision that passed in the baseline, now '{after}': local RUN-1 in a." in outcome.notes


def test_a_report_beside_itself_shows_nothing() -> None:
    report = whole(case("a", RUN_1=F))
    outcome = judge(report, report)
    assert outcome.open
    assert "The baseline is the report itself, so it shows nothing." in outcome.notes


# -- the command


def test_an_open_gate_ends_with_a_block_for_the_vote(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case(RUN_1=P, RUN_2=K, RUN_3=N)))
    before = stored(tmp_path / "b", *controlled(case(RUN_1=P, RUN_2=F)), airflow_version="3.3.1")
    result = run("gate", path, "--baseline", before, "--require", "local")
    assert result.exit_code == 0, result.stdout
    assert result.stdout.startswith("✓ The gate is open.\n")
    block = result.stdout[result.stdout.index("## Executor conformance") :]
    assert block.splitlines() == [
        "## Executor conformance",
        "",
        "- Verdict: OPEN",
        "- Airflow: 3.3.2 (edition claimless)",
        "- Tool: airflow-executor-conformance 2026.11.0",
        "- Contract: 2026.11",
        "- Run: 2026-11-20T10:00:00Z, Python 3.11.7, sqlite",
        f"- Report: sha256:{load_report(path).seal}",
        f"- Baseline: Airflow 3.3.1 (edition claimless), sha256:{load_report(before).seal}",
        "",
        "| Subject | Gate | Cases | known | pass | not applicable |",
        "| ------- | ---- | ----- | ----- | ---- | -------------- |",
        "| local   | open | 2     | 1     | 2    | 1              |",
        "",
        "The verdicts are counted by decision, which is one clause in one case.",
    ]
    assert load_report(path).seal in (path / "report.json").read_text()


def test_a_closed_gate_gives_a_line_for_each_reason(tmp_path: Path) -> None:
    broken = case("x", RUN_1=F, RUN_2=F)
    broken.clauses["RUN-1"]["reason"] = "It is\nstuck \x1b[31m"
    path = stored(tmp_path / "r", *controlled(broken), problems=["Wrong\nfile."])
    result = run("gate", path, "--require", "edge,celery", "--require", "local")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "✗ The gate is closed:"
    assert lines[1 : lines.index("")] == [
        "- The run has a problem: Wrong file.",
        "- The required subject edge is not in the report, which has local.",
        "- The required subject celery is not in the report, which has local.",
        "- local RUN-1 FAIL in x: It is stuck \N{REPLACEMENT CHARACTER}[31m",
        "- local RUN-2 FAIL in x: RUN_2 was fail.",
    ]
    assert "- Verdict: CLOSED, 5 reasons" in lines
    assert "| local   | closed | 2     | 2    | 1    |" in lines


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case(RUN_1=P)))
    assert "cannot be read" in one_line(run("gate", path, "--baseline", tmp_path / "none"))
    assert "cannot be read" in one_line(run("gate", path, "--expectations", tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("[[expected]]\nsubject = 1\n")
    assert "has no clause" in one_line(run("gate", path, "--expectations", tmp_path / "bad.toml"))
    assert "--require has an empty subject" in one_line(run("gate", path, "--require", "local,"))


def test_a_subject_cannot_break_the_table_of_the_vote() -> None:
    label = "we|rd\n*x*"
    block = vote_block(judge(made(*controlled(case("a", label, RUN_1=P), subject=label))))
    assert "| we\\|rd \\*x\\* | open | 2     | 2    |" in block
    assert "No subject was run." in vote_block(judge(made()))
