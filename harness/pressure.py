"""The pressure on the machine's CPUs: tell a slow machine from an executor that does nothing, and wait longer on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from executor_conformance.harness.processes import ProcessInfo

WINDOW_S = 5.0
WORKING = 0.04
"""Share of one CPU above which a worker makes progress; a supervisor that only sends heartbeats takes 0.01."""
_PRESSURE = Path("/proc/pressure/cpu")
_WAITING_PERCENT = 50.0
_TICKS = os.sysconf("SC_CLK_TCK")


def overloaded() -> bool:
    """Whether processes of this machine have waited for a CPU for half of the last 10 s, whoever they belong to."""
    try:
        fields = _PRESSURE.read_text().split()
        return float(fields[1].removeprefix("avg10=")) >= _WAITING_PERCENT
    except (OSError, IndexError, ValueError):  # no such figure on older kernels and in some containers
        return os.getloadavg()[0] >= 2 * (os.cpu_count() or 1)


class Deadline:
    """A bound of ``limit`` seconds on a start, an import or a command; under pressure up to three times as long.

    A second in which the machine is overloaded counts for a third: processes get so much less of the CPU then. The
    pressure is looked at whenever the deadline is asked, so ask it every second or so, as :meth:`slice_s` makes easy.
    """

    SLOWER = 3.0
    SLICE_S = 1.0

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._began = self._looked = time.monotonic()
        self._pressed = 0.0

    def remaining(self) -> float:
        """Return the seconds that are left if the machine is quiet from now on; 0 once the deadline is over."""
        now = time.monotonic()
        if now > self._looked and overloaded():
            self._pressed += now - self._looked
        self._looked = now
        counted = now - self._began - self._pressed * (1 - 1 / self.SLOWER)
        return max(0.0, self.limit - counted)

    def over(self) -> bool:
        """Return true once nothing is left."""
        return self.remaining() <= 0

    def slice_s(self, most: float = SLICE_S) -> float:
        """Return the seconds to block for before the deadline is asked again; never 0, so that a wait tries once."""
        return max(0.001, min(self.remaining(), most))

    @property
    def starved(self) -> bool:
        """True if the machine was overloaded for half of the time so far: what is late is nobody's failure."""
        return self._pressed > 0 and self._pressed >= (self._looked - self._began) / 2

    def __str__(self) -> str:
        """Return how long it has been, for 'not within …'."""
        lasted = self._looked - self._began
        if not self._pressed:
            return f"{self.limit:g} s"
        return f"{lasted:.0f} s ({self._pressed:.0f} s of them on an overloaded machine)"


class Progress:
    """Whether units of work have used the CPU lately; looked at once per window of 5 s."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._used: dict[int, int] = {}
        self.working = False
        """Whether they worked in the last whole window."""

    def look(self, processes: Mapping[int, ProcessInfo], units: Iterable[int]) -> bool:
        """To be asked at each step; True once per window in which the units have worked."""
        now = time.monotonic()
        if self._used and now - self._since < WINDOW_S:
            return False
        used = {pid: processes[pid].cpu_ticks for pid in units if pid in processes}
        # a new one has used all that it has used since the last look, or little more
        spent = sum(ticks - self._used.get(pid, 0) for pid, ticks in used.items()) / _TICKS
        first, lasted = not self._used, now - self._since
        self._since, self._used = now, used
        self.working = not first and spent >= WORKING * lasted
        return self.working
