"""The search with drawn sequences as one case of a run: each sequence has a history of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from executor_conformance.harness.environment import Environment
    from executor_conformance.harness.explore.search import Judged, Outcome
    from executor_conformance.harness.explore.sequences import Choice, Drawn
    from executor_conformance.harness.report.model import CaseResult, Exploration
    from executor_conformance.harness.session import CaseSpec, Subject
    from executor_conformance.suites.run_state import ConformanceState

MOST = 10_000
"""Sequences of one search."""
BOUND = "shrinking ended at its bound, so a shorter one may exist"
SEED = pytest.StashKey[int]()


def add_options(group: Any) -> None:
    """The options of the search."""
    group.addoption(
        "--conformance-sequences",
        metavar="N",
        type=int,
        help="run N drawn sequences of callbacks and tasks with faults, and look for the shortest failing one",
    )
    group.addoption(
        "--conformance-seed",
        metavar="SEED",
        type=int,
        help="of the drawn sequences (default: a new one, which the report names)",
    )


def check(config: pytest.Config) -> None:
    """Refuse numbers that make no sense, and a missing library.

    :raises UsageError: so it is.
    """
    from importlib.util import find_spec

    from executor_conformance.harness.errors import UsageError

    count, seed = config.option.conformance_sequences, config.option.conformance_seed
    if count is None:
        if seed is not None:
            raise UsageError("--conformance-seed is the seed of sequences; say how many with --conformance-sequences.")
        return
    if not 1 <= count <= MOST:
        raise UsageError(f"--conformance-sequences is {count}; give a number from 1 to {MOST}.")
    if seed is not None and seed < 0:
        raise UsageError(f"--conformance-seed is {seed}; give a number that is not negative.")
    if find_spec("hypothesis") is None:
        raise UsageError(
            "Sequences are drawn by hypothesis, which is not installed; "
            "install it with pip install 'airflow-executor-conformance[sequences]'."
        )


def seed_of(config: pytest.Config) -> int:
    """The seed of this run."""
    if SEED not in config.stash:
        given = config.option.conformance_seed
        config.stash[SEED] = secrets.randbelow(2**32) if given is None else given
    return config.stash[SEED]


class Searcher:
    """Carries a search out; the results are there once :meth:`search` has returned."""

    def __init__(
        self, config: pytest.Config, state: ConformanceState, subject: Subject, spec: CaseSpec, env: Environment
    ) -> None:
        self.config = config
        self.state = state
        self.subject = subject
        self.spec = spec
        self.env = env
        self.count: int = config.option.conformance_sequences
        self.seed = seed_of(config)
        self.result: CaseResult | None = None
        self.exploration: Exploration | None = None
        self._began = time.monotonic()
        self._number = 0
        self._failed = False

    def search(self) -> None:
        """Draw, run, shrink, and sum up.

        :raises DoesNotSupport: the subject runs no callbacks.
        """
        from executor_conformance.harness.case import DoesNotSupport
        from executor_conformance.harness.explore.search import search
        from executor_conformance.harness.explore.sequences import strategy
        from executor_conformance.harness.settings import PARALLELISM

        if why := self.env.refuses_callbacks():
            raise DoesNotSupport(why)
        choice = self._choice()
        self.state.say(f"sequences of {self.subject.label}: {self.count} from seed {self.seed}")
        for left_out in choice.left_out:
            self.state.say(f"  left out: {left_out}")
        outcome = search(strategy(choice, PARALLELISM), lambda drawn: self._run(drawn, choice), self.count, self.seed)
        self._sum_up(outcome, choice)

    def _choice(self) -> Choice:
        from executor_conformance.harness.explore.sequences import choose

        label = self.subject.label

        def listed(case: str, clause: str) -> bool:
            return any(entry.matches(label, case, clause) for entry in self.state.expectations.entries)

        backend = self.env.backend
        victims = backend.victims if backend.on_this_host else frozenset()
        invariants = [clause.id for clause in self.state.catalogue.invariants]
        return choose(listed, invariants, victims, self.env.offers.has_claim)

    def _run(self, drawn: Drawn, choice: Choice) -> Judged[CaseResult]:
        """One sequence, as a case with a history of its own."""
        from executor_conformance.harness.explore.play import play
        from executor_conformance.harness.explore.search import Judged
        from executor_conformance.harness.verdicts import Verdict

        self._number += 1
        name = f"{self.spec.id}[{self._number}]"
        env = self.env = self.state.pool.acquire(self.subject)  # made anew if the one before has broken
        spec = replace(self.spec, id=name, clauses=choice.clauses)
        run = self.state.recorder.begin(spec, self.subject, env)
        raised: Exception | None = None
        try:
            play(run.case, drawn)
        except Exception as error:
            raised = error
        result = self.state.recorder.finish(run, raised)
        failed = {clause for clause, found in result.clauses.items() if found["verdict"] == Verdict.FAIL}
        judged = Judged(drawn, frozenset(failed), result.verdict is Verdict.ERROR, result)
        self._say(drawn, judged)
        return judged

    def _say(self, drawn: Drawn, judged: Judged[CaseResult]) -> None:
        from executor_conformance.harness.explore.plan import duration
        from executor_conformance.harness.report.wording import plural

        workloads = sum(len(each.fates) for each in drawn)
        what = f"{plural(workloads, 'workload')} in {plural(len(drawn), 'round')}"
        broken = f" {', '.join(sorted(judged.broken))}" if judged.broken else ""
        number = f"{self._number}/{self.count}" if not self._failed else f"shrinking, run {self._number}"
        each = (time.monotonic() - self._began) / self._number
        left = duration(each * (self.count - self._number))
        rest = f"; about {left} left" if not self._failed and self._number < self.count else ""
        self.state.say(f"  [{number}] {what}: {judged.result.verdict}{broken}, {judged.result.duration_s:.1f} s{rest}")
        self._failed = self._failed or bool(judged.broken)

    # -- the result -------------------------------------------------------------------------------------------

    def _sum_up(self, outcome: Outcome[CaseResult], choice: Choice) -> None:
        from executor_conformance.harness.explore.sequences import steps
        from executor_conformance.harness.report.model import Exploration

        lines: list[str] = []
        if outcome.shortest:
            lines = steps(outcome.shortest.sequence)
            self.state.say(f"the shortest failing sequence (seed {self.seed}), found in {len(outcome.runs)} runs:")
            for line in lines:
                self.state.say(f"  {line}")
            if outcome.exhausted:
                self.state.say(f"  ({BOUND})")
        self.result = self._whole(outcome, lines)
        broken = [judged for judged in outcome.runs if judged.broken]
        notes = [f"left out: {each}" for each in choice.left_out]
        notes += [f"shortest failing sequence: {line}" for line in lines]
        notes += [BOUND] if outcome.exhausted else []
        self.exploration = Exploration(
            kind="sequences",
            subject=self.subject.label,
            title=f"seed {self.seed}",
            counts={
                "sequences": outcome.drawn,
                "runs": len(outcome.runs),
                "violations": len({clause for judged in broken for clause in judged.broken}),
                "errors": sum(judged.error for judged in outcome.runs),
            },
            duration_s=round(time.monotonic() - self._began, 1),
            notes=notes,
        )

    def _whole(self, outcome: Outcome[CaseResult], lines: Sequence[str]) -> CaseResult:
        """The result of the case: that of the shortest failing sequence, or of all together."""
        from executor_conformance.harness.report.model import case_verdict, clause_results
        from executor_conformance.harness.verdicts import Decision, Verdict

        if outcome.shortest:
            found = outcome.shortest.result
            clauses = {
                clause: {**result, "evidence": [*lines, *result["evidence"]]}
                if result["verdict"] == Verdict.FAIL
                else result
                for clause, result in found.clauses.items()
            }
            return replace(found, id=self.spec.id, clauses=clauses, reproduce=self.spec.reproduce)
        decisions = [
            Decision(clause, Verdict(result["verdict"]), result["reason"], tuple(result["evidence"]))
            for judged in outcome.runs
            for clause, result in judged.result.clauses.items()
        ]
        clauses = clause_results(decisions)
        worst = case_verdict(clauses)
        telling = next((judged.result for judged in outcome.runs if judged.result.verdict is worst), None)
        last = outcome.runs[-1].result
        return replace(
            last,
            id=self.spec.id,
            verdict=worst,
            clauses=clauses,
            reason=telling.reason if telling else "",
            history=telling.history if telling else last.history,
            duration_s=round(time.monotonic() - self._began, 3),
            reproduce=self.spec.reproduce,
        )
