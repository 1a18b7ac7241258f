"""A table of measurements with their targets."""

from __future__ import annotations

import contextlib
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table


class Figures:
    """Measurements by name, in seconds or as ratios."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, list[float], str, float | None, bool]] = []

    def add(
        self, name: str, values: list[float], unit: str = "s", target: float | None = None, least: bool = False
    ) -> float:
        """Keep measurements; ``target`` is the highest median that is fine, or the lowest if ``least``."""
        self.rows.append((name, values, unit, target, least))
        return statistics.median(values)

    def show(self) -> bool:
        """Print the table; whether all targets were met."""
        table = Table("what", "median", "all", "target", "", box=None, pad_edge=False)
        fine = True
        for name, values, unit, target, least in self.rows:
            median = statistics.median(values)
            ok = target is None or (median >= target if least else median <= target)
            fine = fine and ok
            wanted = "" if target is None else f"{'≥' if least else '≤'} {target:g} {unit}"
            every = " ".join(f"{value:.2f}" for value in values)
            table.add_row(
                name, f"{median:.2f} {unit}", every, wanted, "" if target is None else "ok" if ok else "NOT OK"
            )
        Console(width=None if sys.stdout.isatty() else 140).print(table)
        return fine


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, also if the benchmark is ended by SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="executor-conformance-bench-") as name:
        yield Path(name)
