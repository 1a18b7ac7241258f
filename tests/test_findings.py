"""The findings: each entry of the expectations has one, the page is what the data makes, the source as it says."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.errors import EnvironmentUnavailable, UsageError
from executor_conformance.harness.findings import Findings, load_findings
from executor_conformance.harness.report.findings import render_findings
from executor_conformance.harness.report.model import CaseResult, Report
from executor_conformance.harness.session import circumstances
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.harness.versions import CORE, line_of
from executor_conformance.suites.cli import main
from executor_conformance.suites.findings_cli import reproduction
from packaging.version import Version

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
        constraints = (ROOT / f"constraints/airflow-{line}.txt").read_text()
        pinned = re.search("(?m)^apache-airflow-core==(.*)$", constraints)
        assert pinned
        # what was seen on a pre-release is not seen anew on the day of the release
        assert line_of(pinned[1]) == line_of(found.versions[line]) == line
        assert Version(pinned[1]) >= Version(found.versions[line])


def test_links_are_of_sections_that_there_are() -> None:
    page = (ROOT / "docs" / "findings.md").read_text("utf-8")
    headings = [re.sub(r"[^\w\- ]", "", line[4:].lower()).replace(" ", "-") for line in re.findall("(?m)^### .*", page)]
    assert len(headings) == len(set(headings))
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) == set(headings)


def test_the_causes_are_in_the_source(found: Findings) -> None:
    """Each file and function that a finding names is in what is installed, if that is what it was seen on."""
    try:
        installed = circumstances("sqlite").versions
    except EnvironmentUnavailable:
        pytest.skip("Airflow is not installed")
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    roots = [Path(place).parent for place in spec.submodule_search_locations]
    seen = 0
    for file, name, where in causes(found, installed):
        path = next((root / file for root in roots if (root / file).exists()), None)
        assert path is not None, f"{where}: {file}"
        assert name in _names(ast.parse(path.read_text("utf-8"))), f"{where}: {name} in {file}"
        seen += 1
    if not seen:
        pytest.skip(f"the findings were seen on {found.versions} and {found.providers}, and this is another Airflow")


def causes(found: Findings, installed: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Files and names of the findings in the parts of Airflow that they were seen on, with the finding's id."""
    line = line_of(installed[CORE])
    same = {name for name, version in found.providers.items() if installed.get(name) == version}
    if found.versions.get(line) == installed[CORE]:
        same.add(CORE)
    return [
        (file, name, finding.id)
        for finding in found.findings
        for file, name in (finding.where if line in finding.lines else ())
        if (_provider(file, found) or CORE) in same
    ]


def _provider(file: str, found: Findings) -> str:
    """The provider that a file belongs to; empty for core and the task SDK, whose versions go together."""
    return next((name for name in found.providers if f"/providers/{name.replace('-', '/')}/" in file), "")


@pytest.mark.parametrize(
    ("core", "edge3", "checked"),
    [
        ("3.4.0b2", "5.1.0", {"core", "edge3"}),
        ("3.4.0", "5.1.0", {"edge3"}),
        ("3.4.1", "5.2.0", set()),
        ("3.5.0b1", "5.1.0", set()),
    ],
)
def test_a_newer_version_may_have_moved_a_cause(tmp_path: Path, core: str, edge3: str, checked: set[str]) -> None:
    two = FINDING.replace('Runner"]', 'Runner", "airflow/providers/edge3/cli/worker.py: EdgeWorker"]')
    found = load_findings(written(tmp_path, two + '[providers]\nedge3 = "5.1.0"\n'), load_catalogue())
    named = {_provider(file, found) or CORE for file, _, _ in causes(found, {"core": core, "edge3": edge3})}
    assert named == checked


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


BOUNDED = 'versions = { core = "<3.4.1" }\n'


def bounded(findings: str = FINDING + BOUNDED, entries: str = ENTRY + BOUNDED) -> tuple[str, str]:
    return findings, entries


def test_the_page_says_for_which_versions_a_finding_holds(tmp_path: Path) -> None:
    found = load_findings(written(tmp_path, *bounded()), load_catalogue())
    assert "\n- holds for: `core <3.4.1`\n" in render_findings(found, lambda finding: "run it")
    # a fix that differs by line is said by the entries alone
    found = load_findings(written(tmp_path, *bounded(findings=FINDING)), load_catalogue())
    assert "\n- holds for: `core <3.4.1` in Airflow 3.4\n" in render_findings(found, lambda finding: "run it")
    found = load_findings(written(tmp_path), load_catalogue())
    assert "holds for" not in render_findings(found, lambda finding: "run it")


@pytest.mark.parametrize("findings", [FINDING, FINDING + BOUNDED], ids=["of its entries", "its own"])
@pytest.mark.parametrize(("airflow", "seen"), [("3.4.0b2", True), ("3.4.0", True), ("3.4.1", False)])
def test_a_finding_is_seen_within_its_versions(tmp_path: Path, findings: str, airflow: str, seen: bool) -> None:
    found = load_findings(written(tmp_path, *bounded(findings)), load_catalogue())
    text = render_findings(found, lambda finding: "run it", [report_of(Verdict.FAIL, airflow=airflow)])
    assert (f"- seen on Airflow {airflow}" in text) is seen


def test_a_failure_with_two_causes_shows_those_that_its_versions_have(tmp_path: Path) -> None:
    other = FINDING.partition("[[finding]]")[2].replace('"forgets"', '"other"').replace("It forgets", "Another")
    entries = ENTRY.replace('"forgets"', '["forgets", "other"]')
    found = load_findings(written(tmp_path, f"{FINDING}{BOUNDED}\n[[finding]]{other}", entries), load_catalogue())
    text = render_findings(found, lambda finding: "run it", [report_of(Verdict.FAIL, airflow="3.4.1")])
    first, _, second = text.partition("### Another")
    assert "seen on" not in first
    assert "seen on Airflow 3.4.1" in second


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
        (FINDING + BOUNDED, ENTRY, "does not have the versions of its finding forgets"),
        (FINDING + BOUNDED.replace("<3.4.1", "3.4.1"), ENTRY, "the specifier '3.4.1' for core, which is not valid"),
        (FINDING + "versions = {}\n", ENTRY, "has 'versions' that are no table, or an empty one"),
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
