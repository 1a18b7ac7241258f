"""Watch streams: JSON lines of what changes, from a revision on, for a selection of objects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from executor_conformance.backends.kubernetes.emulator.faults import WATCH_ACTIONS, Fault, error_of
from executor_conformance.backends.kubernetes.emulator.resources import RESOURCES
from executor_conformance.backends.kubernetes.emulator.selectors import Predicate
from executor_conformance.backends.kubernetes.emulator.status import Obj, too_old
from executor_conformance.backends.kubernetes.emulator.store import Change, Store, Version
from executor_conformance.backends.kubernetes.emulator.views import View, dumps

BOOKMARK_SECONDS = 60.0
_DEFAULT_TIMEOUT = (1800, 3600)  # seconds; a server ends watches that name no timeout at random in between


@dataclass
class Selection:
    """What a list or a watch asks for."""

    resource: str
    namespace: str | None
    name: str  # of the field selector, or empty
    labels: Predicate | None
    fields: Predicate | None

    def has(self, version: Version) -> bool:
        """Whether a version of an object is selected."""
        if self.labels is not None and not self.labels(version.labels):
            return False
        return self.fields is None or self.fields(version.fields)

    def concerns(self, change: Change) -> bool:
        """Whether a change is in the resource and the namespace."""
        return change.resource == self.resource and self.namespace in (None, change.key[0])


@dataclass(frozen=True)
class WatchOptions:
    """``revision`` is None if unset; ``timeout`` in seconds."""

    revision: int | None
    timeout: float
    bookmarks: bool
    initial_events: bool | None = None

    @staticmethod
    def any_timeout() -> float:
        """For a client that names none."""
        return random.uniform(*_DEFAULT_TIMEOUT)


class _Cut(Exception):
    """The connection is to be broken."""


class Watch:
    """One open stream."""

    def __init__(
        self,
        store: Store,
        selection: Selection,
        view: View,
        options: WatchOptions,
        fault: Fault | None,
        on_fault: Callable[[Fault], None],
    ) -> None:
        self.selection = selection
        self._store = store
        self._view = view
        self._options = options
        self._fault = fault if fault is not None and fault.type in WATCH_ACTIONS else None
        self._on_fault = on_fault
        self._wake = asyncio.Event()
        self._changes: deque[Change] = deque()
        self._seen = store.revision
        self._first = True
        self._response = web.StreamResponse(headers={"Content-Type": "application/json"})

    def apply(self, fault: Fault) -> None:
        """A fault that was made while the stream is open."""
        self._fault = fault
        fault.hits += 1
        self._on_fault(fault)
        self._wake.set()

    async def run(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send until the timeout, an error, or the client's going."""
        self._store.listeners.append(self._listen)
        try:
            lines = self._opening()  # no await since the listener is there: nothing is missed or sent twice
            self._response.enable_chunked_encoding()
            await self._response.prepare(request)
            await self._stream(lines)
            await self._response.write_eof()
        except ConnectionResetError:  # the client has gone, and there was something to tell
            raise asyncio.CancelledError from None
        except _Cut:
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError from None
        finally:
            with contextlib.suppress(ValueError):
                self._store.listeners.remove(self._listen)
        return self._response

    def _listen(self, change: Change, _: Obj) -> None:
        if self.selection.concerns(change):
            self._changes.append(change)
            self._wake.set()

    def _opening(self) -> list[bytes] | None:
        """The lines for what is known at the start; None for a revision that is too old."""
        revision, store = self._options.revision, self._store
        if self._options.initial_events is None:
            initial = not revision
        else:
            initial = self._options.initial_events
        if initial:
            lines = [
                self._line("ADDED", stored.version.data)
                for stored in store.objects(self.selection.resource, self.selection.namespace)
                if self.selection.has(stored.version)
            ]
            if self._options.initial_events:
                lines.append(self._bookmark(initial_end=True))
            return lines
        if not revision:
            return []
        if revision < store.compacted:
            return None
        self._seen = max(revision, store.revision)
        lines = []
        for change in store.changes(self.selection.resource, revision):
            if self.selection.concerns(change) and (line := self._of_change(change)):
                lines.append(line)
        return lines

    def _line(self, type_: str, data: bytes) -> bytes:
        line = self._view.event(type_, data, self._first)
        self._first = False
        return line

    def _of_change(self, change: Change) -> bytes | None:
        """The line for a change, seen through the selection: leaving it is DELETED, entering it ADDED."""
        has = change.type != "DELETED" and self.selection.has(change.now)
        had = change.before is not None and self.selection.has(change.before)
        if has:
            return self._line("MODIFIED" if had else "ADDED", change.now.data)
        if not had or change.before is None:
            return None
        if change.type == "DELETED":
            return self._line("DELETED", change.now.data)
        # the object as it last was in the selection, with the revision at which it left
        obj = json.loads(change.before.data)
        obj["metadata"]["resourceVersion"] = str(change.revision)
        return self._line("DELETED", dumps(obj))

    def _bookmark(self, initial_end: bool = False) -> bytes:
        metadata: Obj = {"resourceVersion": str(max(self._seen, self._store.revision)), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        kind = RESOURCES[self.selection.resource].kind
        bookmark: Obj = {"kind": kind, "apiVersion": "v1", "metadata": metadata}
        if kind == "Pod":
            bookmark |= {"spec": {"containers": None}, "status": {}}
        return self._view.event("BOOKMARK", dumps(bookmark))

    async def _stream(self, lines: list[bytes] | None) -> None:
        now = time.monotonic()
        end, bookmark = now + self._options.timeout, now + BOOKMARK_SECONDS
        while True:
            self._wake.clear()
            if (fault := self._fault) is not None:
                self._fault = None
                if await self._hit(fault):
                    return
                continue
            if lines is None:
                assert self._options.revision is not None
                error = too_old(self._options.revision, self._store.compacted)
                await self._response.write(self._view.event("ERROR", dumps(error.body())))
                return
            while self._changes:
                change = self._changes.popleft()
                self._seen = change.revision
                if line := self._of_change(change):
                    lines.append(line)
            now = time.monotonic()
            if self._options.bookmarks and now >= min(bookmark, end):
                bookmark = now + BOOKMARK_SECONDS
                lines.append(self._bookmark())
            if lines:
                await self._response.write(b"".join(lines))
                lines = []
                if self._fault or self._changes:
                    continue
            if now >= end:
                return
            until = min(end, bookmark) if self._options.bookmarks else end
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(until - now, 0.001))

    async def _hit(self, fault: Fault) -> bool:
        """Carry a fault out; whether the stream is to end."""
        if fault.type == "watch-drop":
            raise _Cut
        if fault.type == "watch-error":
            await self._response.write(self._view.event("ERROR", dumps(error_of(fault.action).body())))
            return True
        while not fault.removed.is_set():  # watch-hang; another fault may cut it meanwhile
            removed = asyncio.ensure_future(fault.removed.wait())
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait({removed, woken}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                removed.cancel()
                woken.cancel()
            if self._fault is not None:
                return False
            self._wake.clear()
        return False
