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
            retry_s=NEXT_TRY_S,
        ),
        **credentials(service, operation),
    }


NEXT_TRY_S = 6.0
"""In so long an executor makes its connection anew: 4 s after its start at the earliest, later after a second."""


def credentials(service: str, operation: str, prefix: str = "") -> dict[str, Way]:
    """Ways in which ``operation`` has no credentials: there are none, or the service that gives them out fails."""

    def way(text: str, kind: str, times: int | None) -> Way:
        rule = {"service": service, "credentials": operation, "times": times, "action": {"type": kind}}
        return Way(text, (rule,), retry_s=NEXT_TRY_S if times else 0.0, again_s=0.0 if times else NEXT_TRY_S)

    missing, failing = "finds no credentials", "gets no credentials, for their provider fails"
    return {
        f"{prefix}credentials-missing": way(f"each {operation} {missing}", "missing", None),
        f"{prefix}credentials-missing-once": way(f"one {operation} {missing}", "missing", 1),
        f"{prefix}credentials-failing": way(f"each {operation} {failing}", "failing", None),
        f"{prefix}credentials-failing-once": way(f"one {operation} {failing}", "failing", 1),
    }


FURTHER_CREDENTIALS = ("credentials-missing-once", "credentials-failing", "credentials-failing-once")
FURTHER_SUBMISSIONS = frozenset({"access-denied", "500", "connection-closed", "expired-token", *FURTHER_CREDENTIALS})
FURTHER_POLLS = frozenset(
    {
        *("poll-throttled", "poll-denied", "poll-500", "poll-closed", "poll-expired-token"),
        *(f"poll-{name}" for name in FURTHER_CREDENTIALS),
    }
)
"""What the extended level has besides a submission and a poll that are throttled, or without credentials, for ever."""


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
            retry_s=NEXT_TRY_S,
        ),
        **credentials(service, operation, "poll-"),
    }


def hangs(service: str, *operations: str) -> dict[str, Way]:
    """Ways in which ``operations`` are never answered."""
    return {name: on(service, name, f"no {name} is answered", {"type": "hang"}) for name in operations}


def lost(service: str) -> dict[str, Way]:
    """The submission is accepted, and nothing comes of it."""
    return {"never-started": at(service, "start", "what is accepted is never started", "never")}
