"""Rules that make requests, watches and the kubelet misbehave; set through the admin API."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.backends.kubernetes.emulator.selectors import Predicate, label_selector
from executor_conformance.backends.kubernetes.emulator.status import ApiError, Obj

VERBS = ("create", "get", "list", "watch", "patch", "update", "delete", "deletecollection", "log", "*")
POINTS = ("schedule", "pull", "start")
WATCH_ACTIONS = ("watch-error", "watch-drop", "watch-hang")
REQUEST_ACTIONS = ("status", "close", "hang", "delay", "drop-response", *WATCH_ACTIONS)
POINT_ACTIONS = ("never", "ErrImagePull", "StartError", "Evicted")
_ONLY_AT = {"ErrImagePull": "pull", "StartError": "start"}

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
_FIELDS = {"verb", "resource", "point", "name", "selector", "times", "skip", "action"}
_ACTION_FIELDS = {
    "status": {"code", "reason", "message", "retry_after"},
    "delay": {"seconds"},
    "watch-error": {"code", "reason", "message"},
}


class BadRule(ValueError):
    """A rule that means nothing; the message is one sentence."""


@dataclass(eq=False)
class Fault:
    """One rule. ``removed`` is set when it is taken out; ``hits`` counts what it was applied to.

    The first ``skip`` matches pass, then ``times`` matches (None: all) are hit. Watches that are open when a rule
    on watches is made are hit too, and count in ``hits`` alone.
    """

    id: str
    verb: str
    resource: str
    point: str
    name: str | None
    selector: str | None
    times: int | None
    skip: int
    action: Obj
    hits: int = 0
    removed: asyncio.Event = field(default_factory=asyncio.Event)
    _taken: int = 0
    _skipped: int = 0

    def __post_init__(self) -> None:
        self._name = re.compile(self.name) if self.name else None
        self._labels: Predicate | None = label_selector(self.selector)

    @property
    def type(self) -> str:
        """Of the action."""
        return str(self.action["type"])

    @property
    def lasting(self) -> bool:
        """Whether it hits again and again until it is removed."""
        return self.times is None and not self.removed.is_set()

    def document(self) -> Obj:
        """As the admin API shows it."""
        target = {"point": self.point} if self.point else {"verb": self.verb, "resource": self.resource}
        rest = {"name": self.name, "selector": self.selector, "times": self.times, "skip": self.skip}
        return {"id": self.id, **target, **rest, "action": self.action, "hits": self.hits}

    def concerns(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """Whether the name and the labels of an object (None: no single object) are those asked for."""
        if self._name is not None and not self._name.search(name):
            return False
        return self._labels is None or (labels is not None and self._labels(labels))

    def take(self) -> bool:
        """Count a match; whether it is hit."""
        if self.times is not None and self._taken >= self.times:
            return False
        if self._skipped < self.skip:
            self._skipped += 1
            return False
        self._taken += 1
        self.hits += 1
        return True

    @property
    def spent(self) -> bool:
        """Whether it has hit all it was to hit."""
        return self.times is not None and self._taken >= self.times


class Faults:
    """All rules, asked in the order of their making; the first that hits is applied."""

    def __init__(self) -> None:
        self.rules: dict[str, Fault] = {}
        self.added: list[Callable[[Fault], None]] = []
        self._ids = itertools.count(1)

    def add(self, rule: Any) -> Fault:
        """Make a rule from its JSON.

        :raises BadRule: it means nothing.
        """
        fault = _parse(rule, f"f{next(self._ids)}")
        self.rules[fault.id] = fault
        for listener in self.added:
            listener(fault)
        return fault

    def remove(self, fault_id: str) -> bool:
        """Take a rule out and let go of what it holds; whether it was there."""
        fault = self.rules.pop(fault_id, None)
        if fault is not None:
            fault.removed.set()
        return fault is not None

    def clear(self) -> None:
        """Take all rules out."""
        for fault_id in list(self.rules):
            self.remove(fault_id)

    def for_request(
        self, verb: str, resource: str, name: str, labels: Callable[[], Mapping[str, str] | None]
    ) -> Fault | None:
        """The rule that hits a request; ``labels`` gives those of the object that the request is about."""
        for fault in list(self.rules.values()):
            if fault.point or fault.verb not in ("*", verb) or fault.resource not in ("*", resource):
                continue
            if fault.type in WATCH_ACTIONS and verb != "watch":
                continue
            if fault.concerns(name, labels() if fault.selector else None) and fault.take():
                return fault
        return None

    def for_point(self, point: str, name: str, labels: Mapping[str, str]) -> Fault | None:
        """The rule that hits a pod at a point of the kubelet's work."""
        for fault in list(self.rules.values()):
            if fault.point == point and fault.concerns(name, labels) and fault.take():
                return fault
        return None


def _parse(rule: Any, fault_id: str) -> Fault:
    if not isinstance(rule, dict):
        raise BadRule("a fault is an object with 'verb' or 'point', and 'action'")
    if unknown := sorted(rule.keys() - _FIELDS):
        raise BadRule(f"a fault has no field {', '.join(map(repr, unknown))}; it has {', '.join(sorted(_FIELDS))}")
    action = rule.get("action")
    if not isinstance(action, dict) or not isinstance(action.get("type"), str):
        raise BadRule("the fault's 'action' is an object with a 'type'")
    point, verb = rule.get("point") or "", rule.get("verb") or "*"
    if point and rule.get("verb"):
        raise BadRule("a fault has 'verb' or 'point', not both")
    if point and point not in POINTS:
        raise BadRule(f"the fault's 'point' is one of {', '.join(POINTS)}, not {point!r}")
    if verb not in VERBS:
        raise BadRule(f"the fault's 'verb' is one of {', '.join(VERBS)}, not {verb!r}")
    known = POINT_ACTIONS if point else REQUEST_ACTIONS
    if action["type"] not in known:
        raise BadRule(f"the action of such a fault is one of {', '.join(known)}, not {action['type']!r}")
    if point and _ONLY_AT.get(action["type"], point) != point:
        raise BadRule(f"the action {action['type']!r} needs the point {_ONLY_AT[action['type']]!r}, not {point!r}")
    if action["type"] in WATCH_ACTIONS and verb not in ("watch", "*"):
        raise BadRule(f"the action {action['type']!r} needs the verb 'watch', not {verb!r}")
    for name in ("times", "skip"):
        value = rule.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise BadRule(f"the fault's {name!r} is a whole number, not {value!r}")
    for name in ("name", "selector", "resource"):
        if rule.get(name) is not None and not isinstance(rule[name], str):
            raise BadRule(f"the fault's {name!r} is a string, not {rule[name]!r}")
    if rule.get("selector") and verb in ("list", "watch", "deletecollection"):
        raise BadRule(f"a fault with the verb {verb!r} can't have a selector: such a request is about no single object")
    try:
        return Fault(
            id=fault_id,
            verb=verb,
            resource=rule.get("resource") or ("pods" if point else "*"),
            point=point,
            name=rule.get("name"),
            selector=rule.get("selector"),
            times=rule.get("times"),
            skip=rule.get("skip") or 0,
            action=_action(action),
        )
    except re.error as error:
        raise BadRule(f"the fault's 'name' is no regular expression: {error}") from None
    except ApiError as error:
        raise BadRule(f"the fault's 'selector' is no label selector: {error.message}") from None


def _action(action: Obj) -> Obj:
    allowed = _ACTION_FIELDS.get(action["type"], set())
    if unknown := sorted(action.keys() - allowed - {"type"}):
        raise BadRule(f"the action {action['type']!r} has no field {', '.join(map(repr, unknown))}")
    if action["type"] == "delay" and not (
        isinstance(action.get("seconds"), int | float) and 0 <= action["seconds"] <= 3600
    ):
        raise BadRule("the action 'delay' needs 'seconds' from 0 to 3600")
    if action["type"] in ("status", "watch-error"):
        code = action.setdefault("code", 410) if action["type"] == "watch-error" else action.get("code")
        if not isinstance(code, int) or not 400 <= code <= 599:
            raise BadRule(f"the action {action['type']!r} needs a 'code' from 400 to 599")
        retry = action.get("retry_after")
        if retry is not None and (not isinstance(retry, int) or retry < 0):
            raise BadRule("the action's 'retry_after' is a whole number of seconds")
    return dict(action)


def error_of(action: Obj) -> ApiError:
    """The error that an action 'status' or 'watch-error' sends."""
    code = action["code"]
    reason = action.get("reason") or _REASONS.get(code, "")
    message = action.get("message") or ("too old resource version" if code == 410 else f"injected fault: {code}")
    return ApiError(code, reason, message, retry_after=action.get("retry_after"))
