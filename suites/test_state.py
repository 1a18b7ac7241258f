"""STATE: what the real scheduler code makes of executor events, whatever the executor runs itself."""

from __future__ import annotations

from executor_conformance.harness.case import Case
from executor_conformance.suites.inspections import inspect
from executor_conformance.suites.marks import decides
from executor_conformance.suites.state_api import read_states


@decides("STATE-1", callbacks=False)
def test_forward_only(case: Case) -> None:
    """Every row state meets every executor event, and every ordered pair of them."""
    inspect(case, "transitions")


@decides("STATE-4", callbacks=False)
def test_deleted_callback(case: Case) -> None:
    """The row of a callback is deleted before its event is processed."""
    case.whole_afterwards = False  # until its rows are gone again
    case.whole_afterwards = "failed" not in inspect(case, "deletion")
    case.env.observe()  # what the database's own journal saw of the rows


@decides("STATE-2", once=True)
def test_api_and_row_agree(case: Case) -> None:
    """Callbacks in every state are read by every API that tells a state, and in the database."""
    read_states(case)
