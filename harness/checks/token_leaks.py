"""TOKEN-8: where a token was found by the scan of what the run left; see ``harness.leaks``."""

from __future__ import annotations

from collections.abc import Iterable

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.history import Event
from executor_conformance.harness.view import HistoryView

FORBIDDEN = ("log", "event info", "output", "command line", "environment", "report", "submission")
"""Where the clause has no token. What carries it to the worker and what else holds it is told, and is no failure."""
NEEDED = ("log", "command line", "report")
"""Without a look there nothing can be said."""
NOT_SEEN = {
    "log": "the workers' logs",
    "command line": "the workers' command lines",
    "environment": "the environments of the workers",
    "submission": "the requests to the control plane",
}


@decides("TOKEN-8")
def token_is_kept_secret(view: HistoryView) -> Found:
    """No token is in a log, event info, output, process title, command line or report."""
    found = view.probe("token found")
    if leaks := [one for one in found if one["place"] in FORBIDDEN]:
        told = list(dict.fromkeys(_told(one) for one in leaks))
        places = ", ".join(dict.fromkeys(_a(one["place"]) for one in leaks))
        return Broken(f"A token of the callback can be read in {places}", tuple(told[:12]))
    scans = view.probe("token scan")
    if not scans:
        return Undecided("this case does not look for tokens")
    scan = scans[-1]
    looked = set(scan["fingerprints"])
    if missing := sorted(_given_out(view) - looked):
        return Unproven(f"{len(missing)} tokens that were given out were not looked for")
    if not looked:
        return Unproven("no token was known, so none was looked for")
    needed = (*NEEDED, "submission") if in_submissions(scan["carriers"]) else NEEDED
    if unseen := [place for place in needed if place not in scan["looked"] and place not in scan["not_seen"]]:
        return Unproven(f"nothing was looked at as {', '.join(unseen)}")
    carriers = _in_sight(scan)
    if carriers and not any(one["place"] == "transport" for one in found):
        # Where the token must be, the scan has to find it, or what it does not find elsewhere says nothing
        return Unproven(f"no token was found in {' or '.join(carriers)}, which must hold one")
    return Kept("; ".join([_scanned(scan), *_notes(scan, found)]))


def in_submissions(carriers: Iterable[str]) -> bool:
    """Whether what carries the token is part of what a control plane is handed; see ``Backend.carriers``."""
    return any(not carrier.startswith(("file:", "table:", "environment:")) for carrier in carriers)


def _in_sight(scan: Event) -> list[str]:
    """The carriers that were looked at while they held a token; a broker's file is gone as soon as it is read."""
    seen = "submission" not in scan["not_seen"]
    return [
        carrier
        for carrier in scan["carriers"]
        if carrier.startswith("table:") or (seen and not carrier.startswith(("file:", "environment:")))
    ]


def _given_out(view: HistoryView) -> set[str]:
    """Fingerprints of all tokens of the case's callbacks, queued and execution ones."""
    handed = {event["token"]["fingerprint"] for event in view.of("workload") if event.get("token")}
    answers = view.of("wire", api="execution", phase="response")
    return handed | {answer["refreshed"]["fingerprint"] for answer in answers if answer.get("refreshed")}


def _a(place: str) -> str:
    special = {
        "command line": "a process's command line",
        "environment": "the environment of a process",
        "output": "`output`",
        "submission": "what the control plane was handed, beside the field that must carry it",
    }
    return special.get(place, f"a {place}")


def _told(one: Event) -> str:
    return f"{one['place']}: {one['where']} ({one['form']}, scope {one['scope']}, {one['fingerprint']})"


def _scanned(scan: Event) -> str:
    sizes = [f"{seen['count']} of {place}" for place, seen in scan["looked"].items()]
    return f"{len(scan['fingerprints'])} tokens looked for in {', '.join(sizes)}"


def _notes(scan: Event, found: list[Event]) -> list[str]:
    """What the report says besides: what carries the token, where else it is, and where nobody could look."""
    notes = []
    if carriers := scan.get("carriers"):
        notes.append(f"the token travels in {' and '.join(dict.fromkeys(carriers.values()))}")
    elsewhere = dict.fromkeys(f"{one['where']} ({one['form']})" for one in found if one["place"] not in FORBIDDEN)
    if elsewhere:
        shown = list(elsewhere)[:6]
        notes.append(f"found in {', '.join(shown)}" + (" and others" if len(elsewhere) > len(shown) else ""))
    if unseen := [NOT_SEEN[place] for place in scan["not_seen"]]:
        notes.append(f"{' and '.join(unseen)} are out of the harness's sight")
    return notes
