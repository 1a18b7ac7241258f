"""TOKEN: what the API server lets a callback's tokens do."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.matrix import is_state_route
from executor_conformance.harness.rules import Answer, Hold, WireRule
from executor_conformance.harness.tokens import Mint, ask
from executor_conformance.harness.waits import Callback
from executor_conformance.suites.marks import decides
from executor_conformance.suites.test_crash import claim_rule
from executor_conformance.suites.token_leaks import LeakWatch
from executor_conformance.suites.token_matrix import (
    execution_api,
    matrix_of,
    mint_for,
    rows_in_every_state,
    run_matrix,
)

REFUSED = [401, 403]


def probe(
    case: Case,
    name: str,
    method: str,
    route: str,
    path: str,
    what: str,
    token: str | None,
    allowed: list[int],
    row: Callable[[], object],
    body: str | None = None,
) -> None:
    """Ask the server directly; record its status and whether ``row``, what is at stake, has stayed as it was."""
    before = row()
    status = ask(case.env.server_url, method, path, token, body)
    case.env.sink(
        "probe",
        name=name,
        method=method,
        route=route,
        token=what,
        status=status,
        allowed=allowed,
        unchanged=row() == before,
    )


def row_of(case: Case, callback: Callback) -> Callable[[], object]:
    """The callback's row, to be looked at: its state and its output."""
    return lambda: (case.env.journal.state(callback.id), case.env.journal.output(callback.id))


def held_callback(case: Case) -> tuple[Callback, WireRule]:
    """A callback that is QUEUED, and stays so: its worker's claim is held on the wire."""
    if not case.env.offers.has_claim:
        raise NotApplicable("The edition has no claim endpoint.")
    callback = case.submit("hold")
    rule = claim_rule(case, callback, Hold())
    case.reach(rule, "the claim")
    return callback, rule


def wrong_tokens(mint: Mint, scope: str, stranger: str) -> dict[str, str | None]:
    """Tokens of the right scope, each with one thing wrong, that no route takes for the callback of the mint."""
    right = mint.token(scope=scope)
    return {
        "another callback's subject": mint.token(scope=scope, sub=stranger),
        "expired": mint.token(scope=scope, lifetime_s=-3600),
        "tampered": right[:-6] + ("AAAAAA" if not right.endswith("AAAAAA") else "BBBBBB"),
        "signed with another secret": mint.token(scope=scope, secret="x" * 64),
        "unsigned": mint.unsigned(scope=scope),
        "wrong audience": mint.token(scope=scope, aud="conformance.example"),
        "empty": "",
        "none": None,
    }


@decides("TOKEN-2", "TOKEN-4", "TOKEN-6", "TOKEN-7", once=True)
def test_tokens_on_every_route(case: Case) -> None:
    """Every route that the running API server describes is asked with every token of a callback, in every state."""
    run_matrix(case)


@decides("TOKEN-4")
def test_claim_is_guarded(case: Case) -> None:
    """Only the right token claims, and only once; or again while RUNNING, where the claim is idempotent."""
    callback, rule = held_callback(case)
    entered = case.stop_at(callback, "enter")
    mint, row = mint_for(case, callback), row_of(case, callback)
    idempotent, method = case.env.offers.idempotent, case.env.offers.claim_method
    route = "/execution/callbacks/{id}/run"
    path = f"/execution/callbacks/{callback.id}/run"
    stranger = str(uuid.uuid4())
    wrong = wrong_tokens(mint, case.env.offers.queued_scope, stranger)
    wrong["scope of another kind"] = mint.token(scope="callback" if idempotent else "execution")
    for what, token in wrong.items():
        probe(case, "claim", method, route, path, what, token, REFUSED, row)
    unknown = f"/execution/callbacks/{stranger}/run"
    probe(case, "claim", method, route, unknown, "unknown callback", mint.token(sub=stranger), [404], row)
    rule.release()
    case.reach(entered, "the start of the callable")
    again = [204] if idempotent else [409]
    probe(case, "claim", method, route, path, "claimed again", mint.token(), again, row)
    entered.release()
    case.settle()
    probe(case, "claim", method, route, path, "claimed after the end", mint.token(), [409], row)


@decides("TOKEN-10", once=True)
def test_end_is_guarded(case: Case) -> None:
    """Only the callback's own execution token reports its end, and only while the row is RUNNING."""
    case.needs_state_route()
    callback = case.submit("hold")
    entered = case.stop_at(callback, "enter")
    case.reach(entered, "the start of the callable")
    case.until_running_or_quiet(callback)
    mint, row, described = mint_for(case, callback), row_of(case, callback), execution_api(case)
    for one in described:
        if is_state_route(one.method, one.path, case.env.offers):
            path, body = f"/execution{one.target(callback.id, '')}", one.content("conformance")
            wrong = wrong_tokens(mint, "execution", str(uuid.uuid4()))
            for what, token in {**wrong, "the queued token": mint.token()}.items():
                probe(case, "end", one.method, one.path, path, what, token, REFUSED, row, body)
    entered.release()
    case.settle()
    with rows_in_every_state(case) as made, matrix_of(case, mint, described, made) as matrix:
        matrix.ends()


@decides("TOKEN-8")
def test_token_is_kept_secret(case: Case) -> None:
    """A callable that uses its token, one that raises and one whose claim fails leave no token for others to read."""
    with LeakWatch(case) as watch:
        callback = case.submit("read_secrets", expect="terminal")
        entered = case.stop_at(callback, "enter")
        case.reach(entered, "the start of the callable")
        watch.look_at_what_passes()
        entered.release()
        case.settle()
        watch.look_at_what_passes()
        case.submit("raise_error", expect="failure")
        case.settle()
        if case.env.offers.has_claim:
            case.rule(WireRule(Answer(500, {"detail": "on purpose"}), path=r"/callbacks/[^/]+/run$"))
            case.submit("succeed", expect="terminal")
            case.settle()
        watch.look_at_what_is_left()
