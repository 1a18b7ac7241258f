"""Tokens of the harness's own, for asking the API server what it lets in; never for the subject's use."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import jwt
from executor_conformance.harness.errors import HarnessError

Claims = dict[str, Any]


class Mint:
    """Signs tokens like the environment's own, with the environment's secret.

    :param claims: the claims of a real queued token of the environment, as its history has them.
    :param header: the header of that token.
    """

    def __init__(self, secret: str, claims: Claims, header: dict[str, Any]) -> None:
        self.secret = secret
        self.claims = claims
        self.header = header

    def token(self, *, secret: str | None = None, lifetime_s: int = 600, **claims: Any) -> str:
        """A token like the real one, with other ``claims``; a claim given as None is left out."""
        now = int(time.time())
        content = {
            **self.claims,
            "jti": uuid.uuid4().hex,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_s,
            **claims,
        }
        if lifetime_s < 0:
            content |= {"iat": now + 2 * lifetime_s, "nbf": now + 2 * lifetime_s}
        content = {name: value for name, value in content.items() if value is not None}
        headers = {name: value for name, value in self.header.items() if name not in ("alg", "typ")}
        return jwt.encode(content, secret or self.secret, algorithm=self.header["alg"], headers=headers)

    def old(self, **claims: Any) -> str:
        """A token that is valid for 20 s more of its 600 s: one that a server which renews tokens would renew."""
        now = int(time.time())
        return self.token(iat=now - 580, nbf=now - 580, exp=now + 20, **claims)

    def unsigned(self, **claims: Any) -> str:
        """The same with the algorithm 'none' and no signature."""
        now = int(time.time())
        content = {**self.claims, "iat": now, "nbf": now, "exp": now + 600, **claims}
        return jwt.encode(content, "", algorithm="none")


STATE_NAMES = ("previous_state", "current_state")
"""What the editions call the row's state in a claim's refusal."""
_IDLE_S = 2.0
"""For how long a connection is kept without a request: well below the 5 s after which uvicorn closes it."""


@dataclass(frozen=True)
class Answer:
    """What the server made of one request; a token in it is noted and not kept."""

    status: int
    renewed: bool
    """Whether it came with a new token."""
    reported: str | None
    """The state of the callback's row that it tells, if it does."""
    content: Any = None


class Client:
    """Asks the API server over one connection that is kept; not for several threads."""

    def __init__(self, base_url: str, timeout_s: float = 20.0) -> None:
        parts = urllib.parse.urlsplit(base_url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
        self._last = 0.0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, token: str | None, body: str | None = None) -> Answer:
        """Send one request.

        :raises HarnessError: the server cannot be reached, or does not answer in time.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if time.monotonic() - self._last > _IDLE_S:
            self._connection.close()
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            content = _json(answer.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise HarnessError(f"The API server did not answer {method} {path}: {type(error).__name__}.") from None
        self._last = time.monotonic()
        if answer.status >= 500:  # the server closes the connection, which it does not announce
            self._connection.close()
        return Answer(answer.status, answer.getheader("Refreshed-API-Token") is not None, _state_in(content), content)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _state_in(content: Any) -> str | None:
    detail = content.get("detail", content) if isinstance(content, dict) else None
    found = [detail[name] for name in STATE_NAMES if detail.get(name)] if isinstance(detail, dict) else []
    return str(found[0]) if found else None


def ask(base_url: str, method: str, path: str, token: str | None, body: str | None = None) -> int:
    """Send one request over a connection of its own and return the answer's status.

    :raises HarnessError: as of :meth:`Client.ask`.
    """
    with Client(base_url) as client:
        return client.ask(method, path, token, body).status
