"""Reports compared, and the command ``diff``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from executor_conformance.harness.report.compare import (
    Kind,
    Place,
    compare,
    run_differences,
    stability,
)
from executor_conformance.harness.report.model import Report, SubjectInfo
from executor_conformance.harness.verdicts import Verdict

from tests.reports import run, stored
from tests.test_cli import one_line
from tests.test_report import case, report, rewrite

P, F, E, K, N = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN, Verdict.NOT_APPLICABLE
COMMANDS: tuple[list[str], ...] = (
    ["diff", "{good}", "{bad}"],
    ["diff", "{bad}", "{good}"],
    ["gate", "{bad}"],
    ["gate", "{good}", "--baseline", "{bad}"],
    ["merge", "{good}", "{bad}", "--output", "{new}"],
    ["badge", "{bad}"],
)


def kinds(before: Report, after: Report) -> dict[Place, Kind]:
    return {change.place: change.kind for change in compare(before, after).changes}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (P, F, Kind.BROKEN),
        (P, E, Kind.BROKEN),
        (F, P, Kind.FIXED),
        (E, P, Kind.FIXED),
        (K, P, Kind.FIXED),
        (P, K, Kind.CHANGED),
        (F, K, Kind.CHANGED),
        (F, E, Kind.CHANGED),
        (N, F, Kind.CHANGED),
        (P, N, Kind.CHANGED),
    ],
)
def test_what_a_place_was_and_is_tells_the_kind(before: Verdict, after: Verdict, kind: Kind) -> None:
    found = compare(report(case(RUN_1=before, RUN_2=P)), report(case(RUN_1=after, RUN_2=P)))
    assert [(change.place, change.kind) for change in found.changes] == [(Place("local", "c", "RUN-1"), kind)]
    assert found.changes[0].before == (before, f"RUN_1 was {before}.")
    assert found.changes[0].after == (after, f"RUN_1 was {after}.")
    assert found.same == 1


def test_equal_reports_do_not_differ() -> None:
    same = report(case("a", RUN_1=F, RUN_2=P), case("b", "celery", CRASH_1=E))
    assert compare(same, same).changes == ()
    assert compare(same, same).same == 3


def test_cases_clauses_and_subjects_are_new_or_gone() -> None:
    before = report(case("a", RUN_1=P, RUN_2=P), case("b", RUN_1=P))
    after = report(case("a", RUN_1=P, RUN_3=F), case("a", "celery", RUN_1=P))
    assert kinds(before, after) == {
        Place("local", "a", "RUN-2"): Kind.GONE,
        Place("local", "a", "RUN-3"): Kind.NEW,
        Place("local", "b", "RUN-1"): Kind.GONE,
        Place("celery", "a", "RUN-1"): Kind.NEW,
    }


def test_a_case_that_broke_before_its_clauses_is_compared_with_each_of_them() -> None:
    broke = case("a")
    broke.verdict, broke.reason = E, "The API server ended."
    whole = report(case("a", RUN_1=P, RUN_2=F))
    assert kinds(whole, report(broke)) == {
        Place("local", "a", "RUN-1"): Kind.BROKEN,
        Place("local", "a", "RUN-2"): Kind.CHANGED,
    }
    assert compare(whole, report(broke)).changes[0].after == (E, "The API server ended.")
    assert kinds(report(broke), report(broke)) == {}
    assert kinds(report(), report(broke)) == {Place("local", "a", ""): Kind.NEW}


def test_a_verdict_beside_the_clauses_is_seen() -> None:
    beside = case("a", RUN_1=P)
    beside.verdict, beside.reason = E, "The history could not be closed."
    assert kinds(report(case("a", RUN_1=P)), report(beside)) == {Place("local", "a", ""): Kind.BROKEN}


def test_of_a_case_that_is_there_twice_the_worst_counts() -> None:
    twice = report(case("a", RUN_1=F), case("a", RUN_1=P))
    assert kinds(report(case("a", RUN_1=P)), twice) == {Place("local", "a", "RUN-1"): Kind.BROKEN}


def test_contract_and_airflow_come_first_of_what_differs_in_the_runs() -> None:
    first, second = report(), report()
    second.run = replace(
        second.run, contract_version="2027.1", airflow_version="3.4.0", python="3.12.1", providers={"kombu": "5.7.0"}
    )
    second.subjects = [replace(second.subjects[0], substrate="docker")]
    found = {each.what: each.values for each in run_differences([first, second])}
    assert list(found)[:2] == ["contract", "Airflow"]
    assert found == {
        "contract": ("2026.11", "2027.1"),
        "Airflow": ("3.3.2", "3.4.0"),
        "Python": ("3.11.7", "3.12.1"),
        "celery": ("3.26.0", ""),
        "kombu": ("", "5.7.0"),
        "local: substrate": ("process", "docker"),
    }
    assert run_differences([first, report(subjects=[SubjectInfo("edge", "edge", "E")])]) == []


def test_what_is_not_the_same_in_all_reports_is_flaky() -> None:
    reports = [report(case("a", RUN_1=P, RUN_2=P), case("b", RUN_1=P)) for _ in range(2)]
    reports.append(report(case("a", RUN_1=F, RUN_2=P)))
    found = stability(reports)
    assert [(series.place, series.verdicts) for series in found.flaky] == [(Place("local", "a", "RUN-1"), (P, P, F))]
    assert [(series.place, series.verdicts) for series in found.missing] == [
        (Place("local", "b", "RUN-1"), (P, P, None))
    ]
    assert found.same == 1
    # a verdict that some report lacks is flaky only if the others disagree
    assert [series.verdicts for series in stability([*reports[:2], report(), reports[2]]).flaky] == [(P, P, None, F)]


# -- the command


def test_diff_shows_each_kind_with_its_reason(tmp_path: Path) -> None:
    before = stored(tmp_path / "a", case("x[1]", RUN_1=P, RUN_2=F, RUN_3=P, RUN_4=N), case("y", RUN_1=P))
    after = stored(
        tmp_path / "b",
        case("x[1]", RUN_1=F, RUN_2=P, RUN_3=P, RUN_4=P, RUN_5=P),
        case("z", RUN_1=P),
        case("z", "celery", RUN_1=P),
        contract_version="2027.1",
        airflow_version="3.4.0",
    )
    result = run("diff", before, after / "report.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:2] == ["contract: 2026.11 → 2027.1", "Airflow: 3.3.2 → 3.4.0"]
    at = lines.index("broken: 1 decision (passed, and fails or breaks now)")
    assert lines[at + 1 : at + 3] == ["  ✗ local x[1] RUN-1: pass → fail", "      RUN_1 was fail."]
    assert "  ✓ local x[1] RUN-2: fail → pass" in lines
    assert "  ✓ local x[1] RUN-4: not applicable → pass" in lines
    assert "  local x[1] RUN-5: 1 pass" in lines
    assert "  local z: the case, 1 pass" in lines
    assert "  celery: the subject with 1 case, 1 pass" in lines
    assert "  local y: the case, 1 pass" in lines
    assert lines[-1] == "1 broken, 1 fixed, 1 changed, 3 new, 1 gone, 1 as before"


def test_diff_ends_as_it_is_asked_to(tmp_path: Path) -> None:
    one, other = stored(tmp_path / "a", case(RUN_1=P)), stored(tmp_path / "b", case(RUN_1=F))
    assert run("diff", one, other).exit_code == 0
    assert run("diff", one, other, "--exit-code").exit_code == 1
    assert run("diff", one, other, "--exit-code", "--json").exit_code == 1
    same = run("diff", one, one, "--exit-code")
    assert (same.exit_code, same.stdout) == (0, "no difference, 1 as before\n")
    assert run("diff", one, one, one, "--exit-code").exit_code == 0
    assert run("diff", one, one, other, "--exit-code").exit_code == 1


def test_diff_as_json(tmp_path: Path) -> None:
    broken = case("x", RUN_1=F)
    broken.clauses["RUN-1"]["reason"] = "Bytes \udcff of a log"
    one, other = stored(tmp_path / "a", case("x", RUN_1=P)), stored(tmp_path / "b", broken, airflow_version="3.4.0")
    data = json.loads(run("diff", one, other, "--json").stdout)
    assert data["runs"] == [{"what": "Airflow", "values": ["3.3.2", "3.4.0"]}]
    assert [each["airflow"] for each in data["reports"]] == ["3.3.2", "3.4.0"]
    assert data["reports"][0]["digest"] == json.loads((one / "report.json").read_text())["digest"]
    [row] = data["broken"]
    assert row.pop("reason").startswith("Bytes ")
    assert row == {"subject": "local", "case": "x", "clause": "RUN-1", "before": "pass", "after": "fail"}
    assert [data[name] for name in ("fixed", "changed", "new", "gone", "same")] == [[], [], [], [], 0]
    several = json.loads(run("diff", one, other, one, "--json").stdout)
    assert several["flaky"] == [
        {"subject": "local", "case": "x", "clause": "RUN-1", "verdicts": ["pass", "fail", "pass"]}
    ]
    assert (several["missing"], several["same"]) == ([], 0)


def test_more_than_two_reports_show_what_is_flaky(tmp_path: Path) -> None:
    paths = [
        stored(tmp_path / name, case("x", RUN_1=verdict, RUN_2=verdict, RUN_3=P), started=f"2026-11-20T1{name}:00:00Z")
        for name, verdict in (("0", P), ("1", F), ("2", P))
    ]
    result = run("diff", *paths)
    assert "flaky: 2 decisions" in result.stdout
    assert "  local x RUN-1, RUN-2: pass, fail, pass" in result.stdout
    assert "2 flaky, 0 not in all reports, 1 the same in all 3" in result.stdout
    assert "not reports of the same thing" not in result.stdout
    other = stored(tmp_path / "other", case("x", RUN_1=F), edition="claim")
    assert "not reports of the same thing" in run("diff", *paths, other).stdout


def test_long_content_is_shown_whole_and_control_signs_are_not_obeyed(tmp_path: Path) -> None:
    name = "crash.very_long[" + "x" * 300 + "]"
    passed, broken = case(name, RUN_1=P), case(name, RUN_1=F)
    passed.history = broken.history = ""
    broken.clauses["RUN-1"]["reason"] = "Word " * 80 + "\x1b[2J\nend"
    result = run("diff", stored(tmp_path / "a", passed), stored(tmp_path / "b", broken))
    assert name in "".join(line.strip() for line in result.stdout.splitlines())
    assert result.stdout.count("Word") == 80
    assert "\x1b" not in result.stdout
    assert "end" in result.stdout


def test_one_report_is_no_difference(tmp_path: Path) -> None:
    assert "needs two reports" in one_line(run("diff", stored(tmp_path, case(RUN_1=P))))


# -- files that are no reports, for all four commands


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("how", ["truncated", "edited", "resigned", "foreign", "missing"])
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, command: list[str], how: str) -> None:
    good, bad = (stored(tmp_path / name, case("t", TASK_1=P), case(RUN_1=P)) for name in ("good", "bad"))
    path = bad / "report.json"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "edited":
        rewrite(path, lambda content: content["run"].update(airflow_version="9"), sign=False)
    elif how == "resigned":
        rewrite(path, lambda content: content["summary"]["local"].update(RUN={"pass": 99}), sign=True)
    elif how == "foreign":
        path.write_text('{"format": "junit"}')
    else:
        path.unlink()
    places = {"good": good, "bad": bad, "new": tmp_path / "new"}
    sentence = one_line(run(*(word.format(**places) for word in command)))
    words = {"truncated": "is no JSON", "edited": "its digest does not fit", "resigned": "contradicts itself"}
    assert {**words, "foreign": "so it is no report", "missing": "cannot be read"}[how] in sentence
    assert not (tmp_path / "new").exists()
