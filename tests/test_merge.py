"""Parts of a CI matrix merged into one report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.report.merge import Part, merge
from executor_conformance.harness.report.model import CaseResult, Report, SubjectInfo
from executor_conformance.harness.report.store import load_report, write_report
from executor_conformance.harness.verdicts import Verdict

from tests.reports import controlled, made, run, stored
from tests.test_cli import one_line
from tests.test_report import case

P, F, E = Verdict.PASS, Verdict.FAIL, Verdict.ERROR


def merged(*reports: Report) -> Report:
    return merge([Part(Path(f"part-{number}"), report) for number, report in enumerate(reports)]).report


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "histories").iterdir()}


def test_parts_with_other_subjects_make_one_report(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", *controlled(case("a", RUN_1=P)), started="2026-11-20T12:00:00Z")
    edge = controlled(case("a", "edge", RUN_1=F), subject="edge")
    for each in edge:
        each.history = f"histories/edge--{each.id}.jsonl"
    other = stored(tmp_path / "other", *edge, problems=["Wrong."], database="sqlite 3.45", providers={"kombu": "5.7.0"})
    result = run("merge", one, other / "report.json", "--output", tmp_path / "all")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 parts, 2 subjects, 4 cases" in result.stdout
    whole = load_report(tmp_path / "all")
    assert whole.labels == ["local", "edge"]
    assert [(each.subject, each.id) for each in whole.cases] == [
        ("local", "task.control_group"),
        ("local", "a"),
        ("edge", "task.control_group"),
        ("edge", "a"),
    ]
    assert whole.problems == ["Wrong."]
    assert whole.run.started == "2026-11-20T10:00:00Z"
    assert whole.run.duration_s == 25.0
    assert whole.run.database == "sqlite, sqlite 3.45"
    assert whole.run.providers == {"celery": "3.26.0", "kombu": "5.7.0"}
    assert whole.run.command == "pytest -m conformance"
    assert files(tmp_path / "all") == {
        "task.control_group.jsonl": "local task.control_group in one\n",
        "a.jsonl": "local a in one\n",
        "edge--task.control_group.jsonl": "edge task.control_group in other\n",
        "edge--a.jsonl": "edge a in other\n",
    }
    assert "# Executor conformance" in (tmp_path / "all" / "summary.md").read_text()
    assert run("gate", tmp_path / "all").exit_code == 1


def test_disjoint_cases_of_the_same_subject_make_one_report(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", *controlled(case("a", RUN_1=P)))
    other = stored(tmp_path / "other", case("b", RUN_2=P))
    result = run("merge", one, other, "--output", tmp_path / "all")
    assert result.exit_code == 0, result.output
    assert result.stderr == f"note: {other} has no control group for local; it rests on that of another part, if any.\n"
    assert load_report(tmp_path / "all").summary == {"local": {"RUN": {"pass": 2}, "TASK": {"pass": 1}}}
    assert run("gate", tmp_path / "all").exit_code == 0


def test_histories_of_the_same_name_are_both_kept(tmp_path: Path) -> None:
    parts = [stored(tmp_path / name, *controlled(case("a", name, RUN_1=P), subject=name)) for name in ("one", "two")]
    assert run("merge", *parts, "--output", tmp_path / "all").exit_code == 0
    histories = files(tmp_path / "all")
    assert len(histories) == 4
    for each in load_report(tmp_path / "all").cases:
        assert histories[each.history.removeprefix("histories/")] == f"{each.subject} {each.id} in {each.subject}\n"


def test_a_case_that_is_in_two_parts_is_kept_once(tmp_path: Path) -> None:
    one, other = (stored(tmp_path / name, *controlled(case("a", RUN_1=P, RUN_2=F))) for name in ("one", "other"))
    assert run("merge", one, other, "--output", tmp_path / "all").exit_code == 0
    assert load_report(tmp_path / "all").cases == load_report(one).cases
    assert files(tmp_path / "all")["a.jsonl"] == "local a in one\n"


def test_of_two_results_that_agree_the_one_with_more_clauses_is_kept() -> None:
    small, large = made(case("a", RUN_1=P)), made(case("a", RUN_1=P, RUN_2=P))
    for parts in ((small, large), (large, small)):
        [kept] = merged(*parts).cases
        assert kept.clauses == large.cases[0].clauses
    # an invariant that a history says nothing about is left out
    assert merged(large, made(case("a", RUN_1=P, TOKEN_5=P))).cases[0].clauses == large.cases[0].clauses


def test_a_case_that_broke_contradicts_one_that_did_not() -> None:
    broke = case("a")
    broke.verdict = E
    with pytest.raises(UsageError, match="its verdict is 'pass' in part-0 and 'error' in part-1; run it again"):
        merged(made(case("a", RUN_1=P)), made(broke))
    assert merged(made(broke), made(broke, case("b", RUN_1=P))).cases[0].verdict is E


def test_parts_of_two_databases_are_refused() -> None:
    """An expectation may be about one database, so the order of the parts would decide."""
    one, other = made(case("a", RUN_1=P)), made(case("b", RUN_1=P))
    one.run, other.run = replace(one.run, database="SQLite 3.40.1"), replace(other.run, database="PostgreSQL 15.18")
    for parts in ((one, other), (other, one)):
        with pytest.raises(UsageError, match="not of the same database: part-0 has"):
            merged(*parts)
    other.run = replace(other.run, database="SQLite 3.45.0")
    assert merged(one, other).run.database == "SQLite 3.40.1, SQLite 3.45.0"


def test_a_part_that_is_given_twice_is_taken_once() -> None:
    one = made(*controlled(case("a", RUN_1=P)))
    whole = merge([Part(Path("part-0"), one), Part(Path("part-1"), one)])
    assert whole.notes[0] == "part-1 is part-0 again, and left out."
    assert whole.report.run.duration_s == one.run.duration_s


def test_a_subject_that_could_not_run_in_one_part_was_run_in_another() -> None:
    ran = made(*controlled(case("a", "edge", RUN_1=P), subject="edge"))
    missing = made(*controlled(case("a", RUN_1=P)))
    missing.subjects.append(SubjectInfo("edge", "edge", "Other", unavailable="no port"))
    for parts in ((ran, missing), (missing, ran)):
        [info] = [info for info in merged(*parts).subjects if info.label == "edge"]
        assert info == ran.subjects[0]


def test_a_control_group_that_failed_counts_for_all_parts() -> None:
    whole = merged(made(case("task.control_group", TASK_1=F)), made(case("a", RUN_1=F, RUN_2=P)))
    assert [(each.id, each.verdict) for each in whole.cases] == [("task.control_group", F), ("a", E)]


# -- what is refused


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("contract_version", "not of the same contract version: .*one has 2026.11, .*other has 9;"),
        ("airflow_version", "not of the same Airflow version: .*one has 3.3.2, .*other has 9;"),
        ("edition", "not of the same edition: .*one has claimless, .*other has 9;"),
    ],
)
def test_parts_of_different_things_are_refused(tmp_path: Path, name: str, words: str) -> None:
    parts = [Part(Path("one"), made(case("a", RUN_1=P))), Part(Path("other"), made(case("b", RUN_1=P), **{name: "9"}))]
    with pytest.raises(UsageError, match=words):
        merge(parts)
    for part in parts:
        write_report(part.report, tmp_path / part.path)
    sentence = one_line(run("merge", tmp_path / "one", tmp_path / "other", "--output", tmp_path / "all"))
    assert "merge each by itself" in sentence
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("name", "short", "refused"),
    [
        ("apache-airflow-providers-edge3", "edge3", True),
        ("apache-airflow-task-sdk", "task-sdk", True),
        ("apache-airflow-providers-http", "", False),
        ("kombu", "", False),
    ],
)
def test_parts_with_other_versions_that_expectations_may_name_are_refused(name: str, short: str, refused: bool) -> None:
    """The first part is without it, as one of another environment is."""
    parts = [Part(Path("none"), made(case("z", RUN_1=P)))]
    parts += [
        Part(Path(version), made(case(version, RUN_1=P), providers={name: version})) for version in ("5.1.0", "5.1.1")
    ]
    if refused:
        words = f"not of the same version of {short}: 5.1.0 has 5.1.0, 5.1.1 has 5.1.1; merge each by itself"
        with pytest.raises(UsageError, match=words):
            merge(parts)
    else:
        assert merge(parts).report.run.providers[name] == "5.1.0, 5.1.1"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (case("a", RUN_1=P), case("a", RUN_1=F)),
        (case("a", RUN_1=F, RUN_2=P), case("a", RUN_1=E, RUN_2=P)),
        (case("a", RUN_1=F, RUN_2=P), case("a", RUN_1=F, RUN_2=Verdict.NOT_APPLICABLE)),
    ],
)
def test_verdicts_that_contradict_each_other_are_refused(tmp_path: Path, first: CaseResult, second: CaseResult) -> None:
    one, other = stored(tmp_path / "one", first), stored(tmp_path / "other", second)
    sentence = one_line(run("merge", one, other, "--output", tmp_path / "all"))
    assert f"The case a of local is decided twice and not alike: RUN-{2 if 'not app' in sentence else 1} is" in sentence
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("name", ["executor", "substrate", "backend"])
def test_another_subject_of_the_same_label_is_refused(name: str) -> None:
    one, other = made(case("a", RUN_1=P)), made(case("b", RUN_1=P))
    other.subjects = [replace(other.subjects[0], **{name: "other"})]
    with pytest.raises(UsageError, match=f"The subject local has the {name} .* and other in part-1"):
        merged(one, other)


@pytest.mark.parametrize("outside", ["../secret.jsonl", "{absolute}", "histories/link.jsonl"])
def test_a_history_outside_of_its_part_is_refused(tmp_path: Path, outside: str) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text("secret")
    (tmp_path / "part" / "histories").mkdir(parents=True)
    (tmp_path / "part" / "histories" / "link.jsonl").symlink_to(secret)
    led = case("a", RUN_1=P)
    led.history = outside.format(absolute=secret)
    write_report(made(led), tmp_path / "part")
    sentence = one_line(run("merge", tmp_path / "part", "--output", tmp_path / "all"))
    assert "The history of a" in sentence
    assert "is outside of its folder" in sentence
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("history", ["histories/none.jsonl", "histories", "bad\0name", "x" * 5000])
def test_a_history_that_is_not_there_is_said(tmp_path: Path, history: str) -> None:
    lost = case("a", RUN_1=P)
    lost.history = history
    write_report(made(lost), tmp_path / "part")
    (tmp_path / "part" / "histories").mkdir()
    result = run("merge", tmp_path / "part", "--output", tmp_path / "all")
    assert result.exit_code == 0, result.output
    assert "note: 1 history of the parts could not be found." in result.stderr
    assert load_report(tmp_path / "all").cases[0].history == ""


def test_only_a_new_folder_is_written_to(tmp_path: Path) -> None:
    part = stored(tmp_path / "part", case("a", RUN_1=P))
    before = sorted(path.name for path in part.rglob("*"))
    assert "is not an empty folder" in one_line(run("merge", part, "--output", part))
    assert "is not an empty folder" in one_line(run("merge", part, "--output", part / "report.json"))
    assert sorted(path.name for path in part.rglob("*")) == before
    assert "cannot be copied to" in one_line(run("merge", part, "--output", part / "report.json" / "x"))
    (tmp_path / "empty").mkdir()
    assert run("merge", part, "--output", tmp_path / "empty").exit_code == 0
