"""Tokens of the harness's own, for asking the API server what it lets in; never for the subject's use."""

from __future__ import annotations

import http.client
import time
import urllib.parse
import uuid
from typing import Any

import jwt

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

    def unsigned(self, **claims: Any) -> str:
        """The same with the algorithm 'none' and no signature."""
        now = int(time.time())
        content = {**self.claims, "iat": now, "nbf": now, "exp": now + 600, **claims}
        return jwt.encode(content, "", algorithm="none")


def ask(base_url: str, method: str, path: str, token: str | None, body: str | None = None) -> int:
    """Send one request and return the answer's status."""
    parts = urllib.parse.urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=20)
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
