"""Drawn sequences: what is drawn, what a subject is spared, how they shrink and read; nothing is started."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from executor_conformance.harness.explore.search import ERRORS, RERUNS, Judged, Outcome, search
from executor_conformance.harness.explore.sequences import (
    CLAUSES,
    FATES,
    MOST_ROUNDS,
    Choice,
    Drawn,
    Round,
    choose,
    steps,
    strategy,
)
from executor_conformance.harness.explore.shrink import shorter

ALL = Choice(tuple(FATES), True, CLAUSES)
VICTIMS = {"child", "supervisor", "unit"}


def weight(sequence: Drawn) -> tuple[int, int, int]:
    """By what one sequence is shorter than another: workloads, then rounds, then how much is done to them."""
    order = list(FATES)
    workloads = [order.index(name) for each in sequence for name in each.fates]
    return len(workloads), len(sequence), sum(workloads) + len(order) * sum(each.away for each in sequence)


def searched(
    breaks: Callable[[Drawn], Collection[str]], count: int = 200, seed: int = 7, reruns: int = 500
) -> Outcome[int]:
    """A search over sequences that break what the function says of them."""
    numbers = iter(range(10_000))

    def run(drawn: Drawn) -> Judged[int]:
        return Judged(drawn, frozenset(breaks(drawn)), False, next(numbers))

    return search(strategy(ALL, 3), run, count, seed, reruns)


def test_what_is_drawn() -> None:
    drawn = [each.sequence for each in searched(lambda _: ()).runs]
    assert 150 < len(drawn) == len(set(drawn)), "of 200 that are drawn a few come twice, and are run once"
    rounds = [each for sequence in drawn for each in sequence]
    assert {len(sequence) for sequence in drawn} == set(range(1, MOST_ROUNDS + 1))
    assert {len(each.fates) for each in rounds} == {1, 2, 3, 4, 5}
    assert {name for each in rounds for name in each.fates} == set(FATES)
    assert {each.away for each in rounds} == {True, False}


def test_a_seed_draws_the_same_again() -> None:
    def drawn(seed: int) -> list[Drawn]:
        return [each.sequence for each in searched(lambda _: (), count=30, seed=seed).runs]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_only_what_is_chosen_is_drawn() -> None:
    choice = Choice(("succeeds", "task-succeeds"), False, CLAUSES)
    outcome = search(strategy(choice, 3), lambda drawn: Judged(drawn, frozenset(), False, 0), 50, 1)
    rounds = [each for judged in outcome.runs for each in judged.sequence]
    assert {name for each in rounds for name in each.fates} == {"succeeds", "task-succeeds"}
    assert not any(each.away for each in rounds)


def unit_then_task(drawn: Drawn) -> Collection[str]:
    """A task after a round in which a unit was killed."""
    killed = False
    for each in drawn:
        if killed and "task-succeeds" in each.fates:
            return ("CRASH-5",)
        killed = killed or "unit-killed" in each.fates
    return ()


def test_the_shortest_failing_sequence_is_found() -> None:
    outcome = searched(unit_then_task)
    assert outcome.shortest is not None
    assert outcome.shortest.sequence == (Round(("unit-killed",)), Round(("task-succeeds",)))
    assert not outcome.exhausted
    assert steps(outcome.shortest.sequence) == [
        "1. a callback whose unit is killed while it runs",
        "2. a task that succeeds",
    ]


@pytest.mark.parametrize("seed", range(6))
def test_a_few_runs_are_enough_to_shrink(seed: int) -> None:
    """A run of a sequence takes ten seconds, so there are not many."""
    outcome = searched(unit_then_task, seed=seed, reruns=RERUNS)
    assert outcome.shortest is not None
    assert len([name for each in outcome.shortest.sequence for name in each.fates]) <= 3


def test_what_is_shorter_is_shorter() -> None:
    whole = (Round(("unit-killed", "task-raises", "raises"), away=True), Round(("succeeds",)), Round(("exits",)))
    candidates = list(shorter(whole))
    assert all(weight(each) < weight(whole) for each in candidates)
    assert (Round(("succeeds",)),) in candidates, "one round alone"
    assert whole[:1] + whole[2:] in candidates, "without one round"
    assert (Round(("task-raises", "raises"), away=True), *whole[1:]) in candidates, "without one workload"
    assert (Round(whole[0].fates), *whole[1:]) in candidates, "with the API there"
    assert (Round(("unit-killed", "succeeds", "raises"), away=True), *whole[1:]) in candidates, "with one fault less"
    assert list(shorter((Round(("succeeds",)),))) == []


@pytest.mark.parametrize("reruns", [0, 1, 4])
def test_shrinking_is_bounded(reruns: int) -> None:
    outcome = searched(unit_then_task, reruns=reruns)
    assert outcome.reruns <= reruns
    assert outcome.exhausted
    assert outcome.shortest is not None
    assert unit_then_task(outcome.shortest.sequence), "what is shown did fail"
    first = next(judged for judged in outcome.runs if judged.broken)
    assert weight(outcome.shortest.sequence) <= weight(first.sequence)


def test_no_sequence_is_run_twice() -> None:
    ran = [judged.sequence for judged in searched(unit_then_task).runs]
    assert len(ran) == len(set(ran))


def test_another_defect_does_not_take_the_place_of_the_first() -> None:
    """A single task breaks another clause than the one that the search came upon first."""

    def breaks(drawn: Drawn) -> Collection[str]:
        return unit_then_task(drawn) or (("CRASH-3",) if first and drawn == (Round(("task-succeeds",)),) else ())

    first: list[bool] = []

    def noting(drawn: Drawn) -> Collection[str]:
        found = breaks(drawn)
        if found:
            first.append(True)
        return found

    outcome = searched(noting)
    assert outcome.shortest is not None
    assert outcome.shortest.broken == {"CRASH-5"}


def test_what_fails_only_once_is_shown_all_the_same() -> None:
    outcome = searched(lambda drawn: () if failed else failed.append(True) or ("CRASH-1",))  # type: ignore[func-returns-value]
    assert outcome.shortest is not None
    assert outcome.shortest.broken == {"CRASH-1"}
    assert outcome.drawn == 1


failed: list[bool] = []


def test_a_harness_that_breaks_ends_the_search() -> None:
    outcome = search(strategy(ALL, 3), lambda drawn: Judged(drawn, frozenset(), True, 0), 100, 1)
    assert len(outcome.runs) == outcome.drawn == ERRORS
    assert outcome.shortest is None


def test_an_interruption_goes_through() -> None:
    def run(_: Drawn) -> Judged[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(strategy(ALL, 3), run, 5, 1)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        searched(unit_then_task, count=60)
    assert list(tmp_path.iterdir()) == []


# -- what a subject is spared -----------------------------------------------------------------------------------------


def chosen(*listed: tuple[str, str], victims: Collection[str] = VICTIMS, has_claim: bool = True) -> Choice:
    return choose(lambda case, clause: (case, clause) in listed, ["STATE-3"], victims, has_claim)


def test_without_known_failures_all_is_drawn_and_decided() -> None:
    assert chosen() == Choice(tuple(FATES), True, CLAUSES)


def test_a_fault_with_a_known_failure_is_not_drawn() -> None:
    choice = chosen(("crash.killed_during[supervisor]", "CRASH-8"))
    assert set(FATES) - set(choice.fates) == {"supervisor-killed"}
    assert choice.clauses == CLAUSES
    assert choice.left_out == (
        "a callback whose supervisor is killed while it runs: "
        "the failure of CRASH-8 in crash.killed_during[supervisor] is listed",
    )


def test_a_known_failure_of_an_invariant_counts() -> None:
    assert "raises" not in chosen(("fail.callable_raises", "STATE-3")).fates


def test_a_known_failure_that_is_not_decided_here_spares_nothing() -> None:
    assert chosen(("fail.callable_raises", "FAIL-4")) == chosen()


def test_what_success_is_known_to_break_is_not_decided() -> None:
    choice = chosen(("run.success", "RUN-6"))
    assert choice.fates == tuple(FATES)
    assert "RUN-6" not in choice.clauses
    assert "RUN-1" in choice.clauses


def test_an_api_away_that_is_known_to_harm_is_left_out() -> None:
    assert not chosen(("crash.claim_unreachable", "CRASH-1")).away


def test_what_cannot_be_done_is_not_drawn() -> None:
    assert set(FATES) - set(chosen(victims={"unit"}).fates) == {"child-killed", "supervisor-killed"}
    assert set(FATES) - set(chosen(has_claim=False).fates) == {"claim-error", "claim-lost"}


# -- how it reads -----------------------------------------------------------------------------------------------------


def test_rounds_read_as_sentences() -> None:
    assert str(Round(("succeeds",))) == "a callback that succeeds"
    assert str(Round(("raises", "task-succeeds"), away=True)) == (
        "at once: a callback that raises; a task that succeeds (the API is away for the first 2 requests)"
    )
    assert all(fate.reads and fate.like for fate in FATES.values())


def test_the_fates_look_like_cases_of_the_suite() -> None:
    from executor_conformance.harness.catalogue import load_catalogue
    from executor_conformance.suites.cases import suite_cases

    known = {case.id for case in suite_cases(load_catalogue())}
    assert {fate.like for fate in FATES.values()} <= known
    assert "crash.claim_unreachable" in known
