"""Moments of the wall clock, as databases write them, on the harness's own clock."""

from __future__ import annotations

import datetime
import time


def monotonic_at(unix_time: float) -> float:
    """Return a moment, given in seconds since the epoch, in seconds of ``time.monotonic()``."""
    return time.monotonic() - (time.time() - unix_time)


def monotonic_of(moment: str | datetime.datetime) -> float:
    """Return a moment, in UTC if it names no zone, in seconds of ``time.monotonic()``."""
    read = moment if isinstance(moment, datetime.datetime) else datetime.datetime.fromisoformat(moment)
    return monotonic_at((read if read.tzinfo else read.replace(tzinfo=datetime.UTC)).timestamp())
