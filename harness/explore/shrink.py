"""Shorter sequences than one that failed, the boldest cuts first, for a run of one takes seconds.

hypothesis shrinks what it drew in hundreds of small steps; here a few dozen runs have to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from executor_conformance.harness.explore.sequences import Drawn, Round

SIMPLEST = "succeeds"


def shrink(sequence: Drawn, fails: Callable[[Drawn], bool]) -> None:
    """Cut ``sequence`` for as long as something shorter fails; the last that did is the shortest.

    :param fails: runs a sequence; what it raises ends the cutting.
    """
    found: Drawn | None = sequence
    while found is not None:
        found = next((each for each in shorter(found) if fails(each)), None)


def shorter(sequence: Drawn) -> Iterator[Drawn]:
    """What can be cut from a sequence at once: all rounds but one, one round, workloads, and what is done to them."""
    if len(sequence) > 1:
        yield from ((each,) for each in sequence)
    if len(sequence) > 2:
        yield from (sequence[:at] + sequence[at + 1 :] for at in range(len(sequence)))
    for at, each in enumerate(sequence):
        for less in (*_fewer(each), *_simpler(each)):
            yield (*sequence[:at], less, *sequence[at + 1 :])


def _fewer(whole: Round) -> Iterator[Round]:
    """Without the first or the second half of its workloads, then without less and less, down to one."""
    size = len(whole.fates)
    cut = size // 2
    while cut:
        for at in range(0, size, cut):
            if kept := whole.fates[:at] + whole.fates[at + cut :]:
                yield replace(whole, fates=kept)
        cut //= 2


def _simpler(whole: Round) -> Iterator[Round]:
    if whole.away:
        yield replace(whole, away=False)
    for at, name in enumerate(whole.fates):
        if name != SIMPLEST:
            yield replace(whole, fates=(*whole.fates[:at], SIMPLEST, *whole.fates[at + 1 :]))
