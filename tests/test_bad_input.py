"""Bad input gets one clear sentence and exit code 2 or 3, from plain pytest; never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from executor_conformance.suites.run_state import check_folder


def run_pytest(
    tmp_path: Path, *arguments: str, env: dict[str, str] | None = None, collect_only: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the suite as a user would, in an empty folder; collecting only, so that nothing is started."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "executor_conformance.suites", "-m", "conformance"]
    command += ["-p", "no:cacheprovider", "-q", "--conformance-report", str(tmp_path / "report")]
    command += ["--collect-only"] if collect_only else []
    return subprocess.run(
        [*command, *arguments],
        cwd=tmp_path,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is wrong."""
    output = result.stdout + result.stderr
    assert "Traceback" not in output, output
    lines = [line for line in output.splitlines() if "conformance: " in line]
    assert len(lines) == 1, output
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--conformance-backend", "lokal"], "The backend 'lokal' is unknown; this installation has local"),
        (
            ["--conformance-backend", "local", "--conformance-executor", "no_such_package.Executor"],
            "The executor no_such_package.Executor does not import",
        ),
        (
            ["--conformance-backend", "local", "--conformance-executor", "pathlib.Path"],
            "The executor pathlib.Path is no subclass of airflow.executors.base_executor.BaseExecutor",
        ),
        (["--conformance-executor", "a.B"], "name it with --conformance-backend"),
        (["--conformance-database", "oracle"], "The database 'oracle' is unknown"),
        (["--conformance-backend", "celery", "--conformance-broker", "carrier-pigeon"], "The broker 'carrier-pigeon'"),
        (["--conformance-expectations", "missing.toml"], "missing.toml"),
    ],
)
def test_bad_option_is_refused_in_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = run_pytest(tmp_path, *arguments)
    assert words in sentence(result)
    assert result.returncode == 2


def test_an_executor_of_the_current_folder_is_refused(tmp_path: Path) -> None:
    """Airflow's own processes start elsewhere and would not find it."""
    (tmp_path / "lies_here.py").write_text("class Executor: ...\n", "utf-8")
    result = run_pytest(tmp_path, "--conformance-backend", "local", "--conformance-executor", "lies_here.Executor")
    assert "The executor lies_here.Executor does not import" in sentence(result)
    assert "PYTHONPATH" in sentence(result)
    assert result.returncode == 2


def test_broken_expectations_file_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[[expected]\nsubject = 1", "utf-8")
    result = run_pytest(tmp_path, "--conformance-expectations", str(broken))
    assert "broken.toml" in sentence(result)
    assert result.returncode == 2


def test_report_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("", "utf-8")
    result = run_pytest(tmp_path)
    assert "is not writable" in sentence(result)
    assert result.returncode == 2


def test_a_report_folder_is_writable_for_several_processes_at_a_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check_folder, [tmp_path / "report"] * 400))
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["histories"]


def test_a_process_of_xdist_says_why_it_refuses(tmp_path: Path) -> None:
    """Its controller has found nothing wrong: here the installation breaks in between."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "import importlib.metadata as metadata\n"
        "real = metadata.version\n"
        "def version(name):\n"
        "    if name == 'apache-airflow-core' and 'PYTEST_XDIST_WORKER' in os.environ:\n"
        "        return '3.2.9'\n"
        "    return real(name)\n"
        "metadata.version = version\n"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    arguments = ("--conformance-backend", "local", "-k", "test_alias", "-n", "1")
    result = run_pytest(tmp_path, *arguments, env=env, collect_only=False)
    assert "conformance: Airflow 3.2.9 is too old" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert result.returncode != 0


@pytest.mark.parametrize(
    ("version", "words"), [(None, "Airflow is not installed"), ("3.2.9", "Airflow 3.2.9 is too old")]
)
def test_airflow_missing_or_too_old(tmp_path: Path, version: str | None, words: str) -> None:
    """The version that importlib.metadata reports is shadowed, as an environment without Airflow would have it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "real = metadata.version\n"
        "def version(name):\n"
        "    if name == 'apache-airflow-core':\n"
        f"        if {version!r} is None:\n"
        "            raise metadata.PackageNotFoundError(name)\n"
        f"        return {version!r}\n"
        "    return real(name)\n"
        "metadata.version = version\n",
        "utf-8",
    )
    result = run_pytest(tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert words in sentence(result)
    assert result.returncode == 2


def test_broker_address_that_answers_nothing(tmp_path: Path) -> None:
    from executor_conformance.backends.celery.brokers import GivenBroker
    from executor_conformance.harness.api_server import free_port
    from executor_conformance.harness.errors import UsageError

    broker = GivenBroker(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(UsageError, match=r"Nothing answers at the broker's address 127\.0\.0\.1:\d+ .*correct --conf"):
        broker.start()


def test_no_backend_that_can_run_is_said(tmp_path: Path) -> None:
    arguments = ("--conformance-backend", "local", "--conformance-substrate", "cluster")
    result = run_pytest(tmp_path, *arguments, collect_only=False)
    assert "Traceback" not in result.stdout + result.stderr
    assert "LocalExecutor runs on host processes only" in result.stdout
    assert result.returncode == 3
