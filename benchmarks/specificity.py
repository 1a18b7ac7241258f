"""Whether the verdicts are the same run after run, also on a machine under load.

Run by hand: ``python benchmarks/specificity.py --backend local --times 10 [--cases EXPRESSION] [--reports DIR]``;
with several environments, ``--workers N`` for so many at once.
The suite is run so many times in a row against the environment's own executors, every second time with a busy process
on each core, and the reports are compared: what fails, breaks, or does not come out the same in all runs is shown.
Exit code 0: every run came out the same and as written down; 1: it did not; 2: bad usage; 3: a run left no report.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from executor_conformance.harness.errors import ConformanceError, HarnessError
from executor_conformance.harness.report.compare import stability
from executor_conformance.harness.report.difference import stability_lines
from executor_conformance.harness.report.model import Report, count
from executor_conformance.harness.report.store import load_report
from executor_conformance.harness.report.terminal import stdout_console
from executor_conformance.harness.session import choose_backends
from executor_conformance.harness.verdicts import Verdict

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 60.0
"""Within which a run that was interrupted has stopped its environments."""
WHOLE = (0, 1, 3)
"""Exit codes of the suite where it came to its end: all conformant, something failed, something broke."""
ACCUSING = (Verdict.FAIL, Verdict.ERROR)


def _burn(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while os.getppid() == parent:  # nothing is left of it, however this script ends
        for _ in range(1_000_000):
            pass


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """Keep ``number`` cores busy meanwhile."""
    burners = [multiprocessing.Process(target=_burn, args=(os.getpid(),), daemon=True) for _ in range(number)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.join()


def one_run(backend: str, cases: str, workers: int, folder: Path) -> Report:
    """The suite's report on ``backend`` from a process of its own; its output is beside the report.

    :raises HarnessError: it left none, or one of a part or of nothing.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "conformance", "-k", cases]
    command += ["--conformance-backend", backend, "--conformance-report", str(folder)]
    if workers:
        command += ["-n", str(workers)]
    folder.mkdir(parents=True)
    with (folder / "output.txt").open("w") as output:
        run = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = run.wait()
        except BaseException:
            run.send_signal(signal.SIGINT)
            run.wait(STOP_S)
            raise
    said = (folder / "output.txt").read_text("utf-8", "replace").split("\n")  # a temporary folder is gone afterwards
    ended = f"ended with exit code {code}: {next(filter(str.strip, reversed(said)), 'without a word')}"
    if code not in WHOLE:
        raise HarnessError(f"The run was cut short and {ended}")
    try:
        report = load_report(folder)
    except ConformanceError:
        raise HarnessError(f"The run left no report and {ended}") from None
    if not report.cases:
        raise HarnessError(f"The run ran no case and {ended}")
    return report


def accusations(reports: Sequence[Report]) -> list[str]:
    """What failed or broke, and in which runs, for what is not written down as known."""
    found: dict[str, list[str]] = {}
    for number, report in enumerate(reports, 1):
        for case in report.cases:
            if case.verdict in ACCUSING:
                found.setdefault(f"{case.subject} {case.id}: {case.verdict}: {case.reason}", []).append(str(number))
    return [f"{what} (run {', '.join(runs)})" for what, runs in found.items()]


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run, compare, and say what differs."""
    parser = argparse.ArgumentParser(description="Run the suite several times, half of them under load.")
    parser.add_argument("--backend", default="local", metavar="NAME[,NAME]")
    parser.add_argument("--times", type=int, default=10, metavar="N", help="runs (default: 10)")
    parser.add_argument("--cases", default="", metavar="EXPRESSION", help="as pytest's -k (default: all)")
    parser.add_argument("--reports", type=Path, metavar="DIR", help="where reports stay (default: they do not)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="as pytest's -n (default: one process)")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores to load (default: all)")
    options = parser.parse_args()
    if options.times < 2:
        parser.error("--times: two runs are the least that can differ")
    signal.signal(signal.SIGTERM, _interrupt)
    reports: list[Report] = []
    with contextlib.ExitStack() as stack:
        try:
            choose_backends(options.backend)
            if options.reports and options.reports.exists() and any(options.reports.iterdir()):
                parser.error(f"--reports: {options.reports} is not empty")
            folder = options.reports or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="specificity-")))
            for run in range(1, options.times + 1):
                loaded, began = run % 2 == 0, time.monotonic()
                with busy(options.cores) if loaded else contextlib.nullcontext():
                    own = folder.absolute() / str(run)
                    reports.append(one_run(options.backend, options.cases, options.workers, own))
                how = f"{options.cores} cores busy" if loaded else "as the machine is"
                tally = count(case.verdict for case in reports[-1].cases)
                counts = ", ".join(f"{number} {verdict}" for verdict, number in tally.items())
                print(f"run {run}, {how}: {time.monotonic() - began:.0f} s, {counts}", flush=True)
        except ConformanceError as error:
            print(f"specificity: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("specificity: interrupted", file=sys.stderr)
            return 130
    found, accused = stability(reports), accusations(reports)
    stdout_console().print(*accused, *stability_lines(found, reports), sep="\n")
    return 1 if accused or found.flaky or found.missing else 0


if __name__ == "__main__":
    sys.exit(main())
