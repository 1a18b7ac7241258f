"""Measure how long the executor holds up the scheduler's loop, without the time that the machine gave no CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WORTH_NOTING_S = 1.0
"""Calls that take less are not told."""


def _waited_for_cpu() -> float:
    """Return the seconds that this thread has waited for a CPU so far; 0.0 where the kernel does not tell."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Pace:
    """Measures calls, and keeps those that took long: ``executor``, ``call``, ``at``, ``took_s``, ``held_up_s``.

    ``held_up_s`` is ``took_s`` without the time in which the thread wanted the CPU and did not get it.
    """

    def __init__(self) -> None:
        self.slow: list[dict[str, Any]] = []

    def measure(self, executor: str, name: str, function: Callable[[], Any]) -> None:
        """Call ``function``; whatever it raises goes through."""
        began, waited = time.monotonic(), _waited_for_cpu()
        try:
            function()
        finally:
            took = time.monotonic() - began
            if took >= WORTH_NOTING_S:
                held_up = max(0.0, took - (_waited_for_cpu() - waited))
                self.slow.append(
                    {
                        "executor": executor,
                        "call": name,
                        "at": began,
                        "took_s": round(took, 3),
                        "held_up_s": round(held_up, 3),
                    }
                )

    def take(self) -> list[dict[str, Any]]:
        """Return what was kept since the last time."""
        slow, self.slow = self.slow, []
        return slow
