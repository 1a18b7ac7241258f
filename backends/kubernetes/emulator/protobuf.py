"""The few protobuf bodies that kubectl (from 1.32 on) sends: namespaces, access reviews, options of a deletion.

A body is ``k8s\\0`` and a ``runtime.Unknown``; field numbers are those of the ``generated.proto`` files of
Kubernetes. Answers are JSON, which these clients accept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from executor_conformance.backends.kubernetes.emulator.status import Obj, bad_request, unsupported_media_type

PROTOBUF = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\0"

Schema = dict[int, tuple[str, Any]]
"""Field number to name and type: str, int, dict (a map of strings) or the schema of a message."""

_METADATA: Schema = {1: ("name", str), 2: ("generateName", str), 11: ("labels", dict), 12: ("annotations", dict)}
_ATTRIBUTES: Schema = {
    number: (name, str)
    for number, name in enumerate(("namespace", "verb", "group", "version", "resource", "subresource", "name"), 1)
}
_ACCESS: Schema = {
    1: ("resourceAttributes", _ATTRIBUTES),
    2: ("nonResourceAttributes", {1: ("path", str), 2: ("verb", str)}),
}
_KINDS: dict[str, Schema] = {
    "Namespace": {1: ("metadata", _METADATA)},
    "SelfSubjectAccessReview": {2: ("spec", _ACCESS)},
    "SelfSubjectRulesReview": {2: ("spec", {1: ("namespace", str)})},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", int),
        2: ("preconditions", {1: ("uid", str), 2: ("resourceVersion", str)}),
        4: ("propagationPolicy", str),
    },
}
_UNKNOWN: Schema = {1: ("typeMeta", {1: ("apiVersion", str), 2: ("kind", str)}), 2: ("raw", bytes)}


def decode(body: bytes) -> Obj:
    """The object in a body.

    :raises ApiError: 400, it is malformed; 415, objects of its kind are read as JSON only.
    """
    if not body.startswith(_MAGIC):
        raise bad_request("the body is not in the protobuf format of Kubernetes")
    try:
        envelope = _message(body[len(_MAGIC) :], _UNKNOWN)
        kind = envelope.get("typeMeta", {}).get("kind", "")
        if kind not in _KINDS:
            raise unsupported_media_type(f"{PROTOBUF} with a {kind or 'nameless kind'}", ["application/json"])
        return {**envelope["typeMeta"], **_message(envelope.get("raw", b""), _KINDS[kind])}
    except (IndexError, ValueError, TypeError):
        raise bad_request("the protobuf body is malformed") from None


def _message(data: bytes, schema: Schema) -> Obj:
    result: Obj = {}
    for number, value in _fields(data):
        if number not in schema:
            continue
        name, type_ = schema[number]
        if isinstance(value, bytes) == (type_ is int):
            raise ValueError("another wire type")
        if type_ is dict:
            entry = _message(value, {1: ("key", str), 2: ("value", str)})
            result.setdefault(name, {})[entry.get("key", "")] = entry.get("value", "")
        elif type_ is str:
            result[name] = value.decode()
        elif isinstance(type_, dict):
            result[name] = _message(value, type_)
        else:
            result[name] = value
    return result


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers with an int (varint) or bytes (length-delimited, fixed)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value - (1 << 64) if value >> 63 else value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(wire, -1)
        if length < 0 or at + length > len(data):
            raise ValueError("truncated")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("too long")
