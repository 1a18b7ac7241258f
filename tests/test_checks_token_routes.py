"""The checks of the matrix of tokens and routes, and of the scan for tokens, on written histories."""

from __future__ import annotations

from typing import Any

import pytest
from executor_conformance.harness.matrix import ANOTHER, OWN, TASK, UNKNOWN

from tests.written import Written, assert_decides, history

PASS, FAIL, FINDING, ERROR, NA = "pass", "fail", "finding", "error", "not applicable"
CLAIM = "/callbacks/{callback_id}/run"
VARIABLE = "/variables/{variable_key}"
RUN = "/task-instances/{task_instance_id}/run"
BEAT = "/task-instances/{task_instance_id}/heartbeat"
GOT = {"method": "GET", "route": VARIABLE}
QUEUED = {"claim": "callback", "claimless": "workload"}


def ask(written: Written, route: str = VARIABLE, status: int = 403, **more: Any) -> Written:
    """One request of the matrix."""
    method = more.pop("method", "GET" if route == VARIABLE else "PATCH")
    scope = more.pop("scope", QUEUED[written.edition])
    fields = {"scope": scope, "subject": more.pop("subject", OWN), "row": more.pop("row", "running"), "status": status}
    return written.add("probe", name="matrix", method=method, route=route, **fields, **more)


def matrix(edition: str = "claim", *, control: int = 404) -> Written:
    """A matrix as it should be: everything is refused, the claim works once, the tokens of a task get in."""
    written = history(edition)
    for route in (VARIABLE, RUN, BEAT):
        ask(written, route, 401, scope="none")
        for row in ("pending", "queued", "running", "success", "failed"):
            for subject in (OWN,) if route == VARIABLE else (OWN, ANOTHER, TASK, UNKNOWN):
                # Where one scope is for all workloads, a task's admission looks for a task under the callback's id
                found = edition == "claimless" and route == RUN and subject == OWN
                ask(written, route, 404 if found else 403, subject=subject, row=row)
                if edition == "claim" and subject != OWN:
                    ask(written, route, 404 if route == RUN else 403, subject=subject, row=row, scope="execution")
    for row in ("success", "failed"):
        ask(written, row=row, old=True)
        if edition == "claim":
            ask(written, row=row, old=True, scope="execution", status=404)
    ask(written, VARIABLE, control, scope="execution", subject=TASK, control=True)
    ask(written, RUN, 409, scope="execution", subject=TASK, control=True)
    ask(written, RUN, 409, scope="workload", subject=TASK, control=True)
    ask(written, BEAT, 204, scope="execution", subject=TASK, control=True)
    if edition == "claim":
        for subject in (ANOTHER, TASK, UNKNOWN):
            ask(written, CLAIM, subject=subject)
        for row in ("pending", "running", "success", "failed"):
            claim(written, row, 409)
        claim(written, "running", 403, scope="execution")
        claim(written, "queued", 204, renewed=True, changed={"own": ["running", None]})
        claim(written, "unknown", 404)
    return written


def claim(written: Written, row: str, status: int, **more: Any) -> Written:
    """A claim of the token's own callback."""
    if status == 409 and "reported" not in more:
        more |= {"reported": row, "row_is": [row, None]}
    return ask(written, CLAIM, status, row=row, claim=True, **more)


def test_a_matrix_as_it_should_be() -> None:
    for clause in ("TOKEN-2", "TOKEN-4", "TOKEN-6", "TOKEN-7", "STATE-2"):
        assert_decides(matrix(), clause, PASS, "")
    assert_decides(matrix("claimless"), "TOKEN-2", PASS, f"PATCH {RUN} admit other workloads")
    assert_decides(matrix("claimless"), "TOKEN-7", PASS, "is not renewed")


ROUTES: list[tuple[str, Written, str, str]] = [
    ("open", ask(matrix(), status=200), FINDING, f"GET {VARIABLE}: lets the queued token in"),
    ("behind-the-door", ask(matrix(), status=404), FINDING, f"GET {VARIABLE}: lets the queued token in"),
    ("behind-the-door-claimless", ask(matrix("claimless"), status=404), FINDING, f"GET {VARIABLE}: lets the queued"),
    ("in-one-state", ask(matrix(), BEAT, 409, row="failed", subject=ANOTHER), FINDING, "row failed; status 409"),
    ("no-admission", ask(matrix("claimless"), BEAT, 404), FINDING, f"PATCH {BEAT}: lets the queued token in"),
    ("of-another", ask(matrix("claimless"), RUN, 404, subject=TASK), FINDING, f"PATCH {RUN}: lets the queued token in"),
    ("acts", ask(matrix("claimless"), RUN, 200), FINDING, f"PATCH {RUN}: lets the queued token in"),
    ("to-everyone", ask(matrix(), status=200, scope="none"), FINDING, "open without any token"),
    ("changes", ask(matrix(), changed={"own": ["failed", None]}), FINDING, "and changes a row"),
    ("server-broke", ask(matrix(), status=500), ERROR, "cannot be told"),
    ("badly-filled", ask(ask(history(), status=422), status=422, scope="execution", control=True), ERROR, "be told"),
    ("no-control", ask(ask(history()), CLAIM, 409, claim=True), ERROR, "no route let in any token that it is for"),
    (
        "no-valid-token",
        ask(ask(history()), status=200, scope="execution", control=True),
        ERROR,
        "no queued token that the harness has signed was let in",
    ),
    (
        "one-without-control",
        ask(matrix(), "/closed"),
        PASS,
        "no token that was tried opens PATCH /closed",
    ),
    ("nothing", history(), NA, "does not try"),
]

CLAIMS = [
    ("again", claim(matrix(), "running", 204, renewed=True), FINDING, "while RUNNING it answers 204, not 409"),
    ("after-the-end", claim(matrix(), "success", 204, renewed=True), FINDING, "while SUCCESS it answers 204"),
    ("too-early", claim(matrix(), "pending", 204, renewed=True), FINDING, "while PENDING it answers 204"),
    ("refused", claim(matrix(), "queued", 403), FINDING, "while QUEUED it answers 403, not 204"),
    ("no-token", claim(matrix(), "queued", 204, changed={"own": ["running", None]}), FINDING, "no execution token"),
    ("row-stays", claim(matrix(), "queued", 204, renewed=True), FINDING, "leaves the row as it was"),
    ("token-for-nothing", claim(matrix(), "failed", 409, renewed=True), FINDING, "refuses the claim and gives a new"),
    ("row-changes", claim(matrix(), "failed", 409, changed={"own": ["running", None]}), FINDING, "it changes the row"),
    ("by-execution", claim(matrix(), "pending", 409, scope="execution"), FINDING, "with scope execution while PENDING"),
    ("unknown", claim(matrix(), "unknown", 500), FINDING, "it answers 500, not 404"),
    ("foreign", ask(matrix(), CLAIM, 409, subject=ANOTHER), FINDING, "a claim of another callback is answered 409"),
    ("unknown-id", ask(matrix(), CLAIM, 404, subject=UNKNOWN), PASS, "claims"),
    (
        "overwritten",
        ask(matrix(), "/callbacks/{id}/state", 204, row="failed", old=True, changed={"own": ["success", None]}),
        FINDING,
        "changes a row that has ended",
    ),
    ("never", claim(history(), "running", 409), ERROR, "no claim succeeded"),
]

CONFINED = [
    ("acts", ask(matrix(), BEAT, 204, scope="execution", subject=TASK), FINDING, "acts on what is not the token's"),
    ("conflict", ask(matrix(), RUN, 409, scope="execution", subject=TASK), FINDING, f"PATCH {RUN}: acts on"),
    ("changes", ask(matrix(), BEAT, scope="execution", subject=TASK, changed={"named": 1}), FINDING, "changes a row"),
    ("reads", ask(matrix(), "/r", 200, method="GET", scope="execution", subject=TASK), PASS, "it may read GET /r"),
    ("gone-as-for-all", ask(matrix(), "/r", 404, scope="execution", subject=TASK), FINDING, "PATCH /r: acts on"),
    ("no-control", ask(history(), BEAT, scope="execution", subject=TASK), ERROR, "proves nothing"),
    ("none", ask(history()), NA, "does not try an execution token"),
]

RENEWED = [
    ("old", ask(matrix(), row="success", old=True, scope="execution", renewed=True), FINDING, "with a new token"),
    ("any-time", ask(matrix(), row="failed", renewed=True), FINDING, f"GET {VARIABLE}: answers with a new token"),
    ("refused", ask(matrix(), BEAT, row="failed", scope="execution", old=True, renewed=True), FINDING, "status 403"),
    ("running", ask(matrix(), row="running", old=True, scope="execution", renewed=True), PASS, "old token is renewed"),
    ("of-a-task", ask(matrix(), row="success", control=True, renewed=True), PASS, "not renewed"),
    ("shut", ask(history(), row="success", old=True), ERROR, "was let in anywhere"),
    ("none", ask(history(), row="success"), NA, "does not try tokens that are nearly over"),
]

READ = {"name": "state", **GOT}
TOLD = [
    ("differs", claim(matrix(), "running", 409, reported="queued", row_is=["running", 0]), FINDING, "tells QUEUED"),
    ("reads", history().add("probe", **READ, reported="failed", row="failed"), PASS, "1 answers of GET"),
    ("reads-wrongly", history().add("probe", **READ, reported="failed", row="success"), FINDING, "the row is SUCCESS"),
    ("reads-nothing", history().add("probe", **READ, reported=None, row="success"), FINDING, "tells NONE"),
    ("none", history(), NA, "does not ask an API"),
]

SCAN = {"name": "token scan", "not_seen": [], "carriers": {}, "fingerprints": ["queued-c1", "execution-c1"]}
LOOKED = {place: {"count": 1, "bytes": 9} for place in ("log", "command line", "report", "transport")}


def scanned(*places: str, **more: Any) -> Written:
    """A callback that ran, and what the scan found in places of these kinds."""
    written = history().callback().succeeded()
    for place in places:
        found = {"place": place, "where": "there", "form": "whole", "scope": "callback", "fingerprint": "queued-c1"}
        written.add("probe", name="token found", **found)
    return written.add("probe", **{**SCAN, "looked": LOOKED, **more})


LEAKS = [
    ("clean", scanned(), PASS, "2 tokens looked for"),
    *((place, scanned(place), FAIL, f"{place}: there (whole") for place in ("log", "event info", "output", "report")),
    ("command-line", scanned("command line"), FAIL, "can be read in a process's command line"),
    (
        "transport",
        scanned("transport", carriers={"file:x": "the message"}),
        PASS,
        "travels in the message; found in there",
    ),
    (
        "not-in-its-carrier",
        scanned(carriers={"pod:spec": "x"}, looked={**LOOKED, "submission": {"count": 1}}),
        ERROR,
        "no token was found in pod:spec, which must hold one",
    ),
    (
        "not-in-its-table",
        scanned(carriers={"table:jobs": "x"}),
        ERROR,
        "no token was found in table:jobs, which must hold one",
    ),
    ("gone-from-its-file", scanned(carriers={"file:x": "the message"}), PASS, "travels in the message"),
    (
        "in-its-carrier",
        scanned("transport", carriers={"pod:spec": "x"}, looked={**LOOKED, "submission": {"count": 1}}),
        PASS,
        "found in there",
    ),
    ("database", scanned("database"), PASS, "found in there (whole)"),
    ("far-away", scanned(not_seen=["log", "command line"]), PASS, "out of the harness's sight"),
    ("submission", scanned("submission"), FAIL, "what the control plane was handed, beside the field"),
    ("no-submission", scanned(carriers={"pod:spec": "x"}), ERROR, "nothing was looked at as submission"),
    (
        "submission-far",
        scanned(carriers={"pod:spec": "x"}, not_seen=["submission"]),
        PASS,
        "the requests to the control",
    ),
    ("no-log", scanned(looked={"command line": {"count": 1}, "report": {"count": 1}}), ERROR, "looked at as log"),
    ("not-all", scanned(fingerprints=["queued-c1"]), ERROR, "1 tokens that were given out were not looked for"),
    ("no-token", history().add("probe", **{**SCAN, "fingerprints": []}, looked=LOOKED), ERROR, "no token was known"),
    ("none", history().callback(), NA, "does not look for tokens"),
]

TABLES: dict[str, list[tuple[str, Written, str, str]]] = {
    "TOKEN-2": ROUTES,
    "TOKEN-4": CLAIMS,
    "TOKEN-6": CONFINED,
    "TOKEN-7": RENEWED,
    "TOKEN-8": LEAKS,
    "STATE-2": TOLD,
}


@pytest.mark.parametrize(
    ("clause", "written", "verdict", "reason"),
    [pytest.param(clause, *row[1:], id=f"{clause}-{row[0]}") for clause, rows in TABLES.items() for row in rows],
)
def test_check(clause: str, written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, clause, verdict, reason)
