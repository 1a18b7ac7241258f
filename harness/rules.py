"""Rules of the wire recorder: which requests are tampered with, and how."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jwt
from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.limits import LIMITS

_CLAIMS = ("sub", "scope", "exp", "iat", "nbf", "aud", "iss", "jti")
_TOKEN = re.compile(r"eyJ[\w-]+(?:\.[\w-]*)*")
_STATE_ROUTE = re.compile(r"/callbacks/[^/]+/state$")
_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_IDENTIFIER = re.compile(rf"(?<=/)(?:{_UUID}|-?\d+)(?=/|$)")


def route_of(path: str) -> str:
    """Return ``path`` with each segment that is a UUID or a number replaced by ``{id}``."""
    return _IDENTIFIER.sub("{id}", path)


def keyed_fingerprint(key: bytes | None = None) -> Callable[[str], str]:
    """Return a function from a token to 16 hex digits: HMAC-SHA256 by ``key`` (random, if not given)."""
    secret = key or secrets.token_bytes(32)

    def fingerprint(token: str) -> str:
        return hmac.new(secret, token.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]

    return fingerprint


def reported_end(route: str, body: bytes) -> str | None:
    """Return the state that a request to a callback's state route reports; ``None`` if it is another request."""
    if not _STATE_ROUTE.search(route):
        return None
    try:
        state = json.loads(body)["state"]
    except (ValueError, LookupError, TypeError):
        return None
    return state[:20] if isinstance(state, str) else None


def without_tokens(text: str) -> str:
    """Return ``text`` with whatever looks like a JWT replaced by ``<token>``."""
    return _TOKEN.sub("<token>", text)


def claims_of(token: str) -> dict[str, Any] | None:
    """Return the registered claims of a JWT, and its scope, unverified; ``None`` if it is no JWT."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError):
        return None
    return {name: claims[name] for name in _CLAIMS if name in claims}


@dataclass(eq=False)
class WireRequest:
    """One request as the wire recorder saw it; the token itself is kept nowhere."""

    seq: int  # 1, 2, ... in the order of arrival at one recorder
    api: str
    method: str
    path: str  # without the query
    route: str
    pid: int | None
    claims: dict[str, Any] | None  # not verified
    fingerprint: str | None  # 16 hex digits
    t: float  # seconds since the run's origin
    held: bool = False  # a rule keeps it, or its response, back right now


@dataclass(frozen=True)
class Hold:
    """Keep the request back, before the server sees it, until the rule is released."""

    name: ClassVar[str] = "hold"


@dataclass(frozen=True)
class HoldResponse:
    """Let the server answer, and keep the answer back until the rule is released."""

    name: ClassVar[str] = "hold-response"


@dataclass(frozen=True)
class Delay:
    """Keep the request back for ``seconds``, or until the rule is released if that is sooner."""

    seconds: float
    name: ClassVar[str] = "delay"


@dataclass(frozen=True)
class Answer:
    """Answer in the server's place, as the server itself or something before it (a proxy, a login page) might.

    ``body``: a mapping is sent as JSON, a text as it is, ``None`` as an empty body. ``cut_at``: close the connection
    after so many bytes of a longer body. ``drip_s``: take so many seconds to send the body, a piece at a time.
    """

    status: int
    body: Mapping[str, Any] | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    drip_s: float = 0.0
    name: ClassVar[str] = "answer"


@dataclass(frozen=True)
class ReplaceToken:
    """Let the server answer, and pass the answer on with ``token`` in the place of the token that it brings."""

    token: str = field(repr=False)
    name: ClassVar[str] = "replace-token"


@dataclass(frozen=True)
class DropRequest:
    """Reset the client's connection; the server never sees the request."""

    name: ClassVar[str] = "drop-request"


@dataclass(frozen=True)
class DropResponse:
    """Let the server answer, then reset the client's connection instead of passing the answer on."""

    name: ClassVar[str] = "drop-response"


Action = Hold | HoldResponse | Delay | Answer | ReplaceToken | DropRequest | DropResponse


@dataclass(eq=False)
class WireRule:
    """An action and the requests that it applies to; all conditions that are given have to hold.

    ``path`` is a regular expression, searched in the path without the query. The first ``skip`` matches pass
    untouched, then the action applies to ``times`` matches (``None``: to all). A match counts only if no rule
    added earlier took the request. A rule that was released applies to nothing any more.

    ``hits`` are the requests that the rule took, from the moment they were taken; ``applied`` are those for
    which the action is in effect: held, answered, dropped. The two differ for the actions on a response.
    """

    action: Action
    api: str | None = None
    method: str | None = None
    path: str | None = None
    match: Callable[[WireRequest], bool] | None = None
    skip: int = 0
    times: int | None = None
    hits: list[WireRequest] = field(default_factory=list, init=False)
    applied: list[WireRequest] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._path = re.compile(self.path) if self.path is not None else None
        self._changed = threading.Condition()
        self._skipped = 0
        self._taken = 0
        self._released = False
        self._drop = False
        self._gates: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]] = []

    def __str__(self) -> str:
        conditions = (self.api, self.method, self.path, "a condition in code" if self.match else None)
        return f"{self.action.name} on {' '.join(part for part in conditions if part) or 'any request'}"

    def wait_hit(self, timeout: float = LIMITS.wire_event, count: int = 1) -> WireRequest:
        """Wait until the rule took ``count`` requests, and return the last of these.

        :param timeout: seconds.
        :raises BoundReached: it did not within ``timeout``.
        """
        return self._wait(self.hits, "took", timeout, count)

    def wait_applied(self, timeout: float = LIMITS.wire_event, count: int = 1) -> WireRequest:
        """Wait until the action is in effect for ``count`` requests, and return the last of these.

        :param timeout: seconds.
        :raises BoundReached: it was not within ``timeout``.
        """
        return self._wait(self.applied, "was applied to", timeout, count)

    def release(self, drop: bool = False) -> None:
        """Let go of what is held, and apply to nothing from now on; callable from any thread, more than once.

        :param drop: reset the held connections, instead of letting the requests or responses pass.
        """
        with self._changed:
            if not self._released:
                self._released, self._drop = True, drop
            gates, self._gates = self._gates, []
        for loop, gate in gates:
            try:
                loop.call_soon_threadsafe(_open, gate, self._drop)
            except RuntimeError:  # the recorder has stopped, and dropped what was held
                continue

    def take(self, request: WireRequest) -> bool:
        """Whether the rule takes ``request``; counts the match. For the recorder, once per request.

        :raises Exception: whatever ``match`` raises.
        """
        with self._changed:
            if self._released or (self.times is not None and self._taken >= self.times):
                return False
        if not self._matches(request):
            return False
        with self._changed:
            if self._skipped < self.skip:
                self._skipped += 1
                return False
            self._taken += 1
            return True

    def note_hit(self, request: WireRequest) -> None:
        """Tell those who wait that ``request`` was taken. For the recorder."""
        with self._changed:
            self.hits.append(request)
            self._changed.notify_all()

    def note_applied(self, request: WireRequest) -> None:
        """Tell those who wait that the action is in effect for ``request``. For the recorder."""
        with self._changed:
            self.applied.append(request)
            self._changed.notify_all()

    def gate(self) -> asyncio.Future[bool]:
        """Return a future that ends at the release, with whether to drop. For the recorder, in its loop."""
        loop = asyncio.get_running_loop()
        gate: asyncio.Future[bool] = loop.create_future()
        with self._changed:
            if self._released:
                gate.set_result(self._drop)
            else:
                self._gates.append((loop, gate))
        return gate

    def _matches(self, request: WireRequest) -> bool:
        if self.api is not None and self.api != request.api:
            return False
        if self.method is not None and self.method.upper() != request.method.upper():
            return False
        if self._path is not None and not self._path.search(request.path):
            return False
        return self.match is None or bool(self.match(request))

    def _wait(self, requests: list[WireRequest], what: str, timeout: float, count: int) -> WireRequest:
        end = time.monotonic() + timeout
        with self._changed:
            while len(requests) < count:
                left = end - time.monotonic()
                if left <= 0:
                    raise BoundReached(
                        f"The wire rule '{self}' {what} {len(requests)} of {count} requests waited for"
                        f" within {timeout:g} s; see the wire events of the history for what was sent."
                    )
                self._changed.wait(left)
            return requests[count - 1]


def _open(gate: asyncio.Future[bool], drop: bool) -> None:
    if not gate.done():  # the client may have gone, or the delay ended
        gate.set_result(drop)
