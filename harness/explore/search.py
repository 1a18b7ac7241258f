"""The search: sequences drawn by hypothesis from a seed, and the shortest failing one that a few more runs find."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from executor_conformance.harness.explore.sequences import Drawn
from executor_conformance.harness.explore.shrink import shrink

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

RERUNS = 25
"""Runs that shrinking may take, at most."""
ERRORS = 3
"""Runs in which the harness may break before the search ends."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Judged(Generic[Result]):
    """One sequence that was run; ``broken`` are the clauses that failed, ``error`` whether the harness broke."""

    sequence: Drawn
    broken: frozenset[str]
    error: bool
    result: Result


@dataclass
class Outcome(Generic[Result]):
    """What a search came to: every run in its order, and the shortest failing sequence, if any."""

    runs: list[Judged[Result]] = field(default_factory=list)
    drawn: int = 0
    """Runs of the search itself; those after it were for shrinking."""
    first: Judged[Result] | None = None
    """The one that failed of those that were drawn, if any."""
    shortest: Judged[Result] | None = None
    exhausted: bool = False
    """Shrinking ended at its bound, so a shorter sequence may exist."""

    @property
    def reruns(self) -> int:
        """Runs for shrinking."""
        return len(self.runs) - self.drawn


class _Violation(Exception):
    """The sequence breaks a clause."""


class _Over(BaseException):
    """No more is run: the harness broke too often, or the bound is reached. No Exception, so hypothesis lets it by."""


def search(
    sequences: SearchStrategy[Drawn],
    run: Callable[[Drawn], Judged[Result]],
    count: int,
    seed: int,
    reruns: int = RERUNS,
) -> Outcome[Result]:
    """Run up to ``count`` sequences; the first that fails is made shorter with at most ``reruns`` further runs.

    A sequence is run once. While shrinking, only a failure of a clause that the first one broke counts, so that one
    defect is not taken for another.
    """
    import hypothesis
    from hypothesis import configuration

    outcome: Outcome[Result] = Outcome()
    seen: dict[Drawn, Judged[Result]] = {}

    def judge(sequence: Drawn) -> Judged[Result]:
        if sequence not in seen:
            seen[sequence] = run(sequence)
            outcome.runs.append(seen[sequence])
            if sum(each.error for each in outcome.runs) >= ERRORS:
                raise _Over
        return seen[sequence]

    def look(sequence: Drawn) -> None:
        if sequence not in seen:
            if outcome.drawn >= count:
                return
            outcome.drawn += 1
        judged = judge(sequence)
        if judged.broken:
            outcome.first = outcome.shortest = judged
            raise _Violation

    def fails_too(shorter: Drawn) -> bool:
        assert outcome.first is not None
        if shorter not in seen and outcome.reruns >= reruns:
            outcome.exhausted = True
            raise _Over
        judged = judge(shorter)
        if not judged.broken & outcome.first.broken:
            return False
        outcome.shortest = judged
        return True

    settings = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(hypothesis.Phase.generate,),
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    with tempfile.TemporaryDirectory(prefix="executor-conformance-sequences-") as home:
        configuration.set_hypothesis_home_dir(home)  # it would leave a folder where pytest was called
        try:
            with contextlib.suppress(_Violation, _Over):
                hypothesis.seed(seed)(settings(hypothesis.given(sequences)(look)))()
        finally:
            configuration.set_hypothesis_home_dir(None)
    if outcome.first is not None:
        with contextlib.suppress(_Over):
            shrink(outcome.first.sequence, fails_too)
    return outcome
