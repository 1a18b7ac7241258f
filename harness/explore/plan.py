"""What a sweep is about to do, and what it has done: kept in the report folder, so that a stopped one can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.explore.boundaries import Boundary
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.report.model import CaseResult
from executor_conformance.harness.verdicts import Verdict

FORMAT = "executor-conformance/sweep"
FORMAT_VERSION = 1
FOLDER = "sweeps"
UNHEALTHY = "the undisturbed callback is not healthy, so there is no way to sweep over"


@dataclass
class Sweep:
    """The sweep of one subject with one victim.

    ``about`` says what it is of (executor, versions, broker, …): results are only taken up again where all of it is
    the same. ``healthy_s`` is what the recorded run took in seconds, with what follows it and the repair.
    """

    subject: str
    victim: str
    about: dict[str, str]
    healthy_s: float = 0.0
    boundaries: list[Boundary] = field(default_factory=list)
    recording: CaseResult | None = None
    results: dict[str, CaseResult] = field(default_factory=dict)
    trouble: str = ""
    """Why there is no plan, in a sentence; empty if there is one."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``subject`` and ``run``: what the report says of both, for a resumption that starts nothing."""

    @property
    def planned(self) -> list[Boundary]:
        """The boundaries at which somebody is killed: one run each."""
        return [boundary for boundary in self.boundaries if not boundary.skipped]

    def finished(self, case: str) -> CaseResult | None:
        """The kept result of a case; one that ended in an error of the harness is not finished."""
        found = self.results.get(case)
        return found if found and found.verdict is not Verdict.ERROR else None

    def left(self, done: int = 0) -> float:
        """Seconds that the runs still take, about: each as long as those before it.

        Before there are any: as long as the healthy one, which is the first of a cold environment, and a proof of rest.
        """
        took = [result.duration_s for name in self.results if (result := self.finished(name))]
        each = sum(took) / len(took) if took else self.healthy_s + LIMITS.quiet_window
        return max(0, len(self.planned) - done) * each

    def plan_lines(self, done: int = 0) -> list[str]:
        """The plan for a reader: how many runs, how long, and each boundary in the order of the recording."""
        of = f"{self.subject}, killing the {self.victim}"
        if not self.boundaries:
            return [f"sweep of {of}: {self.trouble or UNHEALTHY}"]
        kept = f", {done} of them already done" if done else ""
        lines = [
            f"sweep of {of}: {len(self.boundaries)} boundaries, {len(self.planned)} runs{kept}, "
            f"about {duration(self.left(done))} (the healthy run took {self.healthy_s:.1f} s)"
        ]
        width = len(str(len(self.planned)))
        number = 0
        for boundary in self.boundaries:
            number += not boundary.skipped
            sign = "-" if boundary.skipped else str(number)
            why = f"  skipped: {boundary.skipped}" if boundary.skipped else ""
            lines.append(f"  {sign:>{width}}  {boundary.name}{why}")
        return lines

    # -- keeping --------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "subject": self.subject,
            "victim": self.victim,
            "about": self.about,
            "facts": self.facts,
            "healthy_s": self.healthy_s,
            "boundaries": [boundary.to_dict() for boundary in self.boundaries],
            "recording": self.recording.to_dict() if self.recording else None,
            "results": {name: result.to_dict() for name, result in self.results.items()},
        }

    def save(self, folder: Path) -> None:
        """Keep it in the report folder; the file appears whole or not at all.

        :raises UsageError: it cannot be written.
        """
        path = path_of(folder, self.subject, self.victim)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")
            os.replace(temporary, path)
        except OSError as error:
            raise UsageError(f"The sweep cannot be kept in {path} ({error.strerror or error}).") from None
        finally:
            temporary.unlink(missing_ok=True)


def path_of(folder: Path, subject: str, victim: str) -> Path:
    """Where the sweep of a subject with this victim is kept."""
    safe = "".join(char if char.isalnum() or char in "-_." else "-" for char in subject)
    return folder / FOLDER / f"{safe}--{victim}.json"


def load(folder: Path, subject: str, victim: str, about: Mapping[str, str]) -> Sweep | None:
    """The sweep that is kept in the report folder; None if there is none.

    :raises UsageError: it is broken, or of something else than ``about`` says.
    """
    path = path_of(folder, subject, victim)
    anew = "start it anew with --conformance-sweep"
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != FORMAT or data["version"] != FORMAT_VERSION:
            raise ValueError("it is of another format")
        sweep = Sweep(
            subject=data["subject"],
            victim=data["victim"],
            about=dict(data["about"]),
            facts=dict(data["facts"]),
            healthy_s=float(data["healthy_s"]),
            boundaries=[Boundary.from_dict(each) for each in data["boundaries"]],
            recording=CaseResult.from_dict(data["recording"]) if data["recording"] else None,
            results={name: CaseResult.from_dict(each) for name, each in data["results"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"The sweep in {path} cannot be taken up ({type(error).__name__}: {error}); {anew}.") from None
    for name in {**sweep.about, **about}:
        if sweep.about.get(name) != about.get(name):
            raise UsageError(
                f"The sweep in {path} is of {name} {sweep.about.get(name) or 'none'}, and this run is of "
                f"{about.get(name) or 'none'}; {anew}, or name another folder with --conformance-report."
            )
    return sweep


def duration(seconds: float) -> str:
    """Seconds for a reader: ``42 s``, ``3 min``, ``1 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
