"""Label and field selectors: ``a=b,c!=d,e in (f,g),h notin (i),j,!k`` and ``status.phase!=Running``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from executor_conformance.backends.kubernetes.emulator.status import bad_request

Predicate = Callable[[Mapping[str, str]], bool]

_NAME = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^()]*)\)")
_EQUALITY = re.compile(rf"({_NAME})\s*(==|=|!=)\s*({_VALUE})")
_EXISTS = re.compile(rf"(!?)\s*({_NAME})")
_VALUES = re.compile(_VALUE)
_FIELD = re.compile(r"([^=!,\s]+)\s*(==|!=|=)\s*(.*)")


def _split(text: str) -> list[str]:
    """At the commas outside of parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text)]


def _requirement(text: str) -> Predicate:
    if found := _SET.fullmatch(text):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if all(_VALUES.fullmatch(value) for value in values):
            if operator == "in":
                return lambda labels: key in labels and labels[key] in values
            return lambda labels: key not in labels or labels[key] not in values
    elif found := _EQUALITY.fullmatch(text):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    elif found := _EXISTS.fullmatch(text):
        negated, key = found.groups()
        return (lambda labels: key not in labels) if negated else (lambda labels: key in labels)
    raise bad_request(f"unable to parse requirement: found '{text}', expected: a label selector requirement")


def label_selector(text: str | None) -> Predicate | None:
    """What a label selector asks of a mapping of labels; None if it asks nothing.

    :raises ApiError: 400, it is malformed.
    """
    if not text or not text.strip():
        return None
    requirements = [_requirement(part) for part in _split(text)]
    return lambda labels: all(requirement(labels) for requirement in requirements)


def field_terms(text: str | None) -> list[tuple[str, str, str]]:
    """A field selector as (field, "=" or "!=", value), with the escapes of values undone.

    :raises ApiError: 400, it is malformed.
    """
    terms = []
    for part in re.split(r"(?<!\\),", text or ""):
        if not part.strip():
            continue
        found = _FIELD.fullmatch(part.strip())
        if not found:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        field, operator, value = found.groups()
        terms.append((field, "!=" if operator == "!=" else "=", re.sub(r"\\([\\,=])", r"\1", value)))
    return terms


def field_selector(text: str | None, known: frozenset[str]) -> Predicate | None:
    """What a field selector asks of a mapping of fields; None if it asks nothing.

    :param known: the fields that the resource can be selected by.
    :raises ApiError: 400, it is malformed or names another field.
    """
    terms = field_terms(text)
    for field, _, _ in terms:
        if field not in known:
            raise bad_request(f"field label not supported: {field}")
    if not terms:
        return None
    return lambda fields: all((fields.get(field, "") == value) == (op == "=") for field, op, value in terms)
