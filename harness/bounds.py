"""Bounds that follow an environment: none is shorter than a timer that the environment itself has configured."""

from __future__ import annotations

from collections.abc import Mapping

from executor_conformance.harness.backend import Backend, Variant
from executor_conformance.harness.limits import API_TIMEOUT_S, KILL_S, LIMITS

CALLABLE_TIMEOUT = "[callbacks] callback_execution_timeout, and the kill after it"
API_TIMEOUT = "[workers] execution_api_timeout"


def timers_of(backend: Backend) -> Mapping[str, float]:
    """Return all timers of an environment that may hold back a workload, in seconds by name."""
    own = {CALLABLE_TIMEOUT: backend.callable_timeout_s + KILL_S, API_TIMEOUT: float(API_TIMEOUT_S)}
    return {**backend.timers(), **own}


def settle_s(backend: Backend, variant: Variant) -> float:
    """Return how long a callback may take to its end."""
    longest = max(timers_of(backend).values()) + LIMITS.beyond_a_timer
    return max(LIMITS.settle, variant.settle_s, backend.settle_s, longest)


def poll_s(backend: Backend, at_least: float) -> float:
    """Return for how long something may come of a poll: ``at_least``, or clearly more than two polls."""
    return max(at_least, 2.4 * backend.polls_s)


def hold_s(backend: Backend) -> float:
    """Return how long a callable is held at most: until long after its own timeout has ended it."""
    return max(LIMITS.effect_hold, backend.callable_timeout_s + KILL_S + LIMITS.beyond_a_timer)
