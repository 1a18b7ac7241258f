"""How a case names its clauses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

Function = TypeVar("Function", bound=Callable[..., object])


def decides(
    *clauses: str, smoke: bool = False, once: bool = False, callbacks: bool = True
) -> Callable[[Function], Function]:
    """Mark a case with the clauses that it decides; the invariants are added to every case.

    The first is what the case is about: the case is of this clause's level.
    ``smoke`` cases also run in the variants of an environment that are only looked at briefly. ``once``: what is
    decided is core's and the same beside any executor, so the core level has the case in the first environment only.
    ``callbacks``: the case sends callbacks to the subject, so it is unsupported where the subject runs none.
    """

    def mark(function: Function) -> Function:
        marked = pytest.mark.conformance(*clauses, smoke=smoke, once=once, callbacks=callbacks)(function)
        return marked

    return mark


extended = pytest.mark.extended
"""A parameter whose case differs from another by the form of the fault only: for the extended level."""


def ways(point: str) -> pytest.MarkDecorator:
    """Give a case the argument ``way``: one run for each way in which its environment can inject ``point``.

    An environment that has none runs the case once, with the way 'none', and it is not applicable.
    """
    return pytest.mark.ways(point)
