"""In which form an answer is sent: whole objects, metadata alone, or a table (negotiated by ``Accept``)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from executor_conformance.backends.kubernetes.emulator.resources import RESOURCES
from executor_conformance.backends.kubernetes.emulator.status import Obj, not_acceptable
from executor_conformance.backends.kubernetes.emulator.store import Version
from executor_conformance.backends.kubernetes.emulator.table import partial, table

_PLAIN = ("application/json", "application/*", "*/*")


def dumps(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True)
class View:
    """A form of answers: ``form`` is "", "Table" or "PartialObjectMetadata"; ``version`` of meta.k8s.io."""

    resource: str
    form: str = ""
    version: str = "v1"
    include: str = "Metadata"

    def one(self, obj: Obj) -> bytes:
        """One object."""
        if self.form == "Table":
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return dumps(table(self.resource, [obj], metadata, self.version, self.include))
        if self.form:
            return dumps(partial(obj, self.version))
        return dumps(obj)

    def many(self, versions: Iterable[Version], metadata: Obj) -> bytes:
        """A list; ``metadata`` is the list's own."""
        if self.form == "Table":
            objects = [json.loads(version.data) for version in versions]
            return dumps(table(self.resource, objects, metadata, self.version, self.include))
        if self.form:
            items = [partial(json.loads(version.data), self.version) for version in versions]
            listed = {"kind": "PartialObjectMetadataList", "apiVersion": f"meta.k8s.io/{self.version}"}
            return dumps({**listed, "metadata": metadata, "items": items})
        kind = RESOURCES[self.resource].kind
        head = dumps({"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata})[:-1]
        # a real list leaves out kind and apiVersion of its items
        own = len(dumps({"kind": kind, "apiVersion": "v1"}))
        return head + b',"items":[' + b",".join(b"{" + version.data[own:] for version in versions) + b"]}"

    def event(self, type_: str, data: bytes, first: bool = False) -> bytes:
        """One line of a watch; ``data`` is the object's JSON, ``first`` whether columns are to be described."""
        if type_ != "ERROR" and self.form == "Table":
            obj = json.loads(data)
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            objects = [] if type_ == "BOOKMARK" else [obj]
            data = dumps(table(self.resource, objects, metadata, self.version, self.include, first))
        elif type_ != "ERROR" and self.form:
            data = dumps(partial(json.loads(data), self.version))
        return b'{"type":"' + type_.encode() + b'","object":' + data + b"}\n"


def view_of(resource: str, accept: str, include: str) -> View:
    """The first form that the client accepts; ``include`` is ``includeObject`` of the query.

    :raises ApiError: 406, none of them can be sent.
    """
    for entry in (accept or "*/*").split(","):
        media, *parameters = [part.strip() for part in entry.split(";")]
        if media not in _PLAIN:
            continue
        given = dict(part.split("=", 1) for part in parameters if "=" in part)
        form = given.get("as", "")
        if not form:
            return View(resource)
        if given.get("g") != "meta.k8s.io" or given.get("v") not in ("v1", "v1beta1"):
            continue
        if form == "Table":
            return View(resource, "Table", given["v"], include or "Metadata")
        if form in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return View(resource, "PartialObjectMetadata", given["v"])
    raise not_acceptable(["application/json"])
