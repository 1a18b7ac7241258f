"""SWEEP, on demand: the worker of one healthy callback is killed at every boundary of its recorded way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from executor_conformance.harness.points import LIVENESS
from executor_conformance.suites.marks import decides

if TYPE_CHECKING:
    from executor_conformance.harness.case import Case
    from executor_conformance.harness.explore.boundaries import Boundary
    from executor_conformance.harness.explore.plan import Sweep


@decides("RUN-1", "CRASH-1", "CRASH-4", "CRASH-5")
@pytest.mark.on_demand("sweep", "recording")
def test_recording(case: Case, sweep: Sweep, boundary: None) -> None:
    """The healthy callback whose way is recorded, undisturbed; it has run before anything was planned."""
    from executor_conformance.harness.explore.sweep import record

    record(case)


@decides(*LIVENESS)
@pytest.mark.on_demand("sweep", "killed")
def test_killed(case: Case, sweep: Sweep, boundary: Boundary) -> None:
    """SIGKILL at one boundary of the way."""
    from executor_conformance.harness.explore.sweep import strike

    strike(case, boundary, sweep.boundaries, sweep.victim)
