"""TOKEN and STATE-2: what the API server made of each request of the matrix; see ``harness.matrix``.

401 and 403 are a refusal, if nothing changed by it. Whatever else the server answers, it has let the token in: 404, 409
and 422 too, which it finds out behind the door. A token that the route is for has to get further, or the refusal proves
nothing; where that one is answered otherwise, a 404 or 410 refuses as well, for what the token's subject is not.

A route that admits workloads of another kind lets the queued token in where its scope is one for all kinds; under the
callback's own id it finds none of them, so a 404 is all that the token gets.
"""

from __future__ import annotations

from collections.abc import Iterable

from executor_conformance.harness.checker import Broken, Found, Kept, Undecided, Unproven, decides
from executor_conformance.harness.checks.token import asked_of_the_claim
from executor_conformance.harness.edition import Edition
from executor_conformance.harness.history import Event
from executor_conformance.harness.matrix import ANOTHER, OWN, is_claim
from executor_conformance.harness.view import TERMINAL, HistoryView

REFUSED = (401, 403)
GONE = (404, 410)
_SHOWN = 12


class Requests:
    """The requests of a history's matrix."""

    def __init__(self, view: HistoryView) -> None:
        self.edition = view.offers
        self.queued = view.offers.queued_scope
        self.all = view.probe("matrix")
        self.anonymous = [one for one in self.all if one["scope"] == "none"]
        self.claims = [one for one in self.all if one.get("claim")]
        self.ends = [one for one in self.all if one.get("end")]
        self.old = [one for one in self.all if one.get("old")]
        marked = {id(one) for one in (*self.anonymous, *self.claims, *self.ends, *self.old)}
        self.plain = [one for one in self.all if id(one) not in marked and not one.get("control")]
        self.controls: dict[str, set[tuple[str, int]]] = {}
        for one in self.all:
            if one.get("control"):
                self.controls.setdefault(name(one), set()).add((one["scope"], one["status"]))

    def at_claim(self, one: Event) -> bool:
        """Whether the request is to the claim."""
        return is_claim(one["method"], one["route"], self.edition)

    def opened(self, route: str) -> set[int]:
        """What the route answered the tokens that it let in, as a control."""
        return {status for _, status in self.controls.get(route, ()) if status not in REFUSED}

    def admits(self, route: str) -> bool:
        """Whether the route is the admission of another kind of workload, which has queued tokens of the same scope.

        It names the workload, takes such a token from its owner, and is a ``/run`` or takes no execution token at all.
        """
        if not any(one["subject"] != OWN for one in self.plain if name(one) == route):
            return False
        taken = {scope for scope, status in self.controls.get(route, ()) if status not in REFUSED}
        return self.queued in taken and (route.endswith("}/run") or "execution" not in taken)

    @property
    def minted_well(self) -> bool:
        """Whether a queued token of the harness was let in anywhere; if not, its refusals prove nothing."""
        queued = [one for one in self.all if one["scope"] == self.queued and not one.get("old")]
        return any(one["status"] not in REFUSED for one in queued)


def name(one: Event) -> str:
    """Method and path of a request."""
    return f"{one['method']} {one['route']}"


def lines_about(problem: str, asked: Iterable[Event]) -> list[str]:
    """One line per route and problem, with the subjects, the row states and the statuses at which it shows."""
    found: dict[str, dict[str, set[str]]] = {}
    for one in asked:
        parts = found.setdefault(name(one), {"scope": set(), "subject": set(), "row": set(), "status": set()})
        for part, values in parts.items():
            values.add(str(one[part]))
    return [
        f"{route}: {problem} ("
        + "; ".join(f"{part} {', '.join(sorted(values))}" for part, values in parts.items())
        + ")"
        for route, parts in found.items()
    ]


def broken_by(what: str, lines: list[str]) -> Broken:
    """Return what is broken, with the first of these lines as the reason and all of them as evidence."""
    others = f", and {len(lines) - 1} more" if lines[1:] else ""
    evidence = lines[:_SHOWN] + ([f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])
    return Broken(f"{what}: {lines[0].partition(' (')[0]}{others}", tuple(evidence))


@decides("TOKEN-2")
def queued_token_opens_only_the_claim(view: HistoryView) -> Found:
    """No route but the claim lets the queued token in, for whatever subject and in whatever state of the row."""
    requests = Requests(view)
    probes = [one for one in requests.plain if one["scope"] == requests.queued and not requests.at_claim(one)]
    if not probes:
        return Undecided("this case does not try the queued token on the routes")
    open_to_all = [one for one in requests.anonymous if one["status"] not in REFUSED]
    in_doubt: list[Event] = []
    let_in: list[Event] = []
    nothing_there: list[Event] = []
    for one in probes:
        if one["status"] in REFUSED:
            continue
        if one["status"] in GONE and one["subject"] == OWN and requests.admits(name(one)):
            nothing_there.append(one)
            continue
        unclear = one["status"] >= 500 or (one["status"] == 422 and requests.opened(name(one)) <= {422})
        (in_doubt if unclear else let_in).append(one)
    lines = lines_about("open without any token", open_to_all) + lines_about("lets the queued token in", let_in)
    lines += lines_about("refuses the queued token, and changes a row", [one for one in probes if one.get("changed")])
    if lines:
        return broken_by("The queued token is not refused everywhere", lines)
    if in_doubt:
        return Unproven(f"whether the queued token was let in cannot be told: {lines_about('unclear', in_doubt)[0]}")
    if not requests.minted_well:
        return Unproven("no queued token that the harness has signed was let in anywhere, so a refusal proves nothing")
    routes = dict.fromkeys(name(one) for one in probes)
    shut = [route for route in routes if not requests.opened(route)]
    if len(shut) == len(routes):
        return Unproven("no route let in any token that it is for, so a refusal proves nothing")
    more = f"; no token that was tried opens {', '.join(shut)}" if shut else ""
    if nothing_there:
        admissions = ", ".join(dict.fromkeys(name(one) for one in nothing_there))
        more += f"; {admissions} admit other workloads by the same scope, and find none under the callback's id"
    return Kept(f"{len(probes)} requests to {len(routes)} routes{more}")


@decides("TOKEN-4")
def claim_is_guarded(view: HistoryView) -> Found:
    """Foreign, repeated, expired, tampered, unsigned, misdirected, empty and unknown claims are refused."""
    if rounds := view.probe("claims at once"):
        return _one_of_several(rounds)
    requests = Requests(view)
    foreign = [one for one in requests.plain if requests.at_claim(one) and one["subject"] != OWN]
    if not requests.claims and not foreign:
        return asked_of_the_claim(view)
    lines: list[str] = []
    for one in requests.claims:
        if wrong := _wrong_claim(one, requests.edition):
            lines += lines_about(wrong, [one])
    for one in foreign:
        allowed = REFUSED if one["subject"] == ANOTHER else (*REFUSED, 404)
        if one["status"] not in allowed or one.get("changed"):
            lines += lines_about(f"a claim of {one['subject']} is answered {one['status']}", [one])
    overwritten = [one for one in requests.old if one["row"] in TERMINAL and "own" in one.get("changed", ())]
    lines += lines_about("changes a row that has ended", overwritten)
    if lines:
        return broken_by("The claim is not guarded", lines)
    if not any(one["status"] == 204 for one in requests.claims):
        return Unproven("no claim succeeded, so a refusal proves nothing")
    return Kept(f"{len(requests.claims) + len(foreign)} claims")


def _one_of_several(rounds: list[Event]) -> Found:
    """Of claims that came at the same time exactly one was let in."""
    several = [one for one in rounds if sum(status < 300 for status in one["statuses"]) > 1]
    told = tuple(f"round {one['round']}: answered {', '.join(map(str, one['statuses']))}" for one in several)
    if several:
        return Broken(f"In {len(several)} of {len(rounds)} rounds the server let in several claims of one row", told)
    if none := [one for one in rounds if not any(status < 300 for status in one["statuses"])]:
        return Unproven(f"in {len(none)} of {len(rounds)} rounds no claim was let in, such as {none[0]['statuses']}")
    return Kept(f"{len(rounds)} rounds of {len(rounds[0]['statuses'])} claims at once")


def _wrong_claim(one: Event, edition: Edition) -> str:
    """What is wrong with the answer to the claim of a callback with a token of its own; empty if nothing is."""
    scope, row, status = one["scope"], one["row"], one["status"]
    changed = one.get("changed", {}).get("own")
    if scope not in edition.claiming_scopes:
        wanted: tuple[int, ...] = REFUSED
    elif row == "unknown":
        wanted = (404,)
    elif row == "queued" or (row == "running" and edition.idempotent):
        wanted = (204,)
    else:
        wanted = (409,)
    if status not in wanted:
        return f"with scope {scope} while {row.upper()} it answers {status}, not {' or '.join(map(str, wanted))}"
    if status == 204 and scope != "execution" and not one.get("renewed"):
        return f"while {row.upper()} it gives no execution token"
    if status != 204 and one.get("renewed"):
        return f"while {row.upper()} it refuses the claim and gives a new token"
    if status == 204 and row == "queued":
        return "" if changed and changed[0] == "running" else "the claim leaves the row as it was"
    return f"while {row.upper()} it changes the row" if changed else ""


@decides("TOKEN-6")
def execution_token_is_confined(view: HistoryView) -> Found:
    """A callback's execution token gets nowhere with the id of a task instance or of another callback."""
    requests = Requests(view)
    probes = [one for one in requests.plain if one["scope"] == "execution" and one["subject"] != OWN]
    if not probes:
        return Undecided("this case does not try an execution token on what belongs to others")
    let_in: list[Event] = []
    read: list[Event] = []
    for one in probes:
        control = requests.opened(name(one))
        if one["status"] in REFUSED or (one["status"] in GONE and control and one["status"] not in control):
            continue
        if one["status"] in GONE and requests.at_claim(one):
            continue
        (read if one["method"] in ("GET", "HEAD", "OPTIONS") else let_in).append(one)
    changed = [one for one in probes if one.get("changed")]
    lines = lines_about("acts on what is not the token's", let_in) + lines_about(
        "changes a row that is not the token's", changed
    )
    if lines:
        return broken_by("A callback's execution token is not confined to its callback", lines)
    routes = {name(one) for one in probes}
    if not any(requests.opened(route) for route in routes):
        return Unproven("no route let in any token that it is for, so a refusal proves nothing")
    also = f"; it may read {', '.join(dict.fromkeys(name(one) for one in read))}" if read else ""
    return Kept(f"{len(probes)} requests to {len(routes)} routes{also}")


@decides("TOKEN-7")
def token_ends_with_its_callback(view: HistoryView) -> Found:
    """Once the row has ended no answer has a new token, however near its end the token is."""
    requests = Requests(view)
    ended = [
        one for one in requests.all if one["row"] in TERMINAL and not one.get("control") and one["scope"] != "none"
    ]
    if not any(one.get("old") for one in ended):
        return Undecided("this case does not try tokens that are nearly over after the end of their callback")
    if renewed := [one for one in ended if one.get("renewed")]:
        return broken_by(
            "A token is renewed after its callback has ended", lines_about("answers with a new token", renewed)
        )
    let_in = [one for one in requests.old if one["status"] not in REFUSED]
    if not let_in and view.offers.has_claim:
        return Unproven(
            "no token that is nearly over was let in anywhere, so nothing is shown by its not being renewed"
        )
    before = any(one.get("renewed") for one in requests.old if one["row"] == "running")
    return Kept(f"{len(ended)} requests; while RUNNING an old token is {'' if before else 'not '}renewed")


@decides("STATE-2")
def api_and_database_agree(view: HistoryView) -> Found:
    """What any API tells of a callback's state is what the row holds."""
    told = [one for one in view.probe("matrix") if one.get("reported")]
    read = view.probe("state")
    wrong = [
        f"{name(one)} tells {one['reported'].upper()}, the row is {str(one['row_is'][0]).upper()}"
        for one in told
        if one["reported"] != one["row_is"][0]
    ]
    wrong += [
        f"{name(one)} tells {str(one['reported']).upper()}, the row is {str(one['row']).upper()}"
        for one in read
        if one["reported"] != one["row"]
    ]
    if wrong:
        return Broken(
            "The API and the database do not agree on a callback's state", tuple(dict.fromkeys(wrong))[:_SHOWN]
        )
    if not told and not read:
        looked = view.of("note", what="state API")
        why = looked[-1].get("why") if looked else None
        return Undecided(why or "this case does not ask an API for a callback's state")
    routes = dict.fromkeys(name(one) for one in (*told, *read))
    return Kept(f"{len(told) + len(read)} answers of {', '.join(routes)}")
