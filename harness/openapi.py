"""What an OpenAPI document says: its operations, and a request for each that is filled in by the types it names."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

METHODS = ("get", "head", "options", "post", "put", "patch", "delete")
"""In the order in which the operations of a path are given: what deletes comes last."""
_FORMATS = {
    "uuid": "00000000-0000-4000-8000-000000000000",
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "uri": "https://conformance.example/",
    "email": "conformance@conformance.example",
    "ipv4": "127.0.0.1",
    "binary": "",
}
_DEEPEST = 8
"""Where a schema that contains itself is cut off."""


@dataclass(frozen=True)
class Operation:
    """One method of one path, as the document describes it; ``path`` has its placeholders in braces."""

    method: str
    path: str
    parameters: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any] | None
    document: Mapping[str, Any]
    answers: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"

    @property
    def ids(self) -> tuple[str, ...]:
        """The placeholders of the path that stand for the id of something: those of the format 'uuid'."""
        return tuple(
            str(found["name"])
            for found in self.parameters
            if found["in"] == "path" and _resolved(self.document, found.get("schema", {})).get("format") == "uuid"
        )

    def target(self, identity: str, word: str) -> str:
        """The path and the query with every required parameter: ids are ``identity``, other strings ``word``."""
        path, query = self.path, {}
        for found in self.parameters:
            schema = found.get("schema", {})
            value = identity if found["name"] in self.ids else example(self.document, schema, word)
            text = value if isinstance(value, str) else json.dumps(value)
            if found["in"] == "path":
                path = path.replace(f"{{{found['name']}}}", urllib.parse.quote(text, safe=""))
            elif found["in"] == "query" and found.get("required"):
                query[found["name"]] = text
        return path + (f"?{urllib.parse.urlencode(query)}" if query else "")

    def content(self, word: str, pick: int = 0) -> str | None:
        """A body that the schema allows, as JSON; None if the operation takes none. ``pick``: as of :func:`example`."""
        return None if self.body is None else json.dumps(example(self.document, self.body, word, pick))


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """All operations of a document, path by path."""
    for path, item in document.get("paths", {}).items():
        for method in METHODS:
            if not isinstance(found := item.get(method), dict):
                continue
            parameters = [
                _resolved(document, one) for one in (*item.get("parameters", ()), *found.get("parameters", ()))
            ]
            content = _resolved(document, found.get("requestBody", {})).get("content", {})
            schema = next((kind.get("schema", {}) for name, kind in content.items() if "json" in name), None)
            answers = found.get("responses", {})
            yield Operation(method.upper(), path, tuple(parameters), schema, document, answers)


def example(
    document: Mapping[str, Any], schema: Mapping[str, Any], word: str = "conformance", pick: int = 0, depth: int = 0
) -> Any:
    """The smallest value that ``schema`` allows, with ``word`` for a string that may be anything.

    :param pick: which of the values of an enumeration, counted round: a server may allow fewer than it describes.
    """
    schema = _resolved(document, schema)
    for name in ("const", "default"):
        if schema.get(name) is not None:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][pick % len(schema["enum"])]
    if schema.get("allOf"):
        parts = [example(document, part, word, pick, depth + 1) for part in schema["allOf"]]
        return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()} or parts[0]
    for name in ("oneOf", "anyOf"):
        choices = [one for one in schema.get(name, ()) if _resolved(document, one).get("type") != "null"]
        if choices:
            return example(document, choices[0], word, pick, depth + 1)
    kind = schema.get("type")
    kind = next((one for one in kind if one != "null"), None) if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        return _object(document, schema, word, pick, depth)
    if kind == "array":
        return [
            example(document, schema.get("items", {}), word, pick, depth + 1) for _ in range(schema.get("minItems", 0))
        ]
    if kind in ("integer", "number"):
        return schema["exclusiveMinimum"] + 1 if "exclusiveMinimum" in schema else schema.get("minimum", 1)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    text = str(_FORMATS.get(str(schema.get("format")), word))
    return text.ljust(int(schema.get("minLength", 0)), "x")[: schema.get("maxLength")]


def _object(document: Mapping[str, Any], schema: Mapping[str, Any], word: str, pick: int, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        return {}
    properties = schema.get("properties", {})
    return {
        name: example(document, properties.get(name, {}), word, pick, depth + 1) for name in schema.get("required", ())
    }


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a ``$ref`` within the document stands for."""
    for _ in range(_DEEPEST):
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        found: Any = document
        for part in reference[2:].split("/"):
            found = found.get(part.replace("~1", "/").replace("~0", "~"), {})
        schema = found
    return schema


def properties_of_answer(operation: Operation) -> set[str]:
    """The names of all properties, at any depth, of what the operation answers with when all is well."""
    names: set[str] = set()
    for status, answer in operation.answers.items():
        if re.fullmatch(r"2\d\d", str(status)):
            for kind in _resolved(operation.document, answer).get("content", {}).values():
                _collect(operation.document, kind.get("schema", {}), names, 0)
    return names


def tells_state(operation: Operation) -> bool:
    """Whether reading by the operation tells the state of a callback."""
    if operation.method != "GET":
        return False
    names = properties_of_answer(operation)
    return "callback_state" in names or ("/callbacks" in operation.path and "state" in names)


def _collect(document: Mapping[str, Any], schema: Any, names: set[str], depth: int) -> None:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    schema = _resolved(document, schema)
    for name, found in schema.get("properties", {}).items():
        names.add(name)
        _collect(document, found, names, depth + 1)
    for part in (*(schema.get(name, ()) for name in ("oneOf", "anyOf", "allOf")), (schema.get("items"),)):
        for one in part:
            _collect(document, one, names, depth + 1)
