"""The edition `claim-idempotent`: what the suite decides about a server that does as apache/airflow#66141 proposes."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from executor_conformance.harness.edition import edition_of
from executor_conformance.harness.matrix import STATES, Ids, Matrix
from executor_conformance.harness.openapi import operations
from executor_conformance.harness.tokens import Client, Mint

from tests.idempotent import ALGORITHM, AUDIENCE, SECRET, Server
from tests.written import Written, history

CLAUSES = ("TOKEN-2", "TOKEN-4", "TOKEN-6", "TOKEN-7", "STATE-2")


def asked(*faults: str) -> Written:
    """The history of the matrix against a stand-in with these faults."""
    ids = Ids({state: str(uuid.uuid4()) for state in STATES}, *(str(uuid.uuid4()) for _ in range(3)))
    server = Server(
        frozenset(faults),
        {**{one: [state, None] for state, one in ids.callbacks.items()}, ids.another: ["running", None]},
        {ids.task_instance: ["running", None]},
    )
    written = history("claim-idempotent")

    def sink(kind: str, **fields: Any) -> None:
        written.add(kind, **fields)

    now = int(time.time())
    claims = {"sub": "", "scope": "workload", "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600}
    mint = Mint(SECRET, claims, {"alg": ALGORITHM, "typ": "JWT"})
    with server.serving() as app, Client(server.url) as client:
        document = app.openapi()
        paths = {path.removeprefix("/execution"): item for path, item in document["paths"].items()}
        described = list(operations({**document, "paths": paths}))
        Matrix(client, mint, "claim-idempotent", described, ids, server.look, sink).run()
    return written


def test_the_proposal_keeps_every_clause() -> None:
    written = asked()
    decided = {clause: written.decide(clause) for clause in CLAUSES}
    assert {clause: str(decision.verdict) for clause, decision in decided.items()} == dict.fromkeys(CLAUSES, "pass"), {
        clause: (decision.reason, decision.evidence) for clause, decision in decided.items()
    }
    # What differs from Airflow 3.4: the scope is one for all workloads, so a task's admission takes a callback's token
    assert "PATCH /task-instances/{task_instance_id}/run admit other workloads" in decided["TOKEN-2"].reason
    assert "while RUNNING an old token is renewed" in decided["TOKEN-7"].reason
    told = {(one["row"], one["scope"], one["status"]) for one in written.events if one.get("claim")}
    assert told >= {("running", "workload", 204), ("running", "execution", 204), ("success", "workload", 409)}
    assert "eyJ" not in str(written.events)


@pytest.mark.parametrize(
    ("fault", "clause", "reason"),
    [
        ("workload everywhere", "TOKEN-2", "GET /variables/{variable_key}: lets the queued token in"),
        (
            "workload everywhere",
            "TOKEN-2",
            "PUT /task-instances/{task_instance_id}/heartbeat: lets the queued token in",
        ),
        ("open route", "TOKEN-2", "GET /secrets: open without any token"),
        ("single use", "TOKEN-4", "while RUNNING it answers 409, not 204"),
        ("no second token", "TOKEN-4", "while RUNNING it gives no execution token"),
        ("claims what has ended", "TOKEN-4", "POST /callbacks/{callback_id}/run: changes a row that has ended"),
        ("leaves the row", "TOKEN-4", "the claim leaves the row as it was"),
        ("writes over the end", "TOKEN-4", "PATCH /callbacks/{callback_id}/state: changes a row that has ended"),
        ("any subject", "TOKEN-4", "a claim of another callback is answered 204"),
        ("any subject", "TOKEN-6", "acts on what is not the token's"),
        ("renews after the end", "TOKEN-7", "answers with a new token"),
        ("tells another state", "STATE-2", "POST /callbacks/{callback_id}/run tells QUEUED, the row is"),
    ],
)
def test_each_broken_promise_is_found_out(fault: str, clause: str, reason: str) -> None:
    decision = asked(fault).decide(clause)
    told = " | ".join((decision.reason, *decision.evidence))
    assert str(decision.verdict) == "finding", f"{decision.verdict}: {told}"
    assert reason in told


@pytest.mark.parametrize(
    ("routes", "edition"), [("", "claim-idempotent"), ("claim of 3.4", "claim"), ("no claim", "claimless")]
)
def test_the_edition_is_told_by_the_refusal_of_the_claim(routes: str, edition: str) -> None:
    server = Server(frozenset({routes}))
    with server.serving():
        assert edition_of(server.url) == edition


def test_a_worker_of_the_edition_is_decided_by_its_rules() -> None:
    written = history("claim-idempotent").callback().started()
    written.request("c1", "/execution/callbacks/c1/run", 204, scope="execution")  # a retry, with the token that it has
    written.request("c1", "/execution/callbacks/c1/state", 204).effect("c1", "return").ended()
    for clause in ("TOKEN-1", "TOKEN-3", "TOKEN-5", "TOKEN-9", "CRASH-2", "RUN-1", "RUN-6"):
        assert str(written.decide(clause).verdict) == "pass", (clause, written.decide(clause))
    written.request("c1", "/execution/variables/x", 403, scope="workload")
    assert str(written.decide("TOKEN-5").verdict) == "fail"
