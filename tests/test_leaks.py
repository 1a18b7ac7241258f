"""The scan for tokens: every form in which one can be written, and what it does not take for one."""

from __future__ import annotations

import base64
import json
import sqlite3
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from executor_conformance.harness.database import Connection
from executor_conformance.harness.leaks import BASE64, SIGNATURE, WHOLE, Scanner
from executor_conformance.harness.rules import keyed_fingerprint
from executor_conformance.suites.token_leaks import LeakWatch, leaves

TOKEN = jwt.encode({"sub": "c1", "scope": "callback", "exp": 2000000000}, "s" * 64, algorithm="HS512")
OTHER = jwt.encode({"sub": "c2", "scope": "callback", "exp": 2000000000}, "s" * 64, algorithm="HS512")
PARTS = TOKEN.split(".")


class Found(list[dict[str, Any]]):
    """What a scanner tells."""

    def tell(self, **found: Any) -> None:
        self.append(found)


@pytest.fixture
def found() -> Found:
    return Found()


@pytest.fixture
def scanner(found: Found) -> Scanner:
    made = Scanner(keyed_fingerprint(b"key"), found.tell)
    made.add([TOKEN])
    return made


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (TOKEN, WHOLE),
        (f'{{"token": "{TOKEN}"}}', WHOLE),
        (json.dumps(json.dumps({"token": TOKEN})), WHOLE),
        (urllib.parse.quote(TOKEN, safe=""), WHOLE),
        (f"… signature {PARTS[2]} …", SIGNATURE),
        *((base64.b64encode(b"x" * n + TOKEN.encode() + b"y" * n).decode(), BASE64) for n in range(4)),
        *((base64.urlsafe_b64encode(b"x" * n + PARTS[2].encode()).decode(), BASE64) for n in range(4)),
    ],
)
def test_every_form_is_found(scanner: Scanner, found: Found, content: str, form: str) -> None:
    scanner.scan("log", "a.log", content.encode())
    assert [one["form"] for one in found] == [form]
    assert found[0]["place"] == "log"
    assert found[0]["where"] == "a.log"
    assert found[0]["scope"] == "callback"
    assert TOKEN not in str(found)
    assert PARTS[2] not in str(found)


@pytest.mark.parametrize("content", ["", OTHER, f"{PARTS[0]}.{PARTS[1]}", base64.b64encode(OTHER.encode()).decode()])
def test_what_is_no_secret_is_not_found(scanner: Scanner, found: Found, content: str) -> None:
    scanner.scan("log", "a.log", content.encode())
    assert not found


def test_a_place_is_told_once_and_counted(scanner: Scanner, found: Found) -> None:
    for _ in range(3):
        scanner.scan("log", "a.log", TOKEN.encode())
    assert len(found) == 1
    assert scanner.summary()["looked"] == {"log": {"count": 3, "bytes": 3 * len(TOKEN)}}
    assert scanner.summary()["fingerprints"] == [keyed_fingerprint(b"key")(TOKEN)]


def test_what_is_no_token_is_not_looked_for(found: Found) -> None:
    scanner = Scanner(keyed_fingerprint(), found.tell)
    scanner.add(["", "a.b.c", "password"])
    scanner.scan("log", "a.log", b"a.b.c password")
    assert not found
    assert not scanner.fingerprints


def test_a_token_across_two_parts_of_a_file(
    scanner: Scanner, found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor_conformance.harness.leaks._CHUNK", 100)
    (tmp_path / "a.log").write_text("x" * 70 + TOKEN + "y" * 1000, "utf-8")
    scanner.scan_file("log", "a.log", tmp_path / "a.log")
    assert WHOLE in [one["form"] for one in found]
    scanner.scan_file("log", "none", tmp_path / "none")


def test_every_column_of_every_table(scanner: Scanner, found: Found, tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    raw.execute("CREATE TABLE one (id INTEGER, command TEXT, blob BLOB)")
    raw.execute("CREATE TABLE two (note TEXT)")
    raw.execute("INSERT INTO one VALUES (1, ?, ?)", (f"run {TOKEN}", PARTS[2].encode()))
    raw.execute("INSERT INTO two VALUES (NULL), ('nothing')")
    connection = Connection("sqlite", raw)
    scanner.scan_tables(connection, lambda table, column: "transport" if column == "command" else "database")
    connection.close()
    told = {(one["place"], one["where"], one["form"]) for one in found}
    assert told == {("transport", "one.command", WHOLE), ("database", "one.blob", SIGNATURE)}
    assert scanner.looked["database"][0] == 3


def test_every_text_of_a_document_with_the_field_that_holds_it() -> None:
    document = {"spec": {"containers": [{"args": ["a", 1]}, {"args": ["b"]}]}, "empty": None}
    found = [(path, text) for path, text in leaves(document) if path == "spec.containers.args"]
    assert found == [("spec.containers.args", text) for text in ("args", "a", "1", "args", "b")]
    assert ("empty", "empty") in list(leaves(document))


def test_a_token_is_allowed_in_the_field_that_must_carry_it_alone() -> None:
    pod = {"metadata": {"annotations": {"workload": TOKEN}}, "spec": {"containers": [{"args": ["x", TOKEN]}]}}
    told: list[dict[str, Any]] = []
    backend = SimpleNamespace(carriers={"pod:spec.containers.args": "args"}, submissions=lambda: [("pod", pod)])
    env = SimpleNamespace(
        backend=backend, fingerprint=keyed_fingerprint(b"key"), sink=lambda kind, **fields: told.append(fields)
    )
    watch = LeakWatch(SimpleNamespace(env=env))  # type: ignore[arg-type]
    watch.scanner.add([TOKEN])
    watch._keep_submissions()
    watch._scan_submissions()
    assert {(one["place"], one["where"]) for one in told} == {
        ("transport", "pod spec.containers.args"),
        ("submission", "pod metadata.annotations.workload"),
    }
    assert watch.scanner.looked["submission"][0] == 1
