"""A newer Airflow than the one of the constraints: nothing turns red for its version alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def installed(folder: Path, version: str) -> dict[str, str]:
    """Variables with which Airflow's core says that it is of another version."""
    metadata = folder / f"apache_airflow_core-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: apache-airflow-core\nVersion: {version}\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("3.4.1", []),
        (
            "3.99.0b1",
            [
                "conformance: there is no expectations/3.99.toml yet; 3.4.toml tells the known failures, and what it "
                "lists may pass"
            ],
        ),
    ],
)
def test_a_run_in_the_checkout_finds_its_known_failures(tmp_path: Path, version: str, said: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-m", "conformance", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command += ["-k", "test_success", "--conformance-backend=local", f"--conformance-report={tmp_path / 'report'}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=installed(tmp_path, version),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("conformance: ")] == said
    assert "test_success[local]" in done.stdout
