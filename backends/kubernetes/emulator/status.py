"""Errors of the API as ``Status`` objects, worded as kube-apiserver words them (apimachinery, api/errors)."""

from __future__ import annotations

from typing import Any

Obj = dict[str, Any]

OPTIMISTIC_LOCK = "the object has been modified; please apply your changes to the latest version and try again"


class ApiError(Exception):
    """An answer other than 2xx.

    :param details: ``details`` of the Status: ``name``, ``group``, ``kind``, ``causes`` ...
    :param retry_after: seconds, for the header Retry-After and ``details.retryAfterSeconds``.
    """

    def __init__(
        self, code: int, reason: str, message: str, details: Obj | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.retry_after = retry_after
        if retry_after is not None:
            self.details["retryAfterSeconds"] = retry_after

    def body(self) -> Obj:
        """The Status object."""
        status: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


def success(details: Obj | None = None) -> Obj:
    """The Status of a request that went well and has nothing else to return."""
    status: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        status["details"] = details
    return status


def not_found(resource: str, name: str) -> ApiError:
    """404: there is no such object."""
    return ApiError(404, "NotFound", f'{resource} "{name}" not found', {"name": name, "kind": resource})


def no_route() -> ApiError:
    """404: there is no such resource or path."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(resource: str, name: str) -> ApiError:
    """409: create of a name that is taken."""
    return ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists', {"name": name, "kind": resource})


def conflict(resource: str, name: str, message: str = OPTIMISTIC_LOCK) -> ApiError:
    """409: a precondition (resourceVersion, uid) does not hold."""
    text = f'Operation cannot be fulfilled on {resource} "{name}": {message}'
    return ApiError(409, "Conflict", text, {"name": name, "kind": resource})


def invalid(kind: str, name: str, causes: list[Obj]) -> ApiError:
    """422: the object breaks a rule; each cause has ``reason``, ``message`` and ``field``."""
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"name": name, "kind": kind, "causes": causes}
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details)


def cause(reason: str, field: str, message: str) -> Obj:
    """One cause of a 422: ``reason`` such as FieldValueRequired, ``field`` a path into the object."""
    return {"reason": reason, "message": message, "field": field}


def bad_request(message: str) -> ApiError:
    """400: what was sent is not understood."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no bearer token, or another one."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, name: str, message: str, causes: list[Obj] | None = None) -> ApiError:
    """403, with the message of whoever forbids it."""
    details: Obj = {"name": name, "kind": resource} if name else {"kind": resource}
    if causes:
        details["causes"] = causes
    subject = f'{resource} "{name}"' if name else resource
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {message}", details)


def method_not_allowed() -> ApiError:
    """405: the resource exists and does not have this verb."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media_type(sent: str, accepted: list[str]) -> ApiError:
    """415: a body of another type."""
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return ApiError(415, "UnsupportedMediaType", f"{text} (sent: {sent or 'none'})")


def not_acceptable(accepted: list[str]) -> ApiError:
    """406: the client accepts nothing that can be sent."""
    return ApiError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}")


def too_old(asked: int, oldest: int) -> ApiError:
    """410 for a watch: what happened since ``asked`` is not known any more."""
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def continue_expired() -> ApiError:
    """410 for a list that is continued too late."""
    return ApiError(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can start a new list"
        " without the continue parameter.",
    )


def too_large_version(asked: int, current: int) -> ApiError:
    """504: a list at least as new as a version that does not exist yet."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Too large resource version: {asked}, current: {current}"
    return ApiError(504, "Timeout", message, {"causes": causes}, retry_after=1)
