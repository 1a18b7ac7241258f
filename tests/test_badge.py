"""The badge of a report."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from executor_conformance.harness.report.badge import COLORS, Badge, badge, svg
from executor_conformance.harness.report.model import CaseResult, SubjectInfo
from executor_conformance.harness.verdicts import Verdict

from tests.reports import controlled, made, run, stored
from tests.test_cli import one_line
from tests.test_report import case

P, F, E, K, N = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN, Verdict.NOT_APPLICABLE
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("cases", "message", "color"),
    [
        (controlled(case(RUN_1=P, RUN_2=N)), "2 passing", "brightgreen"),
        (controlled(case(RUN_1=P, RUN_2=K)), "2 passing, 1 known", "yellowgreen"),
        (controlled(case(RUN_1=P, RUN_10=Verdict.FINDING)), "2 passing, 1 of Airflow", "yellowgreen"),
        (controlled(case(RUN_1=P, RUN_2=K, RUN_3=F)), "1 failing, 2 passing", "red"),
        (controlled(case(RUN_1=P, RUN_2=E)), "1 undecided, 2 passing", "orange"),
        (controlled(case(RUN_1=F, RUN_2=E)), "1 failing, 1 passing", "red"),
        (controlled(case(RUN_1=N)), "nothing decided", "lightgrey"),
        (
            [*controlled(case(RUN_1=P)), *controlled(case("a", "edge", RUN_1=N), subject="edge")],
            "nothing decided",
            "lightgrey",
        ),
        ([case(RUN_1=P)], "control group did not pass", "lightgrey"),
        ([case("t", TASK_1=F), case(RUN_1=F)], "control group did not pass", "lightgrey"),
        ([], "not run", "lightgrey"),
    ],
)
def test_the_message_and_its_colour(cases: list[CaseResult], message: str, color: str) -> None:
    assert badge(made(*cases)) == ("executor conformance", f"{message} (Airflow 3.3.2)", color)
    assert color in COLORS


def test_a_case_that_broke_without_a_clause_is_no_green_badge() -> None:
    broke = case("x")
    broke.verdict = E
    found = badge(made(*controlled(case(RUN_1=P), broke)))
    assert found[1:] == ("1 undecided, 2 passing (Airflow 3.3.2)", "orange")


def test_problems_of_the_run_are_no_green_badge() -> None:
    found = badge(made(*controlled(case(RUN_1=P)), problems=["The expectation 1 passes now."]))
    assert found[1:] == ("expectations are wrong (Airflow 3.3.2)", "orange")


def test_a_subject_has_a_badge_of_its_own(tmp_path: Path) -> None:
    report = made(*controlled(case(RUN_1=P)), *controlled(case("c", "edge", RUN_1=F), subject="edge"))
    report.subjects.append(SubjectInfo("celery", "celery", "C", unavailable="no broker"))
    assert badge(report).color == "red"
    assert badge(report, "local") == ("executor conformance: local", "2 passing (Airflow 3.3.2)", "brightgreen")
    assert badge(report, "edge").color == "red"
    assert badge(report, "celery").message == "not run (Airflow 3.3.2)"
    path = stored(tmp_path, *controlled(case(RUN_1=P)))
    assert one_line(run("badge", path, "--subject", "edge")).endswith("has no subject 'edge'; it has local.")


def test_json_is_what_an_endpoint_of_shields_gives(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case(RUN_1=P)))
    result = run("badge", path)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "schemaVersion": 1,
        "label": "executor conformance",
        "message": "2 passing (Airflow 3.3.2)",
        "color": "brightgreen",
    }
    written = run("badge", path, "--output", tmp_path / "badge.json")
    assert (written.exit_code, written.stdout) == (0, "")
    assert (tmp_path / "badge.json").read_text() == result.stdout


def test_svg_is_well_formed_named_and_wide_enough(tmp_path: Path) -> None:
    label = '<b>&"x"\x1b\udcff\x00\ufffe 執行'
    cases = [case("t", label, TASK_1=P), case("c", label, RUN_1=P)]
    for each in cases:
        each.reproduce = each.history = ""
    path = stored(tmp_path / "r", *cases)
    result = run("badge", path, "--subject", label, "--format", "svg", "--output", tmp_path / "badge.svg")
    assert result.exit_code == 0, result.output
    root = ElementTree.parse(tmp_path / "badge.svg").getroot()
    assert root.tag == f"{SVG}svg"
    hole = "\N{REPLACEMENT CHARACTER}"
    title = f'executor conformance: <b>&"x"{hole * 4} 執行: 2 passing (Airflow 3.3.2)'
    assert root.get("role") == "img"
    assert root.get("aria-label") == title
    assert [each.text for each in root.iter(f"{SVG}title")] == [title]
    assert " — ".join(str(each.text) for each in root.iter(f"{SVG}text")) == title.replace("行: ", "行 — ")
    widths = [float(str(each.get("width"))) for each in root.iter(f"{SVG}rect")]
    assert float(str(root.get("width"))) == pytest.approx(sum(widths), abs=1)
    for rect, text in zip(root.iter(f"{SVG}rect"), root.iter(f"{SVG}text"), strict=True):
        assert float(str(text.get("textLength"))) < float(str(rect.get("width")))


def test_every_colour_has_a_value_in_the_picture() -> None:
    for name, value in COLORS.items():
        assert f'fill="{value}"' in svg(Badge("a", "b", name))


def test_a_badge_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "r", *controlled(case(RUN_1=P)))
    assert "cannot be written to" in one_line(run("badge", path, "--output", tmp_path / "none" / "badge.json"))
    assert run("badge", path, "--format", "png").exit_code == 2
