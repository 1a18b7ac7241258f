"""TOKEN: token scope, on the wire and at the server."""

from __future__ import annotations

from typing import Any

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.view import QUEUED_SCOPE, CallbackView, HistoryView, line

CLOCK_SLACK_S = 5


def _claims(event: dict[str, Any]) -> dict[str, Any]:
    return (event.get("token") or {}).get("claims") or {}


def _queued_scope(view: HistoryView) -> str:
    return QUEUED_SCOPE.get(view.edition, "callback")


@decides("TOKEN-1")
def queued_token_is_scoped(view: HistoryView) -> Found:
    """``sub``, scope, expiry and audience of the token that core hands to the executor."""
    decided = 0
    for callback in view.callbacks:
        if callback.workload is None:
            continue
        decided += 1
        claims = _claims(callback.workload)
        wanted = {"sub": callback.id, "scope": _queued_scope(view)}
        wrong = [
            f"{name} is {claims.get(name)!r}, not {value!r}"
            for name, value in wanted.items()
            if claims.get(name) != value
        ]
        lifetime = (claims.get("exp") or 0) - (claims.get("iat") or 0)
        longest = view.header.get("task_queued_timeout", 600)
        if not 0 < lifetime <= longest + CLOCK_SLACK_S:
            wrong.append(f"it is valid for {lifetime} s, task_queued_timeout is {longest} s")
        audience = claims.get("aud")
        if view.header.get("audience") and view.header["audience"] not in (
            audience if isinstance(audience, list) else [audience]
        ):
            wrong.append(f"its audience is {audience!r}, not {view.header['audience']!r}")
        if wrong:
            return Broken("The queued token's claims are not what the contract says", tuple(wrong))
    return Kept() if decided else Undecided("core queued no callback in this case")


def _refused(view: HistoryView, name: str, what: str) -> Found:
    probes = view.probe(name)
    if not probes:
        return Undecided(f"this case does not probe {what}")
    wrong = [
        f"{probe['method']} {probe['route']} with {probe['token']}: {probe['status']}, allowed: {probe['allowed']}"
        for probe in probes
        if probe["status"] not in probe["allowed"] or not probe.get("unchanged", True)
    ]
    if wrong:
        return Broken(f"The server does not keep {what}", tuple(wrong[:12]))
    return Kept(f"{len(probes)} requests")


@decides("TOKEN-2")
def queued_token_opens_only_the_claim(view: HistoryView) -> Found:
    """Every runtime route refuses the queued token."""
    return _refused(view, "queued token", "the queued token from the runtime routes")


@decides("TOKEN-3")
def claim_answers_with_an_execution_token(view: HistoryView) -> Found:
    """A successful claim carries an execution token of the same subject."""
    decided = 0
    for callback in view.callbacks:
        if callback.claimed is None:
            continue
        decided += 1
        claims = (callback.claimed.get("refreshed") or {}).get("claims") or {}
        if claims.get("sub") != callback.id or claims.get("scope") != "execution":
            return Broken(
                "The claim's answer has no execution token for the callback",
                (line(callback.claimed, "route", "status"), f"refreshed claims: {claims}"),
            )
    return Kept() if decided else Undecided("no claim succeeded in this case")


@decides("TOKEN-4")
def claim_is_guarded(view: HistoryView) -> Found:
    """Foreign, repeated, expired, tampered, unsigned, misdirected, empty and unknown claims are refused."""
    return _refused(view, "claim", "the claim")


@decides("TOKEN-5")
def worker_sends_the_right_token(view: HistoryView) -> Found:
    """The queued token only on the claim, an execution token on all else, ``sub`` always the callback's id."""
    decided = 0
    for callback in view.callbacks:
        for request in callback.requests:
            decided += 1
            found = _wrong_token(view, callback, request)
            if found:
                return Broken(found, (line(request, "method", "route", "pid"), f"claims: {_claims(request)}"))
    return Kept(f"{decided} requests") if decided else Undecided("the worker sent no request for a callback")


def _wrong_token(view: HistoryView, callback: CallbackView, request: dict[str, Any]) -> str:
    claims = _claims(request)
    if not claims:
        return "The worker sent a request without a token"
    if claims.get("sub") != callback.id:
        return "The worker sent a token whose subject is not the callback"
    if view.edition == "claimless":
        return ""  # the edition has one token for everything
    is_claim = request in callback.claims
    scope = claims.get("scope", "execution")
    if is_claim and scope != _queued_scope(view):
        return f"The claim was sent with a token of scope '{scope}'"
    if not is_claim and scope != "execution":
        return f"A request other than the claim was sent with a token of scope '{scope}'"
    return ""


@decides("TOKEN-6")
def execution_token_is_confined(view: HistoryView) -> Found:
    """A callback's execution token acts on no task instance and on no other callback."""
    return _refused(view, "execution token", "task instances and other callbacks from a callback's execution token")


@decides("TOKEN-9")
def given_token_is_used(view: HistoryView) -> Found:
    """The first token on the wire is the one that core handed to the executor."""
    decided = 0
    for callback in view.callbacks:
        if not callback.requests:
            continue
        if callback.workload is None or not callback.workload.get("token"):
            return Unproven("the history does not hold the token that core handed over")
        decided += 1
        given = callback.workload["token"]["fingerprint"]
        first = callback.requests[0]
        used = (first.get("token") or {}).get("fingerprint")
        if used != given:
            return Broken(
                "The worker's first token is not the one that the executor was given",
                (
                    line(first, "method", "route", "pid"),
                    f"given {given}, used {used}",
                    f"claims: {_claims(first)}",
                ),
            )
    return Kept() if decided else Undecided("the worker sent no request for a callback")
