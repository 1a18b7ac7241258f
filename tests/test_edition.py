"""How the edition of a running server is found, and what the editions of the contract are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.edition import edition_of

from tests.claim_state import ClaimState
from tests.idempotent import Idempotent
from tests.stand_in import StandIn

RUN, STATE = "/run", "/state"


@contextlib.contextmanager
def server(*routes: tuple[str, str], missing: int = 404) -> Iterator[str]:
    """A server that refuses for want of a token on these routes of a callback, and has no others."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            there = any(self.command == method and self.path.endswith(route) for method, route in routes)
            self.send_response(401 if there else missing)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PATCH = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(10)


@pytest.mark.parametrize("missing", [404, 405])
@pytest.mark.parametrize(
    ("routes", "edition"),
    [
        ([], "claimless"),
        ([("PATCH", STATE)], "claimless"),
        ([("PATCH", RUN)], "claim"),
        ([("PATCH", RUN), ("PATCH", STATE)], "claim-state"),
        ([("PATCH", RUN), ("POST", STATE)], "claim"),
        ([("POST", RUN), ("PATCH", STATE)], "claim-idempotent"),
        ([("POST", RUN)], "claim-idempotent"),
    ],
)
def test_the_edition_is_told_by_the_refusals(routes: list[tuple[str, str]], edition: str, missing: int) -> None:
    with server(*routes, missing=missing) as url:
        assert edition_of(url, load_catalogue().editions).id == edition


@pytest.mark.parametrize(
    ("stand_in", "edition"),
    [
        (ClaimState(), "claim-state"),
        (ClaimState(frozenset({"no state route"})), "claim"),
        (Idempotent(), "claim-idempotent"),
    ],
    ids=["claim-state", "claim", "claim-idempotent"],
)
def test_the_stand_ins_are_of_their_edition(stand_in: StandIn, edition: str) -> None:
    with stand_in.serving():
        assert edition_of(stand_in.url, load_catalogue().editions).id == edition


def test_what_the_editions_offer() -> None:
    catalogue = load_catalogue()
    told = {
        edition.id: (edition.status, edition.has_claim, edition.claiming_scopes, edition.worker_reports_end)
        for edition in catalogue.editions
    }
    assert told == {
        "claimless": ("released", False, ("workload",), False),
        "claim": ("released", True, ("callback",), False),
        "claim-state": ("proposed", True, ("callback",), True),
        "claim-idempotent": ("historical", True, ("workload", "execution"), True),
    }
    assert catalogue.edition_or_latest("claim-state").id == "claim-state"
    assert catalogue.edition_or_latest("").id == catalogue.edition_or_latest("unheard of").id == "claim"
