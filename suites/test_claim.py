"""CLAIM: the moment of a claim: several at once, a row that is gone, and a token that does not last."""

from __future__ import annotations

import threading

from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.points import LIVENESS
from executor_conformance.harness.rules import Hold, ReplaceToken
from executor_conformance.harness.tokens import Client, Mint
from executor_conformance.harness.view import TERMINAL
from executor_conformance.suites.marks import decides
from executor_conformance.suites.test_crash import claim_rule
from executor_conformance.suites.token_matrix import mint_for

ROUNDS, AT_ONCE = 8, 4
"""How many rows are claimed, and by how many at the same time."""
OVER_S = 3600
"""How long ago a token has expired: far beyond ``[api_auth] jwt_leeway``."""


@decides("TOKEN-4", once=True)
def test_at_once(case: Case) -> None:
    """Four workers claim a QUEUED callback at the same time, with a queued token each: one is let in."""
    case.needs_claim()
    if case.env.offers.idempotent:
        raise NotApplicable("The edition's claim is idempotent, so it lets in several.")
    callback = case.submit("succeed")
    case.until(lambda: case.state(callback) in TERMINAL, "the end of a callback")
    case.settle()
    mint = mint_for(case, callback)
    case.whole_afterwards = False  # until the rows are gone again
    for number in range(ROUNDS):
        made = case.env.ask_beside("make_rows", states=["queued"])
        try:
            statuses = _claim_at_once(case, mint, made["callbacks"]["queued"])
            state = case.env.journal.state(made["callbacks"]["queued"])
            case.env.sink("probe", name="claims at once", round=number, statuses=statuses, state=state)
        finally:
            rows = [*made["callbacks"].values(), made["another"]]
            case.env.ask_beside("remove_rows", ids=rows, dag_run_id=made["dag_run_id"])
    case.env.observe()
    case.whole_afterwards = True


def _claim_at_once(case: Case, mint: Mint, callback_id: str) -> list[int]:
    """Return the statuses of claims that were sent at the same moment, over a connection each."""
    method = case.env.offers.claim_method
    path = f"/execution/callbacks/{callback_id}/run"
    start = threading.Barrier(AT_ONCE, timeout=LIMITS.wire_event)
    statuses: list[int] = []

    def claim() -> None:
        token = mint.token(sub=callback_id)
        with Client(case.env.server_url) as client:
            client.ask("GET", "/execution/health", None)  # so that the connection is there before the start
            start.wait()
            statuses.append(client.ask(method, path, token).status)

    threads = [threading.Thread(target=claim, daemon=True) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LIMITS.wire_event)
    return sorted(statuses)


@decides("CRASH-8", "CRASH-5")
def test_row_deleted(case: Case) -> None:
    """The callback's row is deleted while its worker waits to claim it; nothing of the callable runs afterwards."""
    case.needs_claim()
    callback = case.submit("hold", expect="terminal")
    rule = claim_rule(case, callback, Hold(), times=1)
    case.reach(rule, "the claim")
    case.env.ask_beside("withdraw", ids=[callback.id])
    case.fault("row-deleted", callback=callback.id)
    rule.release()
    case.settle()
    case.follow_up()


@decides("TOKEN-11", *LIVENESS)
def test_outlived_token(case: Case) -> None:
    """The callable runs for longer than its execution token is valid, and then asks for a Connection and a Variable."""
    case.needs_claim()
    callback = case.submit("hold_then_read_secrets", expect="terminal")
    mint = mint_for(case, callback)
    expired = mint.token(sub=callback.id, scope="execution", lifetime_s=-OVER_S)
    claim_rule(case, callback, ReplaceToken(expired), times=1)
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.until_running_or_quiet(callback)
    case.fault("token-expired", callback=callback.id)
    entered.release()
    case.settle()
    case.follow_up()
