"""What can go wrong at an AWS service and in its data plane: the parts of the ways to the fault points."""

from __future__ import annotations

from typing import Any

from executor_conformance.backends.emulation import Way


def error(code: str, status: int = 400, message: str = "") -> dict[str, Any]:
    """An action: answer with this error of the service."""
    return {"type": "error", "code": code, "status": status, **({"message": message} if message else {})}


THROTTLED = error("ThrottlingException")
DENIED = error("AccessDeniedException", message="User is not authorized to perform this action")
EXPIRED = error("ExpiredTokenException", message="The security token included in the request is expired")


def on(service: str, operation: str, text: str, action: dict[str, Any], times: int | None = None) -> Way:
    """A way by which requests for ``operation`` fail: the first ``times``, or each."""
    return Way(text, ({"service": service, "operation": operation, "times": times, "action": action},))


def at(service: str, point: str, text: str, kind: str) -> Way:
    """A way by which the data plane fails at 'start' or 'report'."""
    return Way(text, ({"service": service, "point": point, "action": {"type": kind}},))


def submissions(service: str, operation: str, server_error: str) -> dict[str, Way]:
    """Ways in which each submission by ``operation`` fails; ``server_error`` is the service's code of a 5xx."""

    def refused(text: str, action: dict[str, Any]) -> Way:
        return on(service, operation, f"each {operation} {text}", action)

    return {
        "throttled": refused("is throttled", THROTTLED),
        "access-denied": refused("is denied", DENIED),
        "500": refused("is answered with 500", error(server_error, 500)),
        "connection-closed": refused("finds its connection closed", {"type": "close"}),
        "answer-lost": on(
            service, operation, f"the first {operation} is done, its answer is lost", {"type": "drop-response"}, 1
        ),
        "expired-token": Way(
            f"the token of the first {operation} has expired",
            ({"service": service, "operation": operation, "times": 1, "action": EXPIRED},),
            retry_s=6,  # the connection is made anew 4 s after the executor's start at the earliest
        ),
    }


FURTHER_SUBMISSIONS = frozenset({"access-denied", "500", "connection-closed", "expired-token"})
FURTHER_POLLS = frozenset({"poll-throttled", "poll-denied", "poll-500", "poll-closed", "poll-expired-token"})
"""What the extended level has besides a submission and a poll that are throttled for ever."""


def polls(service: str, operation: str, server_error: str) -> dict[str, Way]:
    """Ways in which polling by ``operation`` fails."""
    return {
        "poll-throttled": on(service, operation, f"three {operation} are throttled", THROTTLED, 3),
        "poll-denied": on(service, operation, f"three {operation} are denied", DENIED, 3),
        "poll-500": on(service, operation, f"three {operation} are answered with 500", error(server_error, 500), 3),
        "poll-closed": on(service, operation, f"three {operation} find their connection closed", {"type": "close"}, 3),
        "poll-refused-for-ever": on(service, operation, f"each {operation} is throttled", THROTTLED),
        "poll-expired-token": Way(
            f"the token of one {operation} has expired",
            ({"service": service, "operation": operation, "times": 1, "action": EXPIRED},),
            retry_s=6,
        ),
    }


def hangs(service: str, *operations: str) -> dict[str, Way]:
    """Ways in which ``operations`` are never answered."""
    return {name: on(service, name, f"no {name} is answered", {"type": "hang"}) for name in operations}


def lost(service: str) -> dict[str, Way]:
    """The submission is accepted, and nothing comes of it."""
    return {"never-started": at(service, "start", "what is accepted is never started", "never")}
