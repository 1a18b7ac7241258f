"""The record of pods: when each was accepted and when it ended, also of those that are no longer there."""

from __future__ import annotations

import time
from dataclasses import dataclass

from executor_conformance.backends.kubernetes.emulator.podstatus import TERMINAL
from executor_conformance.backends.kubernetes.emulator.status import Obj
from executor_conformance.backends.kubernetes.emulator.store import Change, Key


@dataclass
class Entry:
    """One pod; times of the monotonic clock, ``content`` as its creation was accepted."""

    name: str
    content: bytes
    accepted: float
    ended: float | None = None


class Ledger:
    """Listens to the store."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.left_out: set[Key] = set()
        """Pods that are not recorded, for nobody has created them through the API."""

    def note(self, change: Change, obj: Obj) -> None:
        """Take note of a change of a pod; as a listener of the store."""
        if change.resource != "pods" or change.key in self.left_out:
            return
        uid = obj["metadata"]["uid"]
        if change.type == "ADDED":
            self._entries[uid] = Entry("/".join(change.key), change.now.data, time.monotonic())
        elif change.type == "DELETED" or obj["status"].get("phase") in TERMINAL:
            entry = self._entries[uid]
            entry.ended = entry.ended or time.monotonic()

    def deliveries(self, workload: str) -> list[Obj]:
        """The pods that carry the id of a workload, oldest first."""
        wanted = workload.encode()
        return [
            {"id": entry.name, "accepted": entry.accepted, "ended": entry.ended}
            for entry in self._entries.values()
            if wanted in entry.content
        ]
