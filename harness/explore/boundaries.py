"""The boundaries of one healthy callback: every moment of its recorded way at which its worker can be killed.

They are read from the history of that one run and have names that are the same from run to run, such as
``before PATCH /callbacks/{id}/run``, ``after process 2 is born``, ``row running`` or ``callable enter``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from executor_conformance.harness.history import Event, History
from executor_conformance.harness.rules import route_of
from executor_conformance.harness.view import TERMINAL, CallbackView, HistoryView

VICTIMS = ("unit", "supervisor", "child")
"""Whom a sweep can kill: the supervisor with its child, or one of the two alone."""
HOLDABLE = frozenset({"request", "response", "callable"})
"""Kinds at which the harness holds the worker; at the others it acts as soon as it sees them."""
MOST = 200
"""Boundaries of one plan, at most; what lies beyond is skipped."""
BORN = "worker born"
"""The note of a birth, with ``number`` (1, 2, ... since the submission), ``pid`` and ``ppid``."""

NOT_YET = "no worker has the callback yet, and the scheduler is not killed"
ENDED = "the worker has ended by then"
IDLE = "the worker has ended the callback by then, and the environment has no means to kill an idle worker"
STUBBED = "the environment answers this request in the server's place"
NO_CHILD = "the child has ended by then"
IS_SUPERVISOR = "this process is the supervisor, and has no child yet"
TOO_MANY = f"beyond the limit of {MOST} boundaries"


_Moment = tuple[float, str, str, Event]
"""Time, kind, what, and the event of the wire where it is one."""


@dataclass(frozen=True)
class Boundary:
    """One moment of the recorded way.

    ``kind`` is 'request', 'response', 'birth', 'row', 'event' or 'callable'; ``what`` tells which (``PATCH`` and a
    path with ``{id}``, a state, a report), ``nth`` the how manieth of these (from 1), ``t`` seconds since the
    submission. ``skipped`` says why no worker is killed there; empty: one is.
    """

    name: str
    kind: str
    what: str
    nth: int
    t: float
    skipped: str = ""

    @property
    def holdable(self) -> bool:
        """Whether the worker is held at it, so that the kill comes at exactly this moment."""
        return self.kind in HOLDABLE and self.what != "exit"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Boundary:
        """The boundary that :meth:`to_dict` gave.

        :raises KeyError, TypeError: the data are not of a boundary.
        """
        return cls(**{name: data[name] for name in ("name", "kind", "what", "nth", "t", "skipped")})


def request_name(method: str, path: str, callback: str) -> str:
    """How a request of a callback is named: its method and its path, without what differs from run to run."""
    return f"{method} {route_of(path.replace(callback, '{id}')).removeprefix('/execution')}"


def concerns(callback: str, path: str, claims: Mapping[str, Any] | None) -> bool:
    """Whether a request is of a callback, by its path or by the subject of its token."""
    return callback in path or (claims or {}).get("sub") == callback


def unhealthy(history: History) -> str:
    """Why the recorded run is no healthy one to sweep over, in a sentence; empty if it is."""
    view = HistoryView(history)
    if not view.subjects:
        return "no callback was submitted"
    callback = view.subjects[0]
    if callback.final != "success":
        return f"the row of the undisturbed callback is {str(callback.final).upper()} instead of SUCCESS"
    if callback.executions != 1:
        return f"the undisturbed callable ran {callback.executions} times"
    if not any(proof["kind"] == "rest" for proof in callback.proofs):
        return "the undisturbed callback did not come to rest"
    return ""


def boundaries_of(history: History, victim: str, idle: bool, nodes: Collection[int] = ()) -> list[Boundary]:
    """The boundaries of the recorded run in their order, those where nobody is killed with the reason.

    :param victim: one of ``VICTIMS``.
    :param idle: whether the environment can kill a worker that waits for a workload.
    :param nodes: whole workers of the recording, by pid, that can be killed where they speak for a unit that has ended.
    """
    view = HistoryView(history)
    callback = view.subjects[0]
    rest = next(proof["t"] for proof in callback.proofs if proof["kind"] == "rest")
    # The end of the child is seen at the same time as what follows from it, or later
    moments = sorted(_moments(view, callback, rest), key=lambda moment: (moment[0], moment[1] != "callable"))
    seen: Counter[tuple[str, str]] = Counter()
    worker = _Worker(view, callback, victim, idle, nodes if victim == "unit" else ())
    found = []
    for t, kind, what, wire in moments:
        seen[kind, what] += 1
        number = seen[kind, what]
        boundary = Boundary(_name(kind, what, number), kind, what, number, round(t - callback.submitted["t"], 4))
        found.append(replace(boundary, skipped=worker.absent(boundary, t, wire)))
    return [each if number < MOST else replace(each, skipped=TOO_MANY) for number, each in enumerate(found)]


def _moments(view: HistoryView, callback: CallbackView, rest: float) -> list[_Moment]:
    moments: list[_Moment] = [(row["t"], "row", str(row["new"]), {}) for row in callback.rows]
    moments += [(event["t"], "event", str(event["state"]), {}) for event in callback.events]
    moments += [(note["t"], "birth", str(note["number"]), {}) for note in view.of("note", what=BORN)]
    moments += [(effect["t"], "callable", str(effect["what"]), {}) for effect in callback.effects]
    for wire in view.of("wire"):
        claims = (wire.get("token") or {}).get("claims")
        if wire["phase"] in ("request", "response") and concerns(callback.id, wire["path"], claims):
            what = request_name(wire["method"], wire["path"], callback.id)
            moments.append((wire["t"], wire["phase"], what, wire))
    last = callback.effects[-1]
    told = [t for t, kind, what, _ in moments if kind in ("event", "row") and what in TERMINAL]
    gone = [event["t"] for event in (_gone(view, last["pid"]),) if event]
    moments.append((max(last["t"], min([rest, *told, *gone])), "callable", "exit", {}))
    return [moment for moment in moments if moment[0] <= rest]


def _gone(view: HistoryView, pid: int) -> Event | None:
    return next((event for event in view.of("process", what="gone") if event["pid"] == pid), None)


def _name(kind: str, what: str, number: int) -> str:
    if kind == "birth":
        return f"after process {what} is born"
    word = {"request": "before", "response": "after"}.get(kind, kind)
    return f"{word} {what}" + (f" ({_ordinal(number)})" if number > 1 else "")


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class _Worker:
    """When the worker of the recorded callback was there; the arguments are those of :func:`boundaries_of`."""

    def __init__(
        self, view: HistoryView, callback: CallbackView, victim: str, idle: bool, nodes: Collection[int]
    ) -> None:
        entered = callback.effects[0]
        self.child, self.supervisor = entered["pid"], entered.get("ppid")
        self.births = {str(note["number"]): note for note in view.of("note", what=BORN)}
        requests = [event["t"] for event in callback.requests if event.get("pid") in (self.child, self.supervisor)]
        born = [note["t"] for note in self.births.values()]
        self.since = min([entered["t"], *requests, *born])
        gone = _gone(view, self.supervisor) if self.supervisor else None
        self.until = gone["t"] if gone else None
        self.victim, self.idle, self.nodes = victim, idle, nodes
        self.stubbed = {(event["api"], event["seq"]) for event in view.of("wire", action="answer")}

    def absent(self, boundary: Boundary, t: float, wire: Event) -> str:
        """Why nobody can be killed at ``t``; empty if somebody can. ``wire`` is the request's event, if it is one.

        What the harness sees of a child's birth comes late, so whether it is there yet is for the run to tell.
        """
        over = boundary.kind in ("row", "event") and boundary.what in TERMINAL
        if boundary.what in ("scheduled", "pending", "queued"):
            return NOT_YET
        if t < self.since and (boundary.kind, boundary.what) != ("event", "running"):
            return NOT_YET  # the event says that some worker has it, seen or not
        if boundary.kind == "birth" and self.victim == "child" and self.births[boundary.what]["pid"] == self.supervisor:
            return IS_SUPERVISOR
        if self.victim == "child" and (over or boundary.what == "exit"):
            return NO_CHILD
        if wire and (wire["api"], wire["seq"]) in self.stubbed:
            return STUBBED
        if wire.get("pid") in self.nodes:
            return ""
        if self.until is not None and self.until < t and boundary.what != "exit":
            return ENDED
        return IDLE if over and not self.idle else ""
