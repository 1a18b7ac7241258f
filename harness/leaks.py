"""Where a token can be read that should not be: a scan of what a run leaves, made while its tokens are known.

A token is looked for whole, by its signature alone, and in base64. Its letters are the same in a URL and in JSON. What
is found is told by its place and by the token's fingerprint; no token leaves this module.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from executor_conformance.harness.database import Connection
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.rules import claims_of

WHOLE, SIGNATURE, BASE64 = "whole", "signature", "base64"
_CHUNK = 1 << 22
_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgres": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
}


def forms_of(token: str) -> dict[bytes, str]:
    """From the bytes to look for to what they are of the token.

    Of base64 there are three forms, by where in a group of three bytes the signature begins; the ends, which depend on
    what is beside it, are left out. ``+/`` and ``-_`` are both looked for.
    """
    signature = token.rpartition(".")[2].encode()
    found = {token.encode(): WHOLE, signature: SIGNATURE}
    for offset in range(3):
        cut = (3 - offset) % 3
        inner = signature[cut : len(signature) - (len(signature) - cut) % 3]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.setdefault(encode(inner), BASE64)
    return {form: name for form, name in found.items() if len(form) >= 16}


class Scanner:
    """Looks for tokens in bytes; what it finds is handed on at once, each place and token once.

    :param fingerprint: from a token to what stands for it; see ``rules.keyed_fingerprint``.
    :param tell: takes what was found: ``place`` (the kind of place), ``where``, ``form``, ``scope``, ``fingerprint``.
    """

    def __init__(self, fingerprint: Callable[[str], str], tell: Callable[..., Any]) -> None:
        self.looked: dict[str, list[int]] = {}
        """By kind of place: how many were looked at, and their bytes."""
        self._fingerprint, self._tell = fingerprint, tell
        self._forms: dict[bytes, tuple[str, str, str]] = {}
        self._told: set[tuple[str, ...]] = set()
        self._longest = 0
        self._pattern: re.Pattern[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def fingerprints(self) -> list[str]:
        """Of the tokens that are looked for."""
        return sorted({fingerprint for _, _, fingerprint in self._forms.values()})

    def add(self, tokens: Iterable[str]) -> None:
        """Look for these tokens as well from now on."""
        with self._lock:
            for token in tokens:
                # What is not signed is no secret: a request with another kind of token, or with none
                if token.count(".") == 2 and (claims := claims_of(token)):
                    known = (str(claims.get("scope", "execution")), self._fingerprint(token))
                    for form, name in forms_of(token).items():
                        self._forms.setdefault(form, (name, *known))
            # The longest first, so that a whole token is not taken for its signature
            ordered = sorted(self._forms, key=len, reverse=True)
            self._longest = len(ordered[0]) if ordered else 0
            self._pattern = re.compile(b"|".join(map(re.escape, ordered))) if ordered else None

    def count(self, place: str, size: int) -> None:
        """Note that something of ``size`` bytes is looked at there."""
        with self._lock:
            seen = self.looked.setdefault(place, [0, 0])
            seen[0] += 1
            seen[1] += size

    def scan(self, place: str, where: str, content: bytes, count: bool = True) -> None:
        """Look at some bytes."""
        if count:
            self.count(place, len(content))
        with self._lock:
            found = (
                {self._forms[match.group()] for match in self._pattern.finditer(content)} if self._pattern else set()
            )
        for form, scope, fingerprint in sorted(found):
            known = (place, where, form, fingerprint)
            if known not in self._told:
                self._told.add(known)
                self._tell(place=place, where=where, form=form, scope=scope, fingerprint=fingerprint)

    def scan_file(self, place: str, where: str, path: Path) -> None:
        """Look at a file, part by part; one that is gone, or is no file, is passed over."""
        try:
            with path.open("rb") as file:
                kept, first = b"", True
                while chunk := file.read(_CHUNK):
                    content = kept + chunk
                    self.scan(place, where, content, count=first)
                    kept, first = content[-self._longest :] if self._longest else b"", False
        except OSError:
            return

    def scan_tables(self, connection: Connection, place_of: Callable[[str, str], str]) -> None:
        """Look at every column of every table; ``place_of(table, column)`` says what kind of place it is."""
        for (table,) in connection.execute(_TABLES[connection.kind]):
            if connection.kind == "sqlite":
                names = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
            else:
                sql = "SELECT column_name FROM information_schema.columns WHERE table_name = ? AND table_schema = "
                names = [
                    row[0] for row in connection.execute(f"{sql}current_schema() ORDER BY ordinal_position", (table,))
                ]
            try:
                rows = connection.execute("SELECT " + ", ".join(f'"{name}"' for name in names) + f' FROM "{table}"')
            except HarnessError:  # a table that was dropped meanwhile
                continue
            for number, name in enumerate(names):
                content = b"\n".join(_as_bytes(row[number]) for row in rows if row[number] is not None)
                self.scan(place_of(table, name), f"{table}.{name}", content)

    def summary(self) -> Mapping[str, Any]:
        """How much was looked at, and for which tokens."""
        looked = {place: {"count": count, "bytes": size} for place, (count, size) in sorted(self.looked.items())}
        return {"looked": looked, "fingerprints": self.fingerprints}


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    return str(value).encode("utf-8", "surrogateescape")
