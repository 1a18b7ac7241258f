"""The search: sequences drawn by hypothesis from a seed, and the shortest failing one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from executor_conformance.harness.explore.sequences import Drawn, weight

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
    shortest: Judged[Result] | None = None
    exhausted: bool = False
    """Shrinking ended at its bound, so a shorter sequence may exist."""

    @property
    def reruns(self) -> int:
        """Runs for shrinking."""
        return len(self.runs) - self.drawn


class _Violation(Exception):
    """The sequence breaks the same clause as the first that failed."""


class _Over(BaseException):
    """The harness broke too often; nothing more is to be learnt. hypothesis passes on what is no Exception."""


def search(
    sequences: SearchStrategy[Drawn],
    run: Callable[[Drawn], Judged[Result]],
    count: int,
    seed: int,
    reruns: int = RERUNS,
) -> Outcome[Result]:
    """Run up to ``count`` sequences; the first that fails is shrunk with at most ``reruns`` further runs.

    A sequence is run once; whatever hypothesis asks for beyond the bound counts as passed. While shrinking, only a
    failure of a clause that the first one broke counts, so that one defect is not taken for another.
    """
    import hypothesis
    from hypothesis import configuration

    outcome: Outcome[Result] = Outcome()
    seen: dict[Drawn, Judged[Result]] = {}
    first: list[Judged[Result]] = []

    def look(sequence: Drawn) -> None:
        judged = seen.get(sequence)
        if judged is None:
            if first and outcome.reruns >= reruns:
                outcome.exhausted = True
                return
            if not first and outcome.drawn >= count:
                return
            judged = seen[sequence] = run(sequence)
            outcome.runs.append(judged)
            outcome.drawn += not first
            if sum(each.error for each in outcome.runs) >= ERRORS:
                raise _Over
        if not judged.broken or (first and not judged.broken & first[0].broken):
            return
        if not first:
            first.append(judged)
        if outcome.shortest is None or weight(sequence) < weight(outcome.shortest.sequence):
            outcome.shortest = judged
        raise _Violation

    settings = hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    with tempfile.TemporaryDirectory(prefix="executor-conformance-sequences-") as home:
        configuration.set_hypothesis_home_dir(home)  # it would leave a folder where pytest was called
        try:
            hypothesis.seed(seed)(settings(hypothesis.given(sequences)(look)))()
        except (_Violation, _Over):
            pass
        finally:
            configuration.set_hypothesis_home_dir(None)
    return outcome
