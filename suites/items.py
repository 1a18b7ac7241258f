"""What is known of a case before it runs: a pytest item's subject, id, level and line that reproduces it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from executor_conformance.suites import on_demand
from executor_conformance.suites.cases import PACKAGE, level_of

if TYPE_CHECKING:
    from executor_conformance.harness.session import CaseSpec
    from executor_conformance.suites.run_state import ConformanceState


def subject_of(item: pytest.Item) -> Any:
    """The :class:`Subject` that an item is for; None if it is no case, or none can run."""
    callspec = getattr(item, "callspec", None)
    subject = callspec.params.get("case") if callspec and item.get_closest_marker("conformance") else None
    return subject if hasattr(subject, "label") else None  # pytest has a placeholder where no subject can run


def case_id(item: pytest.Item) -> str:
    """The id of a case, the same in every environment: ``crash.killed_during[child]``."""
    module = item.path.stem.removeprefix("test_")
    function = getattr(item, "originalname", item.name).removeprefix("test_")
    callspec = getattr(item, "callspec", None)
    subject = subject_of(item)
    label = subject.label if subject else ""
    rest = (callspec.id if callspec else "").replace(label, "", 1).strip("-")
    return f"{module}.{function}" + (f"[{rest}]" if rest else "")


def level_of_item(item: pytest.Item, state: ConformanceState) -> str:
    """See :func:`level_of`."""
    marker = item.get_closest_marker("conformance")
    assert marker is not None
    return level_of(marker.args, state.catalogue, further=item.get_closest_marker("extended") is not None)


def spec_of(item: pytest.Item, state: ConformanceState) -> CaseSpec:
    """What is known of a case before it runs."""
    from executor_conformance.harness.session import CaseSpec, reproduce_line

    marker = item.get_closest_marker("conformance")
    assert marker is not None
    assert isinstance(item, pytest.Function)
    callspec = item.callspec
    return CaseSpec(
        id=case_id(item),
        clauses=marker.args,
        level=level_of_item(item, state),
        reproduce=reproduce_line(
            f"{PACKAGE}.{item.path.stem}",
            item.originalname,
            callspec.id,
            state.options,
            subject_of(item),  # type: ignore[attr-defined]
        )
        + on_demand.options_line(item),
        smoke=bool(marker.kwargs.get("smoke")),
        callbacks=bool(marker.kwargs.get("callbacks", True)),
    )
