"""The time line of a case as numbers: where its marks, bars, labels and ticks are, in pixels of an SVG.

Pure: a :class:`~.lanes.Story` in, a :class:`Drawing` out; the template makes SVG of it. Two labels never overlap,
nor do two marks: a label without room is dropped, a mark without room joins its neighbour's text.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from executor_conformance.harness.report.lanes import Item, Lane, Story
from executor_conformance.harness.report.visible import clip
from rich.cells import cell_len

WIDTH = 1000
LEFT = 112
"""Width of the column with the lanes' names."""
RIGHT = 12
LINE = 20
"""Height of a row of a lane; bars in it are 14 high."""
GAP = 6
AXIS = 26
LETTER = 6.2
"""Width of a letter at 11 px, rather more than less."""
BOLD = 7.0
"""The same for what is bold."""
DOT = 4.0
BREAK = 64.0
"""Width of a stretch in which nothing happened, however long it was."""
BREAK_SHARE = 0.15
"""From this share of the case's duration on, a stretch in which nothing happened is drawn shortened."""
TEXTS = 6
"""So many texts does a mark show for itself and those that joined it."""
_TICKS = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 5)]


@dataclass(frozen=True)
class Scale:
    """Seconds to pixels: linear but for the stretches in which nothing happened; ``knots`` are (s, px)."""

    knots: tuple[tuple[float, float], ...]
    breaks: tuple[tuple[float, float], ...]
    per_second: float

    def x(self, t: float) -> float:
        """The place of a moment, within the picture."""
        times = [knot[0] for knot in self.knots]
        index = min(max(bisect_right(times, t), 1), len(times) - 1)
        (t0, x0), (t1, x1) = self.knots[index - 1], self.knots[index]
        share = (t - t0) / (t1 - t0) if t1 > t0 else 0.0
        return x0 + (x1 - x0) * min(max(share, 0.0), 1.0)


@dataclass
class Mark:
    """A dot (``width`` 0) or a bar at ``x``, in row ``y``; ``label`` is empty where there was no room.

    ``side`` tells where its label is: ``in`` the bar, ``right`` of it (from ``label_x`` on), or ``left`` (up to it).
    """

    x: float
    y: float
    width: float
    look: str
    titles: list[str]
    label: str = ""
    label_x: float = 0.0
    side: str = ""
    joined: int = 0

    @property
    def title(self) -> str:
        """Its text, and that of the marks that joined it."""
        more = self.joined + 1 - len(self.titles)
        return "\n".join([*self.titles, *([f"… and {more} more"] if more > 0 else [])])


@dataclass
class Band:
    """One lane as drawn: from ``y`` on, ``height`` high."""

    name: str
    y: float
    height: float
    marks: list[Mark]


@dataclass
class Tick:
    """A place on the axis and what it says."""

    x: float
    label: str


@dataclass
class Drawing:
    """What the template draws; all in pixels. ``notes`` say what was left out."""

    bands: list[Band]
    faults: Band | None
    ticks: list[Tick]
    breaks: list[tuple[float, float, str]]
    axis_y: float
    height: float
    notes: list[str] = field(default_factory=list)
    width: int = WIDTH
    left: int = LEFT


def draw(story: Story, limit: int) -> Drawing:
    """The picture of a story with at most ``limit`` of its items, the weightiest."""
    lanes, faults, notes = _bounded(story, limit)
    scale = make_scale(story, [*lanes, faults])
    y = 4.0
    top = _band(faults, scale, y) if faults.items else None
    y = top.y + top.height + GAP if top else y
    bands = []
    for lane in lanes:
        bands.append(_band(lane, scale, y))
        y += bands[-1].height + GAP
    breaks = [(scale.x(t0), scale.x(t1), seconds(t1 - t0)) for t0, t1 in scale.breaks]
    return Drawing(bands, top, list(_ticks(scale, story)), breaks, y, y + AXIS, notes)


def _bounded(story: Story, limit: int) -> tuple[list[Lane], Lane, list[str]]:
    """The lanes with what is drawn of them, and sentences about what is not."""
    every = [(item.rank, item.t, number, item) for number, lane in enumerate(story.lanes) for item in lane.items]
    every += [(item.rank, item.t, -1, item) for item in story.faults.items]
    every.sort(key=lambda entry: entry[:3])
    kept: dict[int, list[Item]] = {}
    for _, _, number, item in every[:limit]:
        kept.setdefault(number, []).append(item)
    left = Counter("fault" if number < 0 else story.lanes[number].name for _, _, number, _ in every[limit:])
    notes = [*story.notes]
    if left:
        what = ", ".join(f"{count} {name}" for name, count in left.items())
        notes.insert(0, f"{limit} of {len(every)} moments are drawn; left out: {what}")
    if story.odd:
        notes.append(f"{story.odd} events could not be understood")
    lanes = [
        Lane(lane.name, lane.lines, lane.states, kept[number])
        for number, lane in enumerate(story.lanes)
        if number in kept
    ]
    return lanes, Lane(story.faults.name, story.faults.lines, items=kept.get(-1, [])), notes


def make_scale(story: Story, lanes: Iterable[Lane]) -> Scale:
    """The scale on which long stretches without anything but polls are shortened."""
    moments = {story.start, story.end}
    for lane in lanes:
        for item in lane.items:
            if not item.ambient:
                moments.update(t for t in (item.t, item.end) if t is not None)
    times = sorted(moments)
    first, last = times[0], max(times[-1], times[0] + 0.001)
    room = WIDTH - LEFT - RIGHT
    breaks = [pair for pair in pairwise(times) if pair[1] - pair[0] > BREAK_SHARE * (last - first)]
    linear = (last - first) - sum(t1 - t0 for t0, t1 in breaks)
    if linear <= 0.002 * (last - first):
        breaks, linear = [], last - first
    per_second = (room - BREAK * len(breaks)) / linear
    knots, x, t = [(first, float(LEFT))], float(LEFT), first
    for t0, t1 in breaks:
        x += (t0 - t) * per_second
        knots += [(t0, x), (t1, x + BREAK)]
        x, t = x + BREAK, t1
    knots.append((last, float(WIDTH - RIGHT)))
    return Scale(tuple(knots), tuple(breaks), per_second)


def seconds(duration: float) -> str:
    """A duration to read: ``3.2 s``."""
    return f"{duration:.1f} s" if duration >= 0.95 else f"{duration:.2g} s"


def _ticks(scale: Scale, story: Story) -> Iterator[Tick]:
    step = next((step for step in _TICKS if step * scale.per_second >= 60), _TICKS[-1])
    digits = max(0, -math.floor(math.log10(step)))
    taken = [(scale.x(t0) - 2, scale.x(t1) + 2) for t0, t1 in scale.breaks]
    number = math.ceil(story.start / step)
    # a picture has room for some twenty; the bound is for times that no history should have
    for _ in range(2000):
        t = number * step
        if t > story.end:
            return
        hidden = next((t1 for t0, t1 in scale.breaks if t0 < t < t1), None)
        number = number + 1 if hidden is None else max(number + 1, math.ceil(hidden / step))
        label = f"{t:.{digits}f}"
        half = len(label) * LETTER / 2
        x = scale.x(t)
        if hidden is None and x + half <= WIDTH and _free(taken, x - half - 4, x + half + 4):
            taken.append((x - half - 4, x + half + 4))
            yield Tick(round(x, 1), label)


def _free(taken: Iterable[tuple[float, float]], left: float, right: float) -> bool:
    return all(right <= begin or left >= end for begin, end in taken)


def _band(lane: Lane, scale: Scale, y: float) -> Band:
    if lane.states:
        return Band(lane.name, y, LINE, list(_state_bars(lane, scale, y)))
    rows: list[list[tuple[float, float]]] = []
    placed: list[tuple[int, Mark]] = []
    for item in sorted(lane.items, key=lambda item: (item.rank, item.t)):
        _place(item, scale, lane.lines, rows, placed, y)
    return Band(lane.name, y, LINE * max(1, len(rows)), [mark for _, mark in placed])


def _state_bars(lane: Lane, scale: Scale, y: float) -> Iterator[Mark]:
    for item in sorted(lane.items, key=lambda item: item.t):
        x = scale.x(item.t)
        width = max(scale.x(item.end if item.end is not None else item.t) - x, 2.0)
        fits = cell_len(item.label) * LETTER + 8 <= width
        label = item.label if fits else ""
        yield Mark(round(x, 1), y, round(width, 1), item.look, [item.title], label, round(x + 4, 1), "in")


def _place(
    item: Item,
    scale: Scale,
    lines: int,
    rows: list[list[tuple[float, float]]],
    placed: list[tuple[int, Mark]],
    top: float,
) -> None:
    """Find room for an item: with its label inside, right or left of it; without; or in its neighbour's text."""
    x = scale.x(item.t)
    width = max(scale.x(item.end) - x, 3.0) if item.end is not None else 0.0
    begin, end = (x - 1, x + width + 1) if width else (x - DOT - 1, x + DOT + 1)
    letters = cell_len(item.label) * (BOLD if item.look in ("fault", "bad") else LETTER) + 4
    ways = [(begin, end + letters, end + 1, "right"), (begin - letters, end, begin - 1, "left")]
    if letters + 4 <= width:
        ways = [(begin, end, x + 4, "in")]
    ways = [way for way in ways if way[0] >= LEFT - DOT - 2 and way[1] <= WIDTH]
    ways = ways if item.label else []
    for left, right, label_x, side in [*ways, (begin, end, 0.0, "")]:
        for number in range(lines):
            if number == len(rows):
                rows.append([])
            if _free(rows[number], left, right):
                rows[number].append((left, right))
                label = item.label if side else ""
                mark = Mark(round(x, 1), top + number * LINE, round(width, 1), item.look, [item.title], label)
                mark.label_x, mark.side = round(label_x, 1), side
                placed.append((number, mark))
                return
    _, nearest = min(placed, key=lambda entry: abs(entry[1].x - x))
    nearest.joined += 1
    if len(nearest.titles) < TEXTS:
        nearest.titles.append(clip(item.title, 120))
