"""Faults that the harness asks for: at the API, at a client's credentials, at the start and the end of a container."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

from executor_conformance.harness.errors import UsageError

SERVICES = ("ecs", "batch", "lambda", "sqs")
POINTS = ("start", "report")

_API = frozenset({"error", "close", "hang", "delay", "drop-response"})
_RUN_TASK = frozenset({"failures", "empty"})
_SEND_MESSAGE = frozenset({"lose", "duplicate", "delay-delivery"})
_START = frozenset({"never", "image-missing", "killed-before-start", "init-error"})
_REPORT = frozenset({"no-exit-code", "vanish"})
_CREDENTIALS = frozenset({"missing", "failing"})
_TARGETS = ("operation", "point", "credentials")
"""What a rule is about: requests for an operation, a point of the data plane, or credentials for an operation."""


@dataclass
class Fault:
    """One rule. ``target`` is an operation or a point of the data plane; ``about`` is one of ``_TARGETS``."""

    id: str
    service: str
    target: str
    about: str
    action: dict[str, Any]
    times: int | None
    skip: int
    hits: int = 0
    seen: int = 0
    removed: threading.Event = field(default_factory=threading.Event)

    @property
    def type(self) -> str:
        """Of the action."""
        return str(self.action["type"])

    def describe(self) -> dict[str, Any]:
        """As the admin API shows it."""
        return {
            "id": self.id,
            "service": self.service,
            self.about: self.target,
            "action": self.action,
            "times": self.times,
            "skip": self.skip,
            "hits": self.hits,
        }


class Faults:
    """The rules in force; the first that matches and is not used up is applied."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)

    def add(self, rule: Any) -> Fault:
        """Put a rule into force.

        :raises UsageError: it says nothing that could be done.
        """
        fault = _parse(rule, f"fault-{next(self._ids)}")
        with self._lock:
            self._faults.append(fault)
        return fault

    def take(self, service: str, target: str, about: str = "operation") -> Fault | None:
        """The fault to apply to this request or run, counted as a hit."""
        with self._lock:
            for fault in self._faults:
                if fault.about != about or fault.service not in ("*", service) or fault.target not in ("*", target):
                    continue
                fault.seen += 1
                if fault.seen > fault.skip and (fault.times is None or fault.hits < fault.times):
                    fault.hits += 1
                    return fault
        return None

    def remove(self, identity: str | None = None) -> bool:
        """Take one rule, or all, out; what hangs by it goes on. False if there was none."""
        with self._lock:
            gone = [fault for fault in self._faults if identity in (None, fault.id)]
            self._faults = [fault for fault in self._faults if fault not in gone]
        for fault in gone:
            fault.removed.set()
        return bool(gone)

    def describe(self) -> list[dict[str, Any]]:
        """All rules, oldest first."""
        with self._lock:
            return [fault.describe() for fault in self._faults]


def _number(action: dict[str, Any], key: str) -> None:
    value = action.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 3600:
        raise UsageError(f"The action '{action['type']}' needs '{key}', a number from 0 to 3600.")


def _parse(rule: Any, identity: str) -> Fault:
    if not isinstance(rule, dict) or not isinstance(rule.get("action"), dict):
        raise UsageError('A fault is an object with "service", "operation", "point" or "credentials", and "action".')
    if unknown := set(rule) - {"service", *_TARGETS, "action", "times", "skip"}:
        raise UsageError(f"A fault has no '{min(unknown)}'.")
    service, action = rule.get("service"), rule["action"]
    if service not in (*SERVICES, "*"):
        raise UsageError(f"There is no service '{service}' here; one of {', '.join(SERVICES)}.")
    given = [name for name in _TARGETS if name in rule]
    if len(given) != 1:
        raise UsageError('A fault has one of "operation", "point" and "credentials".')
    about, target = given[0], rule[given[0]]
    if not isinstance(target, str) or (about == "point" and target not in POINTS):
        raise UsageError(f"There is no point '{target}'; one of {', '.join(POINTS)}.")
    if about == "credentials":
        allowed = _CREDENTIALS
    elif about == "point":
        allowed = _START if target == "start" else _REPORT
        if action.get("type") == "init-error" and service != "lambda":
            raise UsageError("Only the service lambda has the action 'init-error'.")
    else:
        more = {"RunTask": _RUN_TASK, "SendMessage": _SEND_MESSAGE}.get(target, frozenset())
        allowed = _API | more
    if not isinstance(action.get("type"), str) or action["type"] not in allowed:
        names = ", ".join(sorted(allowed))
        raise UsageError(f"The action '{action.get('type')}' is not one for {target}; one of {names}.")
    times, skip = rule.get("times"), rule.get("skip", 0)
    if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
        raise UsageError("'times' is a positive whole number, or null for always.")
    if not isinstance(skip, int) or isinstance(skip, bool) or skip < 0:
        raise UsageError("'skip' is a whole number from 0.")
    if action["type"] in ("delay", "delay-delivery"):
        _number(action, "seconds")
    if action["type"] == "error":
        if not isinstance(action.get("code"), str):
            raise UsageError("The action 'error' needs 'code', such as ThrottlingException.")
        status = action.setdefault("status", 400)
        if not isinstance(status, int) or not 400 <= status <= 599:
            raise UsageError("'status' of the action 'error' is a number from 400 to 599.")
        action.setdefault("message", "Rate exceeded" if "hrottl" in action["code"] else action["code"])
    return Fault(identity, str(service), target, about, action, times, skip)
