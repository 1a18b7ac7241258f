"""The objects, their versions and the log that watches read: what etcd and the watch cache are to an API server.

Objects that were stored are never changed in place: ``fresh`` gives a copy to change, ``put`` stores it. Versions
in the log are kept as JSON, which takes a fraction of the memory and is what watches send.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from executor_conformance.backends.kubernetes.emulator.resources import RESOURCES
from executor_conformance.backends.kubernetes.emulator.status import Obj

Key = tuple[str, str]
"""Namespace (empty for objects of the cluster) and name."""

_LOG_CHANGES = 10_000
_LOG_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object: its JSON, beginning with kind and apiVersion, and what selectors look at."""

    data: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log; ``type`` is ADDED, MODIFIED or DELETED, ``now`` for DELETED the last version."""

    revision: int
    type: str
    resource: str
    key: Key
    now: Version
    before: Version | None


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it is now."""

    obj: Obj
    version: Version


Listener = Callable[[Change, Obj], None]


def encode(obj: Obj) -> bytes:
    """The compact JSON of ``obj``, kind and apiVersion first."""
    head = {"kind": obj.get("kind"), "apiVersion": obj.get("apiVersion")}
    return json.dumps({**head, **obj}, separators=(",", ":"), ensure_ascii=False).encode()


class Store:
    """All objects of the cluster; every write has the next revision, which is the object's resourceVersion."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0  # changes up to this revision are not known any more; a watch from it on is possible
        self.listeners: list[Listener] = []
        self._objects: dict[str, dict[Key, Stored]] = {resource: {} for resource in RESOURCES}
        self._log: deque[Change] = deque()
        self._log_bytes = 0

    def get(self, resource: str, namespace: str, name: str) -> Obj | None:
        """The object, not to be changed; None if there is none."""
        stored = self._objects[resource].get((namespace, name))
        return stored.obj if stored else None

    def fresh(self, resource: str, namespace: str, name: str) -> Obj | None:
        """A copy of the object to change; None if there is none."""
        stored = self._objects[resource].get((namespace, name))
        return json.loads(stored.version.data) if stored else None

    def put(self, resource: str, obj: Obj) -> Obj:
        """Store ``obj``, which is the store's from now on, and return it; an equal one changes nothing."""
        metadata = obj["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        old = self._objects[resource].get(key)
        if old is not None:
            metadata["resourceVersion"] = old.obj["metadata"]["resourceVersion"]
            if obj == old.obj:
                return old.obj
        self.revision += 1
        metadata["resourceVersion"] = str(self.revision)
        stored = self._stored(resource, obj)
        self._objects[resource][key] = stored
        before = old.version if old else None
        self._note(Change(self.revision, "MODIFIED" if old else "ADDED", resource, key, stored.version, before), obj)
        return obj

    def remove(self, resource: str, namespace: str, name: str) -> Obj | None:
        """Remove the object and return its last version, which has the revision of the removal."""
        key = (namespace, name)
        old = self._objects[resource].pop(key, None)
        if old is None:
            return None
        self.revision += 1
        obj = json.loads(old.version.data)
        obj["metadata"]["resourceVersion"] = str(self.revision)
        now = self._stored(resource, obj).version
        self._note(Change(self.revision, "DELETED", resource, key, now, old.version), obj)
        return obj

    def objects(self, resource: str, namespace: str | None = None) -> list[Stored]:
        """Of one namespace, or of all, in the order of their keys."""
        found = self._objects[resource]
        keys = sorted(key for key in found if namespace is None or key[0] == namespace)
        return [found[key] for key in keys]

    def versions_at(self, resource: str, namespace: str | None, revision: int) -> list[tuple[Key, Version]]:
        """What ``objects`` would have returned at ``revision``, which must not be compacted."""
        found = {key: stored.version for key, stored in self._objects[resource].items()}
        for change in reversed(self._log):
            if change.revision <= revision:
                break
            if change.resource != resource:
                continue
            if change.before is None:
                found.pop(change.key, None)
            else:
                found[change.key] = change.before
        return sorted(
            ((key, version) for key, version in found.items() if namespace in (None, key[0])), key=lambda item: item[0]
        )

    def changes(self, resource: str, after: int) -> list[Change]:
        """The changes with a revision above ``after``, which must not be compacted, oldest first."""
        newer = itertools.takewhile(lambda change: change.revision > after, reversed(self._log))
        return [change for change in newer if change.resource == resource][::-1]

    def compact(self) -> None:
        """Forget all changes up to now."""
        self.revision += 1  # of the compaction itself, so that what a client has seen is always too old
        self.compacted = self.revision
        self._log.clear()
        self._log_bytes = 0

    def _stored(self, resource: str, obj: Obj) -> Stored:
        labels = obj["metadata"].get("labels") or {}
        return Stored(obj, Version(encode(obj), labels, RESOURCES[resource].fields_of(obj)))

    def _note(self, change: Change, obj: Obj) -> None:
        self._log.append(change)
        self._log_bytes += len(change.now.data)
        while len(self._log) > _LOG_CHANGES or self._log_bytes > _LOG_BYTES:
            dropped = self._log.popleft()
            self._log_bytes -= len(dropped.now.data)
            self.compacted = dropped.revision
        for listener in tuple(self.listeners):
            listener(change, obj)
