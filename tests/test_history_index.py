"""What a history answers when it is asked for events, live and stored."""

from __future__ import annotations

import pytest
from executor_conformance.harness.history import Clock, History, StoredHistory

EVENTS = [
    ("row", {"callback": "c1", "new": "queued"}),
    ("row", {"callback": "c2", "new": "queued"}),
    ("effect", {"probe": "p1", "what": "enter"}),
    ("effect", {"probe": None, "what": "enter"}),
    ("effect", {"probe": ["p1"], "what": "enter"}),  # a callable whose kwargs were garbled
    ("row", {"callback": "c1", "new": "running"}),
    ("note", {"what": "something"}),
]


def live() -> History:
    history = History(Clock(), {})
    for kind, fields in EVENTS:
        history.append(kind, **fields)
    return history


@pytest.mark.parametrize("stored", [False, True], ids=["live", "stored"])
@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("row", {}, [0, 1, 5]),
        ("row", {"callback": "c1"}, [0, 5]),
        ("row", {"callback": "c1", "new": "running"}, [5]),
        ("row", {"callback": "c3"}, []),
        ("row", {"new": "queued"}, [0, 1]),
        ("effect", {"probe": "p1"}, [2]),
        ("effect", {"probe": None}, [3]),
        ("effect", {"probe": ["p1"]}, [4]),
        ("effect", {"what": "enter"}, [2, 3, 4]),
        ("note", {"what": "something"}, [6]),
        ("wire", {}, []),
    ],
    ids=str,
)
def test_events_of_a_kind_with_fields(kind: str, fields: dict[str, object], expected: list[int], stored: bool) -> None:
    history = StoredHistory(live().events) if stored else live()
    assert [history.events.index(event) - 1 for event in history.of(kind, **fields)] == expected  # after the header
