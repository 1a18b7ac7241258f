"""The time line: from the events of a history to lanes, and from lanes to places in a picture."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.harness.history import Event
from executor_conformance.harness.report.lanes import Item, Lane, Story, tell
from executor_conformance.harness.report.lenient import read_events
from executor_conformance.harness.report.timeline import (
    BREAK,
    LEFT,
    LETTER,
    LINE,
    WIDTH,
    Drawing,
    Mark,
    draw,
    make_scale,
)
from executor_conformance.harness.report.visible import brief, clip, one_line, visible
from rich.cells import cell_len

from tests.written import Written


def story(events: list[Event]) -> Story:
    found = tell(events)
    assert found is not None
    return found


def lane(told: Story, name: str) -> Lane:
    return next(lane for lane in told.lanes if lane.name == name)


def item(t: float, end: float | None = None, label: str = "x", look: str = "plain", rank: int = 1) -> Item:
    return Item(t, end, label, f"{t} {label}", look, rank)


def crash() -> list[Event]:
    """A callback whose worker is killed after its claim."""
    written = Written().callback("c1")
    written.add("process", what="born", pid=200, ppid=100, title="airflow worker")
    request: dict[str, Any] = {"api": "execution", "method": "PATCH", "path": "/execution/callbacks/c1/run", "seq": 900}
    written.add("wire", phase="request", route="/execution/callbacks/{id}/run", pid=200, **request)
    written.add("wire", phase="response", status=204, by="server", **request)
    written.row("c1", "running")
    written.add("effect", what="enter", probe="p-c1", pid=200)
    written.add("fault", name="during", victim="supervisor", pids=[200])
    written.add("process", what="gone", pid=200, ppid=100, title="airflow worker", status=-9)
    written.add("event", key="c1", key_type="CallbackKey", state="failed")
    written.row("c1", "failed")
    written.add("slots", executors={"e": {"running": ["c1"], "queued": [], "occupied": 1, "parallelism": 3}})
    written.add("rest", states={"c1": "failed"}, alive=[], quiet_steps=2)
    return written.add("end").events


# -- lanes


def test_each_kind_of_event_has_its_lane() -> None:
    told = story(crash())
    assert told.lanes[0].name == "row: subject"
    assert [(each.label, each.end) for each in lane(told, "row: subject").items][-1] == ("failed", told.end)
    assert "queue_workload" in [each.label for each in lane(told, "scheduler").items]
    assert "1/3" in [each.label for each in lane(told, "scheduler").items]
    assert [each.label for each in lane(told, "control plane").items] == ["failed"]
    (process,) = lane(told, "worker").items
    assert process.end is not None
    assert process.end > process.t
    assert process.look == "killed"
    assert "status -9" in process.title
    (request,) = lane(told, "API").items
    assert request.label == "PATCH callbacks/…/run 204"
    assert request.end == pytest.approx(request.t + 0.1)
    assert [each.label for each in lane(told, "callable").items] == ["enter"]
    assert [each.label for each in told.faults.items] == ["during: supervisor"]
    assert told.odd == 0


def test_what_has_no_end_lasts_until_the_end_of_the_case() -> None:
    events = [event for event in crash() if event.get("what") != "gone" and event.get("phase") != "response"]
    told = story(events)
    (process,), (request,) = lane(told, "worker").items, lane(told, "API").items
    assert process.end == told.end
    assert "there at the end" in process.title
    assert (request.end, request.look) == (told.end, "refused")
    assert "no answer" in request.title


def test_an_event_that_cannot_be_understood_is_counted_and_does_no_harm() -> None:
    broken: list[Event] = [
        {"t": 0.3, "kind": "slots", "executors": "none"},
        {"t": 0.3, "kind": "wire", "phase": "request"},
        {"t": 0.3, "kind": "event"},
        {"t": 0.3, "kind": "never heard of"},
        {"t": 0.3, "kind": "row", "callback": ["c1"], "new": {"a": 1}, "seq": "x"},
        {"t": 0.3, "kind": "process", "what": "born", "pid": []},
        {"t": 0.3, "kind": "submitted", "callback": "", "role": []},
    ]
    told = story(crash() + broken)
    assert told.odd == 4
    assert len(lane(told, "callable").items) == 1
    assert any("could not be understood" in note for note in draw(told, 100).notes)


def test_more_rows_than_lanes_are_said() -> None:
    written = Written()
    for number in range(12):
        written.callback(f"c{number}")
    told = story(written.events)
    assert sum(lane.states for lane in told.lanes) == 8
    assert told.notes == ["4 more rows of the database have no lane"]


# -- the scale


def test_the_scale_is_monotone_and_fills_the_picture() -> None:
    told = story(crash())
    scale = make_scale(told, told.lanes)
    places = [scale.x(told.start + step * (told.end - told.start) / 50) for step in range(51)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == pytest.approx((LEFT, WIDTH - 12))
    assert scale.x(told.start - 100) == places[0]
    assert scale.x(told.end + 100) == places[-1]


def test_a_stretch_in_which_nothing_happened_is_shortened_and_says_its_length() -> None:
    items = [item(t / 10) for t in range(10)] + [item(60 + t / 10) for t in range(10)]
    told = Story([Lane("worker", 3, items=items)], Lane("fault"), 0.0, 60.9)
    drawing = draw(told, 100)
    ((x0, x1, text),) = drawing.breaks
    assert x1 - x0 == pytest.approx(BREAK)
    assert text == "59.1 s"
    assert all(not x0 < tick.x < x1 for tick in drawing.ticks)
    assert {float(tick.label) for tick in drawing.ticks} & {0.2, 0.4, 60.2, 60.4}


def test_polls_do_not_keep_a_stretch_long() -> None:
    polls = [Item(float(t), None, "poll", "", "quiet", 5, ambient=True) for t in range(60)]
    told = Story([Lane("API", 2, items=[item(0), item(1), item(60), *polls])], Lane("fault"), 0.0, 60.0)
    assert len(make_scale(told, told.lanes).breaks) == 1


def test_all_at_one_moment_is_no_division_by_zero() -> None:
    told = Story([Lane("worker", items=[item(5.0), item(5.0)])], Lane("fault"), 5.0, 5.0)
    drawing = draw(told, 10)
    assert sum(1 + mark.joined for band in drawing.bands for mark in band.marks) == 2


# -- the picture


def boxes(drawing: Drawing) -> list[tuple[float, float, float]]:
    """Row, left and right of every mark and label that is not the bar of a state."""
    found = []
    for band in [*drawing.bands, *([drawing.faults] if drawing.faults else [])]:
        for mark in band.marks:
            left, right = (mark.x, mark.x + mark.width) if mark.width else (mark.x - 4, mark.x + 4)
            letters = cell_len(mark.label) * LETTER
            if mark.label and mark.side == "right":
                right = mark.label_x + letters
            elif mark.label and mark.side == "left":
                left = mark.label_x - letters
            elif mark.label:
                assert mark.label_x + letters <= right, "a label inside a bar is no longer than it"
            found.append((mark.y, left, right))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_neither_marks_nor_labels_overlap(seed: int) -> None:
    rolls = random.Random(seed)
    items = []
    for _ in range(150):
        t = rolls.uniform(0, 10)
        end = t + rolls.choice([0.0, 0.01, 0.5, 4.0]) if rolls.random() < 0.4 else None
        label = rolls.choice(["", "ok", "PATCH callbacks/…/run 204", "日本語のラベル", "x" * 60])
        items.append(item(t, end, label, rolls.choice(["plain", "fault"]), rolls.randrange(5)))
    drawing = draw(Story([Lane("API", 4, items=items)], Lane("fault", 3, items=items[:20]), 0.0, 14.0), 1000)
    for (y0, left0, right0), (y1, left1, right1) in combinations(boxes(drawing), 2):
        assert y0 != y1 or right0 <= left1 or right1 <= left0
    assert all(left >= 0 and right <= WIDTH for _, left, right in boxes(drawing))
    assert sum(1 + mark.joined for mark in drawing.bands[0].marks) == 150, "nothing is lost"
    assert drawing.bands[0].height == 4 * LINE <= 4 * 25


def test_only_so_much_is_drawn_the_weightiest_and_what_is_left_out_is_said() -> None:
    written = Written().callback("c1")
    for number in range(3000):
        written.add("wire", phase="request", api="edge", method="POST", path="/edge_worker/v1/jobs/fetch/w", seq=number)
    written.add("fault", name="during", victim="child")
    drawing = draw(story(written.events), 50)
    assert sum(1 + mark.joined for band in drawing.bands for mark in band.marks) <= 50
    assert drawing.faults is not None
    (note,) = drawing.notes
    assert note.startswith("50 of 30")
    assert "API" in note


def test_a_mark_without_room_joins_its_neighbour() -> None:
    items = [item(1.0, label=f"e{number}") for number in range(20)]
    drawing = draw(Story([Lane("harness", 1, items=items)], Lane("fault"), 0.0, 2.0), 100)
    (mark,) = drawing.bands[0].marks
    assert isinstance(mark, Mark)
    assert mark.joined == 19
    assert mark.title.splitlines()[0] == "1.0 e0"
    assert mark.title.splitlines()[-1] == "… and 14 more"


# -- reading


def write(path: Path, events: list[Event], tail: str = "") -> None:
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + tail, "utf-8")


def test_a_whole_history_is_read_up_to_its_end(tmp_path: Path) -> None:
    write(tmp_path / "h.jsonl", [*crash(), {"t": 99.0, "kind": "note", "what": "repair"}])
    reading = read_events(tmp_path, "h.jsonl")
    assert reading.problem == ""
    assert reading.events == crash()


def test_a_broken_history_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    junk = '{"t": "soon", "kind": "row"}\n{"t": NaN, "kind": "row"}\n[]\n{"t": 1}\n' + "[" * 100_000 + "\n{cut o"
    write(tmp_path / "h.jsonl", crash()[:8], junk)
    reading = read_events(tmp_path, "h.jsonl")
    assert reading.events == crash()[:8]
    assert "6 of its 14 lines cannot be read" in reading.problem
    assert "it has no end" in reading.problem


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "has no history"),
        ("histories/none.jsonl", "is not beside the report"),
        ("../outside.jsonl", "outside the report's folder"),
        ("/etc/hostname", "outside the report's folder"),
        (".", "cannot be read"),
        ("nul\0.jsonl", "cannot be read"),
        ("binary", "is no history of this tool"),
        ("empty", "is no history of this tool"),
    ],
)
def test_what_is_no_history_is_said_in_one_line(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "empty").touch()
    reading = read_events(tmp_path, name)
    assert reading.events == []
    assert words in reading.problem
    assert "\n" not in reading.problem


# -- text of others


def test_nothing_invisible_is_left() -> None:
    text = visible("a\x1b[31mred\x1b[0m\x1b]0;title\x07\0b\x7f\u202ec\ud800\r\nd\te")
    assert text == "ared␀b␡\\u202ec\\ud800\nd\te"


def test_what_is_clipped_says_how_much_is_missing() -> None:
    assert clip("x" * 50, 10) == "x" * 10 + " … (40 more characters)"
    assert clip("short", 10) == "short"
    assert one_line(" a\n b ", 10) == "a b"
    assert brief("word " * 10, 9) == "word word …"
