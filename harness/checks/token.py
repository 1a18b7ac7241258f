"""TOKEN: token scope, on the wire and at the server."""

from __future__ import annotations

from typing import Any

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.history import Event
from executor_conformance.harness.view import CallbackView, HistoryView, line

CLOCK_SLACK_S = 5
ASKING_S = 20.0
"""Seconds that a probe may take."""
ROW_SLACK_S = 0.05
"""Seconds by which the clock of a row may differ from that of the harness."""


def _claims(event: dict[str, Any]) -> dict[str, Any]:
    return (event.get("token") or {}).get("claims") or {}


@decides("TOKEN-1")
def queued_token_is_scoped(view: HistoryView) -> Found:
    """``sub``, scope, expiry and audience of the token that core hands to the executor."""
    decided = 0
    for callback in view.callbacks:
        if callback.workload is None:
            continue
        decided += 1
        claims = _claims(callback.workload)
        wanted = {"sub": callback.id, "scope": view.offers.queued_scope}
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


def _moved_by_itself(view: HistoryView, before: Event | None, probe: Event) -> bool:
    """Whether a row changed during a probe because its own worker claimed, or its executor reported, just then."""
    start, end = before["t"] if before else probe["t"] - ASKING_S, probe["t"] + ROW_SLACK_S
    moved = [
        (callback, row) for callback in view.callbacks for row in callback.rows if start - ROW_SLACK_S < row["t"] <= end
    ]
    return bool(moved) and all(_explained(callback, row) for callback, row in moved)


def _explained(callback: CallbackView, row: Event) -> bool:
    reported = any(event["state"] == row["new"] and event["t"] <= row["t"] + ROW_SLACK_S for event in callback.events)
    own = callback.claims if row["new"] == "running" else callback.end_reports
    return reported or _by_one_of(own, callback, row)


def _by_one_of(requests: list[Event], callback: CallbackView, row: Event) -> bool:
    """True if the row changed while the server took one of these requests of its own worker."""
    asked = {request["seq"]: request["t"] for request in requests}
    return any(
        asked[answer["seq"]] - ROW_SLACK_S <= row["t"] <= answer["t"] + ROW_SLACK_S
        for answer in callback.responses(requests)
        if answer["status"] < 300 and answer.get("by") != "rule"
    )


def _refused(view: HistoryView, name: str, what: str) -> Found:
    probes = view.probe(name)
    if not probes:
        return Undecided(f"this case does not probe {what}")
    wrong = []
    for before, probe in zip([None, *probes], probes, strict=False):
        asked = f"{probe['method']} {probe['route']} with {probe['token']}"
        if probe["status"] not in probe["allowed"]:
            wrong.append(f"{asked}: {probe['status']}, allowed: {probe['allowed']}")
        elif not probe.get("unchanged", True) and not _moved_by_itself(view, before, probe):
            wrong.append(f"{asked}: {probe['status']}, and the row has changed")
    if wrong:
        return Broken(f"The server does not keep {what}", tuple(wrong[:12]))
    return Kept(f"{len(probes)} requests")


@decides("TOKEN-3")
def claim_answers_with_an_execution_token(view: HistoryView) -> Found:
    """A successful claim carries an execution token of the same subject."""
    decided = 0
    for callback in view.callbacks:
        if callback.claimed is None:
            continue
        decided += 1
        claims = (callback.claimed.get("refreshed") or {}).get("claims") or {}
        if claims.get("sub") != callback.id or claims.get("scope", "execution") != "execution":
            return Broken(
                "The claim's answer has no execution token for the callback",
                (line(callback.claimed, "route", "status"), f"refreshed claims: {claims}"),
            )
    return Kept() if decided else Undecided("no claim succeeded in this case")


def asked_of_the_state_route(view: HistoryView) -> Found:
    """Decide what the state route made of tokens that are foreign, expired, tampered with, unsigned or none."""
    return _refused(view, "end", "the state route")


def asked_of_the_claim(view: HistoryView) -> Found:
    """What the claim made of tokens that are foreign, expired, tampered with, unsigned, misdirected or none."""
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
    if not view.offers.has_claim:
        return ""  # the edition has one token for everything
    is_claim = request in callback.claims
    scope = claims.get("scope", "execution")
    if is_claim and scope not in view.offers.claiming_scopes:
        return f"The claim was sent with a token of scope '{scope}'"
    if not is_claim and scope != "execution":
        return f"A request other than the claim was sent with a token of scope '{scope}'"
    return ""


@decides("TOKEN-9")
def given_token_is_used(view: HistoryView) -> Found:
    """Each token on the wire is one that core handed to the executor, or that the server answered with."""
    decided = unknown = 0
    for callback in view.callbacks:
        if not callback.requests:
            continue
        handed = [event["token"]["fingerprint"] for event in view.of("workload", key=callback.id) if event.get("token")]
        if not handed:
            unknown += 1
            continue
        decided += 1
        refreshed = [event.get("refreshed") or {} for event in callback.responses(callback.requests)]
        known = {*handed, *(token.get("fingerprint") for token in refreshed)}
        for number, request in enumerate(callback.requests):
            used = (request.get("token") or {}).get("fingerprint")
            if used not in (known if number else handed):
                which = "first token" if not number else "later token"
                return Broken(
                    f"The worker's {which} is not one that the executor was given",
                    (
                        line(request, "method", "route", "pid"),
                        f"given {', '.join(handed)}, used {used}",
                        f"claims: {_claims(request)}",
                    ),
                )
    if unknown:
        return Unproven("the history does not hold the token that core handed over")
    return Kept() if decided else Undecided("the worker sent no request for a callback")


@decides("TOKEN-11")
def token_lasts_as_long_as_its_callable(view: HistoryView) -> Found:
    """A worker whose execution token has expired meanwhile was let in all the same, or got a new one in time."""
    expired = view.faults_of("token-expired")
    if not expired:
        return Undecided("no token expires in this case")
    decided = 0
    for callback in view.subjects:
        later = [event for event in callback.requests if event["t"] >= expired[0]["t"] and event not in callback.claims]
        for answer in callback.responses(later):
            decided += 1
            if answer["status"] in (401, 403):
                return Broken(
                    "A callable that runs for longer than its token is valid is refused by the API server",
                    (line(answer, "method", "route", "status", "body_detail"), *callback.story(3)),
                )
    return Kept(f"{decided} requests") if decided else Unproven("the callable asked the API server for nothing")
