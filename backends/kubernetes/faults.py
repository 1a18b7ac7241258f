"""What can go wrong at a Kubernetes API and on a node: the ways to each fault point, as rules of the emulator."""

from __future__ import annotations

from typing import Any

from executor_conformance.backends.emulation import Way


def _status(code: int, reason: str, message: str = "injected", **more: Any) -> dict[str, Any]:
    return {"type": "status", "code": code, "reason": reason, "message": message, **more}


def _refused(text: str, action: dict[str, Any], times: int | None = None, retry_s: float = 0.0) -> Way:
    return Way(text, ({"verb": "create", "resource": "pods", "times": times, "action": action},), retry_s=retry_s)


def _on(verb: str, text: str, action: dict[str, Any], times: int | None = None, retry_s: float = 0.0) -> Way:
    return Way(text, ({"verb": verb, "resource": "pods", "times": times, "action": action},), retry_s=retry_s)


def _no_watch(text: str, action: dict[str, Any], times: int | None = None, retry_s: float = 0.0) -> Way:
    """The open watch is cut, and those that follow are answered with ``action``."""
    refused = {"verb": "watch", "resource": "pods", "times": times, "action": action}
    cut = {"verb": "watch", "resource": "pods", "times": 0, "action": {"type": "watch-drop"}}
    return Way(f"the open watch is cut, and {text}", (refused, cut), retry_s=retry_s)


def _node(point: str, text: str, kind: str) -> Way:
    return Way(text, ({"point": point, "action": {"type": kind}},))


FAULTS: dict[str, dict[str, Way]] = {
    "submit-refused": {
        "400": _refused("each creation of a pod is answered with 400", _status(400, "BadRequest")),
        "403": _refused("each creation of a pod is answered with 403", _status(403, "Forbidden")),
        "409": _refused("each creation of a pod is answered with 409", _status(409, "Conflict")),
        "422": _refused("each creation of a pod is answered with 422", _status(422, "Invalid")),
        "429": _refused(
            "the first creation is answered with 429 and Retry-After: 1",
            _status(429, "TooManyRequests", retry_after=1),
            times=1,
            retry_s=3,
        ),
        "500": _refused("each creation of a pod is answered with 500", _status(500, "InternalError")),
        "503-once": _refused("the first creation is answered with 503", _status(503, "ServiceUnavailable"), times=1),
        "connection-closed": _refused("the first creation's connection is closed", {"type": "close"}, times=1),
        "answer-lost": _refused("the first creation is done, its answer is lost", {"type": "drop-response"}, times=1),
    },
    "accepted-lost": {"never-started": _node("schedule", "no pod is scheduled to a node", "never")},
    "start-impossible": {
        "image": _node("pull", "no image can be pulled", "ErrImagePull"),
        "command": _node("start", "no container can start: its command is missing", "StartError"),
        "evicted": _node("start", "each pod is evicted before it starts", "Evicted"),
    },
    "stopped-before-start": {
        "deleted": Way("the pending pod is deleted by another client", act="delete", arguments={"grace": 30}),
    },
    "stopped": {
        "deleted": Way("the pod is deleted with a grace of 1 s", act="delete", arguments={"grace": 1}),
        "deleted-by-force": Way("the pod is deleted with no grace", act="delete", arguments={"grace": 0}),
        "evicted": Way("the pod is evicted", act="evict"),
        "out-of-memory": Way("the container is killed as out of memory", act="oom"),
    },
    "observation": {
        "watch-410": _no_watch("the watch is answered with 410", _status(410, "Expired"), times=1, retry_s=3),
        "watch-error": _on("watch", "the watch brings an ERROR event", {"type": "watch-error", "code": 410}, times=1),
        "watch-dropped": _on("watch", "the watch is cut twice", {"type": "watch-drop"}, times=2, retry_s=3),
        "watch-500": _no_watch("three watches are answered with 500", _status(500, "InternalError"), times=3),
        "watch-500-for-ever": _no_watch("each watch is answered with 500", _status(500, "InternalError")),
        "watch-silent": _on("watch", "the watch stays open and brings nothing", {"type": "watch-hang"}),
        "list-500": _on("list", "each list is answered with 500", _status(500, "InternalError")),
    },
    "clean-up": {
        "500-twice": _on("delete", "two deletions are answered with 500", _status(500, "InternalError"), times=2),
        "500-for-ever": _on("delete", "each deletion is answered with 500", _status(500, "InternalError")),
    },
    "adoption": {
        "list-500": _on("list", "each list is answered with 500", _status(500, "InternalError")),
        "patch-403": _on("patch", "each patch is answered with 403", _status(403, "Forbidden")),
    },
    "hang": {
        "create": _on("create", "no creation of a pod is answered", {"type": "hang"}),
        "delete": _on("delete", "no deletion of a pod is answered", {"type": "hang"}),
        "list": _on("list", "no list is answered", {"type": "hang"}),
    },
}
"""Fault point to way to what is done; the emulator's client has ``add_fault`` and the acts."""

FURTHER: dict[str, set[str]] = {
    "submit-refused": {"400", "409", "422", "500", "503-once", "connection-closed"},
    "start-impossible": {"command", "evicted"},
    "stopped": {"deleted-by-force", "evicted"},
    "observation": {"watch-error", "watch-dropped", "watch-500", "list-500"},
    "clean-up": {"500-twice"},
    "adoption": {"patch-403"},
}
"""What only the extended level has."""
