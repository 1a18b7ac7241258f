"""The edition `claim-state`: what the suite decides about a server, a worker and an executor of the proposal.

The server is a stand-in; the wire recorder before it is the suite's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from executor_conformance.harness.rules import DropResponse, WireRule, keyed_fingerprint, reported_end
from executor_conformance.harness.wire import WireRecorder

from tests.claim_state import ClaimState
from tests.stand_in import Row, asked
from tests.written import Written, assert_decides, history

PASS, FAIL, FINDING, NA = "pass", "fail", "finding", "not applicable"
CLAUSES = ("TOKEN-2", "TOKEN-4", "TOKEN-6", "TOKEN-7", "TOKEN-10", "STATE-2")
ID = "0199c9a2-0000-7000-8000-000000000001"
END = "PATCH /callbacks/{callback_id}/state"


def test_the_proposal_keeps_every_clause() -> None:
    written = asked(ClaimState)
    for clause in CLAUSES:
        assert_decides(written, clause, PASS, "")
    told = {(one["row"], one["scope"], one["subject"], one["status"]) for one in written.events if one.get("end")}
    own, other = "own id", "another callback"
    assert told >= {("running", "execution", own, 204), ("success", "execution", own, 409)}
    assert told >= {("queued", "execution", own, 409), ("unknown", "execution", own, 404)}
    assert told >= {("running", "callback", own, 403), ("running", "execution", other, 403)}
    assert "eyJ" not in str(written.events)


@pytest.mark.parametrize(
    ("fault", "clause", "reason"),
    [
        ("queued token everywhere", "TOKEN-2", "GET /variables/{variable_key}: lets the queued token in"),
        ("claimed again", "TOKEN-4", "while RUNNING it answers 204, not 409"),
        ("any subject", "TOKEN-6", "acts on what is not the token's"),
        ("renews after the end", "TOKEN-7", "answers with a new token"),
        ("end by queued token", "TOKEN-2", f"{END}: lets the queued token in"),
        ("end by queued token", "TOKEN-10", "with scope callback for own id while PENDING it answers 409, not 401"),
        ("end by anybody", "TOKEN-10", "with scope workload for own id while PENDING it answers 409, not 401"),
        ("any subject", "TOKEN-10", "for another callback while RUNNING it answers"),
        ("ends what is queued", "TOKEN-10", "while QUEUED it answers 204, not 409"),
        ("ends again", "TOKEN-10", "while SUCCESS it answers 204, not 409"),
        ("ends the unknown", "TOKEN-10", "while UNKNOWN it answers 204, not 404"),
        ("refuses and writes", "TOKEN-10", "it refuses, and changes a row"),
        ("refuses every end", "TOKEN-10", "while RUNNING it answers 403, not 204"),
        ("takes and forgets", "TOKEN-10", "the report of an end leaves the row as it was"),
        ("tells no state", "TOKEN-10", "while QUEUED it does not tell the row's state"),
        ("tells another state", "STATE-2", f"{END} tells QUEUED, the row is"),
    ],
)
def test_each_broken_promise_of_the_server_is_found_out(fault: str, clause: str, reason: str) -> None:
    assert_decides(asked(ClaimState, fault), clause, FINDING, reason)


@pytest.mark.parametrize(
    ("route", "body", "says"),
    [
        ("/execution/callbacks/{id}/state", b'{"state": "success", "output": "x"}', "success"),
        ("/execution/callbacks/{id}/state", b'{"output": "x"}', None),
        ("/execution/callbacks/{id}/state", b'["success"]', None),
        ("/execution/callbacks/{id}/state", b'{"state": {"a": 1}}', None),
        ("/execution/callbacks/{id}/state", b"\xff{", None),
        ("/execution/task-instances/{id}/state", b'{"state": "success"}', None),
        ("/execution/callbacks/{id}/run", b'{"state": "success"}', None),
    ],
)
def test_what_the_wire_recorder_reads_of_a_report(route: str, body: bytes, says: str | None) -> None:
    assert reported_end(route, body) == says


@dataclass
class Worker:
    """A worker of the callback, behind the wire recorder, and the executor that started it."""

    written: Written
    server: ClaimState
    recorder: WireRecorder
    token: str

    def claim(self) -> None:
        """Claim, enter the callable and return."""
        self.written.slots(ID)
        answer = httpx.patch(self._url("run"), headers=self._bearer(), trust_env=False)
        self.token = answer.headers["Refreshed-API-Token"]
        self.written.effect(ID, "enter", pid=os.getpid())

    def report(self, state: str, output: str | None = None, tries: int = 2) -> int:
        """Report the end, and again if no answer comes; returns the status."""
        for _ in range(tries):
            with contextlib.suppress(httpx.TransportError):
                body = {"state": state, "output": output}
                answer = httpx.patch(self._url("state"), headers=self._bearer(), json=body, trust_env=False)
                return answer.status_code
        return 0

    def say(self, *states: str, info: str | None = None) -> None:
        """Let the executor say these states, of which the scheduler makes what it makes."""
        for state in states:
            self.written.event(ID, state, info=info)
            self.server.event(ID, state, info)

    def lose_answer(self) -> None:
        """Let the next answer of the state route get lost."""
        self.recorder.add_rule(WireRule(DropResponse(), path="/state$", times=1))
        self.written.fault("end-response-lost")

    def _url(self, route: str) -> str:
        return f"{self.recorder.url}/execution/callbacks/{ID}/{route}"

    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@contextlib.contextmanager
def worker(*faults: str, expect: str = "success") -> Iterator[Worker]:
    """A worker that has been handed a callback; at the end everything comes to rest, and the row is looked at."""
    written = history("claim-state")
    server = ClaimState(frozenset(faults), {ID: ["queued", None]})
    fingerprint = keyed_fingerprint(b"key")
    token = server.token(ID, "callback")
    written.callback(ID, expect, handed=None).workload(ID).row(ID, "queued")
    written.events[-2]["token"]["fingerprint"] = fingerprint(token)

    def note(identity: str, row: Row) -> None:
        before = [event["new"] for event in written.events if event["kind"] == "row"][-1]
        if row[0] != before:  # as the journal, which has no write that leaves the state
            written.row(identity, row[0], output=row[1])

    server.written = note
    with server.serving():
        recorder = WireRecorder("execution", server.url, written.add, fingerprint, lambda: [os.getpid()])
        recorder.start()
        try:
            yield Worker(written, server, recorder, token)
        finally:
            recorder.stop()
    written.slots().rest(ID)
    state, output = server.callbacks[ID]
    written.add("probe", name="row", callback=ID, state=state, output=output)


HEALTHY = ("RUN-1", "RUN-6", "RUN-11", "RUN-12", "CRASH-1", "CRASH-2", "CRASH-3", "CRASH-4", "CRASH-9")
INVARIANTS = ("ROUTE-3", "STATE-5", "TOKEN-1", "TOKEN-3", "TOKEN-5", "TOKEN-9")


@pytest.mark.parametrize("said", [(), ("running",), ("success",), ("running", "success")], ids=str)
def test_an_executor_need_not_say_what_its_worker_has_reported(said: tuple[str, ...]) -> None:
    with worker() as one:
        one.say(*(state for state in said if state == "running"))
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        assert one.report("success") == 204
        one.say(*(state for state in said if state != "running"))
    for clause in (*HEALTHY, *INVARIANTS):
        assert_decides(one.written, clause, PASS, "")
    assert_decides(one.written, "STATE-3", PASS if said else NA, "" if said else "emitted no event")
    reported = [event.get("says") for event in one.written.events if event["kind"] == "wire"]
    assert [says for says in reported if says] == ["success"]


@pytest.mark.parametrize("said", [(), ("failed",)], ids=str)
def test_a_failure_that_the_worker_reports(said: tuple[str, ...]) -> None:
    with worker(expect="failure") as one:
        one.claim()
        assert one.report("failed", "ValueError: on purpose") == 204
        one.say(*said, info="exit code 1")
    for clause in ("FAIL-1", "FAIL-2", "FAIL-4", "FAIL-5", "RUN-11", "RUN-12", "CRASH-1", "CRASH-4", *INVARIANTS):
        assert_decides(one.written, clause, PASS, "")
    assert "ValueError" in one.written.decide("FAIL-4").reason


def with_lost_answer(*faults: str) -> Written:
    """The answer to the report is lost, the retry is refused, and so the executor takes the worker for failed."""
    with worker(*faults, expect="terminal") as one:
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.lose_answer()
        assert one.report("success") == 409
        one.say("failed", info="exit code 1")
    return one.written


def test_a_lost_answer_makes_no_failure_of_a_success() -> None:
    written = with_lost_answer()
    for clause in ("CRASH-1", "CRASH-4", "CRASH-9", "STATE-5", "TOKEN-5"):
        assert_decides(written, clause, PASS, "")
    assert "1 of them followed by a terminal event" in written.decide("STATE-5").reason


def test_a_row_that_core_overwrites_is_not_held_against_the_executor() -> None:
    written = with_lost_answer("events overwrite")
    assert_decides(written, "STATE-5", FINDING, "took SUCCESS from the worker, and the row went SUCCESS, FAILED")
    for clause in ("CRASH-4", "CRASH-9"):
        assert_decides(written, clause, NA, "see STATE-5")


@pytest.mark.parametrize(
    ("fault", "reason", "other"),
    [
        ("takes for the opposite", "took SUCCESS from the worker, and the row went FAILED", "CRASH-9"),
        ("takes and forgets", "took SUCCESS from the worker, and the row is RUNNING", "CRASH-1"),
    ],
)
def test_a_row_that_is_not_as_reported(fault: str, reason: str, other: str) -> None:
    with worker(fault) as one:
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.report("success")
    assert_decides(one.written, "STATE-5", FINDING, reason)
    for clause in ("RUN-6", other):
        assert_decides(one.written, clause, NA, "see STATE-5")


@pytest.mark.parametrize("fault", ["takes for the opposite", "takes and forgets"])
def test_a_failure_that_core_does_not_keep_is_not_held_against_the_executor(fault: str) -> None:
    with worker(fault, expect="failure") as one:
        one.claim()
        one.report("failed", "ValueError: on purpose")
    assert_decides(one.written, "STATE-5", FINDING, "The server took FAILED from the worker")
    decided = {clause: str(one.written.decide(clause).verdict) for clause in ("FAIL-1", "FAIL-5", "CRASH-1", "CRASH-6")}
    assert FAIL not in decided.values(), decided
    one.written.event(ID, "success")
    assert_decides(one.written, "FAIL-5", FAIL, "The executor reported SUCCESS for a callback")


def test_a_follow_up_that_core_does_not_keep_is_not_held_against_the_executor() -> None:
    with worker("takes for the opposite", expect="terminal") as one:
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.report("success")
        one.written.events[1]["role"] = "follow-up"
        one.written.callback("c1", "terminal").row("c1", "running", "failed").rest("c1")
    assert_decides(one.written, "CRASH-5", NA, "see STATE-5")


def test_an_output_that_core_overwrites() -> None:
    with worker("events overwrite", expect="failure") as one:
        one.claim()
        one.report("failed", "ValueError: on purpose")
        one.say("failed", info="exit code 1")
    assert_decides(one.written, "STATE-5", FINDING, "the output 'ValueError: on purpose', and it is 'exit code 1'")
    assert_decides(one.written, "CRASH-4", PASS, "")


def test_an_end_that_nobody_reports() -> None:
    with worker() as one:
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.say("success")
    assert_decides(one.written, "RUN-11", FINDING, "The worker reported no end, and the row is SUCCESS")
    assert_decides(one.written, "RUN-12", NA, "see RUN-11")
    assert_decides(one.written, "STATE-5", NA, "no report of an end")
    assert_decides(one.written, "RUN-6", PASS, "")


def test_an_end_that_is_reported_with_the_queued_token() -> None:
    with worker("end by queued token") as one:
        queued = one.token
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.token = queued
        assert one.report("success") == 204
    assert_decides(one.written, "RUN-11", FINDING, "with a token of scope 'callback'")
    assert_decides(one.written, "TOKEN-5", FAIL, "other than the claim was sent with a token of scope 'callback'")


def test_an_executor_that_says_the_end_before_its_worker() -> None:
    with worker() as one:
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.say("success")
        assert one.report("success") == 409
    assert_decides(one.written, "RUN-12", FAIL, "The executor said SUCCESS before the worker reported the end")
    assert_decides(one.written, "RUN-11", PASS, "")


def test_an_executor_that_takes_a_success_for_lost() -> None:
    with worker(expect="terminal") as one:
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.say("failed", info="lost")
        assert one.report("success") == 409
    assert_decides(one.written, "CRASH-9", FAIL, "The worker reported success and the row ends FAILED")
    assert_decides(one.written, "RUN-12", NA, "see RUN-11")


@pytest.mark.parametrize(("reported", "verdict"), [(True, PASS), (False, FINDING)])
def test_a_row_that_ends_by_its_own_worker_is_not_changed_by_a_refusal(reported: bool, verdict: str) -> None:
    fields = {"method": "PATCH", "route": "/callbacks/{callback_id}/state", "status": 401, "allowed": [401, 403]}
    with worker() as one:
        one.claim()
        one.written.effect(ID, "return", pid=os.getpid())
        one.written.add("probe", name="end", token="expired", unchanged=True, **fields)
        if reported:
            one.report("success")
        else:
            one.server.write(ID, "success", None)
        one.written.add("probe", name="end", token="empty", unchanged=False, **fields)
    assert_decides(one.written, "TOKEN-10", verdict, "2 requests" if reported else "with empty: 401, and the row has")
