"""What was asked of the API: one entry per request, without bodies and tokens."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from executor_conformance.backends.kubernetes.emulator.status import Obj

_KEPT = 20_000


@dataclass(slots=True)
class Call:
    """One request; ``status`` is None while it is not answered, and 0 if its connection was closed instead.

    ``at`` is seconds of the monotonic clock, which all processes of a host share; ``resource`` has the subresource
    after a slash; ``fault`` is the id of the rule that was applied.
    """

    n: int
    verb: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    query: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    fault: str | None = None
    at: float = field(default_factory=time.monotonic)

    def document(self) -> Obj:
        """As the admin API shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Calls:
    """The last 20,000 requests."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=_KEPT)
        self._numbers = itertools.count(1)
        self._counts: Counter[str] = Counter()

    def new(self) -> Call:
        """The entry of a request that arrives."""
        call = Call(next(self._numbers))
        self._calls.append(call)
        return call

    def count(self, operation: str) -> None:
        """Count a request by what it asks for: a verb and a resource."""
        self._counts[operation] += 1

    def counts(self) -> dict[str, int]:
        """How many requests there have been, by verb and resource; all others are 'other'."""
        return dict(self._counts)

    def since(self, number: int) -> list[Obj]:
        """Those with an ``n`` above ``number``, oldest first."""
        newer = itertools.takewhile(lambda call: call.n > number, reversed(self._calls))
        return [call.document() for call in reversed(list(newer))]
