"""The checks of the TOKEN clauses on written histories."""

from __future__ import annotations

import pytest

from tests.written import Written, assert_decides, history

PASS, FAIL, FINDING, ERROR, NA = "pass", "fail", "finding", "error", "not applicable"
RUNTIME = "/execution/variables/x"
TASK = "/execution/task-instances/t/heartbeat"


def token(edition: str = "claim", **claims: object) -> Written:
    """A callback that was handed over with other claims."""
    return (
        history(edition, task_queued_timeout=600.0, audience="urn:airflow").callback(handed=None).workload(token=claims)
    )


def working(edition: str = "claim") -> Written:
    """A callback whose worker has claimed, where there is a claim."""
    return history(edition).callback().started()


def probed(name: str, *, status: int = 403, **more: object) -> Written:
    """A held callback, and one request of the harness to the server."""
    fields = {"method": "PUT", "route": "/r", "token": "expired", "status": status, "allowed": [401, 403], **more}
    return history().callback().add("probe", name=name, **fields)


def moved(*, by_claim: bool) -> Written:
    """A row that changed while the server was asked: its own worker claimed just then, or nobody did."""
    written = history().callback().add("probe", name="claim", status=403, allowed=[403], **WAY, unchanged=True)
    if by_claim:
        written.wire_claim()
    written.row("c1", "running", t=written.t)
    return written.add("probe", name="claim", status=403, allowed=[403], **WAY, unchanged=False)


WAY = {"method": "PATCH", "route": "/execution/callbacks/{id}/run", "token": "tampered"}

QUEUED = [
    ("claim", token(), PASS, ""),
    ("claimless", token("claimless"), PASS, ""),
    ("idempotent", token("claim-idempotent"), PASS, ""),
    ("scope", token(scope="workload"), FINDING, "scope is 'workload', not 'callback'"),
    ("scope-claimless", token("claimless", scope="callback"), FINDING, "scope is 'callback', not 'workload'"),
    ("subject", token(sub="other"), FINDING, "sub is 'other', not 'c1'"),
    ("too-long", token(exp=9000), FINDING, "task_queued_timeout is 600.0 s"),
    ("endless", token(exp=None), FINDING, "it is valid for"),
    ("audience", token(aud="elsewhere"), FINDING, "its audience is 'elsewhere'"),
    ("audiences", token(aud=["elsewhere", "urn:airflow"]), PASS, ""),
    ("none", history().callback(handed=None).workload(token={"sub": None}), FINDING, "sub is None"),
    (
        "second",
        token().workload("c2").callback("c3", handed=None).workload("c3", token={"sub": "x"}),
        FINDING,
        "sub is 'x'",
    ),
    ("never-queued", history().callback(handed=None), NA, "core queued no callback"),
]

CLAIMED = [
    ("kept", working(), PASS, ""),
    ("no-scope-is-execution", history().callback().wire_claim(refreshed={"claims": {"sub": "c1"}}), PASS, ""),
    ("none", history().callback().wire_claim(refreshed=None), FINDING, "no execution token"),
    (
        "of-another",
        history().callback().wire_claim(refreshed={"claims": {"sub": "x", "scope": "execution"}}),
        FINDING,
        "no execution token",
    ),
    (
        "scope",
        history().callback().wire_claim(refreshed={"claims": {"sub": "c1", "scope": "callback"}}),
        FINDING,
        "no execution token",
    ),
    ("refused", history().callback().wire_claim(status=409), NA, "no claim succeeded"),
    ("made-up", history().callback().wire_claim(by="rule"), NA, "no claim succeeded"),
    ("claimless", working("claimless"), NA, "no claim endpoint"),
]

SENT = [
    ("kept", working().request("c1", RUNTIME), PASS, "2 requests"),
    ("queued-on-runtime", working().request("c1", RUNTIME, scope="callback"), FAIL, "other than the claim was sent"),
    (
        "execution-on-claim",
        history().callback().wire_claim(scope="execution"),
        FAIL,
        "The claim was sent with a token of",
    ),
    ("again-idempotent", history("claim-idempotent").callback().wire_claim(scope="execution"), PASS, "1 requests"),
    (
        "queued-on-runtime-idempotent",
        working("claim-idempotent").request("c1", "/execution/callbacks/c1/state", scope="workload"),
        FAIL,
        "other than the claim",
    ),
    (
        "another-subject",
        working().request("c1", "/execution/callbacks/c1/x", sub="x"),
        FAIL,
        "subject is not the callback",
    ),
    ("by-its-process", working().request("c1", RUNTIME, sub="x"), FAIL, "subject is not the callback"),
    ("no-token", working().request("c1", RUNTIME, claims={}), FAIL, "without a token"),
    ("claimless", working("claimless").request("c1", RUNTIME, scope="workload"), PASS, "1 requests"),
    ("claimless-subject", working("claimless").request("c1", RUNTIME, sub="x"), FAIL, "subject is not the callback"),
    ("retried-claim", history().callback().wire_claim(status=None).wire_claim(status=409), PASS, "2 requests"),
    # What a worker process does for others is not done for the callback
    ("for-a-task", working().task("t").request("c1", TASK, sub="t", scope="workload"), PASS, "1 requests"),
    (
        "for-a-task-that-only-its-row-tells",
        working().add("task_row", table="task_instance", id="t", old=None, new="queued").request("c1", TASK, sub="t"),
        PASS,
        "1 requests",
    ),
    ("for-another", working().callback("c2").wire_claim("c2"), PASS, "2 requests"),
    (
        "for-an-earlier",
        history(earlier_callbacks=["c0"]).callback().started().request("c1", RUNTIME, sub="c0"),
        PASS,
        "1",
    ),
    ("after-its-end", history().callback().succeeded().request("c1", RUNTIME, sub="x"), PASS, "1 requests"),
    ("before-it-was-handed", history().request("c1", RUNTIME, sub="x").callback().started(), PASS, "1 requests"),
    ("of-a-strange-process", working().request("c1", RUNTIME, sub="x", pid=999), PASS, "1 requests"),
    (
        "of-who-inherited-the-orphan",
        working().effect("c1", "effect", ppid=1).request("c1", RUNTIME, sub="x", pid=1),
        PASS,
        "1 requests",
    ),
    ("none", history().callback(), NA, "sent no request"),
]

GIVEN = [
    ("given", working(), PASS, ""),
    ("refreshed", working().request("c1", RUNTIME), PASS, ""),
    ("claimless", working("claimless").request("c1", RUNTIME, scope="workload", fingerprint="queued-c1"), PASS, ""),
    ("minted", history().callback().wire_claim(fingerprint="own"), FAIL, "first token is not one"),
    ("minted-later", working().request("c1", RUNTIME, fingerprint="own"), FAIL, "later token is not one"),
    ("second", working().callback("c2").wire_claim("c2", fingerprint="own"), FAIL, "first token"),
    (
        "queued-again",
        history().callback().workload().wire_claim(fingerprint="queued-c1"),
        PASS,
        "",
    ),
    ("unknown", history().callback(handed=None).wire_claim(), ERROR, "does not hold the token"),
    (
        "unknown-hides-nothing",
        history().callback(handed=None).wire_claim().callback("c2").wire_claim("c2", fingerprint="x"),
        FAIL,
        "first",
    ),
    ("none", history().callback(), NA, "sent no request"),
]

TABLES = {"TOKEN-1": QUEUED, "TOKEN-3": CLAIMED, "TOKEN-5": SENT, "TOKEN-9": GIVEN}


@pytest.mark.parametrize(
    ("clause", "written", "verdict", "reason"),
    [pytest.param(clause, *row[1:], id=f"{clause}-{row[0]}") for clause, rows in TABLES.items() for row in rows],
)
def test_token(clause: str, written: Written, verdict: str, reason: str) -> None:
    assert_decides(written, clause, verdict, reason)


def test_what_the_claim_was_asked() -> None:
    assert_decides(probed("claim"), "TOKEN-4", PASS, "1 requests")
    assert_decides(probed("claim", status=200), "TOKEN-4", FINDING, "with expired: 200, allowed: [401, 403]")
    assert_decides(probed("claim", unchanged=False), "TOKEN-4", FINDING, "and the row has changed")
    assert_decides(probed("something else"), "TOKEN-4", NA, "does not probe")


def test_a_row_that_its_own_worker_claimed_during_a_probe_accuses_nobody() -> None:
    assert_decides(moved(by_claim=True), "TOKEN-4", PASS, "2 requests")
    assert_decides(moved(by_claim=False), "TOKEN-4", FINDING, "and the row has changed")


@pytest.mark.parametrize("clause", ["TOKEN-4", "TOKEN-6"])
def test_no_claim_no_probe(clause: str) -> None:
    assert_decides(history("claimless").callback(), clause, NA, "no claim endpoint")
