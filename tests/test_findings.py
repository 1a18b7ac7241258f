"""The findings: each entry of the expectations has one, the page is what the data makes, the source as it says."""

from __future__ import annotations

import ast
import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from click.testing import CliRunner
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.findings import Findings, load_findings
from executor_conformance.harness.report.findings import render_findings
from executor_conformance.harness.report.model import CaseResult, Report
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.suites.cli import main
from executor_conformance.suites.findings_cli import reproduction

from tests.reports import made

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "expectations"

ENTRY = """
[[expected]]
subject = "local"
clause = "CRASH-1"
case = "crash.scheduler_restart"
reason = "forgotten"
finding = "forgets"
review = 2027-03-31
"""
FINDING = """
[lines]
"3.4" = "3.4.0b2"

[[finding]]
id = "forgets"
component = "core"
title = "It forgets"
text = "A callback is forgotten."
cause = "Nothing looks for it."
where = ["airflow/jobs/scheduler_job_runner.py: SchedulerJobRunner"]
lines = ["3.4"]
"""


@pytest.fixture(scope="module")
def found() -> Findings:
    return load_findings(FOLDER, load_catalogue())


def written(folder: Path, findings: str = FINDING, entries: str = ENTRY) -> Path:
    (folder / "findings.toml").write_text(findings, "utf-8")
    (folder / "3.4.toml").write_text(entries, "utf-8")
    return folder


def report_of(verdict: Verdict, airflow: str = "3.4.0b2", subject: str = "local") -> Report:
    clauses = {"CRASH-1": {"verdict": verdict.value, "reason": "stuck", "evidence": ["12.1 row new=running `|` <b>"]}}
    case = CaseResult("crash.scheduler_restart", subject, "local", "airflow.X", verdict, clauses)
    return made(case, airflow_version=airflow)


def test_the_page_is_up_to_date(found: Findings) -> None:
    commands = reproduction(found)
    fresh = render_findings(found, lambda finding: commands[finding.id])
    page = (ROOT / "docs" / "findings.md").read_text("utf-8")
    assert page == fresh, "run: executor-conformance findings --output docs/findings.md"


def test_every_line_of_expectations_is_covered(found: Findings) -> None:
    """Loading refuses an entry without a finding and a finding without an entry; no file may be left out of it."""
    assert set(found.entries) == {path.stem for path in FOLDER.glob("*.toml")} - {"findings"}
    for line, entries in found.entries.items():
        assert entries, line
        assert (
            f"apache-airflow-core=={found.versions[line]}\n" in (ROOT / f"constraints/airflow-{line}.txt").read_text()
        )


def test_links_are_of_sections_that_there_are() -> None:
    page = (ROOT / "docs" / "findings.md").read_text("utf-8")
    headings = [re.sub(r"[^\w\- ]", "", line[4:].lower()).replace(" ", "-") for line in re.findall("(?m)^### .*", page)]
    assert len(headings) == len(set(headings))
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) == set(headings)


def test_the_causes_are_in_the_source(found: Findings) -> None:
    """Each file and function that a finding of this Airflow line names is in what is installed."""
    try:
        line = ".".join(version("apache-airflow-core").split(".")[:2])
    except PackageNotFoundError:
        pytest.skip("Airflow is not installed")
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    roots = [Path(place).parent for place in spec.submodule_search_locations]
    seen = 0
    for finding in found.findings:
        for file, name in finding.where if line in finding.lines else ():
            path = next((root / file for root in roots if (root / file).exists()), None)
            if path is None and "/providers/" in file:
                continue  # the provider is not installed
            assert path is not None, f"{finding.id}: {file}"
            assert name in _names(ast.parse(path.read_text("utf-8"))), f"{finding.id}: {name} in {file}"
            seen += 1
    assert seen


def _names(tree: ast.AST, prefix: str = "") -> set[str]:
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        inner = prefix
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(prefix + node.name)
            inner = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
        names |= _names(node, inner)
    return names


def test_a_report_says_where_a_finding_was_seen(tmp_path: Path) -> None:
    found = load_findings(written(tmp_path), load_catalogue())
    without = render_findings(found, lambda finding: "run it")
    assert "- reproduce: `run it`" in without
    assert "seen on" not in without
    text = render_findings(found, lambda finding: "run it", [report_of(Verdict.KNOWN)])
    assert "- seen on Airflow 3.4.0b2" in text
    assert "local crash.scheduler\\_restart CRASH-1 known" in text
    assert "``12.1 row new=running `|` <b>``" in text


@pytest.mark.parametrize(
    "report",
    [report_of(Verdict.PASS), report_of(Verdict.KNOWN, airflow="3.3.2"), report_of(Verdict.KNOWN, subject="celery")],
    ids=["passes", "another line", "another subject"],
)
def test_a_report_that_does_not_show_it_says_nothing(tmp_path: Path, report: Report) -> None:
    found = load_findings(written(tmp_path), load_catalogue())
    assert "seen on" not in render_findings(found, lambda finding: "run it", [report])


@pytest.mark.parametrize(
    ("findings", "entries", "sentence"),
    [
        (FINDING, ENTRY.replace('finding = "forgets"\n', ""), "names no finding"),
        (FINDING, ENTRY.replace('"forgets"', '"other"'), "names the finding 'other', which"),
        (FINDING, ENTRY.replace('"forgets"', "3"), "neither an id nor a list"),
        (FINDING.replace('"forgets"', '"other"'), ENTRY, "names the finding 'forgets'"),
        (FINDING + FINDING.partition("[[finding]]")[2].join(["[[finding]]", ""]), ENTRY, "twice"),
        (FINDING.replace('lines = ["3.4"]', 'lines = ["3.5"]'), ENTRY, "the line '3.5'"),
        (FINDING.replace('lines = ["3.4"]', "lines = []"), ENTRY, "has no lines"),
        (FINDING.replace("cause =", "causes ="), ENTRY, "unknown key 'causes'"),
        (FINDING.replace('cause = "Nothing looks for it."', ""), ENTRY, "has no cause"),
        (FINDING.replace(": SchedulerJobRunner", ""), ENTRY, "like 'airflow/file.py: Class.function'"),
        (FINDING + 'upstream = ["#12"]\n', ENTRY, "no https address"),
        (FINDING + "\n[more]\n", ENTRY, "nothing else"),
        (FINDING.replace("[lines]", "[lines"), ENTRY, "no valid TOML"),
        (FINDING.partition("[[finding]]")[0] + "finding = 3", ENTRY, "[[finding]] entries"),
    ],
)
def test_what_breaks_a_rule_is_refused(tmp_path: Path, findings: str, entries: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        load_findings(written(tmp_path, findings, entries), load_catalogue())


def test_a_finding_without_entries_is_refused(tmp_path: Path) -> None:
    more = FINDING.partition("[[finding]]")[2].replace('"forgets"', '"unused"')
    with pytest.raises(UsageError, match=r"unused .* has entries for none"):
        load_findings(written(tmp_path, f"{FINDING}\n[[finding]]{more}"), load_catalogue())


def test_the_command(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    written(tmp_path)
    done = CliRunner().invoke(main, ["findings", "--expectations", str(tmp_path), "-o", str(page)])
    assert done.exit_code == 0, done.output
    command = "executor-conformance run --backend local --case crash.scheduler_restart"
    assert f"- reproduce: `{command}`" in page.read_text("utf-8")
    printed = CliRunner().invoke(main, ["findings", "--expectations", str(tmp_path)])
    assert printed.output == page.read_text("utf-8")


@pytest.mark.parametrize(
    "arguments",
    [["nowhere.json"], ["--expectations", "nowhere"], ["-o", "nowhere/page.md"]],
    ids=lambda given: given[0],
)
def test_bad_input_is_a_sentence(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, ["findings", *arguments])
    assert done.exit_code == 2
    assert done.output.startswith("executor-conformance: The ")
    assert done.output.count("\n") == 1
