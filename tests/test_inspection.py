"""The process that looks at an executor class leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys

LEAVES = """
import subprocess
from executor_conformance.harness.airflow_side.inspection import leave_nothing_running

left = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
leave_nothing_running()
print(left.wait(timeout=5))
"""


def test_workers_of_an_executor_that_was_looked_at_are_ended() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "-9"
