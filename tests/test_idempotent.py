"""The edition `claim-idempotent`: what the suite decides about a server as apache/airflow#66141 proposed it first."""

from __future__ import annotations

import pytest

from tests.idempotent import Idempotent
from tests.stand_in import asked
from tests.written import history

CLAUSES = ("TOKEN-2", "TOKEN-4", "TOKEN-6", "TOKEN-7", "STATE-2")


def test_the_proposal_keeps_every_clause() -> None:
    written = asked(Idempotent)
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
        ("queued token everywhere", "TOKEN-2", "GET /variables/{variable_key}: lets the queued token in"),
        (
            "queued token everywhere",
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
    decision = asked(Idempotent, fault).decide(clause)
    told = " | ".join((decision.reason, *decision.evidence))
    assert str(decision.verdict) == "finding", f"{decision.verdict}: {told}"
    assert reason in told


def test_a_worker_of_the_edition_is_decided_by_its_rules() -> None:
    written = history("claim-idempotent").callback().started()
    written.request("c1", "/execution/callbacks/c1/run", 204, scope="execution")  # a retry, with the token that it has
    written.request("c1", "/execution/callbacks/c1/state", 204).effect("c1", "return").ended()
    for clause in ("TOKEN-1", "TOKEN-3", "TOKEN-5", "TOKEN-9", "CRASH-2", "RUN-1", "RUN-6"):
        assert str(written.decide(clause).verdict) == "pass", (clause, written.decide(clause))
    written.request("c1", "/execution/variables/x", 403, scope="workload")
    assert str(written.decide("TOKEN-5").verdict) == "fail"


@pytest.mark.parametrize("clause", ["RUN-11", "RUN-12", "STATE-5", "TOKEN-10"])
def test_what_came_after_it_is_not_asked_of_the_historical_edition(clause: str) -> None:
    decision = history("claim-idempotent").callback().succeeded().decide(clause)
    assert (str(decision.verdict), "history" in decision.reason) == ("not applicable", True)
