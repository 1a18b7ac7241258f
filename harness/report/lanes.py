"""From the events of a history to the lanes of its time line: who did what, from when to when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.harness.history import Event
from executor_conformance.harness.report.visible import brief, one_line
from executor_conformance.harness.view import TERMINAL

TITLE = 220
"""Characters of the text of a mark."""
ROWS_OF_STATES = 8
"""At most so many rows of the database have a lane of their own."""

SCHEDULER, CONTROL, WORKER, CALLABLE, API, HARNESS = (
    "scheduler",
    "control plane",
    "worker",
    "callable",
    "API",
    "harness",
)
_LINES = {SCHEDULER: 2, CONTROL: 3, WORKER: 4, CALLABLE: 2, API: 4, HARNESS: 2}
_QUIET = ("slots", "rest", "bound", "probe", "inspection", "note", "end")


@dataclass(frozen=True)
class Item:
    """Something at ``t``, or from ``t`` to ``end`` (both in seconds since the origin of the run).

    ``look`` names its class of style, ``rank`` its weight: the lowest is drawn and labelled first. What is
    ``ambient`` (a poll, the slots) goes on when nothing happens.
    """

    t: float
    end: float | None
    label: str
    title: str
    look: str
    rank: int
    ambient: bool = False


@dataclass
class Lane:
    """One line of the picture with at most ``lines`` rows; ``states`` is a bar without gaps."""

    name: str
    lines: int = 1
    states: bool = False
    items: list[Item] = field(default_factory=list)


@dataclass
class Story:
    """All that could be drawn; ``faults`` go through all lanes; ``odd`` events could not be understood."""

    lanes: list[Lane]
    faults: Lane
    start: float
    end: float
    odd: int = 0
    notes: list[str] = field(default_factory=list)


def tell(events: list[Event]) -> Story | None:
    """The story of the events of one case; ``None`` if nothing in them can be drawn."""
    return _Teller(events).story() if events else None


class _Teller:
    def __init__(self, events: list[Event]) -> None:
        self.events = sorted(events, key=lambda event: event["t"])
        self.start, self.end = float(self.events[0]["t"]), float(self.events[-1]["t"])
        self.lanes = {name: Lane(name, lines) for name, lines in _LINES.items()}
        self.faults = Lane("fault", 3)
        self.rows: dict[str, list[Event]] = {}
        self.names: dict[str, str] = {}
        self.born: dict[Any, Event] = {}
        self.asked: dict[tuple[Any, Any], Event] = {}
        self.odd = 0
        self.notes: list[str] = []

    def story(self) -> Story | None:
        self._name(event for event in self.events if event["kind"] == "submitted")
        for event in self.events:
            teller = getattr(self, f"_{event['kind']}", None) if event["kind"] in _KINDS else None
            if event["kind"] != "header":
                self._try(teller or self._other, event)
        self._leftovers()
        lanes = [lane for lane in [*self._states(), *self.lanes.values()] if lane.items]
        if not lanes and not self.faults.items:
            return None
        return Story(lanes, self.faults, self.start, self.end, self.odd, self.notes)

    def _try(self, teller: Callable[..., None], *events: Event | None) -> None:
        """Let a broken event cost itself, and not the picture."""
        try:
            teller(*events)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            self.odd += 1

    # -- names ------------------------------------------------------------------------------------------

    def _name(self, submitted: Iterable[Event]) -> None:
        roles: dict[str, list[str]] = {}
        for event in submitted:
            if not event.get("callback"):
                continue
            roles.setdefault(str(event.get("role") or "callback"), []).append(str(event.get("callback")))
        for role, ids in roles.items():
            for number, each in enumerate(ids, 1):
                self.names[each] = role if len(ids) == 1 else f"{role} {number}"

    def _who(self, identifier: Any) -> str:
        text = str(identifier)
        if text.startswith("TaskInstanceKey("):
            return "task"
        return self.names.get(text) or (f"…{text[-6:]}" if "-" in text else brief(text, 24))

    def _of(self, identifier: Any) -> str:
        """Whose it is, where that is not plain: the subject's own marks need no name."""
        name = self._who(identifier)
        return "" if name == "subject" else f" · {name}"

    # -- one method per kind of event -------------------------------------------------------------------

    def _add(
        self, lane: str, event: Event, label: str, text: str, look: str, rank: int, end: float | None = None
    ) -> None:
        ambient = event["kind"] in _QUIET or event.get("api") == "edge"
        item = Item(float(event["t"]), end, brief(label, 48), self._title(event, text, end), look, rank, ambient)
        (self.faults if lane == "fault" else self.lanes[lane]).items.append(item)

    @staticmethod
    def _title(event: Event, text: str, end: float | None = None) -> str:
        span = f" to {end:.3f}" if end is not None and end > event["t"] else ""
        return f"{event['t']:.3f}{span} s  {one_line(text, TITLE)}"

    def _submitted(self, event: Event) -> None:
        who = self._who(event["callback"])
        self._add(
            HARNESS, event, f"submits {who}", f"submitted {who}: {_fields(event, 'callback', 'role')}", "plain", 3
        )

    def _row(self, event: Event) -> None:
        self.rows.setdefault(str(event["callback"]), []).append(event)

    def _task_row(self, event: Event) -> None:
        if event.get("table") == "task_instance":
            self.names.setdefault(str(event["id"]), "task")
            self.rows.setdefault(str(event["id"]), []).append(event)
            return
        table, new = str(event["table"]), str(event["new"])
        text = f"{table} {self._who(event['id'])}: {event.get('old')} → {new}"
        self._add(CONTROL, event, f"{table} {new}{self._of(event['id'])}", text, f"state {_state(new)}", 2)

    def _workload(self, event: Event) -> None:
        who = self._who(event["key"])
        text = f"queue_workload of {event.get('workload_type')} for {who}: {_fields(event, 'workload_type')}"
        self._add(SCHEDULER, event, f"queue_workload{self._of(event['key'])}", text, "plain", 1)

    def _scheduler(self, event: Event) -> None:
        what = str(event["what"])
        look = "bad" if what in ("gone", "hang") else "plain"
        message = str(event.get("message") or "")
        label = f"scheduler {what}" + (f": {message.partition(':')[0]}" if message else "")
        self._add(SCHEDULER, event, label, f"scheduler {what} {_fields(event, 'what')}", look, 0)

    def _runaway(self, event: Event) -> None:
        text = f"stopped, for it exceeded its budget: {_fields(event, 'growth', 'parents', 'largest')}"
        self._add(SCHEDULER, event, f"runaway: {event['what']}", text, "bad", 0)

    def _slots(self, event: Event) -> None:
        for executor, slots in event["executors"].items():
            running, queued = ([self._who(key) for key in slots[name]] for name in ("running", "queued"))
            text = f"slots of {executor}: running {', '.join(running) or 'none'}; queued {', '.join(queued) or 'none'}"
            self._add(SCHEDULER, event, f"{slots.get('occupied')}/{slots.get('parallelism')}", text, "quiet", 6)

    def _event(self, event: Event) -> None:
        state = str(event["state"])
        text = f"executor event for {self._who(event['key'])}: {_fields(event, 'kind')}"
        self._add(CONTROL, event, f"{state}{self._of(event['key'])}", text, f"state {_state(state)}", 1)

    def _effect(self, event: Event) -> None:
        what = str(event["what"])
        self._add(CALLABLE, event, what, f"callable: {_fields(event)}", "effect", 1)

    def _process(self, event: Event) -> None:
        pid = event["pid"]
        if event["what"] == "born":
            self.born[pid] = event
            return
        self._lived(self.born.pop(pid, None), event)

    def _lived(self, born: Event | None, gone: Event | None) -> None:
        event = born or gone or {}
        first, last = (born or {"t": self.start})["t"], gone["t"] if gone else self.end
        begin = f"born {first:.3f}" if born else "there before"
        finish = f"gone {last:.3f}" if gone else "there at the end"
        status = gone.get("status") if gone else None
        status = f", status {status}" if status is not None else ""
        text = f"process {event['pid']} (parent {event.get('ppid')}) {begin}, {finish}{status}: {event.get('title')}"
        killed = bool(gone) and isinstance((gone or {}).get("status"), int) and (gone or {})["status"] < 0
        label = brief(str(event.get("title") or ""), 40)
        look = "killed" if killed else "process"
        self._add(WORKER, {**event, "t": first}, f"{event['pid']} {label}", text, look, 2, float(last))

    def _wire(self, event: Event) -> None:
        key = (event.get("api"), event["seq"])
        if event["phase"] == "request":
            self.asked[key] = event
        elif event["phase"] == "response":
            self._answered(self.asked.pop(key, event), event)
        else:
            text = f"wire: {event.get('action')} {event.get('method')} {event.get('path')}"
            poll = event.get("api") == "edge"
            self._add(API, event, f"wire: {event.get('action')}", text, "fault", 4 if poll else 1)
            if event.get("action") == "client-gone" and key in self.asked:
                self._answered(self.asked.pop(key), {"t": event["t"], "status": "no answer, the client was gone"})

    def _answered(self, request: Event, response: Event | None) -> None:
        status = response.get("status") if response else "no answer"
        by = "" if not response or response.get("by") in (None, "server") else f" by {response['by']}"
        claims = (request.get("token") or {}).get("claims") or {}
        whose = f", token of scope {claims['scope']} for {self._who(claims.get('sub'))}" if claims.get("scope") else ""
        detail = f": {response['body_detail']}" if response and response.get("body_detail") else ""
        path = str(request["path"])
        for identifier, name in self.names.items():
            path = path.replace(identifier, f"<{name}>")
        edge = request.get("api") == "edge"
        refused = not isinstance(status, int) or status >= 400
        label = f"{request['method']} {_short(request)} {status if isinstance(status, int) else '(no answer)'}"
        end = float(response["t"]) if response else self.end
        text = f"{request['method']} {path} → {status}{by}{whose}{detail}"
        look = "refused" if refused else "poll" if edge else "wire"
        self._add(API, request, label, text, look, 5 if edge else 1, end)

    def _fault(self, event: Event) -> None:
        way = event.get("way") or event.get("victim") or event.get("rule") or event.get("status")
        label = str(event["name"]) + (f": {self._plain(str(way))}" if way else "")
        self._add("fault", event, label, f"fault {self._plain(_fields(event))}", "fault", 0)

    def _plain(self, text: str) -> str:
        for identifier, name in self.names.items():
            text = text.replace(identifier, f"<{name}>")
        return text

    def _rest(self, event: Event) -> None:
        self._add(HARNESS, event, "at rest", f"rest {self._plain(_fields(event))}", "proof", 2)

    def _bound(self, event: Event) -> None:
        self._add(HARNESS, event, "bound reached", f"bound {self._plain(_fields(event))}", "bad", 1)

    def _end(self, event: Event) -> None:
        trouble = str(event.get("trouble") or event.get("not_applicable") or event.get("unsupported") or "")
        if trouble:
            self._add(HARNESS, event, "trouble", f"end of the case: {trouble}", "bad", 1)

    def _other(self, event: Event) -> None:
        name = event.get("what") or event.get("name") or event["kind"]
        self._add(HARNESS, event, str(name), f"{event['kind']} {self._plain(_fields(event))}", "quiet", 4)

    # -- what is known only at the end ------------------------------------------------------------------

    def _leftovers(self) -> None:
        for born in self.born.values():
            self._try(self._lived, born, None)
        for request in self.asked.values():
            self._try(self._answered, request, None)

    def _states(self) -> Iterable[Lane]:
        order = list(self.names)
        rows = sorted(self.rows, key=lambda row: order.index(row) if row in self.names else len(order))
        if (left := len(rows) - ROWS_OF_STATES) > 0:
            self.notes.append(f"{left} more rows of the database have no lane")
        for row in rows[:ROWS_OF_STATES]:
            yield self._bar(row, sorted(self.rows[row], key=_sequence))

    def _bar(self, row: str, changes: list[Event]) -> Lane:
        lane = Lane(f"row: {self._who(row)}", states=True)
        for number, event in enumerate(changes):
            end = float(changes[number + 1]["t"]) if number + 1 < len(changes) else self.end
            new = str(event.get("new"))
            text = (
                f"row {self._who(row)} ({row}): {event.get('old')} → {new} {_fields(event, 'callback', 'old', 'new')}"
            )
            rank = 0 if new in TERMINAL or new == "running" else 1
            lane.items.append(
                Item(float(event["t"]), end, new, self._title(event, text, end), f"state {_state(new)}", rank)
            )
        return lane


_KINDS = frozenset(
    ("submitted", "row", "task_row", "workload", "scheduler", "slots", "event", "effect", "process", "wire", "fault")
).union(("rest", "bound", "runaway", "end"))


def _sequence(event: Event) -> tuple[float, float]:
    """The order in which a row was written, which several clocks need not agree on."""
    seq = event.get("seq")
    return float(seq) if isinstance(seq, int | float) else 0.0, float(event["t"])


def _fields(event: Event, *known: str) -> str:
    left_out = {"t", "kind", "seq", "executor", "token", "log_path", "digest", *known}
    fields = [(name, value) for name, value in event.items() if name not in left_out and value not in (None, "", {})]
    return " ".join(f"{name}={str(value)[:400]}" for name, value in fields)


def _state(name: str) -> str:
    return name if name in ("queued", "running", "success", "failed") else "early"


def _short(request: Event) -> str:
    """The end of a route, without what all routes have in common."""
    route = str(request.get("route") or request["path"]).replace("{id}", "…")
    parts = [part for part in route.split("/") if part][1:]
    return "/".join(parts[:1] + parts[-1:] if len(parts) > 3 else parts)
