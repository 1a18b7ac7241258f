"""Sequences of workloads with faults: what they consist of, how they read, and what of it a subject is spared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from executor_conformance.harness.points import LIVENESS

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

MOST_ROUNDS = 4
CLAUSES = (*LIVENESS, "FAIL-1", "FAIL-2", "RUN-1", "RUN-6")
"""What is decided over each sequence, beside the invariants."""
AWAY = "api-away"
REQUESTS_AWAY = 2
"""Requests of workers that meet no API while it is away; fewer than a worker tries again."""


@dataclass(frozen=True)
class Fate:
    """What becomes of a workload.

    ``like`` is the case of the suite that looks at it alone; ``victim`` who is killed while it runs; ``needs_claim``
    whether it is a fault at the claim, which an old edition does not have.
    """

    name: str
    reads: str
    like: str
    expect: str = "terminal"
    callable_: str = "succeed"
    victim: str = ""
    needs_claim: bool = False


CALLBACKS = {
    fate.name: fate
    for fate in (
        Fate("succeeds", "a callback that succeeds", "run.success", "success"),
        Fate("raises", "a callback that raises", "fail.callable_raises", "failure", "raise_error"),
        Fate("exits", "a callback that exits with 9", "fail.callable_fails[os-exit-9]", "failure", "os_exit_9"),
        Fate("claim-error", "a callback whose claim answers 500", "crash.claim_error[500]", needs_claim=True),
        Fate("claim-lost", "a callback whose claim's response is lost", "crash.claim_response_lost", needs_claim=True),
        *(
            Fate(
                f"{victim}-killed",
                f"a callback whose {victim} is killed while it runs",
                f"crash.killed_during[{victim}]",
                callable_="hold",
                victim=victim,
            )
            for victim in ("child", "supervisor", "unit")
        ),
    )
}
"""Fates of callbacks, the simplest first: a sequence shrinks towards it."""
TASKS = {
    fate.name: fate
    for fate in (
        Fate("task-succeeds", "a task that succeeds", "task.control_group", "success", "conformance_task_succeeds"),
        Fate("task-raises", "a task that raises", "task.control_group", "failed", "conformance_task_raises"),
    )
}
FATES = {**CALLBACKS, **TASKS}


@dataclass(frozen=True)
class Round:
    """Workloads that are handed over at once, by the names of their fates; the next round begins once all are over."""

    fates: tuple[str, ...]
    away: bool = False
    """The API is away for the first requests."""

    def __str__(self) -> str:
        several = [FATES[name].reads for name in self.fates]
        text = several[0] if len(several) == 1 else "at once: " + "; ".join(several)
        return text + (f" (the API is away for the first {REQUESTS_AWAY} requests)" if self.away else "")


Drawn = tuple[Round, ...]


def steps(sequence: Drawn) -> list[str]:
    """A sequence for a reader, a line for each round."""
    return [f"{number}. {each}" for number, each in enumerate(sequence, 1)]


@dataclass(frozen=True)
class Choice:
    """What is drawn for a subject and what is decided; ``left_out`` says in sentences what is not, and why."""

    fates: tuple[str, ...]
    away: bool
    clauses: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def choose(
    listed: Callable[[str, str], bool],
    invariants: Iterable[str],
    victims: Iterable[str],
    has_claim: bool,
) -> Choice:
    """What can be drawn and decided for a subject without meeting again what is known of it.

    :param listed: whether a failure of a clause (second) in a case of the suite (first) is listed for the subject.
    :param invariants: the clauses that are decided over every history.
    :param victims: whom the environment can kill.
    :param has_claim: the edition has a claim endpoint.
    """
    decided = (*CLAUSES, *invariants)
    left_out: list[str] = []
    # Without callbacks that succeed there is nothing to draw, so what is known of them is left out of the decision
    clauses = tuple(clause for clause in CLAUSES if not listed(CALLBACKS["succeeds"].like, clause))
    left_out += [f"{clause}: its failure in run.success is listed" for clause in CLAUSES if clause not in clauses]
    fates = []
    for fate in FATES.values():
        known = [clause for clause in dict.fromkeys((*decided, "TASK-1")) if listed(fate.like, clause)]
        why = ""
        if fate.victim and fate.victim not in victims:
            why = f"the environment has no means to kill '{fate.victim}' alone"
        elif fate.needs_claim and not has_claim:
            why = "the edition has no claim"
        elif known and fate.name != "succeeds":
            why = f"the failure of {', '.join(known)} in {fate.like} is listed"
        if why:
            left_out.append(f"{fate.reads}: {why}")
        else:
            fates.append(fate.name)
    away = [clause for clause in decided if listed("crash.claim_unreachable", clause)]
    if away:
        left_out.append(f"the API away: the failure of {', '.join(away)} in crash.claim_unreachable is listed")
    return Choice(tuple(fates), not away, clauses, tuple(left_out))


def strategy(choice: Choice, parallelism: int) -> SearchStrategy[Drawn]:
    """Sequences of up to four rounds with up to ``parallelism`` + 2 workloads at once."""
    from hypothesis import strategies as st

    fates: Sequence[str] = choice.fates
    many: Any = st.lists(st.sampled_from(fates), min_size=1, max_size=parallelism + 2).map(tuple)
    # Away one time in four: most of what goes on is to be seen undisturbed
    away: Any = st.integers(0, 3).map(lambda drawn: drawn == 3) if choice.away else st.just(False)
    rounds: Any = st.builds(Round, many, away)
    return st.lists(rounds, min_size=1, max_size=MOST_ROUNDS).map(tuple)
