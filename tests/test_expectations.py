"""Expectations files: what they turn into what, and how strict they are."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from pathlib import Path

import pytest
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.expectations import Expectations, load_expectations, load_for_line
from executor_conformance.harness.verdicts import Decision, Verdict
from executor_conformance.harness.versions import Circumstances

TODAY = datetime.date(2026, 11, 20)
LATER = "review = 2027-01-31"
ENTRY = f"""[[expected]]
subject = "local"
clause = "CRASH-1"
reason = "Nothing rescues it"
{LATER}
"""


def load(tmp_path: Path, text: str) -> Expectations:
    path = tmp_path / "expected.toml"
    path.write_text(text, encoding="utf-8")
    return load_expectations(path, load_catalogue(), TODAY)


def problems(tmp_path: Path, text: str, *results: tuple[str, str, str, str], complete: bool = True) -> list[str]:
    return load(tmp_path, text).problems(results, complete=complete)


def test_a_listed_failure_is_known_with_its_reason_and_link(tmp_path: Path) -> None:
    expectations = load(tmp_path, ENTRY + 'link = "https://example.org/1"\n')
    fail = Decision("CRASH-1", Verdict.FAIL, "The row is RUNNING.", ("t=1 RUNNING",), {"x": 1})
    passed = Decision("CRASH-3", Verdict.PASS)

    known, same = expectations.apply("local", "crash[during]", [fail, passed])

    assert known.verdict is Verdict.KNOWN
    assert known.reason == "Nothing rescues it: The row is RUNNING."
    assert known.evidence == fail.evidence
    assert known.data == {"x": 1, "listed": True, "link": "https://example.org/1", "review": "2027-01-31"}
    assert same is passed
    assert expectations.matches == [(1, ("local", "crash[during]", "CRASH-1", "fail"))]


@pytest.mark.parametrize(
    ("database", "verdict"),
    [
        ("postgres", Verdict.KNOWN),
        ("postgresql://u@h/db", Verdict.KNOWN),
        ("PostgreSQL 15.18", Verdict.KNOWN),
        ("sqlite", Verdict.FAIL),
        ("SQLite 3.40.1", Verdict.FAIL),
    ],
)
def test_an_entry_may_be_about_a_database(tmp_path: Path, database: str, verdict: Verdict) -> None:
    listed = load(tmp_path, ENTRY + 'database = "postgres"\n').of(Circumstances(database, {}))
    (decision,) = listed.apply("local", "crash", [Decision("CRASH-1", Verdict.FAIL)])
    assert decision.verdict is verdict
    nothing = listed.problems([("local", "crash", "CRASH-3", "pass")], complete=True)
    assert bool(nothing) is (verdict is Verdict.KNOWN)  # on the other it matches nothing, and need not


def test_an_entry_about_no_database_is_about_each(tmp_path: Path) -> None:
    for database in ("sqlite", "postgres"):
        assert len(load(tmp_path, ENTRY).of(Circumstances(database, {})).entries) == 1


VERSIONS = 'versions = { core = ">=3.4.0b1,<3.4.1", edge3 = "<5.1.1rc1" }\n'


@pytest.mark.parametrize(
    ("core", "edge3", "holds"),
    [
        ("3.4.0b2", "5.1.0", True),
        ("3.4.0", "5.1.0", True),
        ("3.4.1", "5.1.0", False),
        ("3.3.2", "5.1.0", False),
        ("3.4.0", "5.1.1", False),
        ("3.4.0", "5.1.1rc1", False),
        ("3.4.0", None, False),
    ],
)
def test_an_entry_may_be_about_versions(tmp_path: Path, core: str, edge3: str | None, holds: bool) -> None:
    run = Circumstances("sqlite", {"core": core, **({"edge3": edge3} if edge3 else {})})
    listed = load(tmp_path, ENTRY + VERSIONS).of(run)
    [decision] = listed.apply("local", "crash", [Decision("CRASH-1", Verdict.FAIL)])
    assert decision.verdict is (Verdict.KNOWN if holds else Verdict.FAIL)


@pytest.mark.parametrize(
    "cell", [("local", "a", "CRASH-1", "pass"), ("celery", "a", "CRASH-1", "pass")], ids=["passes", "matches nothing"]
)
def test_an_entry_about_other_versions_is_never_wrong(tmp_path: Path, cell: tuple[str, str, str, str]) -> None:
    listed = load(tmp_path, ENTRY.replace("2027-01-31", "2020-01-31") + VERSIONS)
    within, beyond = (Circumstances("sqlite", {"core": core, "edge3": "5.1.0"}) for core in ("3.4.0", "3.4.1"))
    assert len(listed.of(within).problems([cell], complete=True)) == 2  # it is past its date as well
    assert listed.of(beyond).problems([cell], complete=True) == []


def test_a_finding_that_is_listed_for_other_versions_is_not_written_down(tmp_path: Path) -> None:
    listed = load(tmp_path, ENTRY.replace("CRASH-1", "TOKEN-2") + VERSIONS)
    cell = ("local", "a", "TOKEN-2", "finding")
    assert listed.of(Circumstances("sqlite", {"core": "3.4.0", "edge3": "5.1.0"})).problems([cell], complete=True) == []
    [problem] = listed.of(Circumstances("sqlite", {"core": "3.4.0"})).problems([cell], complete=True)
    assert "not written down" in problem


@pytest.mark.parametrize(
    ("airflow", "used", "stands_for"),
    [
        ("3.3.2", "3.3.toml", None),
        ("3.4.0b2", "3.4.toml", None),
        ("3.4.0", "3.4.toml", None),
        ("3.4.1", "3.4.toml", None),
        ("3.5.0b1", "3.4.toml", "3.5.toml"),
        ("3.10.0", "3.4.toml", "3.10.toml"),
        ("4.0.0.dev0", "3.4.toml", "4.0.toml"),
        ("3.2.1", None, None),
    ],
)
def test_a_line_without_a_file_has_that_of_the_line_before(
    tmp_path: Path, airflow: str, used: str | None, stands_for: str | None
) -> None:
    for name in ("3.3.toml", "3.4.toml", "findings.toml"):
        (tmp_path / name).write_text(ENTRY if name[0] == "3" else "")
    found = load_for_line(tmp_path, airflow, load_catalogue())
    assert found.path == (used and tmp_path / used)
    assert found.stands_for == (stands_for and tmp_path / stands_for)
    assert bool(found.entries) is bool(used)


def test_what_a_file_of_an_older_line_lists_may_pass(tmp_path: Path) -> None:
    listed = replace(load(tmp_path, ENTRY), stands_for=tmp_path / "3.5.toml")
    [decision] = listed.apply("local", "a", [Decision("CRASH-1", Verdict.FAIL)])
    assert decision.verdict is Verdict.KNOWN
    for cells in ([("local", "a", "CRASH-1", "pass")], [("celery", "a", "CRASH-1", "pass")]):
        assert listed.problems(cells, complete=True) == []
    [problem] = listed.problems([("local", "a", "TOKEN-2", "finding")], complete=False)
    assert problem.endswith("list it in " + str(tmp_path / "3.5.toml") + ".")


def test_each_use_of_a_file_asks_what_holds_for_the_run() -> None:
    """Only what shows a whole file uses it as it was read."""
    root = Path(__file__).parent.parent
    uses = [
        (path.name, line.strip())
        for folder in ("harness", "suites", "backends")
        for path in sorted((root / folder).rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"(?<!def )\bload_(expectations|for_line)\(", line)
    ]
    assert {name for name, _ in uses} == {"expectations.py", "findings.py", "gate_cli.py", "run_state.py"}
    for name in ("gate_cli.py", "run_state.py"):
        assert ".of(" in (root / "suites" / name).read_text("utf-8")


@pytest.mark.parametrize(
    ("subject", "case", "clause"),
    [("celery", "crash", "CRASH-1"), ("local", "crash", "CRASH-5"), ("Local", "crash", "CRASH-1")],
)
def test_what_is_not_listed_stays_a_failure(tmp_path: Path, subject: str, case: str, clause: str) -> None:
    decision = Decision(clause, Verdict.FAIL)
    assert load(tmp_path, ENTRY).apply(subject, case, [decision]) == [decision]


def test_a_listed_finding_stays_a_finding_that_is_marked(tmp_path: Path) -> None:
    text = ENTRY.replace("CRASH-1", "TOKEN-2")
    [decision] = load(tmp_path, text).apply("local", "x", [Decision("TOKEN-2", Verdict.FINDING, "It answered 200.")])
    assert decision.verdict is Verdict.FINDING
    assert decision.reason == "It answered 200."
    assert decision.data["listed"] is True


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in (Verdict.FAIL, Verdict.FINDING)])
def test_other_verdicts_are_left_alone(tmp_path: Path, verdict: Verdict) -> None:
    decision = Decision("CRASH-1", verdict)
    assert load(tmp_path, ENTRY).apply("local", "x", [decision]) == [decision]


def test_patterns_and_lists_with_brackets_taken_literally(tmp_path: Path) -> None:
    text = ENTRY.replace('"local"', '"edge*"').replace('"CRASH-1"', '["CRASH-1", "CRASH-5"]')
    entry = load(tmp_path, text + 'case = "crash[during-*]"\n').entries[0]
    assert entry.matches("edge-log-push-stubbed", "crash[during-1]", "CRASH-5")
    assert not entry.matches("edge", "crashd", "CRASH-5")
    assert not entry.matches("local", "crash[during-1]", "CRASH-5")


def test_a_listed_failure_that_fails_is_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, ENTRY, ("local", "a", "CRASH-1", "known"), ("local", "b", "RUN-1", "pass")) == []
    assert problems(tmp_path, ENTRY, ("local", "a", "CRASH-1", "fail")) == []


def test_a_listed_failure_that_passes_is_a_problem(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, ENTRY, ("local", "a", "CRASH-1", "pass"))
    assert problem == "The expectation 1 (local, CRASH-1) passes now in local a CRASH-1; remove it."


def test_every_matched_cell_must_fail(tmp_path: Path) -> None:
    cells = [("local", "a", "CRASH-1", "known"), *(("local", name, "CRASH-1", "pass") for name in "bcde")]
    [problem] = problems(tmp_path, ENTRY, *cells)
    assert "lists more than what fails" in problem
    assert "local d CRASH-1 and 1 more passes" in problem


@pytest.mark.parametrize("verdict", ["not applicable", "unavailable", "unsupported", "error"])
def test_undecided_cells_are_ignored(tmp_path: Path, verdict: str) -> None:
    assert problems(tmp_path, ENTRY, ("local", "a", "CRASH-1", verdict)) == []
    assert problems(tmp_path, ENTRY, ("local", "a", "CRASH-1", verdict), ("local", "b", "CRASH-1", "known")) == []


@pytest.mark.parametrize("case", ["sweep.killed[row running]", "sequences.mixed"])
def test_an_entry_for_what_runs_on_demand_may_match_nothing(tmp_path: Path, case: str) -> None:
    listed = ENTRY + f'case = "{case}"\n'
    assert problems(tmp_path, listed, ("local", "a", "CRASH-1", "pass")) == []
    [problem] = problems(tmp_path, listed, ("local", case, "CRASH-1", "pass"))
    assert "passes now" in problem


def test_an_entry_that_matches_nothing_is_a_problem_of_a_complete_run_only(tmp_path: Path) -> None:
    cell = ("celery", "a", "CRASH-1", "pass")
    [problem] = problems(tmp_path, ENTRY, cell)
    assert problem == "The expectation 1 (local, CRASH-1) matches nothing that was run; correct or remove it."
    assert problems(tmp_path, ENTRY, cell, complete=False) == []


def test_an_entry_past_its_date_is_a_problem_and_one_on_its_date_is_not(tmp_path: Path) -> None:
    cell = ("local", "a", "CRASH-1", "known")
    [problem] = problems(tmp_path, ENTRY.replace("2027-01-31", "2026-11-19"), cell)
    assert "was to be reviewed by 2026-11-19" in problem
    assert problems(tmp_path, ENTRY.replace("2027-01-31", '"2026-11-20"'), cell) == []


def test_unlisted_findings_are_told_once_per_clause(tmp_path: Path) -> None:
    cells = [("local", "a", "TOKEN-2", "finding"), ("local", "b", "TOKEN-2", "finding")]
    [problem] = problems(tmp_path, "", *cells)
    assert problem.startswith("A platform finding that is not written down: local breaks TOKEN-2 in a, b; list it in ")
    assert problems(tmp_path, ENTRY.replace("CRASH-1", "TOKEN-2"), *cells) == []


def test_without_a_file_nothing_is_compared() -> None:
    expectations = Expectations()
    decision = Decision("CRASH-1", Verdict.FAIL)
    assert expectations.apply("local", "a", [decision]) == [decision]
    assert expectations.problems([("local", "a", "TOKEN-2", "finding")], complete=True) == []


def test_problems_need_only_plain_results_of_several_processes(tmp_path: Path) -> None:
    worker, controller = load(tmp_path, ENTRY), load(tmp_path, ENTRY)
    [decision] = worker.apply("local", "a", [Decision("CRASH-1", Verdict.FAIL)])
    results = [("local", "a", "CRASH-1", decision.verdict.value), ("local", "b", "CRASH-1", "pass")]
    assert controller.matches == []
    assert len(controller.problems(results, complete=True)) == 1


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('reason = "Nothing rescues it"', "", "expectation 1 in .* has no reason; every entry needs subject"),
        (LATER, "", "has no review"),
        ('subject = "local"', "", "has no subject"),
        ('clause = "CRASH-1"', "", "has no clause"),
        ('reason = "Nothing rescues it"', 'reason = " "', "has an empty reason"),
        (
            'subject = "local"',
            'subject = "local"\ndatabase = "oracle"',
            "has the database 'oracle'; give sqlite or postgres",
        ),
        (LATER, f"{LATER}\nversions = {{}}", "has 'versions' that are no table, or an empty one; write versions = "),
        (LATER, f'{LATER}\nversions = "<3.4.1"', "has 'versions' that are no table"),
        (
            LATER,
            f'{LATER}\nversions = {{ edge3 = "5.1.1" }}',
            "has the specifier '5.1.1' for edge3, which is not valid",
        ),
        (LATER, f'{LATER}\nversions = {{ edge3 = "" }}', "has the specifier '' for edge3"),
        (LATER, f"{LATER}\nversions = {{ edge3 = 5 }}", "has the specifier 5 for edge3"),
        (LATER, f'{LATER}\nversions = {{ egde3 = "<5" }}', "versions of 'egde3', which is unknown; did you mean edge3"),
        (LATER, f'{LATER}\nversions = {{ nothing = "<5" }}', "which is unknown; give one of core, task-sdk"),
        ("review = 2027-01-31", 'review = "soon"', "has the review 'soon', which is not a date such as"),
        ("review = 2027-01-31", "review = 2027-01-31T10:00:00", "which is not a date"),
        ('subject = "local"', "subject = 3", "has an empty subject or one that is no string"),
        ('clause = "CRASH-1"', "clause = []", "neither an id nor a list of ids"),
        ('clause = "CRASH-1"', 'clause = "CRASH1"', "names an unknown clause: .* did you mean CRASH-1"),
        ('clause = "CRASH-1"', 'clause = "CRASH-1"\nflaky = true', "has the unknown key 'flaky'"),
        ("[[expected]]", "[[unexpected]]", "have the unknown key 'unexpected'"),
        ("[[expected]]", "[expected]", "'expected' is no list"),
        ('subject = "local"', 'subject = "local', r"are no valid TOML: .*line 2"),
        ('clause = "CRASH-1"', f"clause = {'[' * 20_000}", "are no valid TOML: .*recursion"),
        ('clause = "CRASH-1"', f"clause = {'9' * 5_000}", "are no valid TOML: .*digits"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in ENTRY
    with pytest.raises(UsageError, match=sentence) as raised:
        load(tmp_path, ENTRY.replace(old, new, 1))
    assert "expected.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_expectations(tmp_path / "none.toml", load_catalogue())
