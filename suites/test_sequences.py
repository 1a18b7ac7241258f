"""SEQUENCES, on demand: drawn mixes of callbacks and tasks with faults, on one environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from executor_conformance.harness.explore.sequences import CLAUSES
from executor_conformance.suites.marks import decides

if TYPE_CHECKING:
    from executor_conformance.suites.searching import Searcher


@decides(*CLAUSES)
@pytest.mark.on_demand("sequences", "mixed")
def test_mixed(case: Searcher) -> None:
    """Sequences from a seed; the first that fails is made as short as can be."""
    case.search()
