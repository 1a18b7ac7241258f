"""Programs that are run to their end: tools of others, and looks at what is far away in a process of their own."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from executor_conformance.harness import programs
from executor_conformance.harness.errors import EnvironmentUnavailable, HarnessError


class CommandFailed(HarnessError):
    """A command is not there, failed, or did not end; ``said`` are the lines that it wrote, without empty ones."""

    def __init__(self, message: str, said: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.said = list(said)


def run(
    argv: Sequence[str],
    seconds: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    always: bool = False,
) -> str:
    """The output of a command.

    :param always: it cleans up, so it runs also where the run has been ended.
    :raises CommandFailed: it is not there, fails, or does not end within ``seconds``.
    """
    what = " ".join(argv[:3])
    try:
        done = programs.run(argv, seconds, cwd=cwd, env=env, always=always)
    except programs.NotInTime as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise CommandFailed(f"'{what}' cannot be run: {error.strerror}.") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CommandFailed(f"'{what}' failed: {(said or ['no message'])[-1][:300].rstrip('.')}.", said)
    return done.stdout


def look_beside(module: str, place: str, seconds: float, *arguments: str) -> dict[str, Any]:
    """What ``python -m module`` found: its last line, as JSON; each of its ``leftovers`` becomes a warning.

    A client of a cloud or a cluster is heavy, and may hang; it stays out of this process.

    :param place: what it looks at, for messages.
    :raises EnvironmentUnavailable: it did not end within ``seconds``.
    :raises HarnessError: it broke.
    """
    try:
        done = programs.run([sys.executable, "-m", module, *arguments], seconds)
    except programs.NotInTime as error:
        raise EnvironmentUnavailable(f"{place} could not be looked at within {error.deadline}") from None
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise HarnessError(f"The look at {place} failed: {last[:300]}.") from None
    for sentence in found["leftovers"]:
        warnings.warn(sentence, stacklevel=3)
    return found
