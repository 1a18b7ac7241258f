"""What the API server makes of a callback's tokens: every route by method by scope by subject by row state.

The routes are those of the running server's own description, so one that a new Airflow adds is asked about as well.
Each request is one compact ``probe`` event of the name 'matrix'; no token is in it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from executor_conformance.harness.edition import CLAIM_ROUTE, STATE_ROUTE, Edition
from executor_conformance.harness.openapi import Operation
from executor_conformance.harness.tokens import Answer, Client, Mint
from executor_conformance.harness.view import TERMINAL

STATES = ("pending", "running", "success", "failed", "queued")
"""Of the row whose token is tried. QUEUED comes last, for the claim changes it."""
OWN, ANOTHER, TASK, UNKNOWN = "own id", "another callback", "task instance", "unknown id"
SUBJECTS = (OWN, ANOTHER, TASK, UNKNOWN)
"""What the path names, seen from the token's subject."""
PREFIX = "/execution"
_PICKS = 5
_RENEWABLE = "/variables/{variable_key}"


@dataclass(frozen=True)
class Ids:
    """Rows to try tokens on: the callback in each state, another callback, a task instance."""

    callbacks: Mapping[str, str]
    another: str
    task_instance: str
    unknown: str


@dataclass(frozen=True)
class Token:
    """A token to try: its ``scope``, whose it is, and whether it is ``old`` enough for a server to renew it."""

    scope: str
    sub: str
    old: bool = False


def is_claim(method: str, route: str, edition: Edition) -> bool:
    """True if this is the claim of a callback in this edition."""
    return method == edition.claim_method and _is_of_callback(route, CLAIM_ROUTE)


def is_state_route(method: str, route: str, edition: Edition) -> bool:
    """True if this is the route by which a worker of this edition reports the end of a callback."""
    return edition.worker_reports_end and method == "PATCH" and _is_of_callback(route, STATE_ROUTE)


def _is_of_callback(route: str, last: str) -> bool:
    return route.startswith("/callbacks/{") and route.endswith(f"}}/{last}")


def is_health(operation: Operation) -> bool:
    """Whether an operation tells of the server's health, which is open to everyone."""
    return operation.path.startswith("/health")


class Matrix:
    """Asks the server everything, one request after the other.

    :param look: from an id to what the database holds under it: state and output.
    :param sink: takes events as ``History.append`` does.
    """

    def __init__(
        self,
        client: Client,
        mint: Mint,
        edition: Edition,
        operations: Iterable[Operation],
        ids: Ids,
        look: Callable[[str], object],
        sink: Callable[..., Any],
    ) -> None:
        self.client, self.mint, self.edition = client, mint, edition
        self.operations = [one for one in operations if not is_health(one)]
        self.ids, self.look, self.sink = ids, look, sink
        self.queued = edition.queued_scope
        self._picks: dict[str, int] = {}
        self.word = f"conformance-{secrets.token_hex(6)}"

    def run(self) -> None:
        """All of it; the requests that may be let in come last, for they change rows."""
        self.without_token()
        for state in STATES:
            self.queued_token(state)
            self.execution_token(state)
        for state in STATES:
            if state in TERMINAL or state == "running":
                self.old_tokens(state)
        self.controls()
        self.own_callback()

    def own_callback(self) -> None:
        """The claim of the token's own callback and the report of its end, in every state."""
        self._ends_refused()
        self.claims()
        self._end_taken()

    def ends(self) -> None:
        """The report of an end in every state, with every scope and for every subject; RUNNING comes last."""
        self._ends_refused()
        self._end_taken()

    def without_token(self) -> None:
        """Every route without a token: what it answers is open to everyone."""
        for operation in self.operations:
            self._ask(operation, None, OWN, "running")

    def queued_token(self, state: str) -> None:
        """The queued token on every route but the claim, and on the claim of what is not its own."""
        token = Token(self.queued, self.ids.callbacks[state])
        for operation in self.operations:
            for subject in SUBJECTS if operation.ids else (OWN,):
                if subject != OWN or not self._is_claim(operation):
                    self._ask(operation, token, subject, state)

    def execution_token(self, state: str) -> None:
        """An execution token of the callback on every route whose path names something else by its id."""
        if not self.edition.has_claim:
            return
        token = Token("execution", self.ids.callbacks[state])
        for operation in self.operations:
            for subject in SUBJECTS[1:] if operation.ids else ():
                self._ask(operation, token, subject, state)

    def old_tokens(self, state: str) -> None:
        """Tokens that are nearly over, on every route; while the row is RUNNING on one, as a control."""
        scopes = [self.queued, "execution"] if self.edition.has_claim else [self.queued]
        for operation in self.operations:
            if state == "running" and not (operation.method == "GET" and operation.path == _RENEWABLE):
                continue
            if self._changes_the_row(operation, state):
                continue
            for scope in scopes:
                self._ask(operation, Token(scope, self.ids.callbacks[state], old=True), OWN, state)

    def _changes_the_row(self, operation: Operation, state: str) -> bool:
        """True if the request may end a row that is RUNNING, which shows nothing of the token's age."""
        return state == "running" and operation.path.startswith("/callbacks/")

    def controls(self) -> None:
        """Each route with the tokens of a task instance: whom it lets in shows what the refusals are for."""
        identity = self.ids.task_instance
        owners = (Token("execution", identity), Token("workload", identity), Token(self.queued, identity))
        for operation in self.operations:
            for token in dict.fromkeys(owners):
                self._ask(operation, token, TASK, "running", control=True)

    def claims(self) -> None:
        """The claim of the token's own callback, in every state, with every scope."""
        for operation in self.operations:
            if not self._is_claim(operation):
                continue
            for state in STATES:
                for scope in ("execution", *sorted({"workload", "callback"} - {self.queued}), self.queued):
                    # On the idempotent edition an execution token claims as well, so the row would not be QUEUED
                    if not (state == "queued" and scope == "execution" and self.edition.idempotent):
                        self._ask(operation, Token(scope, self.ids.callbacks[state]), OWN, state, claim=True)
            self._ask(operation, Token(self.queued, self.ids.unknown), OWN, "unknown", claim=True)

    def _ends_refused(self) -> None:
        for operation in self._state_routes():
            for state in STATES:
                for scope in ("workload", "callback", *(("execution",) if state != "running" else ())):
                    self._ask(operation, Token(scope, self.ids.callbacks[state]), OWN, state, end=True)
            token = Token("execution", self.ids.callbacks["running"])
            for subject in SUBJECTS[1:]:
                self._ask(operation, token, subject, "running", end=True)
            self._ask(operation, Token("execution", self.ids.unknown), OWN, "unknown", end=True)

    def _end_taken(self) -> None:
        token = Token("execution", self.ids.callbacks["running"])
        for operation in self._state_routes():
            self._ask(operation, token, OWN, "running", end=True)
            row = self.look(token.sub)
            if isinstance(row, list) and row[0] in TERMINAL:  # a retry, as after a lost answer
                self._ask(operation, token, OWN, row[0], end=True)

    def _state_routes(self) -> list[Operation]:
        return [one for one in self.operations if is_state_route(one.method, one.path, self.edition)]

    def _is_claim(self, operation: Operation) -> bool:
        return is_claim(operation.method, operation.path, self.edition)

    def _ask(self, operation: Operation, token: Token | None, subject: str, state: str, **marks: Any) -> int:
        own = token.sub if token else self.ids.callbacks[state]
        named = {OWN: own, ANOTHER: self.ids.another, TASK: self.ids.task_instance, UNKNOWN: self.ids.unknown}[subject]
        at_stake = {own, named}
        before = {one: self.look(one) for one in at_stake}
        sent = None if token is None else self._mint(token)
        answer = self._send(operation, named, sent)
        after = {one: self.look(one) for one in at_stake}
        changed = [one for one in at_stake if before[one] != after[one]]
        more: dict[str, Any] = dict.fromkeys(marks, True)
        if answer.renewed:
            more["renewed"] = True
        if token and token.old:
            more["old"] = True
        if changed:
            more["changed"] = {("own" if one == own else "named"): after[one] for one in changed}
        if answer.reported:
            more |= {"reported": answer.reported, "row_is": before[named]}
        self.sink(
            "probe",
            name="matrix",
            method=operation.method,
            route=operation.path,
            scope=token.scope if token else "none",
            subject=subject,
            row=state,
            status=answer.status,
            **more,
        )
        return answer.status

    def _send(self, operation: Operation, named: str, token: str | None) -> Answer:
        """Send the request; again with other values of its enumerations, while the server takes them for wrong."""
        pick = self._picks.get(operation.name, 0)
        for further in range(_PICKS):
            target, body = operation.target(named, self.word), operation.content(self.word, pick + further)
            answer = self.client.ask(operation.method, PREFIX + target, token, body)
            if answer.status != 422 or body is None:
                break
        if answer.status != 422 and further:
            self._picks[operation.name] = pick + further
        return answer

    def _mint(self, token: Token) -> str:
        make = self.mint.old if token.old else self.mint.token
        return make(sub=token.sub, scope=token.scope)
