"""What this machine bears: how many workers it can start at once without standing still."""

from __future__ import annotations

import os

import psutil

WORKERS_PER_CORE = 5
"""Workers started at once, each of which imports all of Airflow (1.6 s of CPU): the last is up after some 8 s."""
WORKER_BYTES = 300 << 20
"""Memory of one worker with its supervised child, at its peak."""
SHARE_OF_MEMORY = 0.5
FEWEST, MOST = 4, 100


def crowd_of_this_machine() -> int:
    """Return how many workloads to send at once where each costs a process with all of Airflow's imports."""
    by_cores = WORKERS_PER_CORE * len(os.sched_getaffinity(0))
    by_memory = int(SHARE_OF_MEMORY * psutil.virtual_memory().available / WORKER_BYTES)
    return max(FEWEST, min(by_cores, by_memory, MOST))
