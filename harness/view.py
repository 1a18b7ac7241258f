"""The history as the checks read it: one view per callback, and what concerns all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.edition import CLAIM_ROUTE, STATE_ROUTE, Edition
from executor_conformance.harness.history import Event, History
from executor_conformance.harness.limits import LIMITS

WAITING = frozenset({"scheduled", "pending"})
"""States of rows that core will hand to an executor yet."""
TERMINAL = frozenset({"success", "failed"})
TASK_ENDED = ("success", "failed", "skipped", "upstream_failed", "up_for_retry", "removed")
NOTICED_S = 5.0
"""Seconds after the end of a row within which its executor must have noticed, if nothing came to rest."""

GRANTED_TWICE = "the server let in the claims of two workers, see TOKEN-4"
"""Why nobody can say whether an executor ran a callable twice."""


def line(event: Event, *names: str) -> str:
    """One line of evidence from an event: its time, its kind and the fields named."""
    fields = " ".join(f"{name}={event[name]}" for name in names if event.get(name) is not None)
    return f"{event['t']:.3f} {event['kind']} {fields}"


@dataclass
class CallbackView:
    """Everything that the history says about one callback, oldest first."""

    id: str
    submitted: Event
    history: HistoryView = field(repr=False)

    @property
    def role(self) -> str:
        """'subject', 'follow-up' or 'filler'."""
        return str(self.submitted["role"])

    @property
    def expect(self) -> str:
        """'success', 'failure' or 'terminal'."""
        return str(self.submitted["expect"])

    @property
    def probe(self) -> str:
        """The name under which the callable reports."""
        return str(self.submitted["probe"])

    @cached_property
    def rows(self) -> list[Event]:
        """Transitions of the row, in the order of their writes."""
        return sorted(self.history.of("row", callback=self.id), key=lambda event: event["seq"])

    @cached_property
    def states(self) -> list[str]:
        """States of the row from QUEUED on."""
        states = [row["new"] for row in self.rows]
        return states[states.index("queued") :] if "queued" in states else []

    @property
    def final(self) -> str | None:
        """The row's last state; None also of one that was deleted."""
        return self.rows[-1]["new"] if self.rows else None

    @property
    def deleted(self) -> Event | None:
        """The deletion of the row."""
        return self.rows[-1] if self.rows and self.rows[-1]["new"] is None else None

    @cached_property
    def terminal(self) -> Event | None:
        """The transition that first made the row terminal."""
        return next((row for row in self.rows if row["new"] in TERMINAL), None)

    @cached_property
    def output(self) -> str:
        """The row's ``output`` as last written with a transition."""
        return next((row["output"] for row in reversed(self.rows) if row.get("output")), "")

    @cached_property
    def events(self) -> list[Event]:
        """The executor's events for the callback's own key."""
        return self.history.of("event", key=self.id)

    @cached_property
    def workload(self) -> Event | None:
        """What core handed to ``queue_workload``."""
        return next(iter(self.history.of("workload", key=self.id)), None)

    @cached_property
    def effects(self) -> list[Event]:
        """What its callable reported, also without a name if it was the last to be submitted by then."""
        return [
            event
            for event in self.history.of("effect")
            if event["probe"] == self.probe or (event["probe"] is None and self._is_last_before(event["t"]))
        ]

    def _is_last_before(self, t: float) -> bool:
        """A report without a name comes from a callable whose kwargs were lost, or that takes none."""
        earlier = [view for view in self.history.callbacks if view.submitted["t"] <= t]
        alone = len([1 for view in earlier if view.role != "follow-up"]) == 1
        return alone and earlier[-1] is self

    def reported(self, what: str) -> list[Event]:
        """Reports of one kind: 'enter', 'return', 'effect', 'answered', …"""
        return [event for event in self.effects if event["what"] == what]

    @property
    def executions(self) -> int:
        """How often the callable ran: as many times as its most repeated report; an import is no run."""
        counts: dict[str, int] = {}
        for event in self.effects:
            if event["what"] != "import":
                counts[event["what"]] = counts.get(event["what"], 0) + 1
        return max(counts.values(), default=0)

    @cached_property
    def granted_twice(self) -> bool:
        """True if the server let in the claims of two workers, although a claim is good for one: core's defect.

        Each of them then runs the callable as it should (TOKEN-4; a claim is not exclusive on SQLite).
        """
        if not self.history.offers.has_claim or self.history.offers.idempotent:
            return False
        return len({event["seq"] for event in self._claims_let_in}) > 1

    @property
    def ran_again(self) -> bool:
        """True if the callable's code ran more than once, and nobody but the executor can have caused it."""
        return self.executions > 1 and not self.granted_twice

    @cached_property
    def proofs(self) -> list[Event]:
        """Where a wait for the callback ended: its ``rest`` and ``bound`` events."""
        waits = [event for event in self.history.events if event["kind"] in ("rest", "bound")]
        return [event for event in waits if self.id in (event.get("states") or {})]

    @property
    def settled(self) -> bool:
        """Whether what is missing will not come: the row has ended, or it was waited for in its last state."""
        return (
            self.final in TERMINAL
            or self.deleted is not None
            or any(proof["states"][self.id] == self.final for proof in self.proofs)
        )

    @property
    def keeps_slot(self) -> bool | None:
        """Whether an executor counts it although nothing goes on; None if the history cannot tell."""
        slots = self.history.last_slots
        if slots is None:
            # They are noted when they change, so where steps were seen and no slots, the key was never in them
            others = self.history.of("slots") or self.history.of("scheduler")
            return False if (self.events or self.workload) and not others else None
        if not self.holds_slot(slots):
            return False
        ended = self.terminal["t"] if self.terminal else None
        for proof in self.proofs:
            still = self.id in proof.get("holding_slots", ())
            if still and (at_rest(proof) or (ended is not None and proof["t"] - ended > NOTICED_S)):
                return True
        return None

    @cached_property
    def requests(self) -> list[Event]:
        """Requests to the Execution API on the callback's behalf: by path, by token, or by process."""
        mine = []
        # The first report of a process names its supervisor; an orphan's later ones name who inherited it
        parents = {event["pid"]: event.get("ppid") for event in reversed(self.effects) if not event.get("space")}
        pids = {*parents, *parents.values()} - {None}
        requests = [event for event in self.history.of("wire", api="execution") if event["phase"] == "request"]
        for event in requests:
            claims = ((event.get("token") or {}).get("claims")) or {}
            if self.id in event["path"] or claims.get("sub") == self.id:
                mine.append(event)
                if event.get("pid"):
                    pids.add(event["pid"])
        first, last = (self.workload or self.submitted)["t"], self._end()
        others = {view.id for view in self.history.callbacks} | self.history.task_instances
        others |= set(self.history.header.get("earlier_callbacks", ()))
        others.discard(self.id)
        for event in requests:
            claims = ((event.get("token") or {}).get("claims")) or {}
            belongs_elsewhere = claims.get("sub") in others or any(other in event["path"] for other in others)
            if event not in mine and event.get("pid") in pids and first <= event["t"] <= last and not belongs_elsewhere:
                mine.append(event)
        return sorted(mine, key=lambda event: event["seq"])

    def _end(self) -> float:
        if self.terminal:
            return float(self.terminal["t"]) + 0.05
        return float(self.history.events[-1]["t"])

    def responses(self, requests: list[Event]) -> list[Event]:
        """The answers to some requests."""
        numbers = {event["seq"] for event in requests}
        return [
            event for event in self.history.of("wire", api="execution", phase="response") if event["seq"] in numbers
        ]

    @cached_property
    def claims(self) -> list[Event]:
        """Requests to the claim route of this callback."""
        return self._requests_to(CLAIM_ROUTE)

    def _requests_to(self, route: str) -> list[Event]:
        return [event for event in self.requests if event["path"].endswith(f"/callbacks/{self.id}/{route}")]

    @cached_property
    def claimed(self) -> Event | None:
        """The answer of the server to the first claim that succeeded."""
        return next(iter(self._claims_let_in), None)

    @cached_property
    def _claims_let_in(self) -> list[Event]:
        answers = self.responses(self.claims)
        return [event for event in answers if 200 <= event["status"] < 300 and event.get("by") != "rule"]

    @cached_property
    def claims_answered(self) -> list[Event]:
        """Claims that succeeded and whose answer the worker got."""
        lost = {
            event["seq"]
            for event in self.history.of("wire", api="execution", phase="fault")
            if event.get("action") in ("drop-response", "dropped")
        }
        good = {event["seq"] for event in self._claims_let_in} - lost
        return [event for event in self.claims if event["seq"] in good]

    @cached_property
    def end_reports(self) -> list[Event]:
        """Requests to the state route of this callback, by which its worker reports the end."""
        return self._requests_to(STATE_ROUTE)

    @cached_property
    def end_taken(self) -> Event | None:
        """The answer of the server to the first report of the end that it took; ``says`` is the state reported."""
        answers = self.responses(self.end_reports)
        return next((one for one in answers if 200 <= one["status"] < 300 and one.get("by") != "rule"), None)

    @cached_property
    def from_the_end_on(self) -> list[str]:
        """States of the row from its first terminal state on."""
        states = [str(row["new"]) for row in self.rows if row["new"] is not None]
        return states[states.index(self.terminal["new"]) :] if self.terminal else []

    @cached_property
    def differs_from_report(self) -> bool:
        """True if core took the end from the worker for final, and the row is, or was later, in another state."""
        if not self.history.offers.end_is_final or self.end_taken is None:
            return False
        return len(self.from_the_end_on) != 1 or self.from_the_end_on[0] != self.end_taken.get("says", self.final)

    def holds_slot(self, slots: Event) -> bool:
        """Whether an executor counts the callback in a ``slots`` event."""
        return any(
            self.id in executor["running"] or self.id in executor["queued"] for executor in slots["executors"].values()
        )

    def story(self, limit: int = 6) -> tuple[str, ...]:
        """The most telling lines about the callback, for evidence."""
        lines = [line(row, "old", "new", "output") for row in self.rows if row["new"] not in ("scheduled", "pending")]
        lines += [line(event, "what", "pid") for event in self.effects]
        lines += [line(event, "state", "key_type", "info") for event in self.events]
        lines += [line(event, "name", "victim", "pids") for event in self.history.of("fault")]
        lines.sort(key=lambda text: float(text.split(" ", 1)[0]))
        rest = [
            line(event, "states", "holding_slots", "alive", "quiet_s", "quiet_steps")
            for event in [*self.history.of("rest"), *self.history.of("bound")]
            if self.id in str(event.get("states", ""))
        ]
        return (*lines[-limit + len(rest[-1:]) :], *rest[-1:])


def at_rest(proof: Event) -> bool:
    """Whether a ``rest`` or ``bound`` event shows that nothing was alive, for long enough."""
    return not proof.get("alive") and proof.get("quiet_steps", 0) >= LIMITS.quiet_steps


class HistoryView:
    """A history, indexed for the checks; what follows its ``end`` is the repair of the environment."""

    def __init__(self, history: History) -> None:
        self.events = list(history.events)
        ends = [index for index, event in enumerate(self.events) if event["kind"] == "end"]
        if ends:
            self.events = self.events[: ends[0] + 1]
        self.header = self.events[0]
        self._by_kind: dict[str, list[Event]] = {}
        for event in self.events:
            self._by_kind.setdefault(event["kind"], []).append(event)

    def of(self, kind: str, **fields: Any) -> list[Event]:
        """Events of ``kind`` whose fields equal those given."""
        return [
            event
            for event in self._by_kind.get(kind, [])
            if all(event.get(name) == value for name, value in fields.items())
        ]

    @property
    def edition(self) -> str:
        """The edition of the running core."""
        return str(self.header.get("edition", ""))

    @cached_property
    def offers(self) -> Edition:
        """What the running core offers for callbacks."""
        return load_catalogue().edition_or_latest(self.edition)

    @cached_property
    def callbacks(self) -> list[CallbackView]:
        """All callbacks of the case."""
        return [CallbackView(event["callback"], event, self) for event in self.of("submitted")]

    @property
    def subjects(self) -> list[CallbackView]:
        """The callbacks that the case is about."""
        return [view for view in self.callbacks if view.role == "subject"]

    @property
    def follow_ups(self) -> list[CallbackView]:
        """The callbacks that show that the environment still works."""
        return [view for view in self.callbacks if view.role == "follow-up"]

    def probe(self, name: str) -> list[Event]:
        """What the harness itself asked or looked up, by name."""
        return self.of("probe", name=name)

    @cached_property
    def slots(self) -> list[Event]:
        """The slots of the scheduler that is on at the end, oldest first; a dead one's say nothing."""
        since = max((index for index, event in enumerate(self.events) if event["kind"] == "scheduler"), default=0)
        return [event for event in self.events[since:] if event["kind"] == "slots"]

    @property
    def last_slots(self) -> Event | None:
        """The slots as last seen."""
        return self.slots[-1] if self.slots else None

    @cached_property
    def task_instances(self) -> set[str]:
        """Ids of the task instances of the case."""
        made = {ti for run in self.of("note", what="dag run") for ti in run["task_instances"].values()}
        return made | {row["id"] for row in self.of("task_row", table="task_instance")}

    def task_rows(self, task_instance: str) -> list[Event]:
        """Transitions of a task instance's row; other tables may hold rows under the same id."""
        return self.of("task_row", table="task_instance", id=task_instance)

    @cached_property
    def scheduler_pids(self) -> set[int]:
        """Pids of all scheduler processes of the case."""
        pids = {event["pid"] for event in self.of("scheduler") if event.get("pid")}
        return pids | ({self.header["scheduler_pid"]} if self.header.get("scheduler_pid") else set())

    def faults_of(self, name: str) -> list[Event]:
        """Return the faults of one name, oldest first."""
        return self.of("fault", name=name)

    def faults(self) -> Iterator[Event]:
        """The faults, oldest first."""
        yield from self._by_kind.get("fault", [])
