"""Values that plain JSON has no form for, as they pass between the harness, Airflow and the callables.

The form is a one-key mapping: ``{"$datetime": "2026-01-02T03:04:05+00:00"}``, ``{"$set": [...]}`` or
``{"$uuid": "…"}``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
from typing import Any


def encode(value: Any) -> Any:
    """A JSON-safe form of ``value``; what has no form becomes ``{"$repr": "…"}``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dt.datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, uuid.UUID):
        return {"$uuid": str(value)}
    if isinstance(value, set | frozenset):
        return {"$set": sorted((encode(item) for item in value), key=repr)}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return {"$repr": repr(value)[:500]}


def decode(value: Any) -> Any:
    """The value that :func:`encode` was given."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, item),) = value.items()
        if key == "$datetime":
            return dt.datetime.fromisoformat(item)
        if key == "$uuid":
            return uuid.UUID(item)
        if key == "$set":
            return {decode(member) for member in item}
    return {key: decode(item) for key, item in value.items()}


def digest(value: Any) -> str:
    """A short digest of a JSON-safe value, to compare what is too long to keep."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
