"""Where the time of a run goes: by environment, and by what the cases do.

Run by hand: ``python benchmarks/durations.py [--level core] [--backend NAME[,NAME]] [--workers 3] [--report DIR]``
runs the suite beside the installed Airflow and tells; ``--of DIR`` tells of a run that has been.
The targets, on two cores and one Airflow line: 15 minutes for the core level of all seven environments, 40 for all.
Exit code 0: within the target; 1: not; 2: bad usage; 3: the run left no report.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from executor_conformance.harness.errors import ConformanceError
from executor_conformance.harness.report.model import CaseResult, Report
from executor_conformance.harness.report.store import load_report
from executor_conformance.harness.report.terminal import stdout_console
from executor_conformance.harness.session import choose_backends
from figures import scratch_folder
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
TARGETS_S = {"core": 15 * 60.0, "extended": 40 * 60.0}
MOST = 8
"""Functions that are named per environment."""


def run(level: str, backend: str, workers: int, folder: Path) -> Report:
    """Run the suite, its output shown; what it left in ``folder``."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "conformance", "-n", str(workers)]
    command += ["--conformance-backend", backend, "--conformance-level", level, "--conformance-report", str(folder)]
    subprocess.run(command, cwd=ROOT, check=False)
    return load_report(folder)


def by(cases: Iterable[CaseResult], name: str) -> dict[str, list[float]]:
    """Durations of cases in s, by one of ``backend`` and ``function``; the longest together come first."""
    found = defaultdict(list)
    for case in cases:
        key = case.backend if name == "backend" else case.id.partition("[")[0]
        found[key].append(case.duration_s)
    return dict(sorted(found.items(), key=lambda entry: -sum(entry[1])))


def show(report: Report) -> None:
    """Print a row per environment, with what most of its time went into."""
    table = Table("environment", "cases", "s of cases", "most of it (cases x s)", box=None, pad_edge=False)
    for backend, durations in by(report.cases, "backend").items():
        functions = by((case for case in report.cases if case.backend == backend), "function")
        most = [f"{name} {len(each)} x {sum(each) / len(each):.0f}" for name, each in list(functions.items())[:MOST]]
        table.add_row(backend, str(len(durations)), f"{sum(durations):.0f}", ", ".join(most))
    stdout_console().print(table)


def main() -> int:
    """Run unless it has been done, and tell."""
    parser = argparse.ArgumentParser(description="Where the time of a run goes.")
    parser.add_argument("--level", choices=TARGETS_S, default="core")
    parser.add_argument("--backend", metavar="NAME[,NAME]", help="environments (default: all)")
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 1) + 1, help="as pytest's -n")
    parser.add_argument("--report", type=Path, metavar="DIR", help="where the report stays (default: it does not)")
    parser.add_argument("--of", type=Path, metavar="DIR", help="the report of a run that has been")
    options = parser.parse_args()
    try:
        backend = ",".join(choose_backends(options.backend))
        with scratch_folder() as scratch:
            folder = options.of or options.report or scratch / "report"
            report = load_report(folder) if options.of else run(options.level, backend, options.workers, folder)
            show(report)
    except ConformanceError as error:
        print(f"durations: {error}", file=sys.stderr)
        return error.exit_code
    took, target = report.run.duration_s, TARGETS_S[options.level]
    print(f"{took:.0f} s for {len(report.cases)} cases; the target for all seven environments is {target:.0f} s")
    return int(took > target)


if __name__ == "__main__":
    sys.exit(main())
