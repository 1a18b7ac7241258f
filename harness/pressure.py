"""Whether workers get the CPU that they want: what tells a slow machine from an executor that does nothing."""

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
