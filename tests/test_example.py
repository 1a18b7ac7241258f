"""The example of an executor: it is what its page says, and the suite tells its first try from the mended one."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness.backend import Options
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.expectations import Expectations, load_expectations
from executor_conformance.harness.session import Recorder, Subject
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.harness.versions import line_of
from executor_conformance.suites.cli import main, suite_cases

from tests.test_mutants import run_case

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "my-executor"
PAGE = ROOT / "docs" / "first-executor.md"
WORKFLOW = EXAMPLE / ".github" / "workflows" / "conformance.yml"
needs_34 = pytest.mark.skipif(line_of(version("apache-airflow-core")) == "3.3", reason="the example is for Airflow 3.4")

FIRST, MENDED = "my_executor.first_try.MyExecutor", "my_executor.MyExecutor"


@needs_34
@pytest.mark.parametrize("path", [FIRST, MENDED])
def test_it_imports_and_declares_callbacks(path: str) -> None:
    module, _, name = path.rpartition(".")
    script = f"from {module} import {name} as cls; print(sorted(kind.value for kind in cls.supported_workload_types))"
    env = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['ExecuteCallback', 'ExecuteTask']"


def test_the_page_shows_the_code() -> None:
    """The class of the first try, and what the mended one changed in it."""
    first, mended = ((EXAMPLE / "my_executor" / f"{name}.py").read_text("utf-8") for name in ("first_try", "executor"))
    page = PAGE.read_text("utf-8")
    for block in re.findall("```python\n(.*?)```", page, re.DOTALL):
        assert block in first
    changed = difflib.unified_diff(first.splitlines(), mended.splitlines(), lineterm="", n=1)
    shown = re.findall("```diff\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 1
    assert shown[0].splitlines() == [line for line in changed if not line.startswith(("---", "+++"))]


def test_the_page_shows_the_workflow() -> None:
    assert WORKFLOW.read_text("utf-8") in PAGE.read_text("utf-8")


def test_the_workflow_uses_what_there_is() -> None:
    text = WORKFLOW.read_text("utf-8")
    commands = set(re.findall(r"executor-conformance (run|gate|[a-z]+) ", text))
    assert commands == {"run", "gate"}
    options = {name for command in commands for each in main.commands[command].params for name in each.opts}
    used = set(re.findall(r"(?<=\s)--[a-z]+(?=\s)", text)) - {"--system"}
    assert used <= options
    assert used >= {"--backend", "--executor", "--expectations", "--require"}
    for file in re.findall(r"[\w-]+\.toml", text):
        assert (EXAMPLE / file).exists()


def test_its_expectations_are_of_cases_that_there_are() -> None:
    catalogue = load_catalogue()
    listed = load_expectations(EXAMPLE / "expectations.toml", catalogue)
    cases = suite_cases(catalogue)
    assert listed.entries
    for entry in listed.entries:
        assert [case.id for case in cases if entry.matches("MyExecutor@local", case.id, entry.clauses[0])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment of `local` that finds the example."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(EXAMPLE))
    env = Environment(
        LocalBackend, Options(executor=FIRST), LocalBackend.variants[0], tmp_path_factory.mktemp("example") / "env"
    )
    env.start()
    patch.undo()
    yield env
    env.stop()


@needs_34
@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "case", "broken"),
    [
        (FIRST, "worker-killed", {"CRASH-1", "CRASH-5"}),
        (MENDED, "worker-killed", set()),
        (MENDED, "control", set()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_suite_tells_them_apart(
    place: Environment, tmp_path: Path, executor: str, case: str, broken: set[str]
) -> None:
    place.use_executor(executor)
    recorder = Recorder(load_catalogue(), Expectations(), tmp_path)
    subject = Subject("MyExecutor@local", LocalBackend, LocalBackend.variants[0], Options(executor=executor))
    result = run_case(place, recorder, case, subject)
    assert result.verdict is (Verdict.FAIL if broken else Verdict.PASS), result.reason
    assert {name for name, found in result.clauses.items() if found["verdict"] == Verdict.FAIL} == broken
